"""Settings of a fit: ranges, sizes, the record in the file, and the flags made of them."""

import argparse
import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
import pytest

from encoder.common.errors import SettingsError
from encoder.common.flags import Flag, add_flags, field_docs, from_flags
from encoder.config import Budget, Compression, FitConfig
from encoder.media.video import Video

VIDEO = Video(np.zeros((50, 3, 20, 40), np.uint8), Fraction(25))
"""Two seconds."""


@pytest.mark.parametrize(
    ("text", "size"),
    [("200kB", 200_000), ("1.5MB", 1_500_000), ("1234", 1234), ("20k", 20_000), (5000, 5000)],
)
def test_file_size(text, size):
    assert FitConfig(file_size=text).target_bytes(VIDEO) == size


@pytest.mark.parametrize(("text", "size"), [("500k", 125_000), ("1M", 250_000), ("800", 200)])
def test_bitrate(text, size):
    assert FitConfig(bitrate=text).target_bytes(VIDEO) == size


def test_bits_per_pixel():
    assert FitConfig(bits_per_pixel=0.1).target_bytes(VIDEO) == 0.1 * 50 * 20 * 40 / 8
    assert FitConfig().target_bytes(VIDEO) is None


@pytest.mark.parametrize("text", ["", "0", "-3", "big", "2 kB", "1e6", "3KB", "0.0k", "\u0663kB"])
@pytest.mark.parametrize("name", ["file_size", "bitrate"])
def test_no_size(name, text):
    with pytest.raises(SettingsError, match="like"):
        FitConfig(**{name: text})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"bits_per_pixel": 0.0}, "bits per pixel must be over 0"),
        ({"bits_per_pixel": float("nan")}, "bits per pixel must be over 0"),
        ({"bits_per_pixel": float("inf")}, "bits per pixel must be over 0"),
        ({"budget": 0.0}, "the budget must be over 0 seconds, got 0"),
        ({"budget": 1.0, "epochs": 2}, "give either a budget or a number of epochs"),
        ({"epochs": 0}, "the number of epochs must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in 0\.\.9223372036854775807, got -1"),
        ({"segment_frames": 0}, "a segment needs at least 1 frame, got 0"),
        ({"key_interval": 0}, "a key interval is at least 1 segment, got 0"),
        ({"resize": "16"}, "a size is two numbers"),
        ({"lambda_": 0.0}, "lambda must be over 0, got 0"),
        ({"lambda_": 1.0, "file_size": "2kB"}, "give one of lambda, bits per pixel"),
        ({"bits": 8, "bitrate": "2k"}, "give one of lambda, bits per pixel"),
        ({"psnr": 32.0, "lambda_": 1.0}, "give one of lambda, bits per pixel"),
        ({"psnr": 32.0, "mask": "a.png"}, "a fit with a mask cannot be steered to a PSNR"),
        ({"psnr": 9.5}, r"the PSNR must be in 10\.\.55 dB, got 9\.5"),
        ({"psnr": float("nan")}, r"the PSNR must be in 10\.\.55 dB, got nan"),
        ({"bits": 20}, r"bits must be in 2\.\.12, got 20"),
        ({"prune": 0.2}, "pruning needs bits"),
        ({"coder": "huffman", "bits": 9}, "the huffman coder takes at most 8 bits"),
    ],
)
def test_settings_out_of_range(settings, reason):
    with pytest.raises(SettingsError, match=reason):
        FitConfig(**settings)


def test_budget_grows_with_the_video():
    assert FitConfig().limit(150) == Budget(seconds=120.0)
    assert FitConfig().limit(75) == Budget(seconds=120.0)
    assert FitConfig().limit(300) == Budget(seconds=240.0)
    assert FitConfig(epochs=3).limit(300) == Budget(epochs=3)


