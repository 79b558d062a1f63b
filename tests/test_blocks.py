"""Blocks of features by frequency."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnis_lightning.blocks import make_blocks
from dnis_lightning.errors import ConfigError

ONE_FIELD = np.zeros(7, dtype=int)
FREQUENCY = np.array([5, 900, 20, 1, 3000, 20, 150])


def test_equal_counts_by_descending_frequency() -> None:
    blocks = make_blocks(FREQUENCY, ONE_FIELD, blocks=3)
    assert blocks.block_of.tolist() == [2, 0, 1, 2, 0, 1, 0]  # sorted: 4 1 6 | 2 5 | 0 3
    assert blocks.sizes.tolist() == [3, 2, 2]


def test_decades_have_bounds_at_powers_of_ten() -> None:
    blocks = make_blocks(
        np.array([2_000_000, 10**6, 10**6 - 1, 99, 100, 1000]), ONE_FIELD[:6], blocks=6, blocking="decades"
    )
    assert blocks.block_of.tolist() == [0, 0, 1, 5, 4, 3]
    assert blocks.count == 6


def test_mass_gives_blocks_equal_shares_of_the_occurrences() -> None:
    frequency = np.array([40, 20, 20, 10, 10, 10, 10])
    blocks = make_blocks(frequency, ONE_FIELD, blocks=3, blocking="mass")
    assert np.bincount(blocks.block_of, frequency).tolist() == [40, 40, 40]


def test_sizes_may_leave_the_rest_to_the_last() -> None:
    blocks = make_blocks(FREQUENCY, ONE_FIELD, blocks=2, blocking=[1, -1])
    assert blocks.sizes.tolist() == [1, 6]
    assert blocks.block_of[4] == 0


def test_each_field_can_have_blocks_of_its_own() -> None:
    blocks = make_blocks(FREQUENCY, np.array([0, 0, 0, 0, 1, 1, 1]), blocks=2, per="field")
    assert blocks.block_of.tolist() == [1, 0, 0, 1, 2, 3, 2]
    assert blocks.count == 4


@pytest.mark.parametrize(
    ("blocks", "blocking", "says"),
    [
        (8, "equal", "8 blocks for 7 features"),
        (8, "mass", "8 blocks"),
        (2, [3, 3], "add up"),
        (2, [9, -1], "add up"),
        (10**9, "decades", "1000000000 blocks by decades of frequency; take at most 20"),
    ],
)
def test_what_does_not_fit_is_refused(blocks: int, blocking: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_blocks(FREQUENCY, ONE_FIELD, blocks=blocks, blocking=blocking)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), st.data())
def test_blocks_are_ordered_and_none_is_empty(frequency: list[int], data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, len(frequency)))
    blocking = data.draw(st.sampled_from(["equal", "mass"]))
    counts = np.array(frequency)
    cut = make_blocks(counts, np.zeros(len(counts), dtype=int), blocks=blocks, blocking=blocking)
    assert (cut.sizes > 0).all()
    for block in range(blocks - 1):
        assert counts[cut.block_of == block].min() >= counts[cut.block_of == block + 1].max()
