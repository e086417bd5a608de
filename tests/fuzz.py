"""Feed mutated files to the decoder: `python tests/fuzz.py --count 200000` prints what came of them.

Each file must end in BitstreamError or in the frames that the damage leaves, in bounded time and memory. Where a file is
taken for undamaged that is not, the picture would be wrong without a word: that is an error too.
"""

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.container import ChunkReader, chunk, signature
from encoder.codec.decoder import ReferenceDecoder
from encoder.codec.errors import BitstreamError, EngineError

DATA = Path(__file__).parent / "data"
MAX_SECONDS = 10.0
"""Longest time that a file of a few kilobytes may take."""
MAX_BYTES = 1 << 30
"""Most memory that the process may take, everything included."""

Random = np.random.Generator
Mutation = Callable[[bytearray, Random, list[bytes]], None]


def flip_bits(data: bytearray, random: Random, _: list[bytes]) -> None:
    """Turn one to eight bits."""
    for place in random.integers(0, 8 * len(data), random.integers(1, 9)):
        data[place // 8] ^= 1 << place % 8


def set_bytes(data: bytearray, random: Random, _: list[bytes]) -> None:
    """Set a few bytes to extreme values."""
    for place in random.integers(0, len(data), random.integers(1, 5)):
        data[place] = random.choice([0, 1, 127, 128, 255])


def truncate(data: bytearray, random: Random, _: list[bytes]) -> None:
    """Cut the end off."""
    del data[random.integers(0, len(data)) :]


def set_length(data: bytearray, random: Random, _: list[bytes]) -> None:
    """Write an extreme 32-bit number somewhere."""
    place = int(random.integers(0, max(len(data) - 4, 1)))
    number = int(random.choice([0, 1, 2**16, 2**24, 2**31 - 1, 2**32 - 1]))
    data[place : place + 4] = number.to_bytes(4, "little")


def splice(data: bytearray, random: Random, others: list[bytes]) -> None:
    """Put a piece of another file in."""
    other = others[random.integers(0, len(others))]
    start = int(random.integers(0, len(other)))
    place = int(random.integers(0, len(data) + 1))
    cut = int(random.integers(0, 200))
    data[place : place + cut] = other[start : start + int(random.integers(1, 200))]


MUTATIONS: tuple[Mutation, ...] = (flip_bits, set_bytes, truncate, set_length, splice)


def mutate(seeds: list[bytes], random: Random) -> tuple[bytes, bool]:
    """Return a mutated file, and whether its checksums were made to fit, as somebody with bad intentions would do."""
    data = bytearray(seeds[random.integers(0, len(seeds))])
    mutation = MUTATIONS[random.integers(0, len(MUTATIONS))]
    if random.random() < 0.5:
        mutation(data, random, seeds)
        return bytes(data), False
    parts = [(part.kind, bytearray(part.payload)) for part in ChunkReader().feed(bytes(data))]
    order = list(range(len(parts)))
    if random.random() < 0.1:
        order[random.integers(0, len(order))] = int(random.integers(0, len(order)))  # chunks twice, others not at all
    payload = parts[random.integers(0, len(parts))][1]
    mutation(payload, random, [bytes(part[1]) for part in parts])
    return signature() + b"".join(chunk(parts[index][0], bytes(parts[index][1])) for index in order), True


def decode(data: bytes) -> tuple[str, bytes]:
    """Decode all that a file holds; return what came of it, and the file that the result stands for."""
    try:
        clip = Clip.parse(data, strict=False)
        models = SegmentModels(clip)
        for index in range(len(clip.segments)):
            models.weights(index)
        frame = ReferenceDecoder(clip).frame(clip.header.frames // 2)
        assert frame.shape == (3, clip.header.height, clip.header.width)
    except BitstreamError:
        return "refused", b""
    except EngineError:
        return "refused by the engine", b""
    return ("damage reported", b"") if clip.damage else ("decoded", bytes(clip))


def main() -> int:
    """Mutate and decode; return 1 after the first file that breaks a rule, which is kept as `fuzz-failure.nerv`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    seeds = [path.read_bytes() for path in sorted(DATA.glob("*.nerv"))]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(args.count):
        data, sealed = mutate(seeds, random)
        Path("fuzz-failure.nerv").write_bytes(data)
        start = time.perf_counter()
        outcome, meaning = decode(data)
        slowest = max(slowest, time.perf_counter() - start)
        outcomes[outcome] += 1
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        wrong = bool(meaning) and not sealed and meaning not in seeds
        if slowest > MAX_SECONDS or memory > MAX_BYTES or wrong:
            print(f"{outcome} in {slowest:.1f} s and {memory >> 20} MiB: see fuzz-failure.nerv")
            return 1
    Path("fuzz-failure.nerv").unlink()
    print(f"{args.count} files: {dict(outcomes)}; slowest {slowest:.2f} s, at most {memory >> 20} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
