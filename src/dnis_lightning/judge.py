"""What is chosen by, among epochs, trials and cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dnis_lightning.facts import Metrics
from dnis_lightning.measures import cost_on_select
from dnis_lightning.recommender import Recommender


@dataclass(frozen=True)
class Judge:
    """Tells of two models which is the better one on select.

    evaluate: a model's metrics there. metric: the one that decides, as `mse`.
    """

    evaluate: Callable[[Recommender], Metrics]
    metric: str

    def cost(self, metrics: Mapping[str, float | None]) -> float:
        """What models are compared by, smaller is better; infinite where training diverged."""
        return cost_on_select(self.metric, metrics)

    def cost_of(self, model: Recommender) -> float:
        """The same of a model, after a pass over select."""
        return self.cost(self.evaluate(model))
