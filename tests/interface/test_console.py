import io
import logging
import os
import subprocess
import sys

import pytest

from encoder.common.atomic_file import remove_leftovers, replacing
from encoder.common.console import MAX_LINE, PrintableFormatter, printable, show, show_table
from encoder.common.errors import SettingsError, first_line
from encoder.common.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal():
    stream = Terminal()
    with progress("fitting", total=4, stream=stream) as update:
        update(2, "30 dB")
        update(4, "31 dB")
    assert "fitting" in stream.getvalue()
    assert "100%" in stream.getvalue()
    assert "31 dB" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_progress_is_plain_lines_elsewhere():
    stream = io.StringIO()
    with progress("fitting", total=4, stream=stream) as update:
        update(3.999, "too early for a line")
        update(4, "31 dB")
    assert stream.getvalue() == "fitting: 100% 31 dB\n"


def test_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "a.nerv"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.nerv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_bytes(bytes(1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_output_that_is_a_folder(tmp_path):
    with pytest.raises(SettingsError, match="is a folder"), replacing(tmp_path):
        pass


@pytest.mark.parametrize(
    ("message", "line"), [("one\ntwo", "one"), ("\n\n three", "three"), ("", "ValueError")]
)
def test_first_line_of_an_error(message, line):
    assert first_line(ValueError(message)) == line


def test_text_of_a_stranger_cannot_steer_the_terminal(capsys):
    show({"settings": "a\x1b[2Jb\u202ec"}, as_json=False)
    assert capsys.readouterr().out == "settings  a?[2Jb?c\n"
    assert printable("x" * 10_000) == "x" * MAX_LINE + "..."
    record = logging.LogRecord("encoder", logging.WARNING, "", 0, "note %s", ("\x07",), None)
    assert PrintableFormatter("%(message)s").format(record) == "note ?"


def test_numbers_of_a_table_end_below_each_other(capsys):
    show_table(
        [
            {"preset": "[bold]", "frames_per_second": 1234.5, "parameters": 5, "title": "a " * 80},
            {"preset": "b\x1b", "frames_per_second": 1.25, "parameters": 12345, "title": "c"},
        ],
        as_json=False,
    )
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "preset  frames per second  parameters  title",
        "[bold]              1,234           5  " + ("a " * 80).rstrip(),
        "b?                   1.25      12,345  c",
    ]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    """Those of processes that run, and other files, stay."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    kept = [
        f".a[1].{os.getpid()}.part.nerv",
        ".a[1].x.part.nerv",
        f".b.{ended.pid}.part.nerv",
        "a[1].nerv",
    ]
    for name in (*kept, f".a[1].{ended.pid}.part.nerv"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a[1].nerv")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
