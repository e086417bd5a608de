"""Fits that end before they should: killed, without a disk, a source or a worker."""

import contextlib
import logging
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from helpers import make_encoder, moving_square, run, write_images
from waiting import wait_for

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import FitError, RunError, SourceError
from encoder.config import Budget, FitConfig
from encoder.jobs.clip_assembler import ClipAssembler
from encoder.jobs.gop import Finished, Gop, Progress
from encoder.jobs.job import Job
from encoder.jobs.local_workers import LocalWorkers
from encoder.jobs.run_state import RunState
from encoder.jobs.scheduler import (
    MAX_TRIES,
    JobContext,
    Scheduler,
    Worker,
    WorkerBackend,
    makespan,
    run_serial,
    with_notes,
)
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import PRESETS
from encoder.segmentation.plan import make_plan

FRAMES = moving_square(24, 32, 48)
FIT = [sys.executable, "-m", "encoder", "fit", "--size", "XS", "--threads", "1"]
SEGMENTS = ["--segment-frames", "4", "--key-interval", "2"]


@pytest.fixture
def video(write_video):
    return write_video(FRAMES)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def fit(folder, *options, source="video.mp4", epochs=60):
    """Fit in this process, which spares the seconds that another takes to begin."""
    return run(shlex.join([*FIT[2:], source, *SEGMENTS, "--epochs", str(epochs), *options]), folder)


def start(folder, *options, source="video.mp4", epochs=60):
    command = [*FIT, source, *SEGMENTS, "--epochs", str(epochs), *options]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def peak_megabytes(process):
    """Return the most memory that a process has had, once it has ended: what `wait4` says includes that of its parent."""
    found = 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = max(
                [
                    found,
                    *(int(kilobytes) / 1024 for kilobytes in re.findall(r"VmHWM:\s+(\d+)", status)),
                ]
            )
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_killed_fit_comes_to_the_same_bytes(write_video, kills):
    folder = write_video(FRAMES[:16]).parent
    whole = fit(
        folder, "-o", "whole.nerv", *(["--workers", "2"] if kills > 1 else []), epochs=15 * kills
    )
    assert whole.returncode == 0, whole.stderr
    assert re.search(r"fitted in \d+\.\d s", whole.stderr)
    kept = folder / ".clip.nerv.unfinished"
    saving = ["-o", "clip.nerv", "--save-every", "0.01"]
    seen = set()
    for attempt in range(kills):
        process = start(folder, *saving, *(["--resume"] if attempt else []), epochs=15 * kills)
        # Each time a little further.
        wait_for(lambda attempt=attempt: (kept / f"group-{attempt}.pt").exists())
        time.sleep(0.1)
        process.kill()
        process.communicate()
        # It may have been killed while it wrote.
        (folder / f".clip.{process.pid}.part.nerv").touch()
        seen.update(path.name for path in kept.iterdir())
    assert {"settings.json", *(f"group-{index}.pt" for index in range(kills))} <= seen
    last = fit(folder, *saving, "--resume", epochs=15 * kills)
    assert last.returncode == 0, last.stderr
    assert (folder / "clip.nerv").read_bytes() == (folder / "whole.nerv").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "clip.nerv",
        "video.mp4",
        "whole.nerv",
    ]


@pytest.mark.soak
def test_what_was_kept_is_not_lost_by_mistake(video):
    folder = video.parent
    process = start(folder, "-o", "clip.nerv", "--save-every", "0.01", epochs=1000)
    wait_for((folder / ".clip.nerv.unfinished" / "group-0.pt").exists)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command with --resume goes on" in errors
    (folder / ".clip.nerv.unfinished" / "before.nerv").write_bytes(b"old")
    again = fit(folder, "-o", "clip.nerv", epochs=1000)
    assert again.returncode == 2
    assert "an interrupted run can go on with --resume; to start anew, delete" in again.stderr
    assert "after taking before.nerv out of it" in again.stderr
    threads = fit(folder, "-o", "clip.nerv", "--resume", "--threads", "2", epochs=1000)
    assert "the threads of the interrupted run is '1', not '2'" in threads.stderr
    other = fit(folder, "-o", "clip.nerv", "--resume", epochs=999)
    assert other.returncode == 2
    assert "the settings of the interrupted run is '--preset fast" in other.stderr


