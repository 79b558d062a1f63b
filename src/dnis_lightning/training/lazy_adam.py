"""Adam that touches only the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

from dnis_lightning.lookup import gather

_AT_ONCE = 1 << 12
"""Rows that are brought up to date at a time."""
_VANISHED = 1e-30
"""What is left of momentum after so long a sleep is nothing: most of it would be too small for fast arithmetic."""
_ABOVE_ZERO = 1e-37
"""Added to second moments before their roots are taken: that of 0 takes several times as long as others, and those of
numbers below 1e-38. Its own root is far below any ε of use."""


class _Taken(NamedTuple):
    """Rows that a forward has taken of a parameter: which, their values (a leaf of the graph), their two moments."""

    rows: Tensor
    values: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class _Moving(NamedTuple):
    """What a step moves: values that have a gradient, their two moments, the number of the step, counted on."""

    values: Any
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


class LazyAdam(Optimizer):
    """Adam (Kingma and Ba 2015), in groups that are `by_row` of the rows alone that `gather` took since the last step.

    A row that is not taken keeps its value and its moments. With `catch_up` it does, when it is taken again, what dense
    Adam would have done meanwhile with gradients of 0: its moments decay, and it drifts on by their momentum, in closed
    form (ε counts as if the second moment stood still). So it follows dense Adam closely, and `settle` makes all rows
    what they would be now. Without `catch_up` it is the sparse Adam of torch.

    `by_row` parameters need no gradient; all others are stepped by their `.grad`, by torch's own (fused) Adam, and may
    have a weight_decay (L2, as there).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        catch_up: bool = True,
    ) -> None:
        beta1, beta2 = betas
        if not 0 <= beta1 < math.sqrt(beta2) < 1:
            raise ValueError(f"betas={beta1}, {beta2}: the first has to be below the root of the second, that below 1")
        known = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**known, "catch_up": catch_up, "by_row": False})
        if any(group["by_row"] and group["weight_decay"] for group in self.param_groups):
            raise ValueError("weight_decay: what is stepped by row takes none")
        self._taken: dict[Tensor, _Taken] = {}
        self._sleeps: dict[tuple[float, float], _Sleeps] = {}

    def gather(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """The values (U, K) of distinct rows (U,), as a leaf whose gradient the next step takes.

        Parameters that are not by row are looked up as usual.
        """
        group = self._group_of(parameter)
        if group is None:
            return gather(parameter, rows)
        self._taken[parameter] = taken = self._take(parameter, rows, group)
        return taken.values.requires_grad_()

    @torch.no_grad()
    def peek(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """The values (U, K) of distinct rows as they are now, a copy; nothing is noted."""
        group = self._group_of(parameter)
        if group is None or not group["catch_up"]:
            return parameter.index_select(0, rows)
        return self._take(parameter, rows, group, decayed=False).values

    def taken(self) -> list[Tensor]:
        """The values of the rows that were taken since the last step; the next takes their gradients."""
        return [taken.values for taken in self._taken.values()]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients, and the rows that were taken."""
        super().zero_grad(set_to_none)
        self._taken = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step: of the taken rows, and of all other parameters that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alike: dict[tuple[Any, ...], list[_Moving]] = {}
        for group in self.param_groups:
            settings = group["lr"], tuple(group["betas"]), group["eps"], group["weight_decay"]
            alike.setdefault(settings, []).extend(self._moving(group))
        for settings, moving in alike.items():
            _adam(moving, *settings)
        for parameter, taken in self._taken.items():
            if taken.values.grad is not None:
                self._put(parameter, taken, self.state[parameter])
        self._taken = {}
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "last" in state:  # torch gives all that it loads the type of the parameter
                state["last"] = state["last"].to(torch.int32)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring all rows to where they would be now."""
        for group in self.param_groups:
            for parameter in group["params"] if group["by_row"] and group["catch_up"] else ():
                state = self._state(parameter, by_row=True)
                for start in range(0, len(parameter), _AT_ONCE):
                    rows = torch.arange(start, min(start + _AT_ONCE, len(parameter)), device=parameter.device)
                    behind = rows[state["last"][rows] < state["step"].to(state["last"].dtype)]
                    self._put(parameter, self._take(parameter, behind, group), state)

    def _moving(self, group: dict[str, Any]) -> Iterator[_Moving]:
        """What has gradients; for a table of which nothing has, the step passes."""
        for parameter in group["params"]:
            if group["by_row"]:
                state, taken = self._state(parameter, by_row=True), self._taken.get(parameter)
                if taken is None or taken.values.grad is None:
                    state["step"] += 1
                else:
                    yield _Moving(taken.values, taken.exp_avg, taken.exp_avg_sq, state["step"])
            elif parameter.grad is not None:
                state = self._state(parameter, by_row=False)
                yield _Moving(parameter, state["exp_avg"], state["exp_avg_sq"], state["step"])

    def _take(self, parameter: Tensor, rows: Tensor, group: dict[str, Any], *, decayed: bool = True) -> _Taken:
        """Rows as they would be now; their moments too, or if not `decayed`, nothing of use in their place."""
        state = self._state(parameter, by_row=True)
        whole = (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])
        taken = _Taken(rows, *(tensor.index_select(0, rows) for tensor in whole))
        if group["catch_up"]:
            step, last = int(state["step"]), state["last"].index_select(0, rows)
            sleeps = self._sleeps_of(group["betas"])
            squares = taken.exp_avg_sq
            root = (squares.add(_ABOVE_ZERO) if decayed else squares.add_(_ABOVE_ZERO)).sqrt_()
            sleeps.drift(taken, root, last, step, group["lr"], group["eps"])
            if decayed:
                sleeps.decay(taken, last, step)
        return taken

    def _put(self, parameter: Tensor, taken: _Taken, state: dict[str, Tensor]) -> None:
        for whole, part in (
            (parameter.detach(), taken.values.detach()),
            (state["exp_avg"], taken.exp_avg),
            (state["exp_avg_sq"], taken.exp_avg_sq),
        ):
            _in_words(whole).index_copy_(0, taken.rows, _in_words(part))
        state["last"].index_fill_(0, taken.rows, int(state["step"]))

    def _state(self, parameter: Tensor, *, by_row: bool) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            if by_row:
                state["last"] = torch.zeros(len(parameter), dtype=torch.int32, device=parameter.device)
        return state

    def _group_of(self, parameter: Tensor) -> dict[str, Any] | None:
        """The group of a parameter that is stepped by row, or None."""
        groups = (group for group in self.param_groups if group["by_row"])
        return next((group for group in groups if any(one is parameter for one in group["params"])), None)

    def _sleeps_of(self, betas: tuple[float, float]) -> _Sleeps:
        if betas not in self._sleeps:
            self._sleeps[betas] = _Sleeps(*betas)
        return self._sleeps[betas]


def _adam(moving: list[_Moving], lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    """A step of Adam by torch's own fused loop."""
    if moving:
        adam(
            [one.values for one in moving],
            [one.values.grad for one in moving],
            [one.exp_avg for one in moving],
            [one.exp_avg_sq for one in moving],
            [],
            [one.step for one in moving],
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            maximize=False,
        )


def _in_words(rows: Tensor) -> Tensor:
    """The same memory in the largest units that a row divides into: it is copied unit by unit."""
    size = rows.shape[1] * rows.element_size()
    units = [dtype for dtype in (torch.complex128, torch.float64) if size and size % dtype.itemsize == 0]
    return rows.view(units[0]) if units else rows


class _Sleeps:
    """What rows do while they sleep.

    After step s a row has moments m, v; with no gradient, step s + j moves it by lr c_{s+j} β₁^j m / (√(β₂^j v) + ε')
    with c_t = √(1 − β₂^t) / (1 − β₁^t). The steps to t together are lr m / (√v + ε') (A_s − r^{t−s} A_t) with
    A_s = Σ_{j ≥ 1} r^j c_{s+j}, r = β₁ / √β₂: a number for each s, and three powers for each length of sleep.
    """

    def __init__(self, beta1: float, beta2: float) -> None:
        self.beta1, self.beta2, self.ratio = beta1, beta2, beta1 / math.sqrt(beta2)
        self._sums = self._powers = torch.empty(0, dtype=torch.float64)
        self._last: tuple[Tensor, int, torch.dtype, tuple[Tensor, ...]] | None = None

    def drift(self, taken: _Taken, root: Tensor, last: Tensor, step: int, lr: float, eps: float) -> None:
        """Move taken rows, in place, as the steps from `last` (U,) to `step` would have done; root: √v, used up."""
        drift, _, _ = self._factors(last, step, taken.values.dtype)
        root.add_(eps * math.sqrt(1 - self.beta2 ** max(step, 1))).div_(drift)
        taken.values.addcdiv_(taken.exp_avg, root, value=-lr)

    def decay(self, taken: _Taken, last: Tensor, step: int) -> None:
        """Let their moments decay as long, in place."""
        _, decay1, decay2 = self._factors(last, step, taken.values.dtype)
        taken.exp_avg.mul_(decay1)
        taken.exp_avg_sq.mul_(decay2)

    def _factors(self, last: Tensor, step: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """(U, 1) each: the sum, β₁^Δ, β₂^Δ. Tables that are looked up together slept alike: once is enough for them."""
        known = self._last
        if known and known[1:3] == (step, dtype) and (known[0] is last or torch.equal(known[0], last)):
            return known[3]
        self._extend(step, last.device)
        powers = self._powers.index_select(0, step - last)
        drift = self._sums.index_select(0, last).unsqueeze(1).addcmul_(powers[:, :1], self._sums[step], value=-1)
        decays = powers.to(dtype)
        self._last = last, step, dtype, (drift.to(dtype), decays[:, 1:2], decays[:, 2:])
        return self._last[3]

    def _extend(self, step: int, device: torch.device) -> None:
        """Make the tables long enough for this step."""
        if len(self._sums) > step and self._sums.device == device:
            return
        steps = np.arange(1 << max(step.bit_length(), 10))  # the same after a resume
        decays1 = self.beta1**steps
        decays1[decays1 < _VANISHED] = 0
        powers = np.stack([self.ratio**steps, decays1, self.beta2**steps], axis=1)
        self._sums, self._powers = (torch.from_numpy(t).to(device) for t in (self._sums_after(len(steps)), powers))

    def _sums_after(self, steps: int) -> np.ndarray:
        """A_0 … A_{steps−1}, by A_s = r (c_{s+1} + A_{s+1}) from so late on that nothing of its start is left."""
        beyond = math.ceil(math.log(_VANISHED) / math.log(self.ratio)) if self.ratio else 0
        t = np.arange(1, steps + beyond + 1)
        corrections = np.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        back = accumulate(corrections[::-1].tolist(), lambda after, c: self.ratio * (c + after), initial=0.0)
        return np.array(list(back)[::-1][:steps])
