"""The one look at the test rows: metrics, how sure the differences are, and who pays."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from dnis_lightning.evaluation import Evaluation
from dnis_lightning.facts import CutFacts, TableFacts
from dnis_lightning.groups import Groups
from dnis_lightning.outcomes import Outcomes, calibration, differences
from dnis_lightning.recommender import Recommender


@dataclass
class FinalLook:
    """Each model takes one pass over the test rows, the unpruned one first."""

    evaluation: Evaluation
    groups: Groups
    _before: Outcomes | None = field(default=None, init=False)
    _lines: list[dict[str, Any]] = field(default_factory=list, init=False)

    def at_unpruned(self, facts: TableFacts, model: Recommender) -> None:
        """Add test metrics, and the calibration of clicks, to the facts of the unpruned model."""
        self._before = self._at(facts, model)
        self._lines = [
            {**vars(group), "unpruned": values, "cuts": {}}
            for group, values in zip(self.groups.groups, self.groups.values(self._before), strict=True)
        ]

    def at_cut(self, facts: CutFacts, model: Recommender) -> None:
        """The same for a cut, and how it differs from the unpruned model."""
        assert self._before is not None, "the unpruned model comes first"
        after = self._at(facts, model)
        facts["differences"] = {
            f"test/{name}": interval.told()
            for name, interval in differences(self._before, after).items()
            if all(math.isfinite(one.metrics.get(f"test/{name}", 0.0)) for one in (self._before, after))
        }
        for line, values in zip(self._lines, self.groups.compared(self._before, after), strict=True):
            line["cuts"][facts["budget"]] = values

    def who_pays(self) -> dict[str, Any]:
        """For `result.json`: of what rows the groups have the means, and a line for each group."""
        return {"metric": self.evaluation.task.row_metric, "groups": self._lines}

    def _at(self, facts: TableFacts, model: Recommender) -> Outcomes:
        outcomes = self.evaluation.test(model)
        facts["metrics"] = {**facts["metrics"], **outcomes.metrics}
        if (found := calibration(outcomes)) is not None:
            facts["calibration"] = asdict(found)
        return outcomes
