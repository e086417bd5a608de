"""Hook of MkDocs that generates the reference of the commands from their `--help`."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGE = "reference/cli.md"
PACKAGES = ("encoder", "export", "player")
COLUMNS = 88
"""Width of the help texts, in characters."""
INTRODUCTION = f"""\
# Commands

Each text below is the output of a command's `--help`.
Bad input ends a command with one line on stderr and exit code 2.
Ctrl-C and SIGTERM end it with exit code 130.
{chr(10)}"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page to the files of the site."""
    files.append(File.generated(config, PAGE, content=cli_page()))
    return files


def cli_page() -> str:
    """Return the reference of all commands, as Markdown."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return INTRODUCTION + "\n".join(pool.map(lambda x: "".join(_sections(x)), PACKAGES))


def _sections(package: str) -> Iterator[str]:
    """Yield the section of a package, and those of its commands."""
    text = _help(package)
    yield f"## {package}\n\n```text\n{text}```\n"
    for name in re.findall(r"^ {4}([a-z]+) ", text.partition("COMMAND\n")[2], re.MULTILINE):
        yield f"\n### {package} {name}\n\n```text\n{_help(package, name)}```\n"


def _help(package: str, *command: str) -> str:
    """Return the help text of a command; raises CalledProcessError."""
    return subprocess.run(  # noqa: S603 (our own commands)
        [sys.executable, "-m", package, *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "COLUMNS": str(COLUMNS), "NO_COLOR": "1"},
    ).stdout
