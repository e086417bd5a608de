"""The folder that `export web` writes."""

import json
import logging
import re

import pytest
from web_decoder import SITE

from encoder.codec.ladder import Ladder, Rung
from encoder.common.errors import BitstreamError, SettingsError
from export.cli.main import main
from export.web.folder import CLIPS, assets, write_site


def test_folder_has_the_page_and_the_clips(tiny_file, tiny_clip, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "new" / "site"
    assert main(["web", str(tiny_file), "-o", str(folder)]) == 0
    assert (folder / tiny_file.name).read_bytes() == tiny_file.read_bytes()
    for name, data in assets():
        assert (folder / name).read_bytes() == data
    header = tiny_clip.header
    assert json.loads((folder / CLIPS).read_text()) == [
        {
            "name": tiny_file.stem,
            "title": "",
            "file": f"./{tiny_file.name}",
            "bytes": tiny_file.stat().st_size,
            "width": header.width,
            "height": header.height,
            "frames": header.frames,
            "rate": float(header.rate),
        }
    ]
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert f"{folder}: {size} bytes" in caplog.text


def test_a_ladder_is_a_list_and_its_clips(tiny_file, tiny_clip, tmp_path):
    small, large = tmp_path / "small.nerv", tmp_path / "large.nerv"
    small.write_bytes(tiny_file.read_bytes())
    large.write_bytes(tiny_file.read_bytes())
    Ladder([Rung.of(path, tiny_clip) for path in (small, large)]).save(tmp_path / "film.json")
    folder = tmp_path / "site"
    write_site([tmp_path / "film.json", tiny_file], folder)
    for name in ("film.json", "small.nerv", "large.nerv"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    first, second = json.loads((folder / CLIPS).read_text())
    assert (first["name"], first["file"]) == ("film", "./film.json")
    assert second["file"] == f"./{tiny_file.name}"
    other = tmp_path / "elsewhere" / "large.nerv"
    other.parent.mkdir()
    other.write_bytes(tiny_file.read_bytes())
    with pytest.raises(SettingsError, match="two clips have the same name"):
        write_site([tmp_path / "film.json", other], folder)
    write_site([tmp_path / "film.json", large], folder)
    assert [each["name"] for each in json.loads((folder / CLIPS).read_text())] == ["film", "large"]
    large.unlink()
    with pytest.raises(BitstreamError, match=r"large\.nerv"):
        write_site([tmp_path / "film.json"], folder)
    (tmp_path / "clips.json").write_bytes((tmp_path / "film.json").read_bytes())
    large.write_bytes(tiny_file.read_bytes())
    with pytest.raises(SettingsError, match=r"clips\.json is a file of the page"):
        write_site([tmp_path / "clips.json"], folder)


COMMENT_LINE = re.compile(r"\s*(//|/\*|\*( |/|$))")


def test_scripts_lose_their_comments_and_nothing_else():
    for name, data in assets():
        if name.endswith(".js"):
            lines = data.decode().splitlines()
            whole = (SITE / name).read_text().splitlines()
            assert [line for line in whole if not COMMENT_LINE.match(line)] == lines


def test_newest_clip_of_the_folder_is_the_default(tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_file.parent)
    assert main(["web"]) == 0
    assert (tmp_path / "site" / tiny_file.name).exists()


def test_other_files_are_kept(tiny_file, tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "about.html").write_text("mine")
    write_site([tiny_file], folder)
    write_site([tiny_file], folder)
    assert (folder / "about.html").read_text() == "mine"
    assert not list(folder.glob(".*"))


def test_wrong_arguments_leave_nothing(tiny_file, tmp_path):
    broken = tmp_path / "broken.nerv"
    broken.write_bytes(tiny_file.read_bytes()[:-30])
    assert main(["web", str(broken), "-o", str(tmp_path / "site")]) == 2
    assert not (tmp_path / "site").exists()
    with pytest.raises(SettingsError, match="two clips have the same name"):
        write_site(
            [tiny_file, tiny_file.parent / "." / ".." / tiny_file.parent.name / tiny_file.name],
            tmp_path / "site",
        )
    page = tmp_path / "index.html"
    page.write_bytes(tiny_file.read_bytes())
    with pytest.raises(SettingsError, match=r"index\.html is a file of the page: rename the clip"):
        write_site([page], tmp_path / "site")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="file is a file"):
        write_site([tiny_file], tmp_path / "file")
