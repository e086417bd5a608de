"""A loudspeaker that nobody hears: Firefox plays no sound on a machine without one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_for

PULSEAUDIO = shutil.which("pulseaudio")


@contextmanager
def loudspeaker(folder: Path) -> Iterator[None]:
    """Run a sound server for the programs that are started meanwhile."""
    socket = folder / "loudspeaker.socket"
    # The rate of the tests' AudioContext: between two rates, Firefox adds a delay of its own.
    modules = ["module-null-sink rate=48000"]
    modules += [f"module-native-protocol-unix auth-anonymous=1 socket={socket}"]
    command = [PULSEAUDIO, "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]
    command += ["--disallow-exit", *(f"--load={module}" for module in modules)]
    environment = os.environ | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:
        before = os.environ.get("PULSE_SERVER")
        os.environ["PULSE_SERVER"] = f"unix:{socket}"
        try:
            wait_for(socket.exists)
            yield
        finally:
            del os.environ["PULSE_SERVER"]
            if before is not None:
                os.environ["PULSE_SERVER"] = before
            server.kill()
