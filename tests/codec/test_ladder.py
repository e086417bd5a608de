"""Manifests of ladders: written, read, and refused."""

import json
from dataclasses import replace

import pytest

from encoder.codec.ladder import MAX_MANIFEST_BYTES, Ladder, Rung, check_alike
from encoder.common.errors import BitstreamError

SMALL = Rung(file="film-40kB.nerv", bytes=40_000, width=320, height=180)
LARGE = Rung(file="film-80kB.nerv", bytes=80_000, width=320, height=180)


def written(tmp_path, change):
    """Return the path of a manifest that was changed."""
    path = tmp_path / "film.json"
    Ladder([LARGE, SMALL]).save(path)
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return path


def test_manifests_are_read_as_they_were_written(tmp_path):
    path = written(tmp_path, lambda _: None)
    assert Ladder.load(path).rungs == (SMALL, LARGE)  # the smallest comes first
    assert [each.name for each in tmp_path.iterdir()] == ["film.json"]


def set_file(name):
    return lambda found: found["rungs"][0].update(file=name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found.update(format="other"), "no manifest"),
        (lambda found: found.update(version=2), "another version"),
        (lambda found: found.update(rungs=[]), "1 to 16 rungs"),
        (lambda found: found.update(rungs=17 * found["rungs"]), "1 to 16 rungs"),
        (lambda found: found.update(rungs={"a": 1}), "1 to 16 rungs"),
        (lambda found: found.update(rungs=[1]), "no object"),
        (set_file("../film.nerv"), "its own folder"),
        (set_file("/etc/film.nerv"), "its own folder"),
        (set_file("a\\b.nerv"), "its own folder"),
        (set_file("..nerv/"), "its own folder"),
        (set_file("film.mp4"), "its own folder"),
        (set_file("a\n.nerv"), "its own folder"),
        (set_file(300 * "a" + ".nerv"), "its own folder"),
        (set_file(7), "its own folder"),
        (set_file("film-40kB.nerv"), "names a file twice"),
        (lambda found: found["rungs"][0].update(bytes=0), "bytes of film-80kB.nerv"),
        (lambda found: found["rungs"][0].update(bytes=True), "bytes of film-80kB.nerv"),
        (lambda found: found["rungs"][0].update(width=1.5), "width of film-80kB.nerv"),
        (lambda found: found["rungs"][0].update(height="180"), "height of film-80kB.nerv"),
        (lambda found: found["rungs"][0].update(height=10**6), "height of film-80kB.nerv"),
    ],
)
def test_manifests_that_break_a_rule_are_refused(tmp_path, change, reason):
    with pytest.raises(BitstreamError, match=reason):
        Ladder.load(written(tmp_path, change))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "has over"),
        (b"[" * 60_000, "not JSON"),
        (b"[]", "no manifest"),
        (b'"' + b"a" * MAX_MANIFEST_BYTES + b'"', "has over"),
    ],
)
def test_other_files_are_refused(tmp_path, text, reason):
    (tmp_path / "film.json").write_bytes(text)
    with pytest.raises(BitstreamError, match=reason):
        Ladder.load(tmp_path / "film.json")


def test_a_missing_manifest_is_one_line(tmp_path):
    with pytest.raises(BitstreamError, match=r"cannot read .*No such file"):
        Ladder.load(tmp_path / "film.json")


def test_clips_of_a_ladder_have_the_same_segments(tiny_clip):
    check_alike([("a", tiny_clip), ("b", tiny_clip)])
    with pytest.raises(BitstreamError, match="b has other frames or segments than a"):
        check_alike([("a", tiny_clip), ("b", replace(tiny_clip, segments=tiny_clip.segments[:1]))])
    other = replace(tiny_clip, header=replace(tiny_clip.header, rate=tiny_clip.header.rate / 2))
    with pytest.raises(BitstreamError, match="b has other frames or segments than a"):
        check_alike([("a", tiny_clip), ("b", other)])
