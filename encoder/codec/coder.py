"""Entropy coders: names, numbers in a file, and limits."""

from typing import Literal

PLAIN = 0
"""Range coder without contexts. Files of version 1 have it, and nothing writes it any more."""
HUFFMAN = 1
RANGE = 2
"""Range coder with contexts and packed records, from version 2 on."""
HUFFMAN_BOUND = 127
"""Largest magnitude of an integer in Huffman's code, where it takes a byte."""
CoderName = Literal["range", "huffman"]
NUMBERS: dict[CoderName, int] = {"range": RANGE, "huffman": HUFFMAN}
