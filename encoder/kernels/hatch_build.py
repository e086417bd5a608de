"""Hook of `pip install`: compiles the kernels where there is a compiler."""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelHook(BuildHookInterface[BuilderConfig]):
    """Adds the compiled libraries to an installation; without them, torch's operators serve."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the build of a wheel, or of an editable installation."""
        del version
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        library = runpy.run_path(str(root / "encoder" / "kernels" / "library.py"))
        made, error = library["compile_all"]()
        if error:
            self.app.display_warning(f"fits will be slower, no kernels were compiled: {error}")
            return
        build_data["artifacts"] += [str(path.relative_to(root)) for path in made]
        # The wheel is for this kind of machine, and any Python 3.
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