@pytest.mark.soak
def test_clip_that_was_there_stays_until_the_new_one_is_whole(write_video):
    folder = write_video(FRAMES[:16]).parent
    (folder / "clip.nerv").write_bytes(b"old")
    process = start(folder, "-o", "clip.nerv", epochs=150)
    before = folder / ".clip.nerv.unfinished" / "before.nerv"
    wait_for(before.exists)
    wait_for(lambda: (folder / "clip.nerv").read_bytes() != b"old")
    wait_for(lambda: len(Clip.read(folder / "clip.nerv", strict=False).segments) > 1)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert before.read_bytes() == b"old"
    clip = Clip.read(folder / "clip.nerv")  # whole, but shorter
    assert 8 <= clip.header.frames < 16
    assert clip.header.frames == 4 * len(clip.segments)
    assert fit(folder, "-o", "clip.nerv", "--resume", epochs=150).returncode == 0
    assert not before.exists()


def test_full_disk_leaves_what_is_finished(video):
    folder = video.parent
    small = fit(folder, "-o", "clip.nerv", epochs=2)
    assert small.returncode == 0
    sizes = (folder / "clip.nerv").stat().st_size

    def little_space():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes // 2, sizes // 2))

    command = [*FIT, "video.mp4", *SEGMENTS, "--epochs", "2", "-o", "full.nerv"]
    full = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, preexec_fn=little_space
    )
    assert full.returncode == 2
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    clip = Clip.read(folder / "full.nerv")
    assert 0 < clip.header.frames < 24
    assert clip.segments == Clip.read(folder / "clip.nerv").segments[: len(clip.segments)]


@pytest.mark.soak
def test_source_that_breaks_leaves_what_is_finished(video):
    folder = video.parent
    write_images(folder / "images", FRAMES)
    process = start(folder, "-o", "clip.nerv", source="images", epochs=100)
    wait_for((folder / "clip.nerv").exists)
    (folder / "images" / "021.png").unlink()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "cannot read" in errors.splitlines()[-1]
    clip = Clip.read(folder / "clip.nerv")
    assert clip.header.frames == 20
    assert np.abs(ReferenceDecoder(clip).frame(19).astype(int) - FRAMES[19]).mean() < 30


@pytest.mark.soak
def test_damaged_source_is_fitted_up_to_the_damage(write_video):
    path = write_video(FRAMES, key_frames=range(24))
    with av.open(path) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[positions[13] : positions[17]] = bytes(positions[17] - positions[13])
    path.write_bytes(data)
    # With two workers, what fails is not the first group to be done.
    done = fit(path.parent, "-o", "clip.nerv", "--workers", "2", epochs=20)
    assert done.returncode == 2
    assert "can be fitted" in done.stderr
    assert "Traceback" not in done.stderr
    clip = Clip.read(path.parent / "clip.nerv")
    assert clip.header.frames == 12
    assert clip.end == 12


def test_two_runs_do_not_write_the_same_clip(video):
    folder = video.parent
    process = start(folder, "-o", "clip.nerv", epochs=1000)
    wait_for((folder / ".clip.nerv.unfinished" / "settings.json").exists)
    again = fit(folder, "-o", "clip.nerv", "--resume", epochs=1000)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1] == f"error: another run is writing {folder / 'clip.nerv'}"
    process.terminate()
    process.communicate()


