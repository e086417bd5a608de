"""Feed mutated files to the decoder and the rewrites of graphs: `python tests/support/fuzz.py --count 200000` prints what came of them.

Each file must end in BitstreamError or in the frames that the damage leaves, in bounded time and memory. A segment that
survives, in a file whose checksums were not made to fit, must have the very weights of the undamaged file: or else the picture
would be wrong without a word.
"""

import argparse
import resource
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from golden import DATA, digest

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.coder import RANGE
from encoder.codec.container import SEGMENT, TOPOLOGY, ChunkReader, file_bytes
from encoder.codec.graph_names import TIME
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.codec.segment import PACKED, PREFIX
from encoder.codec.topology import OPERATORS, dictionary
from encoder.common.errors import BitstreamError, EngineError
from encoder.common.onnx_runtime import Session
from export.graph import build_graph

MAX_SECONDS = 10
"""Longest time that a file of a few kilobytes may take."""
MAX_BYTES = 1 << 30
"""Most memory that the process may take, everything included."""
MAX_ADDRESSES = 1 << 33
"""Largest address space, so that what asks for far too much fails at once; libraries reserve more than they use."""

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


def splice_chunk(data: bytearray, random: Random, others: list[bytes]) -> None:
    """Put a whole chunk of another file in a chunk's place."""
    other = others[random.integers(0, len(others))]
    mine, theirs = chunks(bytes(data)), chunks(other)
    start, stop = mine[random.integers(0, len(mine))]
    first, last = theirs[random.integers(0, len(theirs))]
    data[start:stop] = other[first:last]


def chunks(data: bytes) -> list[tuple[int, int]]:
    """Return start and end of each chunk of a whole file."""
    return list(pairwise([*(part.offset for part in ChunkReader().feed(data)), len(data)]))


def change_graph(data: bytearray, random: Random, _: list[bytes], *, version: int) -> None:
    """Change the graph of a topology's payload: nodes, their operators, inputs and attributes, constants and sizes."""
    model = onnx.ModelProto.FromString(
        zlib.decompressobj(-15, dictionary(version)).decompress(bytes(data))
    )
    graph = model.graph
    nodes = list(graph.node)
    node = nodes[random.integers(0, len(nodes))]
    match random.integers(0, 7):
        case 0:
            nodes.insert(int(random.integers(0, len(nodes) + 1)), node)
        case 1:
            nodes.remove(node)
        case 2:
            node.op_type = str(random.choice(sorted(OPERATORS)))
        case 3:
            node.input.extend(list(node.input) * int(random.integers(1, 50)))
        case 4:
            for attribute in node.attribute:
                attribute.i = extreme(random)
                attribute.ints[:] = [
                    extreme(random) if random.random() < 0.5 else value for value in attribute.ints
                ]
        case 5:
            constant = graph.initializer[random.integers(0, len(graph.initializer))]
            if constant.data_type == onnx.TensorProto.INT64:
                values = np.frombuffer(constant.raw_data, "<i8").copy()
                values[random.integers(0, max(values.size, 1)) :] = extreme(random)
                constant.raw_data = values.tobytes()
        case _:
            shape = graph.input[random.integers(1, len(graph.input))].type.tensor_type.shape
            shape.dim[random.integers(0, len(shape.dim))].dim_value = extreme(random)
    del graph.node[:]
    graph.node.extend(nodes)
    packer = zlib.compressobj(wbits=-15, zdict=dictionary(version))
    data[:] = packer.compress(model.SerializeToString()) + packer.flush()


def change_records(data: bytearray, random: Random, _: list[bytes]) -> None:
    """Change the packed records of a segment's payload: flags, levels, bounds and steps."""
    if len(data) <= PREFIX.size + PACKED.size or data[PREFIX.size - 1] != RANGE:
        return
    stop = PREFIX.size + PACKED.size + PACKED.unpack_from(data, PREFIX.size)[0]
    records = bytearray(zlib.decompress(data[PREFIX.size + PACKED.size : stop], wbits=-15))
    for place in random.integers(0, len(records), random.integers(1, 5)):
        records[place] ^= 1 << int(random.integers(0, 8))
    packed = zlib.compress(records, wbits=-15)
    data[PREFIX.size : stop] = PACKED.pack(len(packed)) + packed


