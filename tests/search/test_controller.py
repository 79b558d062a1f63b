"""The controller of neural input search: what it may choose, how it draws, and what it learns."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from dnis_lightning.blocks import Blocks, make_blocks
from dnis_lightning.search.controller import Controller, Decisions, Sizes


def two_fields() -> Blocks:
    """Six and four features, in three blocks each: of 2, 2, 2 and of 2, 1, 1."""
    return make_blocks(np.arange(10, 0, -1), np.repeat([0, 1], [6, 4]), blocks=3, per="field")


def all_kept(decisions: Decisions) -> list[torch.Tensor]:
    """What each combination of choices keeps."""
    each = [torch.nonzero(row).flatten().tolist() for row in decisions.there]
    return [decisions.kept(torch.tensor(choice)) for choice in product(*each)]


def test_a_single_size_is_a_rectangle_in_each_field() -> None:
    decisions = Decisions.of(two_fields(), (3, 2), "single")
    found = {tuple(kept.flatten().tolist()) for kept in all_kept(decisions)}
    expected = set()
    for sizes in product(range(4), range(3), range(4), range(3)):
        kept = np.zeros((6, 2), dtype=bool)
        kept[: sizes[0], : sizes[1]] = True
        kept[3 : 3 + sizes[2], : sizes[3]] = True
        expected.add(tuple(kept.flatten().tolist()))
    assert found == expected
    assert len(found) == (3 * 2 + 1) ** 2


def test_of_many_sizes_no_rarer_block_has_more() -> None:
    decisions = Decisions.of(two_fields(), (3, 2), "multi")
    found = {tuple(kept.flatten().tolist()) for kept in all_kept(decisions)}
    every = (np.array(bits).reshape(6, 2) for bits in product([False, True], repeat=12))
    expected = {
        tuple(kept.flatten().tolist())
        for kept in every
        if all((kept[field][:-1] >= kept[field][1:]).all() for field in (slice(0, 3), slice(3, 6)))
    }
    assert found == expected
    assert len(found) == 4**4


@pytest.mark.parametrize("sizes", ["single", "multi"])
def test_the_last_choice_keeps_everything(sizes: Sizes) -> None:
    decisions = Decisions.of(two_fields(), (3, 2), sizes)
    most = torch.full((len(decisions.there),), decisions.there.shape[1] - 1)
    assert decisions.kept(most).all()
    assert decisions.share(decisions.kept(most)) == 1
    assert Controller(decisions).likeliest().equal(most)  # all alike at the start


def test_a_share_counts_entries() -> None:
    decisions = Decisions.of(two_fields(), (3, 2), "single")
    kept = torch.zeros(6, 2, dtype=torch.bool)
    kept[0, 0], kept[4, 1] = True, True  # 2 features of 3 dims, 1 feature of 2
    assert decisions.share(kept) == pytest.approx((2 * 3 + 1 * 2) / (10 * 5))


def test_fields_of_few_features_have_fewer_choices() -> None:
    blocks = make_blocks(np.array([5, 4, 3, 2]), np.array([0, 0, 0, 1]), blocks=3, per="field")
    decisions = Decisions.of(blocks, (1,), "multi")
    assert decisions.there.sum(1).tolist() == [4, 2]
    controller = Controller(decisions)
    drawn = torch.stack([controller.sample() for _ in range(400)])
    assert set(drawn[:, 0].tolist()) == {0, 1, 2, 3}
    assert set(drawn[:, 1].tolist()) == {2, 3}, "the choices that there are"


def test_draws_follow_the_policy_and_go_on_where_they_were() -> None:
    controller = Controller(Decisions.of(two_fields(), (1,), "multi"), seed=3)
    controller.logits.data = torch.tensor([[0.0, 1, 2, -1], [3, 0, 0, 0]])
    drawn = torch.stack([controller.sample() for _ in range(6000)])
    for decision in range(2):
        share = torch.bincount(drawn[:, decision], minlength=4) / 6000
        torch.testing.assert_close(share, controller.chances()[decision], rtol=0, atol=0.03)
    other = Controller(controller.decisions, seed=3)
    other.load_state_dict(controller.state_dict())
    assert all(torch.equal(other.sample(), controller.sample()) for _ in range(20))


class Recorder:
    """In place of an optimizer: takes what it is given."""

    def __init__(self, controller: Controller) -> None:
        self.controller, self.sum = controller, torch.zeros(controller.logits.shape)

    def step(self) -> None:
        assert self.controller.logits.grad is not None
        self.sum -= self.controller.logits.grad


def test_the_policy_gradient_is_that_of_the_expected_reward() -> None:
    """Its mean over many draws against the derivative of Σ_c π(c) R(c), by enumeration."""
    decisions = Decisions.of(two_fields(), (1,), "multi")
    controller = Controller(decisions)
    controller.logits.data = torch.tensor([[0.0, 0.5, -0.5, 0.3], [0.2, 0.0, 0.4, -0.3]])
    rewards = torch.tensor([[0.0, 1, 2, -1], [2, 0, 1, 1], [0, 0, 3, 1], [1, -1, 0, 2]])
    logits = controller.logits.detach().clone().requires_grad_()
    first, second = logits.softmax(-1)
    (first @ rewards @ second).backward()
    recorder = Recorder(controller)
    for _ in range(20_000):
        choices = [controller.sample() for _ in range(3)]
        controller.learn(choices, [float(rewards[tuple(one.tolist())]) for one in choices], recorder)
    torch.testing.assert_close(recorder.sum / 20_000, logits.grad, rtol=0, atol=0.015)


def test_a_constant_in_all_rewards_has_no_part_in_it() -> None:
    controller = Controller(Decisions.of(two_fields(), (1,), "multi"))
    choices = [controller.sample() for _ in range(4)]
    recorders = [Recorder(controller) for _ in range(2)]
    for recorder, more in zip(recorders, (0.0, 1000.0), strict=True):
        controller.learn(choices, [more + reward for reward in (1.0, 2.0, 0.0, -1.0)], recorder)
    torch.testing.assert_close(recorders[0].sum, recorders[1].sum, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", ["single", "multi"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_choice_within_the_memory_is_found(sizes: Sizes, seed: int) -> None:
    """Some cells are worth keeping, all cost memory; by enumeration one choice is best, and it is learned in spite of
    noise that all choices of a step share."""
    decisions = Decisions.of(two_fields(), (2, 2), sizes)
    worth = torch.tensor([[0.5, 0.5], [0.5, 0.0], [0, 0], [0.6, 0.6], [0.6, 0.6], [0.0, 0.0]])
    memory, rng = 0.6, np.random.default_rng(seed)

    def reward(kept: torch.Tensor) -> float:
        return float((worth * kept).sum()) - 10 * max(0.0, decisions.share(kept) / memory - 1)

    best = max(map(reward, all_kept(decisions)))
    controller = Controller(decisions, seed)
    optimizer = torch.optim.Adam([controller.logits], lr=0.05)
    for _ in range(1200):
        choices, noise = [controller.sample() for _ in range(4)], rng.normal(scale=5)
        controller.learn(choices, [reward(decisions.kept(choice)) + noise for choice in choices], optimizer)
    kept = decisions.kept(controller.likeliest())
    assert reward(kept) == pytest.approx(best)
    assert decisions.share(kept) <= memory
