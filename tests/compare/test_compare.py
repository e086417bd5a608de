import json
import re
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import panning

from encoder.common.errors import SettingsError
from encoder.compare.compare import FILES, RESULTS, RdPoint, Report, compare, curves
from encoder.compare.contenders import AnchorContender, NetworkContender, frame_at
from encoder.compare.report import MARKDOWN, PAGE, write_report
from encoder.config import FitConfig
from encoder.media.metrics import psnr_db
from encoder.media.video import Video

VIDEO = Video(panning(9, 48, 64), Fraction(25))
SETTINGS = {"video": "panning", "holdout": "none"}
POINT = RdPoint(
    system="a",
    rate="crf 1",
    file="a.bin",
    file_bytes=3,
    bits_per_pixel=0.1,
    psnr_db=30.0,
    psnr_yuv_db=31.0,
    ms_ssim=None,
    encode_seconds=1.0,
    decode_fps=2.0,
    macs_per_pixel=None,
)


def network(name, rates=1, epochs=2, **coding):
    config = FitConfig(epochs=epochs, key_interval=1, **coding)
    return NetworkContender(name, rates, config, torch.device("cpu"))


def test_report_goes_on_where_it_stopped(tmp_path):
    report = Report(tmp_path, SETTINGS)
    systems = [AnchorContender("x264", 2), network("nerv")]
    first = compare(systems, VIDEO, report)
    assert next(first).system == "x264"
    first.close()
    again = Report(tmp_path, SETTINGS)
    measured = list(compare(systems, VIDEO, again))
    assert [(point.system, point.rate) for point in measured] == [
        ("x264", "crf 33"),
        ("nerv", "size XS"),
    ]
    assert len(again.points) == 3
    assert list(compare(systems, VIDEO, Report(tmp_path, SETTINGS))) == []


def test_points_are_of_the_files(tmp_path):
    report = Report(tmp_path, SETTINGS)
    for point in compare([AnchorContender("x265", 1), network("fast")], VIDEO, report):
        assert (tmp_path / FILES / point.file).stat().st_size == point.file_bytes
        assert point.bits_per_pixel == 8 * point.file_bytes / (9 * 48 * 64)
        assert min(point.psnr_yuv_db, point.encode_seconds, point.decode_fps) > 0
        data = report.path(point).read_bytes()
        shown = [frame_at(point.system, data, VIDEO, index) for index in range(9)]
        expected = np.mean([psnr_db(a, b) for a, b in zip(shown, VIDEO.frames, strict=True)])
        assert point.psnr_db == pytest.approx(expected, abs=1e-6)
        assert (point.macs_per_pixel is None) == (point.system == "x265")
    kept = json.loads((tmp_path / RESULTS).read_text())
    assert [point["system"] for point in kept["points"]] == ["x265", "fast"]


def test_points_without_files_stay_until_they_are_measured_again(tmp_path):
    Report(tmp_path, SETTINGS).add(POINT, b"abc")
    (tmp_path / FILES / POINT.file).unlink()
    report = Report(tmp_path, SETTINGS)
    assert report.points == [POINT]
    assert report.find(POINT.system, POINT.rate) is None
    other = replace(POINT, system="b", file="b", file_bytes=1)
    report.add(other, b"x")
    again = replace(POINT, psnr_db=1.0)
    report.add(again, b"abc")
    assert Report(tmp_path, SETTINGS).points == [other, again]


def test_results_of_another_comparison(tmp_path):
    Report(tmp_path, SETTINGS | {"seed": 0}).add(POINT, b"abc")
    with pytest.raises(
        SettingsError, match="holds a comparison of another seed and video: name another folder"
    ):
        Report(tmp_path, SETTINGS | {"video": "other", "seed": 1})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"points": [{"a": 1}]}',
        '{"points": []}',
        *(
            json.dumps({"settings": {}, "points": [asdict(POINT) | change]})
            for change in (
                {"psnr_db": "x"},
                {"psnr_db": None},
                {"psnr_db": float("nan")},
                {"file": "../a.bin"},
                {"file_bytes": 1.5},
            )
        ),
    ],
)
def test_results_that_are_none(tmp_path, text):
    (tmp_path / RESULTS).write_text(text)
    with pytest.raises(SettingsError, match="is no result of a comparison"):
        Report(tmp_path, SETTINGS)


