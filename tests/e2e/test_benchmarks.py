import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import moving_square, write_images

from benchmarks import __main__ as command_line
from benchmarks.ablations import OWN, Measured, ablation_table
from benchmarks.choices import choices
from benchmarks.decoding_speed import (
    BATCH,
    eager_decoder,
    engine_decoder,
    network_decoder,
    plain_decoder,
)
from benchmarks.fits import FAST, make_encoder, measure, run_fit, with_recipe
from benchmarks.gpu_jobs import Deadline, Job, run_jobs
from benchmarks.gpu_report import write_gpu_report
from benchmarks.paper import bd_rates, speeds
from benchmarks.points import DATA, load_points, record
from benchmarks.rate_distortion import techniques
from benchmarks.tables import others, tables
from encoder.codec.tensor_header import COLUMNS, CONTEXT, PAIRS, PREDICTED, ROWS
from encoder.compare.compare import RdPoint
from encoder.config import Budget, Compression
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.video import Video
from encoder.segmentation.plan import make_plan
from encoder.training.trainer import Trainer
from export.engines.registry import open_engine

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "explanation"
NAMES = (*command_line.GROUPS, "ablations", "gpu", "paper", "tables")


def page(name):
    return (PAGES / name).read_text().replace("**", "")


@pytest.fixture
def video():
    return Video(moving_square(6, 18, 32), Fraction(25))


