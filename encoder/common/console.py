"""Shared parts of the three command lines: commands, one-line errors with exit code 2, and JSON."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from encoder.common.errors import CodecError

BAD_INPUT = 2
"""Exit code after an error of the user."""
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
OWN_PACKAGES = ("encoder", "export", "player", "benchmarks")
MAX_LINE = 1024
"""Largest number of printed characters of a text; an untrusted file can put any text into one."""

logger = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


Command = Callable[[argparse.Namespace], int | None]
"""Function that runs a command and returns its exit code, or None for 0."""


class Commands:
    """A command line of several commands."""

    def __init__(self, package: str, description: str | None, *, install: str) -> None:
        """Take the package to run, and the name that pip installs for all of its commands."""
        self._install = install
        self._parser = Parser(prog=f"python -m {package}", description=description)
        self._commands = self._parser.add_subparsers(
            title="commands", metavar="COMMAND", required=True
        )

    def add(
        self, name: str, run: Command, *, summary: str, example: str
    ) -> argparse.ArgumentParser:
        """Add a command and return its parser, to which the caller adds arguments."""
        parser = self._commands.add_parser(
            name, help=summary, description=summary, epilog=f"example:\n  {example}"
        )
        parser.set_defaults(run=run)
        return parser

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command that the arguments name, and return the exit code."""
        arguments = self._parser.parse_args(argv)
        # SIGTERM acts as Ctrl-C, so that temporary files are removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(PrintableFormatter("%(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        for package in OWN_PACKAGES:
            logging.getLogger(package).setLevel(logging.INFO)
        try:
            return arguments.run(arguments) or 0
        except CodecError as error:
            return _fail(str(error))
        except BrokenPipeError:
            # The reader closed the pipe. A null device lets the flush of stdout at exit succeed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            return _fail(
                f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
            )
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] in OWN_PACKAGES:
                raise
            return _fail(f"{error.name} is not installed: pip install '{self._install}'")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return 0


def _fail(message: str) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return BAD_INPUT


def printable(text: str) -> str:
    """Return a text of readable length, without characters that control a terminal."""
    shown = text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


class PrintableFormatter(logging.Formatter):
    """Formatter of log records as printable lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        """Return the line of a record."""
        return printable(super().formatMessage(record))


def show(figures: Mapping[str, object], *, as_json: bool) -> None:
    """Print figures on stdout: as one JSON object, or as lines for people."""
    if as_json:
        print(json.dumps(figures))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name.replace('_', ' '):{width}}  {printable(text)}")


def show_table(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows of the same figures on stdout: as one JSON list, or as a table for people."""
    if as_json:
        print(json.dumps(list(rows)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name, value in rows[0].items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        table.add_column(name.replace("_", " "), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    # A terminal's lines are as wide as it is; a file's are as long as the table needs.
    console = Console(width=None if sys.stdout.isatty() else MAX_LINE)
    with console.capture() as lines:
        console.print(table)
    print(lines.get(), end="")


def _cell(value: object) -> str:
    match value:
        case float():
            return f"{value:,.4g}" if value < 10_000 else f"{value:,.0f}"  # noqa: PLR2004 (significant digits)
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case _:
            return printable(str(value))