def test_point_without_its_file_is_measured_again(tmp_path):
    report = Report(tmp_path, SETTINGS)
    for name in ("a.bin", "b.bin", "c.bin"):
        report.add(replace(POINT, file=name, rate=name), b"abc")
    (tmp_path / FILES / "a.bin").unlink()
    (tmp_path / FILES / "b.bin").write_bytes(b"ab")
    again = Report(tmp_path, SETTINGS)
    assert [point.rate for point in again.points if again.find(point.system, point.rate)] == [
        "c.bin"
    ]


def test_names_of_files_are_harmless():
    assert network("nerv*++").file_name("size XS") == "nervstar++-size-XS.nerv"


def test_sizes_are_the_rates_of_what_is_not_fitted_for_a_rate():
    assert network("hnerv", 3).rates == ["size XS", "size S", "size M"]
    assert network("fast", 3).rates == ["lambda 0.02", "lambda 0.0775", "lambda 0.3"]
    assert network("fast", 3, bits=8).rates == ["size XS", "size S", "size M"]
    with pytest.raises(SettingsError, match="preset nerv has 4 sizes, got 5 rates"):
        network("nerv", 5)


@pytest.mark.soak
def test_frames_that_are_held_out_are_shown_in_between(tmp_path):
    settings = SETTINGS | {"holdout": "odd"}
    spoiled = VIDEO.frames.copy()
    spoiled[1::2] = 0
    points, files = [], []
    for name, frames in (("whole", VIDEO.frames), ("spoiled", spoiled)):
        report = Report(tmp_path / name, settings)
        points += compare(
            [network("fast", epochs=60)], Video(frames, VIDEO.rate), report, is_held_out=True
        )
        files.append((tmp_path / name / FILES / points[-1].file).read_bytes())
    point, other = points
    assert files[0] == files[1]
    assert point.bits_per_pixel == 8 * point.file_bytes / (5 * 48 * 64)
    # Nearer to the frames in between than their neighbours are.
    error = np.square(VIDEO.frames[1:-1:2].astype(float) - VIDEO.frames[:-2:2]).mean()
    assert point.psnr_db > 10 * np.log10(255**2 / error)
    assert point.psnr_db > other.psnr_db + 5
    report, system = Report(tmp_path / "whole", settings), network("fast")
    (frame,) = system.at(files[0], VIDEO, [2.5])
    shown = [psnr_db(frame, VIDEO.frames[index]) for index in (4, 5, 6)]
    assert shown[1] > max(shown[0], shown[2])
    write_report(report, VIDEO, 5, is_held_out=True)
    assert (tmp_path / "whole" / PAGE).read_text().count("<img") == 3


@pytest.mark.parametrize(
    ("system", "message"),
    [(AnchorContender("x264", 1), "codecs have no"), (network("nirvana"), "has no")],
)
def test_systems_without_frames_in_between(system, message):
    (rate,) = system.rates
    data = system.encode(VIDEO, rate, print).data
    whole = list(system.decode(data, VIDEO))
    assert len(whole) == 9
    assert all(
        np.array_equal(whole[at], frame)
        for at, frame in zip((0, 4, 8), system.at(data, VIDEO, [0, 4, 8]), strict=True)
    )
    with pytest.raises(SettingsError, match=f"{message} frames in between"):
        system.at(data, VIDEO, [0, 0.5])


def test_report_of_several_runs_shows_all_of_them(tmp_path):
    systems = [AnchorContender("x264", 3), AnchorContender("x265", 3)]
    for system in systems:
        report = Report(tmp_path, SETTINGS | {"video": "<script>"})
        list(compare([system], VIDEO, report))
        write_report(report, VIDEO, 4)
    page = (tmp_path / PAGE).read_text()
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<svg") == 3
    assert page.count("<img") == 5
    for name in ("x264", "x265", "crf 27"):
        assert name in page
    lines = (tmp_path / MARKDOWN).read_text().splitlines()
    assert sum(line.startswith("| x264 | crf") for line in lines) == 3
    assert (
        sum(re.fullmatch(r"\| x265 \| [+-]\d+\.\d % \|  \|", line) is not None for line in lines)
        == 3
    )
    assert any(line.startswith(r"| NeRV\*++ |  | S 32.35") for line in lines)
    rates = json.loads((tmp_path / RESULTS).read_text())["bd_rate"]["psnr_db"]
    assert rates["x265"]["x264"] < 0 < rates["x264"]["x265"]


def test_curves_go_from_small_to_large(tmp_path):
    report = Report(tmp_path, SETTINGS)
    for size in (5, 3, 9):
        report.add(replace(POINT, file_bytes=size, rate=f"crf {size}"), b"")
    assert [point.file_bytes for point in curves(report.points)["a"]] == [3, 5, 9]