def test_clip_that_was_there_is_kept_once(tmp_path):
    """Not the one that the interrupted run has begun."""
    clip = tmp_path / "clip.nerv"
    unfinished = RunState(clip, {})
    with unfinished.locked():
        unfinished.keep()
        clip.write_bytes(b"ours")
        unfinished.keep()
        assert not unfinished.before.exists()
    assert not unfinished.folder.exists()
    with unfinished.locked():
        unfinished.keep()
        assert unfinished.before.read_bytes() == b"ours"


def test_clip_is_kept_where_links_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError))
    (tmp_path / "clip.nerv").write_bytes(b"old")
    unfinished = RunState(tmp_path / "clip.nerv", {})
    with unfinished.locked():
        unfinished.keep()
        assert unfinished.before.read_bytes() == b"old"


def test_nothing_to_go_on_with(video):
    done = fit(video.parent, "-o", "clip.nerv", "--resume", epochs=1)
    assert done.returncode == 0
    assert "nothing is left of an earlier run: starting anew" in done.stderr
    failed = fit(video.parent, "-o", "none.nerv", "--file-size", "1", epochs=1)
    assert failed.returncode == 2
    assert sorted(path.name for path in video.parent.iterdir()) == ["clip.nerv", "video.mp4"]


def make_work(video, folder, *, save_seconds=60.0, preset="fast", budget=None, **settings):
    source = read_video(video)
    job = Job(
        source=video,
        size=(48, 32),
        config=FitConfig(preset=preset, size="XS", **settings),
        plan=make_plan(source, PRESETS[preset], segment_frames=4, key_interval=2),
        budget=budget or Budget(epochs=10),
        device="cpu",
        threads=1,
        settings="",
        keep_states=True,
    )
    encoder = job.encoder()
    unfinished = RunState(folder / "clip.nerv", {})
    unfinished.begin()
    return JobContext(
        replace(job, motions=encoder.canvas.motions, topology=encoder.topology),
        unfinished,
        save_seconds,
    )


