"""The rule of each search method, against examples worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dnis_lightning.blocks import make_blocks
from dnis_lightning.errors import ConfigError
from dnis_lightning.search.grid import GridSearch
from dnis_lightning.search.mde import MDE, power_law
from dnis_lightning.search.random import RandomSearch
from dnis_lightning.search.trial import SearchMethod, Trial, TrialResult

STOPPING = {"max_epochs": 3, "patience": 2}
BLOCKS = make_blocks(np.array([80, 80, 20, 20, 5, 5]), np.zeros(6), blocks=3)


def trials_of(method: SearchMethod) -> list[Trial]:
    """All trials of a method that is told the same of each."""
    generator, found = method.trials(BLOCKS), []
    trial = next(generator)
    while True:
        found.append(trial)
        try:
            trial = generator.send(TrialResult(trial, 1.0))
        except StopIteration:
            return found


def test_grid_is_that_of_the_paper() -> None:
    method = GridSearch(base_dim=64, first=4, stride=4, **STOPPING)
    trials = trials_of(method)
    assert [trial.dims for trial in trials] == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64]
    assert method.trial_count == 16
    assert all(trial.block_dims is None and not trial.gated for trial in trials)


def test_a_grid_has_to_have_a_width() -> None:
    with pytest.raises(ConfigError, match=r"search\.base_dim: 3, below the first width, search\.first=4"):
        GridSearch(base_dim=3, first=4, stride=4, **STOPPING)


def test_random_sequences_descend_and_are_drawn_by_the_seed() -> None:
    def drawn(seed: int) -> list[tuple[int, ...]]:
        method = RandomSearch(base_dim=64, trial_count=16, seed=seed, **STOPPING)
        return [trial.block_dims for trial in trials_of(method)]

    sequences = drawn(0)
    assert len(set(sequences)) == 16
    for widths in sequences:
        assert len(widths) == 3
        assert all(64 >= wide >= narrow >= 1 for wide, narrow in pairwise(widths))
    assert drawn(0) == sequences
    assert drawn(1) != sequences


def test_random_widths_follow_the_frequency_also_where_each_field_has_its_blocks() -> None:
    frequency, field_of = np.array([9, 1, 90, 5, 70, 3]), np.array([0, 0, 0, 1, 1, 1])
    blocks = make_blocks(frequency, field_of, blocks=3, per="field")
    for trial in RandomSearch(base_dim=64, trial_count=9, seed=0, **STOPPING).trials(blocks):
        width_of = np.array(trial.block_dims)[blocks.block_of]
        assert (np.diff(width_of[np.argsort(-frequency)]) <= 0).all()


def test_random_widths_are_equally_likely() -> None:
    method = RandomSearch(base_dim=4, trial_count=4000, seed=0, **STOPPING)
    counts = np.bincount(np.array([trial.block_dims for trial in trials_of(method)]).ravel(), minlength=5)[1:]
    assert counts / counts.sum() == pytest.approx(np.full(4, 0.25), abs=0.02)


def test_mde_by_hand() -> None:
    """A feature of the three blocks occurs 80, 20 and 5 times: 1, 1/4 and 1/16 of the most."""
    method = MDE(
        base_dim=32, temperatures=[0.0, 0.5, 1.0], base_dims=[0.5, 1.0], rounding="nearest", projected=True, **STOPPING
    )
    told = {trial.name: (trial.dims, trial.block_dims) for trial in trials_of(method)}
    assert told == {
        "tau=0,base=16": (None, (16, 16, 16)),  # all rows are projected to K = 32
        "tau=0,base=32": (None, (32, 32, 32)),
        "tau=0.5,base=16": (None, (16, 8, 4)),  # (1/4)^½ = 1/2, (1/16)^½ = 1/4
        "tau=0.5,base=32": (None, (32, 16, 8)),
        "tau=1,base=16": (None, (16, 4, 1)),
        "tau=1,base=32": (None, (32, 8, 2)),
    }
    assert method.trial_count == 6
    assert all(trial.projected for trial in trials_of(method))


def test_mde_rounds_to_powers_of_two_and_keeps_a_dimension() -> None:
    assert power_law([100, 30, 0], 0.5, 64, "nearest") == (64, 35, 1)  # 64 · 0.3^½ = 35.05
    assert power_law([100, 30, 0], 0.5, 64, "power_of_two") == (64, 32, 1)
    assert power_law([0, 0], 0.5, 8, "nearest") == (1, 1)


def test_mde_has_sixteen_settings_by_default() -> None:
    temperatures = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
    method = MDE(
        base_dim=64, temperatures=temperatures, base_dims=[0.5, 1.0], rounding="nearest", projected=True, **STOPPING
    )
    assert method.trial_count == 16
    assert {max(trial.block_dims) for trial in trials_of(method)} == {32, 64}
