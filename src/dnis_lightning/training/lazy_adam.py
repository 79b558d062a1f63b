"""Adam that touches only the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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


class _Taken(NamedTuple):
    """Rows that a forward has taken of a parameter: which, their values (a leaf of the graph), their two moments."""

    rows: Tensor
    values: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


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
        for group in self.param_groups:
            (self._step_rows if group["by_row"] else self._step_dense)(group)
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

    def _step_rows(self, group: dict[str, Any]) -> None:
        moved = []
        for parameter in group["params"]:
            state, taken = self._state(parameter, by_row=True), self._taken.get(parameter)
            if taken is None or taken.values.grad is None:
                state["step"] += 1
            else:
                moved.append((parameter, state, taken))
        self._adam(
            [taken.values for _, _, taken in moved],
            [taken.exp_avg for _, _, taken in moved],
            [taken.exp_avg_sq for _, _, taken in moved],
            [state["step"] for _, state, _ in moved],
            group,
        )
        for parameter, state, taken in moved:
            self._put(parameter, taken, state)

    def _step_dense(self, group: dict[str, Any]) -> None:
        moved = [p for p in group["params"] if p.grad is not None]
        states = [self._state(p, by_row=False) for p in moved]
        means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        self._adam(moved, means, squares, steps, group)

    def _adam(
        self,
        values: list[Any],
        means: list[Tensor],
        squares: list[Tensor],
        steps: list[Tensor],
        group: dict[str, Any],
    ) -> None:
        if not values:
            return
        beta1, beta2 = group["betas"]
        adam(
            values,
            [one.grad for one in values],
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _take(self, parameter: Tensor, rows: Tensor, group: dict[str, Any], *, decayed: bool = True) -> _Taken:
        """Rows as they would be now; their moments too, or if not `decayed`, nothing of use in their place."""
        state = self._state(parameter, by_row=True)
        whole = (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])
        taken = _Taken(rows, *(tensor.index_select(0, rows) for tensor in whole))
        if group["catch_up"]:
            step, last = int(state["step"]), state["last"].index_select(0, rows)
            sleeps = self._sleeps_of(group["betas"])
            root = taken.exp_avg_sq.sqrt() if decayed else taken.exp_avg_sq.sqrt_()
            sleeps.drift(taken, root, last, step, group["lr"], group["eps"])
            if decayed:
                sleeps.decay(taken, last, step)
        return taken

    def _put(self, parameter: nn.Parameter, taken: _Taken, state: dict[str, Tensor]) -> None:
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
        self._sums = self._ratios = self._decays1 = self._decays2 = torch.empty(0, dtype=torch.float64)
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
        if known is not None and known[1:3] == (step, dtype) and torch.equal(known[0], last):
            return known[3]
        self._extend(step, last.device)
        slept = step - last
        drift = self._sums.index_select(0, last) - self._ratios.index_select(0, slept) * self._sums[step]
        factors = drift, self._decays1.index_select(0, slept), self._decays2.index_select(0, slept)
        self._last = last, step, dtype, tuple(factor.to(dtype).unsqueeze(1) for factor in factors)
        return self._last[3]

    def _extend(self, step: int, device: torch.device) -> None:
        """Make the tables long enough for this step."""
        if len(self._sums) > step and self._sums.device == device:
            return
        steps = np.arange(1 << max(step.bit_length(), 10))  # the same after a resume
        decays1 = self.beta1**steps
        decays1[decays1 < _VANISHED] = 0
        tables = self._sums_after(len(steps)), self.ratio**steps, decays1, self.beta2**steps
        self._sums, self._ratios, self._decays1, self._decays2 = (torch.from_numpy(t).to(device) for t in tables)

    def _sums_after(self, steps: int) -> np.ndarray:
        """A_0 … A_{steps−1}, by A_s = r (c_{s+1} + A_{s+1}) from so late on that nothing of its start is left."""
        beyond = math.ceil(math.log(_VANISHED) / math.log(self.ratio)) if self.ratio else 0
        t = np.arange(1, steps + beyond + 1)
        corrections = np.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        back = accumulate(corrections[::-1].tolist(), lambda after, c: self.ratio * (c + after), initial=0.0)
        return np.array(list(back)[::-1][:steps])