def extreme(random: Random) -> int:
    """Return a number that somebody may have forgotten."""
    return int(
        random.choice([-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 255, 2**16, 2**31, 2**40, 2**63 - 1])
    )


def mutate(seeds: list[bytes], random: Random) -> tuple[bytes, bool]:
    """Return a mutated file, and whether its checksums were made to fit, as somebody with bad intentions would do."""
    data = bytearray(seeds[random.integers(0, len(seeds))])
    mutation = MUTATIONS[random.integers(0, len(MUTATIONS))]
    if random.random() < 0.5:
        mutation = splice_chunk if random.random() < 0.2 else mutation
        mutation(data, random, seeds)
        return bytes(data), False
    reader = ChunkReader()
    parts = [(part.kind, bytearray(part.payload)) for part in reader.feed(bytes(data))]
    order = list(range(len(parts)))
    if random.random() < 0.1:
        order[random.integers(0, len(order))] = int(
            random.integers(0, len(order))
        )  # chunks twice, others not at all
    kind, payload = parts[random.integers(0, len(parts))]
    if kind == TOPOLOGY and random.random() < 0.8:
        mutation = partial(change_graph, version=reader.version)
    elif kind == SEGMENT and random.random() < 0.5:
        mutation = change_records
    mutation(payload, random, [bytes(part[1]) for part in parts])
    mutated = [(parts[index][0], bytes(parts[index][1])) for index in order]
    return file_bytes(mutated, reader.version), True


def decode(data: bytes) -> tuple[str, list[str]]:
    """Decode all that a file holds; return what came of it, and the digests of the segments that survived."""
    try:
        clip = Clip.parse(data, strict=False)
        digests = digest(clip)
        frame = ReferenceDecoder(clip).frame(clip.header.frames // 2)
        segment, local = clip.locate(clip.header.frames // 2)
        rewritten = Session(build_graph(SegmentModels(clip), segment, pixels="rgb")).run(
            {TIME: np.full(1, local, np.float32)}
        )
    except BitstreamError:
        return "refused", []
    except EngineError:
        return "refused by the runtime", []
    assert frame.shape == rewritten.shape[1:] == (3, clip.header.height, clip.header.width)
    return "damage reported" if clip.damage else "decoded", digests


def seeds_and_digests() -> tuple[list[bytes], set[str]]:
    """Return the files that are mutated, and the digests of all their segments."""
    paths = sorted(DATA.glob("*.nerv"))
    return [path.read_bytes() for path in paths], {
        text for path in paths for text in digest(Clip.read(path))
    }


def main() -> int:
    """Mutate and decode; return 1 after the first file that breaks a rule, which is kept as `fuzz-failure.nerv`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESSES, MAX_ADDRESSES))
    random = np.random.default_rng(args.seed)
    seeds, known = seeds_and_digests()
    outcomes: Counter[str] = Counter()
    failure = Path("fuzz-failure.nerv")
    slowest, memory = 0.0, 0
    for _ in range(args.count):
        data, sealed = mutate(seeds, random)
        failure.write_bytes(data)
        signal.alarm(MAX_SECONDS)  # ends the process, even inside a library
        start = time.perf_counter()
        outcome, digests = decode(data)
        slowest = max(slowest, time.perf_counter() - start)
        signal.alarm(0)
        outcomes[outcome] += 1
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        # What keeps the format's rules may still be a graph that means nothing, but only if somebody made it.
        wrong = not sealed and (not known.issuperset(digests) or "runtime" in outcome)
        if memory > MAX_BYTES or wrong:
            print(f"{outcome}, {'wrong weights, ' * wrong}{memory >> 20} MiB: see {failure}")
            return 1
    failure.unlink()
    print(
        f"{args.count} files: {dict(outcomes)}; slowest {slowest:.2f} s, at most {memory >> 20} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
