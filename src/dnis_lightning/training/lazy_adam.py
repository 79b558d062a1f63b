"""Adam that touches only the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

from dnis_lightning.lookup import gather

_TERMS = 256
"""How many steps back the sum of momenta is worked out: 0.9^256 is 2e-12."""


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
        return self._take(parameter, rows, group).values

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
                for rows in torch.arange(len(parameter), device=parameter.device).split(1 << 16):
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

    def _take(self, parameter: Tensor, rows: Tensor, group: dict[str, Any]) -> _Taken:
        state = self._state(parameter, by_row=True)
        whole = (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])
        taken = _Taken(rows, *(tensor.index_select(0, rows) for tensor in whole))
        if group["catch_up"]:
            step, last = int(state["step"]), state["last"].index_select(0, rows)
            self._sleeps_of(group["betas"]).end(taken, last, step, group["lr"], group["eps"])
        return taken

    def _put(self, parameter: nn.Parameter, taken: _Taken, state: dict[str, Tensor]) -> None:
        for whole, part in (
            (parameter.detach(), taken.values.detach()),
            (state["exp_avg"], taken.exp_avg),
            (state["exp_avg_sq"], taken.exp_avg_sq),
        ):
            whole.index_copy_(0, taken.rows, part)
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


class _Sleeps:
    """What rows do while they sleep.

    After step s a row has moments m, v; with no gradient, step s + j moves it by lr c_{s+j} β₁^j m / (√(β₂^j v) + ε')
    with c_t = √(1 − β₂^t) / (1 − β₁^t). The steps to t together are lr m / (√v + ε') Σ_j r^j c_{s+j}, r = β₁ / √β₂: at
    each t a number for each length of sleep; and where it is so long that r^j has vanished, one for each s.
    """

    def __init__(self, beta1: float, beta2: float) -> None:
        self.beta1, self.beta2, self.ratio = beta1, beta2, beta1 / math.sqrt(beta2)
        self._after, self._decays = torch.empty(0), torch.empty(0, 2)
        self._last: tuple[Tensor, int, tuple[Tensor, ...]] | None = None

    def end(self, taken: _Taken, last: Tensor, step: int, lr: float, eps: float) -> None:
        """Do to taken rows, in place, what the steps from `last` (U,) to `step` would have done."""
        drift, decay1, decay2 = self._factors(last, step)
        if taken.values.dtype == torch.float64:
            drift, decay1, decay2 = (factor.double() for factor in (drift, decay1, decay2))
        root = taken.exp_avg_sq.sqrt().add_(eps * math.sqrt(1 - self.beta2 ** max(step, 1)))
        taken.values.addcmul_(taken.exp_avg / root, drift, value=-lr)
        taken.exp_avg.mul_(decay1)
        taken.exp_avg_sq.mul_(decay2)

    def _factors(self, last: Tensor, step: int) -> tuple[Tensor, ...]:
        """(U, 1) each: the sum, β₁^Δ, β₂^Δ. Tables that are looked up together slept alike: once is enough for them."""
        if self._last is not None and self._last[1] == step and torch.equal(self._last[0], last):
            return self._last[2]
        self._extend(step, last.device)
        slept = (step - last).long()
        until = torch.from_numpy(self._sums_until(step)).to(last.device, torch.float32)
        drift = torch.where(slept <= _TERMS, until[slept.clamp(max=_TERMS)], self._after[last.long()])
        decays = self._decays[slept]
        self._last = last, step, (drift[:, None], decays[:, :1], decays[:, 1:])
        return self._last[2]

    def _extend(self, step: int, device: torch.device) -> None:
        """Make the tables long enough for this step."""
        if len(self._after) <= step or self._after.device != device:
            steps = np.arange(2 * step + 1024)
            self._after = torch.from_numpy(self._sums_after(steps)).to(device, torch.float32)
            decays = np.stack([self.beta1**steps, self.beta2**steps], axis=1)
            self._decays = torch.from_numpy(decays).to(device, torch.float32)

    def _sums_until(self, step: int) -> np.ndarray:
        """(_TERMS + 1,) for each length of sleep that ends with `step`."""
        back = np.arange(_TERMS)
        terms = self._correction(step - back) * self.ratio**-back
        return np.append(0.0, np.cumsum(terms)) * self.ratio ** np.arange(_TERMS + 1)

    def _sums_after(self, last: np.ndarray) -> np.ndarray:
        """For each of some consecutive steps, that of a sleep without end that begins after it."""
        corrections = self._correction(np.arange(last[0] + 1, last[-1] + _TERMS + 1))
        weights = self.ratio ** np.arange(1, _TERMS + 1)
        return np.convolve(corrections, weights[::-1], "valid")

    def _correction(self, steps: np.ndarray) -> np.ndarray:
        """c_t, 0 where there is no such step."""
        t = np.maximum(steps, 1)
        return np.where(steps > 0, np.sqrt(-np.expm1(t * np.log(self.beta2))) / -np.expm1(t * np.log(self.beta1)), 0.0)
