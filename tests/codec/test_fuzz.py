import numpy as np
import pytest
from fuzz import MUTATIONS, decode, mutate, seeds_and_digests

SEEDS, KNOWN = seeds_and_digests()


def test_mutated_files_are_refused_or_decoded():
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(200):
        data, sealed = mutate(SEEDS, random)
        outcome, digests = decode(data)
        outcomes.add(outcome)
        assert sealed or KNOWN.issuperset(digests)
    assert {"refused", "damage reported", "decoded"} <= outcomes


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutations_change_the_file(mutation):
    data = bytearray(SEEDS[0])
    mutation(data, np.random.default_rng(1), SEEDS)
    assert data != SEEDS[0]
