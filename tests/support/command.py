"""Run a command of ours in a process of its own, which has no need to trace the networks that other tests have traced.

Its arguments are those of `python -m`.
"""

import sys
from importlib import import_module

from helpers import shared_topology

from encoder.jobs import segment_encoder

if __name__ == "__main__":  # and not in its workers, which import this too
    segment_encoder.topology_of = shared_topology
    package, *arguments = sys.argv[1:]
    sys.exit(import_module(f"{package}.cli.main").main(arguments))