def test_compression():
    config = FitConfig(bits=6, prune=0.2, coder="huffman")
    assert config.compression(VIDEO) == Compression(bits=6, prune=0.2, coder="huffman")
    assert FitConfig(file_size="5kB").compression(VIDEO) == Compression(file_bytes=5000)
    assert FitConfig(psnr=32.0).compression(VIDEO) == Compression(psnr=32.0)


@pytest.mark.parametrize(
    ("settings", "after", "record"),
    [
        ({}, "", "--budget 120 "),
        ({"epochs": 60}, "", "--epochs 60 "),
        ({"precision": "bf16"}, "", "--precision bf16 --budget 120 "),
        ({"precision": "auto"}, "", "--budget 120 "),
        ({"lambda_": 0.1, "mask": "a/b.png"}, "", "--mask b.png --budget 120 --lambda 0.1 "),
        ({"track": 1, "file_size": "2kB"}, "", "--track 1 --budget 120 --file-size 2kB "),
        ({"psnr": 32.5}, "", "--budget 120 --psnr 32.5 "),
        ({"bits_per_pixel": 0.05}, " after 9 s", "--bits-per-pixel 0.05 after 9 s "),
    ],
)
def test_record_in_the_file(settings, after, record):
    start = "--preset fast --size S --resize 40x20"
    end = "--segment-frames 150 --key-interval 8 --seed 0"
    assert FitConfig(**settings).text(VIDEO, after=after) == f"{start} {record}{end}"


def test_settings_are_json():
    config = FitConfig(file_size="2kB", resize="40x20", matrix="bt709")
    assert FitConfig(**json.loads(json.dumps(asdict(config)))) == config


@dataclass(frozen=True, kw_only=True)
class Base:
    """Settings of two commands."""

    rate: Annotated[float | None, Flag(metavar="R", default="the file's")] = None
    """Rate of something."""


@dataclass(frozen=True, kw_only=True)
class Example(Base):
    """Settings of a command."""

    count: Annotated[int, Flag(metavar="N", exclusive="amount")] = 3
    """Number of things, up to 100 %."""
    weight: Annotated[int | None, Flag(exclusive="amount")] = None
    """Weight of things."""
    share: Annotated[float, Flag(group="more")] = 0.5
    """Share of
    things."""
    kind: Literal["one", "two"] = "one"
    """Kind of things."""
    is_loud: bool = False
    """Whether it makes noise."""
    lambda_: str | int | None = None
    """H.264 stays as it is."""


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="x", exit_on_error=False)
    add_flags(parser, Example)
    return parser


def test_flags_are_the_fields(parser):
    assert from_flags(Example, parser.parse_args([])) == Example()
    given = ["--rate", "2", "--count", "5", "--kind", "two", "--is-loud", "--lambda", "7k"]
    expected = Example(rate=2.0, count=5, kind="two", is_loud=True, lambda_="7k")
    assert from_flags(Example, parser.parse_args(given)) == expected


def test_help_is_made_of_docstrings(parser):
    text = " ".join(parser.format_help().split())
    assert "--rate R rate of something (default: the file's)" in text
    assert "--count N number of things, up to 100 % (default: 3)" in text
    assert "more: --share SHARE share of things (default: 0.5)" in text
    assert "--kind {one,two} kind of things (default: one)" in text
    assert "--lambda LAMBDA H.264 stays as it is" in text
    assert field_docs(Example)["lambda_"] == "H.264 stays as it is"


def test_only_one_of_a_set_is_taken(parser):
    with pytest.raises(argparse.ArgumentError, match="not allowed with argument --count"):
        parser.parse_args(["--count", "1", "--weight", "1"])


def test_some_fields_with_other_defaults():
    parser = argparse.ArgumentParser()
    add_flags(parser, Example, ["count"], defaults={"count": "many"})
    assert "(default: many)" in parser.format_help()
    assert "--kind" not in parser.format_help()
    assert from_flags(Example, parser.parse_args(["--count", "4"]), kind="two").kind == "two"