@pytest.fixture
def data(tmp_path):
    """A folder of points that is not ours, and a check that ours stays as it is."""
    before = {path.name: path.read_bytes() for path in DATA.iterdir()}
    yield tmp_path
    assert {path.name: path.read_bytes() for path in DATA.iterdir()} == before


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main([*([name] if name else []), "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(each in told for each in ([name] if name else NAMES))


def test_help_does_not_import_what_it_does_not_need():
    script = (
        "import sys, contextlib\n"
        "from benchmarks.__main__ import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['--help'])\n"
        "assert not {'torch', 'numpy', 'onnx', 'av'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", command_line.GROUPS)
def test_names_are_those_of_the_measurements(name):
    group = command_line.GROUPS[name]
    module = import_module(f"benchmarks.{name.replace('-', '_')}")
    assert group.names == tuple(module.MEASUREMENTS)


def test_pages_name_commands_that_exist(capsys):
    text = "\n".join(path.read_text() for path in PAGES.glob("*.md"))
    commands = [part.split("`")[0] for part in text.split("python -m benchmarks ")[1:]]
    assert len(commands) > 20
    for command in commands:
        words = command.splitlines()[0].split("#")[0].replace("CLIP", "bunny").split()
        with pytest.raises(SystemExit) as ended:
            command_line.main([*words, "--help"])
        assert ended.value.code == 0
        if len(words) > 1 and words[0] in command_line.GROUPS:
            assert words[1] in command_line.GROUPS[words[0]].names
    capsys.readouterr()


def test_tables_of_results_are_those_of_the_points():
    found = list(tables(load_points()))
    assert len(found) == 25
    for table in found:
        assert "\n".join(table) + "\n" in page("results.md")


def test_table_of_ablations_is_that_of_the_points():
    head, line, *rows = ablation_table()
    assert not rows or "\n".join([head, line, *rows]) + "\n" in page("ablations.md")


def test_every_point_is_in_a_table_or_listed():
    points = load_points()
    tabled = {
        "ours",
        "times",
        "ladder",
        "paper",
        "codecs",
        "ablations",
        "targets",
        "motion",
        "speed",
        "operators",
        "lengths",
    }
    tabled |= {"scenes", "keys", "decoding", "interpolation", "inpainting"}
    listed = others(points)
    assert all(point in listed or point["measurement"] in tabled for point in points)


def test_measurement_is_kept_and_replaces_an_older_one(video, data):
    old = {"measurement": "ours", "clip": "bunny", "seconds": 1, "bytes": 1}
    other = {"measurement": "ours", "clip": "bunny", "seconds": 2, "bytes": 2}
    (data / "results.json").write_text(json.dumps([old, other]))
    encoder = make_encoder(video, FAST, Compression(lambda_=0.3))
    points = [measure(run_fit(encoder, Budget(epochs=3)), video)]
    key = {"measurement": "ours", "clip": "bunny", "seconds": 1}
    (made,) = record(points, key, data)
    assert load_points(data) == [other, made]
    assert made.items() >= key.items()
    assert made["bytes"] > 100
    assert 5 < made["psnr_db"] < 50
    assert 0 < made["bits_per_weight"] < 32


def test_command_keeps_its_points_in_the_folder(data, capsys):
    assert command_line.main(["encoding-speed", "film", "--data", str(data)]) == 0
    assert [point["workers"] for point in load_points(data)] == [1, 64, 1, 64]
    assert "segment_times" in capsys.readouterr().out


def test_command_measures_another_size(data):
    command = "rate-distortion codecs --resize 32x18 --data"
    assert command_line.main([*command.split(), str(data)]) == 0
    points = load_points(data)
    assert len(points) == 15
    assert max(point["bytes"] for point in points) < 50_000


def test_clip_without_a_video_is_one_line(data, capsys):
    assert command_line.main(["rate-distortion", "ours", "carphone", "--data", str(data)]) == 2
    assert capsys.readouterr().err == (
        "error: carphone is not bundled: name its video with --source\n"
    )


@pytest.mark.soak
def test_choices_are_timed_in_turns_and_fitted_once(video, data):
    measured = Measured(clip="bunny")
    name = "trunk: one block less"
    assert len(list(measured.pace(video, [name]))) == 2
    assert measured.paces[OWN] == 1.0
    assert measured.paces[name] > 0
    assert not list(measured.pace(video, [name]))
    measured.preset_seconds = (0.0, 1.0)  # of a slow machine
    measured.paces[name] = 1.0
    measured.starts[name] = 0.0
    assert len(list(measured.fit(video, 2, 0, [name]))) == 2
    assert not list(measured.fit(video, 2, 0, [name]))
    assert {point["epochs"] for point in measured.points} == {2}
    measured.save(data)
    assert Measured.load("bunny", data).points == measured.points
    assert [line.split(" | ")[0] for line in ablation_table(data)[2:]] == [
        "| the preset",
        f"| {name}",
    ]


def test_unknown_choice(data, capsys):
    command = ["ablations", "fit", "--only", "nothing", "--data", str(data)]
    assert command_line.main(command) == 2
    assert "unknown choice 'nothing'" in capsys.readouterr().err


def test_choices_are_those_of_the_measured_data():
    assert set(Measured.load("bunny").paces) <= set(choices())


@pytest.mark.parametrize("name", choices())
@pytest.mark.soak
@pytest.mark.filterwarnings(  # torch.compile's own
    "ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute of a Tensor:UserWarning"
)
def test_every_choice_fits(name, video):
    choice = choices()[name]
    encoder = make_encoder(video, choice.preset, Compression(), **choice.steps)
    assert run_fit(encoder, Budget(epochs=3)).header.frames == 6


@pytest.mark.parametrize("name", ["optimiser: SOAP", "no displacement field", "weights averaged"])
def test_choices_of_each_kind_fit(name, video):
    choice = choices()[name]
    encoder = make_encoder(video, choice.preset, Compression(), **choice.steps)
    assert run_fit(encoder, Budget(epochs=4)).header.frames == 6


@pytest.mark.parametrize(
    "name",
    ["prediction of latents", "contexts", "contexts, and scales of rows and columns"],
)
def test_coder_tries_the_modes_of_the_recipe_alone(name, video):
    preset = techniques()[name]
    clip = run_fit(make_encoder(video, preset, Compression()), Budget(epochs=3))
    tried = PREDICTED | ROWS | COLUMNS | PAIRS | CONTEXT
    used = {tensor.flags & tried for tensor in clip.segments[0].tensors}
    assert used <= set(preset.recipe.quantization.coder_modes)


def test_bd_rates_of_the_paper_stand_beside_those_of_a_report():
    rates = {"psnr_db": {"nerv": {}, "nerv++": {"nerv": -20.0}, "hnerv": {}}, "ms_ssim": {}}
    found, other = bd_rates(rates)
    assert (found["paper in %"], found["here in %"]) == (-27.98, -20.0)
    assert (other["paper in %"], other["here in %"]) == (
        "",
        "under three points, or too little overlap",
    )


def test_papers_networks_are_fitted_once_and_compared(tmp_path, capsys, monkeypatch):
    write_images(tmp_path / "video", moving_square(3, 18, 32))
    monkeypatch.setattr("benchmarks.paper.SIZES", ("XS",))  # to trace a network takes seconds
    command = ["paper", "--source", str(tmp_path / "video"), "--resize", "32x18", "--epochs", "2"]
    command += ["--device", "cpu", "-o", str(tmp_path / "report")]
    assert command_line.main(command) == 0
    told = capsys.readouterr().out
    assert "coding: 8 bits, 0.2 pruned, huffman coder" in told
    assert len(re.findall("size (?:XS|S|M|L) ", told)) == 2
    fps = json.loads((tmp_path / "report" / "decoding.json").read_text())
    assert set(fps) == {"nerv-size-XS.nerv", "nerv++-size-XS.nerv"}
    assert min(fps.values()) > 0
    assert re.search(r"nerv\+\+ +psnr_db +-27.98", told)
    assert re.search(r"nerv\+\+ +0.62 +[\d.]+ +0.92 +[\d.]+", told)
    results = (tmp_path / "report" / "results.json").read_bytes()
    monkeypatch.setattr("encoder.compare.compare.measure", None)  # which would fit them again
    assert command_line.main(command) == 0
    assert (tmp_path / "report" / "results.json").read_bytes() == results
    assert command_line.main([*command, "--presets", "nerv++"]) == 2
    assert "compared with nerv: name it as well" in capsys.readouterr().err
    assert command_line.main([*command[:-4], "--epochs", "0", *command[-4:]]) == 2
    assert "the number of epochs must be at least 1" in capsys.readouterr().err


def test_decoders_show_the_same_pictures():
    video = Video(moving_square(BATCH, 18, 32), Fraction(25))
    encoder = make_encoder(video, FAST, Compression())
    clip = run_fit(encoder, Budget(epochs=4))
    with open_engine(clip, "onnxruntime-cpu", batch=BATCH) as engine:
        expected = engine_decoder(engine)().astype(int)
        others = (
            network_decoder(engine, engine.network(0)),
            plain_decoder(clip),
            eager_decoder(encoder, clip),
        )
        assert all(np.abs(decode().astype(int) - expected).max() <= 1 for decode in others)


class Telling(SegmentEncoder):
    """Tells its progress after each step."""

    def fit(self, index, network, budget, *, start, **options):
        training = super().fit(index, network, budget, start=start, **options).training
        return Trainer(training, budget, start=start, notice_seconds=0.0)


def test_progress_within_an_epoch_is_not_an_epoch(video):
    preset = with_recipe(FAST, batch=1)
    plan = make_plan(video, preset, segment_frames=6, key_interval=1)
    device = torch.device("cpu")
    encoder = Telling(video, preset, Compression(), plan=plan, device=device, settings="")
    steps = list(encoder.run(Budget(epochs=3)))
    assert sum(step.is_whole and step.finished is None for step in steps) == 3
    assert sum(not step.is_whole for step in steps) > 6


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_gpu_benchmark_in_its_smallest_form(tmp_path):
    command = ["gpu", "--smoke", "--minutes", "2", "-o", str(tmp_path)]
    assert command_line.main(command) == 0
    fit, decode = (
        json.loads((tmp_path / f"{part}.json").read_text()) for part in ("fit", "decode")
    )
    assert not [point for point in (*fit["points"], *decode["points"]) if "refused" in point]
    assert {"machine", "versions", "commit", "driver"} < fit.keys()
    assert [p["mode"] for p in fit["points"] if p.get("measurement") == "steps"] == [
        "recorded",
        "recorded, compiled",
    ]
    fits = [p for p in fit["points"] if "lambda" in p]
    assert [p["precision"] for p in fits[:3]] == ["fp32", "tf32", "bf16"]
    assert {p["epochs"] for p in fits[:3]} == {2}
    assert len(fits) == 4
    assert min(p["bytes"] for p in fits) > 1000
    profiled = [p for p in fit["points"] if "milliseconds" in p]
    assert "aten::convolution_backward" in {p["operator"] for p in profiled}
    assert {p["batch"] for p in decode["points"] if p.get("decode_fps", 0) > 0} == {1, 2}
    (verified,) = [p for p in decode["points"] if "holds" in p]
    assert verified["holds"]
    table = (tmp_path / "decode.md").read_text()
    assert "| fast | XS | 64x36 | onnxruntime |" in table
    for part in ("fit", "decode"):
        assert ET.parse(tmp_path / f"{part}.svg").getroot().tag.endswith("svg")


def test_gpu_benchmark_stops_in_time_and_keeps_what_failed(tmp_path):
    now = 0.0

    def spend(seconds):
        def run():
            nonlocal now
            for number in range(3):
                now += seconds
                yield {"number": number}

        return run

    def fail():
        raise RuntimeError("no kernel\nfor this card")
        yield

    deadline = Deadline(minutes=1, began=0.0, clock=lambda: now)
    jobs = [
        Job("first", spend(5), 5),
        Job("broken", fail, 5),
        Job("long", spend(1), 46),
        Job("last", spend(40), 5),
    ]
    path = tmp_path / "fit.json"
    points = list(run_jobs(jobs, deadline, path))
    assert points == [
        *({"job": "first", "number": number} for number in range(3)),
        {"job": "broken", "refused": "RuntimeError: no kernel"},
        *({"job": "last", "number": number} for number in range(2)),
    ]
    assert json.loads(path.read_text())["points"] == points
    write_gpu_report(path)
    assert list(run_jobs([Job("long", spend(1), 60)], deadline, path)) == []
    assert json.loads(path.read_text())["points"] == []
    write_gpu_report(path)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_gpu_benchmark_wants_time(minutes, tmp_path, capsys):
    command = ["gpu", f"--minutes={minutes}", "-o", str(tmp_path / "out")]
    assert command_line.main(command) == 2
    assert "minutes must be over 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_figures_of_a_gpu_are_those_of_the_page():
    text = page("results.md")
    fit, decode = (
        json.loads((DATA / f"gpu-h100-{part}.json").read_text()) for part in ("fit", "decode")
    )
    assert fit["commit"][:7] in text
    for point in decode["points"]:
        if point.get("batch") and "decode_fps" in point and point["kind"] != "fp32":
            assert f"{point['decode_fps']:,.0f}, {point['fps']:,.0f}" in text
    for point in fit["points"]:
        if "steps_per_second" in point:
            assert f" {point['steps_per_second']:.1f} |" in text
        if "24 epochs" in point["job"]:
            assert f"{point['psnr_db']:.2f} dB in {point['bytes']:,} bytes" in text
        elif "lambda" in point:
            bits = 8 * point["bytes"] / (1280 * 720 * 132)
            assert f"| {bits:.4f} | {point['psnr_db']:.2f} dB |" in text


def test_page_shows_the_points_of_the_paper_in_small():
    name = "paper-bunny-160x90"
    kept = json.loads((DATA / f"{name}.json").read_text())
    fps = json.loads((DATA / f"{name}-decoding.json").read_text())
    text = page("results.md")
    for point in kept["points"]:
        quality = f"{point['psnr_db']:.2f}, {point['ms_ssim']:.3f}"
        speed = f"{fps[point['file']]:,.0f} | {point['macs_per_pixel']:,.0f}"
        assert f"| {point['file_bytes']:,}: {quality} | {speed} |" in text
    for quality, row in kept["bd_rate"].items():
        if quality in ("psnr_db", "ms_ssim"):
            assert f" % | {row['nerv++']['nerv']:.1f} % |" in text
    found = [RdPoint(**point | {"decode_fps": fps[point["file"]]}) for point in kept["points"]]
    (speed,) = speeds(found)
    assert f"| 0.62 | {speed['fps here']:.2f} |" in text
    assert f"| 0.92 | {speed['MACs here']:.2f} |" in text