def written(work, events, path):
    encoder = work.job.encoder()
    assembly = ClipAssembler(path, encoder.header, encoder.topology, work.unfinished)
    for _, step in events:
        if step.finished:
            assembly.take(step.segment, step.finished)
    assembly.finish()
    return path.read_bytes(), assembly.states


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("fast", {"file_size": 30_000}),
        ("fast", {"psnr": 20.0}),
        pytest.param(
            "fast",
            {"bits": 6, "prune": 0.2, "coder": "huffman"},
            marks=pytest.mark.soak,
        ),
        pytest.param("fast", {"mask": "mask"}, marks=pytest.mark.soak),
        ("hnerv-boost", {}),  # Adan, and an encoder of frames
        ("nirvana", {}),
    ],
)
def test_everything_goes_on_as_if_nothing_had_happened(
    write_video, tmp_path, monkeypatch, preset, options
):
    video = write_video(FRAMES[:12])
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((1, 3, 32, 48), np.uint8)
    mask[..., 4:12, 8:20] = 255
    write_images(tmp_path / "mask", mask)
    work = make_work(
        video, tmp_path, preset=preset, budget=Budget(epochs=6), save_seconds=0.0, **options
    )
    whole, states = written(work, run_serial(work, work.job.encoder()), tmp_path / "whole.nerv")
    assert states
    work.unfinished.remove()
    work.unfinished.begin()
    steps = 0
    for stop in (3, 9):
        torch.manual_seed(stop)
        for _, event in zip(range(stop), run_serial(work, work.job.encoder()), strict=False):
            steps += event is not None
    assert steps == 12
    again, others = written(work, run_serial(work, work.job.encoder()), tmp_path / "again.nerv")
    assert again == whole
    for a, b in zip(states, others, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.soak
@pytest.mark.alone
def test_time_that_was_spent_is_not_spent_again(video, tmp_path):
    work = make_work(video, tmp_path, save_seconds=0.5, budget=Budget(seconds=12.0))
    events = run_serial(work, work.job.encoder())
    for group, progress in events:
        if group == 1 and progress.segment == 3:  # four segments of six are begun
            break
    events.close()
    began = time.monotonic()
    list(run_serial(work, work.job.encoder()))
    assert 3 < time.monotonic() - began < 9


def test_workers_say_what_they_have_to_say(caplog):
    def steps():
        logging.getLogger("encoder.training.trainer").warning("the fit fell")
        yield Progress(done=0.5, segment=0, psnr_db=20.0)
        yield Progress(done=1.0, segment=0, psnr_db=20.0)

    told = list(with_notes(steps()))
    assert [step.notes for step in told] == [("the fit fell",), ()]
    caplog.clear()

    class Teller(WorkerBackend, Worker):
        def start(self, *_):
            return self

        def ready(self, workers):
            return workers

        def assign(self, _):
            self.told = [*told, None]

        def receive(self):
            return self.told.pop(0)

        def end(self):
            pass

    work = SimpleNamespace(job=SimpleNamespace(plan=SimpleNamespace(groups=[range(1)])))
    assert len(list(Scheduler(work, Teller(), 1).run())) == 2
    assert [record.getMessage() for record in caplog.records] == ["the fit fell"]


@pytest.mark.soak
def test_workers_make_the_same_bytes_though_one_is_killed(video, tmp_path, caplog):
    work = make_work(video, tmp_path, save_seconds=0.0)
    alone, states = written(work, run_serial(work, work.job.encoder()), tmp_path / "alone.nerv")
    work.unfinished.remove()
    work.unfinished.begin()

    def events():
        for number, event in enumerate(Scheduler(work, LocalWorkers(), 2).run()):
            if number == 5:
                active_children()[0].kill()
            yield event

    together, others = written(work, events(), tmp_path / "together.nerv")
    assert together == alone
    assert len(states) == len(others) == 6
    for a, b in zip(states, others, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert "a worker ended with exit code -9" in caplog.text
    assert active_children() == []


def is_running(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.soak
def test_interrupted_workers_end(video):
    folder = video.parent
    process = start(
        folder, "-o", "clip.nerv", "--workers", "2", "--save-every", "0.01", epochs=1000
    )
    wait_for((folder / ".clip.nerv.unfinished" / "group-0.pt").exists)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command with --resume goes on" in errors
    assert len(children) >= 2
    wait_for(
        lambda: not any(map(is_running, children)), 10
    )  # Python's tracker of resources ends a moment later


def test_segment_that_comes_out_differently(tiny_clip, tmp_path):
    unfinished = RunState(tmp_path / "clip.nerv", {})
    unfinished.begin()
    assembly = ClipAssembler(
        tmp_path / "clip.nerv", tiny_clip.header, tiny_clip.topology, unfinished
    )
    first = tiny_clip.segments[0]
    for _ in range(2):
        assembly.take(0, Finished(first, None))
    with pytest.raises(RunError, match="segment 0 was fitted twice and came out differently"):
        assembly.take(0, Finished(replace(first, code=first.code + bytes(4)), None))
    assembly.stop()


@pytest.mark.soak
def test_workers_that_are_killed_again_and_again(video, tmp_path):
    """The segment that is told again does not count as progress."""

    def events():
        for event in Scheduler(
            make_work(video, tmp_path, save_seconds=0.0), LocalWorkers(), 1
        ).run():
            if event[1].segment == 1:
                active_children()[0].kill()
            yield event

    with pytest.raises(
        FitError, match=f"exit code -9 at the segments from 0 to 1, {MAX_TRIES} times"
    ):
        list(events())


@pytest.mark.soak
def test_error_of_a_worker_is_that_of_all(video, tmp_path):
    work = make_work(video, tmp_path)
    gone = replace(work, job=replace(work.job, source=tmp_path / "gone.mp4"))
    with pytest.raises(SourceError, match=r"no such file or folder: .*gone.mp4"):
        list(Scheduler(gone, LocalWorkers(), 2).run())
    assert active_children() == []


def test_groups_after_one_that_fails_are_given_up():
    """Even if their workers have something to tell at the same moment."""
    ended = []

    class Failing(WorkerBackend):
        def start(self, _, number):
            return FailingWorker(number)

        def ready(self, workers):
            return workers

    class FailingWorker(Worker):
        def __init__(self, number):
            self.number = number

        def assign(self, group):
            self.group = group

        def receive(self):
            assert self.number not in ended
            if self.group:
                raise SourceError(f"group {self.group}")

        def end(self):
            ended.append(self.number)

    work = SimpleNamespace(
        job=SimpleNamespace(plan=SimpleNamespace(groups=[range(n, n + 1) for n in range(5)]))
    )
    with pytest.raises(SourceError, match="group 1"):
        list(Scheduler(work, Failing(), 3).run())
    assert sorted(ended) == [0, 1, 2]


def test_groups_go_to_the_first_worker_that_is_free():
    assert makespan([0.5, 0.25, 0.25], 2) == 0.5
    assert makespan([0.25, 0.25, 0.5], 2) == 0.75
    assert makespan([0.2, 0.8], 1) == pytest.approx(1.0)
    assert makespan([1.0], 8) == 1.0


@pytest.mark.soak
def test_memory_is_that_of_a_segment(write_video, monkeypatch):
    """Frames of 0.17 MB each, eight of them in a segment; some read 32 at once."""
    # What is freed goes back at once, so that chance has next to no say in the peak.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(128 * 1024))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    frames = np.broadcast_to(moving_square(1, 180, 320), (288, 3, 180, 320))
    # Or the first fit alone would trace its network, which takes memory too.
    make_encoder(Video(frames[:8].copy(), Fraction(25)), size="XS")
    peaks = []
    for count in (144, 288):  # FFmpeg's pools have their size by then
        path = write_video(frames[:count], f"{count}.mp4")
        lengths = ["--segment-frames", "8", "--key-interval", "2", "--epochs", "1"]
        command = [*FIT, path.name, "--resize", "source", *lengths, "-o", f"{count}.nerv"]
        with subprocess.Popen(command, cwd=path.parent, stderr=subprocess.DEVNULL) as process:
            peak = peak_megabytes(process)
        assert process.returncode == 0
        peaks.append(peak)
    assert abs(peaks[1] - peaks[0]) < 12.5  # megabytes; all frames would be 25 more


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_states_that_cannot_be_read(tmp_path, damage):
    encoder = make_encoder(Video(FRAMES[:4], Fraction(25)), size="XS")
    unfinished = RunState(tmp_path / "clip.nerv", {"a": 1})
    unfinished.begin()
    group = Gop(encoder, 0, Budget(epochs=4))
    next(group.run())
    unfinished.save(0, group.state())
    tensors = len(encoder.topology.tensors)
    assert unfinished.load(0, tensors).fit is not None
    assert unfinished.load(1, tensors) is None
    path = unfinished.folder / "group-0.pt"
    path.write_bytes(path.read_bytes()[:1000] if damage is None else damage)
    with pytest.raises(RunError, match="cannot be read: delete it to fit its segments anew"):
        unfinished.load(0, tensors)
    (unfinished.folder / "settings.json").write_text("[")
    with pytest.raises(RunError, match=r"settings\.json cannot be read: to start anew, delete"):
        unfinished.check()


def test_state_holds_no_code(tmp_path):
    """A pickle that would run something is refused."""
    unfinished = RunState(tmp_path / "clip.nerv", {})
    unfinished.begin()
    torch.save(
        {"segments": [], "states": [], "frame_encoder": Path("a"), "fit": None},
        unfinished.folder / "group-0.pt",
    )
    with pytest.raises(RunError, match="cannot be read"):
        unfinished.load(0, 3)
