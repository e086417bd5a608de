"""Entropy coders: names, numbers in a file, and limits."""

from typing import Literal

RANGE = 0
HUFFMAN = 1
HUFFMAN_BOUND = 127
"""Largest magnitude of an integer in Huffman's code, where it takes a byte."""
CoderName = Literal["range", "huffman"]
NUMBERS: dict[CoderName, int] = {"range": RANGE, "huffman": HUFFMAN}
