"""The numbers of a search's health, by hand and by simulation."""

from __future__ import annotations

import math

import pytest
import torch

from dnis_lightning.search.bilevel import normalise
from dnis_lightning.search.diagnosis import Pushes, data_share, diagnose, drift, gap_between, signal

STEPS = 2000


def pushes(gradients: torch.Tensor, penalty: float = 0.0) -> Pushes:
    """Of gradients (T, L, K), normalised, with a penalty after that."""
    found = Pushes.none(gradients[0])
    for gradient in gradients:
        found.add(gradient, normalise(gradient) + penalty, penalty)
    return found


def noise(*shape: int) -> torch.Tensor:
    """Signs drawn by lot, of magnitudes that differ."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator)


def test_the_share_is_of_what_is_left_of_the_steps_in_the_end() -> None:
    one = torch.tensor([[3.0, -1.0], [2.0, 2.0], [0.0, 0.0]])
    other = torch.tensor([[1.0, 1.0], [-2.0, -2.0], [0.0, 0.0]])
    found = pushes(torch.stack([one, other]), 0.25)
    # normalised (1.5, −0.5) and (1, 1): net (2.5, 0.5), on the average 1.5, against 2 · 0.25 of the penalty
    expected = [1.5 / 2, 0.0, 0.0]
    assert data_share(found).tolist() == pytest.approx(expected, abs=1e-6)
    assert data_share(pushes(torch.stack([one, other]))).tolist() == [1, 1, 1], "without a penalty"


def test_a_penalty_before_the_normalisation_is_told_apart_by_its_own_part() -> None:
    found = Pushes.none(torch.zeros(2, 2))
    gradient, penalty = torch.tensor([[1.0, -3.0], [0.0, 0.0]]), 1.0
    scale = torch.tensor([[2.0], [1.0]])  # mean of |2|, |−2|, and of |1|, |1|
    found.add(gradient, (gradient + penalty) / scale, penalty / scale)
    assert found.steps.tolist() == [[1, -1], [1, 1]]
    assert found.penalty.tolist() == [[0.5, 0.5], [1, 1]]
    assert data_share(found).tolist() == pytest.approx([1 / 1.5, 0])


def test_steps_of_noise_are_as_large_as_any_but_a_small_penalty_outweighs_them() -> None:
    """Net noise grows as sqrt(T), what a penalty does as T."""
    found = pushes(noise(STEPS, 1, 400).sign(), 0.1)
    net = math.sqrt(STEPS * 2 / math.pi)
    assert float(data_share(found)) == pytest.approx(net / (net + 0.1 * STEPS), rel=0.05)


def test_the_signal_of_noise_is_1() -> None:
    found = signal(pushes(noise(STEPS, 3, 400)))
    assert found.tolist() == pytest.approx([1, 1, 1], abs=0.15)  # 4 standard deviations, 0.76 / sqrt(400) each
    assert signal(pushes(1e-8 * noise(STEPS, 3, 400))).tolist() == pytest.approx(found.tolist()), "whatever the scale"


def test_the_signal_of_steps_that_agree_grows_with_their_number() -> None:
    alike = torch.full((STEPS, 1, 5), -2.0)
    assert float(signal(pushes(alike))) == pytest.approx(math.sqrt(STEPS * math.pi / 2))
    shifted = float(signal(pushes(noise(STEPS, 1, 400) + 0.1)))
    assert 2 < shifted < math.sqrt(STEPS * math.pi / 2)
    assert signal(pushes(torch.zeros(STEPS, 1, 5))).tolist() == [0]


def test_drift_is_the_mean_movement_in_an_epoch_from_1_on() -> None:
    path = [torch.tensor([[0.5, 1.0], [1.0, 1.0]]), torch.tensor([[0.75, 0.25], [1.0, 0.0]])]
    assert drift(path).tolist() == [[0.25, 0.0], [0.5, 0.5]]


def test_a_gap_is_told_by_how_it_grew() -> None:
    gap = gap_between([0.5, 0.4, 0.3], [0.75, 0.7, 0.8])
    assert (gap.first, gap.last, gap.growth) == pytest.approx((0.25, 0.5, 0.25 / 0.8))
    assert gap_between([0.0], [0.0]).growth == 0, "nothing to be divided by"


def test_a_diagnosis_has_a_line_a_block() -> None:
    """The search ends with its second epoch of three; the last block has no features."""
    path = [
        torch.tensor([[1.0, 0.8], [0.5, 0.5], [0.0, 0.0]]),
        torch.tensor([[1.0, 0.6], [0.0, 0.0009], [0.0, 0.0]]),
        torch.tensor([[1.0, 0.4], [0.3, 0.3], [0.0, 0.0]]),
    ]
    gradients = noise(3, 3, 2)
    gap = gap_between([0.5], [0.6])
    found = diagnose(pushes(gradients, 0.1), path, [4, 3, 0], best=2, gap=gap)
    assert [(one.block, one.features) for one in found.blocks] == [(1, 4), (2, 3), (3, 0)]
    assert [one.gates for one in found.blocks] == pytest.approx([0.8, 0.00045, 0])
    assert [one.dead for one in found.blocks] == [False, True, True]
    assert [one.drift for one in found.blocks] == pytest.approx([0.1, (0.5 + 0.49955 + 0.29955) / 3, 1 / 3])
    assert [one.data_share for one in found.blocks] == data_share(pushes(gradients, 0.1)).tolist()
    assert [one.signal for one in found.blocks] == signal(pushes(gradients, 0.1)).tolist()
    assert (found.drift.first, found.drift.last) == pytest.approx(((0.1 + 0.5) / 2, (0.1 + 0.29955) / 2))
    assert (found.epochs, found.gap) == (3, gap)


def test_at_first_and_at_last_are_five_epochs_or_a_third() -> None:
    for epochs, few in ((1, 1), (9, 3), (40, 5)):
        path = [torch.full((1, 2), 1 - 0.001 * epoch**2) for epoch in range(1, epochs + 1)]
        found = diagnose(pushes(noise(3, 1, 2)), path, [4], best=epochs, gap=None)
        steps = [0.001 * (2 * epoch - 1) for epoch in range(1, epochs + 1)]
        expected = sum(steps[:few]) / few, sum(steps[-few:]) / few
        assert (found.drift.first, found.drift.last) == pytest.approx(expected, rel=1e-3)
