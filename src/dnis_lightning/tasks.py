"""What is predicted: the loss of a task, its metrics, and the one that decides when to stop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities import dim_zero_cat

from dnis_lightning.errors import DataError
from dnis_lightning.measures import monitor
from dnis_lightning.outcomes import Recorded
from dnis_lightning.quantities import TaskName, TopkLoss
from dnis_lightning.ranking import Query, each_at, names_at, ranks

if TYPE_CHECKING:
    from dnis_lightning.batch import Batch
    from dnis_lightning.recommender import Prediction, Recommender


class LogLoss(Metric):
    """Mean binary cross-entropy in nats, summed in double precision."""

    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Add rows: logits (B,), labels (B,) in {0, 1}."""
        self.total += functional.binary_cross_entropy_with_logits(logits.double(), label.double(), reduction="sum")
        self.rows += label.numel()

    def compute(self) -> Tensor:
        """The mean over all rows so far."""
        return self.total / self.rows


class Auc(BinaryAUROC):
    """The exact area under the ROC curve over all rows; NaN where all labels are alike, and there is no such curve."""

    def __init__(self) -> None:
        super().__init__(thresholds=None)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add rows: logits (B,), labels (B,). Made chances of here: torchmetrics would ask each batch for its range."""
        super().update(torch.sigmoid(preds.double()), target)

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics itself does
        """The area, a scalar."""
        label = dim_zero_cat(self.target)
        return super().compute() if (label != label[0]).any() else torch.tensor(torch.nan, device=label.device)


class RankingMetrics(Metric):
    """The means over users of what `each_at` gives; NaN where a score was NaN."""

    users: Tensor

    def __init__(self, tops: Sequence[int]) -> None:
        super().__init__()
        self.tops = list(tops)
        self.add_state("users", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in names_at(tops):
            self.add_state(_state(name), torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, rank: Tensor, query: Query, broken: Tensor) -> None:
        """Add users: the ranks (T,) of what they want; broken: a scalar, whether a score was NaN."""
        for name, each in each_at(rank, query.wanted[0], query.relevant, self.tops).items():
            setattr(self, _state(name), getattr(self, _state(name)) + each.sum().masked_fill(broken, torch.nan))
        self.users += query.size

    def compute(self) -> dict[str, Tensor]:
        """The means by name, as `ndcg@10`."""
        return {name: getattr(self, _state(name)) / self.users for name in names_at(self.tops)}


def _state(name: str) -> str:
    return name.replace("@", "_at_")


class Task(ABC):
    """A loss over logits and labels, and the metrics that go with it."""

    name: ClassVar[TaskName]
    measured: Sequence[str]
    """The names of its metrics."""
    row_metric: str
    """What `Recorded.rows` are, of which groups of rows have the means."""

    @property
    def monitor(self) -> str:
        """The metric that stops training and chooses among trials."""
        return monitor(self.name, self.measured)

    @abstractmethod
    def losses(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of each row, (B,)."""

    @abstractmethod
    def metrics(self) -> Metric | MetricCollection:
        """Fresh metrics, of which `compute` gives the values by name."""

    def assess(self, metrics: Any, model: Recommender, batch: Any) -> Tensor:
        """Add what a model says of a batch to metrics; returns it, the logits (B,)."""
        if not batch.size:
            return torch.zeros(0)
        logits = model(batch).logits.float()
        metrics.update(logits, batch.label)
        return logits

    def record(self, said: Tensor, batch: Any) -> Recorded:
        """What is kept of a batch, of which `assess` has returned `said`."""
        losses = self.losses(said, batch.label)
        return Recorded({self.row_metric: losses}, losses)

    @abstractmethod
    def base_logit(self, mean_label: float) -> float:
        """The constant that fits labels of this mean best: where the global bias starts.

        Raises DataError where the mean cannot belong to this task.
        """

    def loss(self, logits: Tensor, label: Tensor, rows: int | None = None) -> Tensor:
        """The sum over the rows given, divided by `rows` (the rows of the global batch; default: those given)."""
        return self.losses(logits, label).sum() / (len(label) if rows is None else rows)


class Rating(Task):
    """Explicit ratings: squared error."""

    name = "rating"
    measured = ("mse",)
    row_metric = "mse"

    def losses(self, logits: Tensor, label: Tensor) -> Tensor:
        """(ŷ − y)², (B,)."""
        return (logits - label).square()

    def metrics(self) -> MetricCollection:
        """`mse`."""
        return MetricCollection({"mse": MeanSquaredError().set_dtype(torch.float64)})

    def base_logit(self, mean_label: float) -> float:
        """The mean itself."""
        return mean_label


class ClickThrough(Task):
    """Clicks: binary cross-entropy."""

    name = "ctr"
    measured = ("auc", "logloss")
    row_metric = "logloss"

    def losses(self, logits: Tensor, label: Tensor) -> Tensor:
        """−y log σ(ŷ) − (1 − y) log(1 − σ(ŷ)), (B,)."""
        return functional.binary_cross_entropy_with_logits(logits, label, reduction="none")

    def metrics(self) -> MetricCollection:
        """`auc` (exact, over all rows) and `logloss`."""
        return MetricCollection({"auc": Auc(), "logloss": LogLoss()}, compute_groups=False)

    def record(self, said: Tensor, batch: Any) -> Recorded:
        """With the logits, as the area under a curve is no mean over rows."""
        return replace(super().record(said, batch), logits=said, label=batch.label)

    def base_logit(self, mean_label: float) -> float:
        """log(p / (1 − p)) of the click rate p."""
        if not 0 < mean_label < 1:
            raise DataError(
                f"data.task=ctr: labels average {mean_label:.9g}, not 0s and 1s with both among them; take rating"
            )
        return float(torch.logit(torch.tensor(mean_label, dtype=torch.float64)))


class TopK(Task):
    """Items for users, from what these had: the loss of each row against its negatives, and metrics of ranks.

    A batch has, behind each row, its `negatives` many negatives. loss: `bce`, by row, or `bpr`, by pair of a row and a
    negative. positive_weight: of a row in `bce`, where a negative has 1. tops: the k that metrics are taken at.
    """

    name = "topk"

    def __init__(self, *, negatives: int, loss: TopkLoss, positive_weight: float, tops: Sequence[int]) -> None:
        self.negatives, self.kind, self.positive_weight = negatives, loss, positive_weight
        self.tops = sorted(set(tops))
        self.measured = names_at(self.tops)
        self.row_metric = f"found@{max(self.tops)}"

    def losses(self, logits: Tensor, label: Tensor) -> Tensor:
        """`bce`: −w y log σ(ŷ) − (1 − y) log(1 − σ(ŷ)), (B,).

        `bpr` (Rendle et al. 2009): of the n negatives of each row, −log σ(ŷ_row − ŷ_negative), by what it is worth in a
        mean over pairs: (B,), 0 at the row itself and (1 + n) / n times that at each negative.
        """
        if self.kind == "bce":
            weight = torch.as_tensor(self.positive_weight, dtype=logits.dtype, device=logits.device)
            return functional.binary_cross_entropy_with_logits(logits, label, pos_weight=weight, reduction="none")
        of_row = (logits.float() if logits.dtype.itemsize < 4 else logits).view(-1, 1 + self.negatives)
        pairs = -functional.logsigmoid(of_row[:, :1] - of_row[:, 1:]) * ((1 + self.negatives) / self.negatives)
        return functional.pad(pairs, (1, 0)).flatten()

    def metrics(self) -> Metric:
        """`recall@k`, `hr@k`, `mrr@k`, `ndcg@k`, `precision@k` and `map@k` for each k."""
        return RankingMetrics(self.tops)

    def assess(self, metrics: Any, model: Recommender, batch: Any) -> Tensor:
        """Add how a model ranks what a query asks for; returns the ranks (T,)."""
        with torch.autocast(
            batch.users.device.type, enabled=False
        ):  # half precision cannot tell thousands of items apart
            scores = model.scores(batch.users, batch.items, batch.user_column)
        broken = scores.isnan().any()
        rank = ranks(scores, batch, max(self.tops))
        metrics.update(rank, batch, broken)
        return rank

    def record(self, said: Tensor, batch: Any) -> Recorded:
        """Of each user all metrics; of each wanted item whether it is among the first k, for the largest k."""
        users = each_at(said, batch.wanted[0], batch.relevant, self.tops)
        return Recorded(users, (said <= max(self.tops)).float())

    def base_logit(self, mean_label: float) -> float:
        """log(w / n) of one row of weight w and n negatives; 0 for pairs, which have no level."""
        return math.log(self.positive_weight / self.negatives) if self.kind == "bce" else 0.0


class Objective(nn.Module):
    """What the weights descend: the task's loss, and L2 on the rows of the batch, once per occurrence.

    (1/B) Σ_b [ loss_b + l2 · Σ_f c_{b,f} ‖e_{b,f}‖² + l2_bias · Σ_f c_{b,f} w_{b,f}² ] + l2_net · Σ ‖W‖²: e the rows
    before the gates (but after projections and thresholds), w the first-order terms, W the weight matrices of the
    interaction.
    l2_scale (N,): c of each feature, 1 where that is None. With c_i = n_i^-p, n_i how often a feature occurs in train,
    it costs l2 · n_i^(1-p) · ‖e_i‖² in a pass over the data, beside the sum of the losses: with p = 1 as a normal prior
    has it, of variance 1 / (2 l2) for the log loss, and of the noise's variance / l2 for the squared error.
    """

    l2_scale: Tensor | None

    def __init__(
        self,
        task: Task,
        l2: float = 0.0,
        l2_bias: float = 0.0,
        l2_net: float = 0.0,
        l2_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.task, self.l2, self.l2_bias, self.l2_net = task, l2, l2_bias, l2_net
        self.register_buffer("l2_scale", l2_scale, persistent=False)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The share of a batch's rows in the loss of the global batch, a scalar.

        Of a batch with its distinct features, rows and terms are of these, and count as often as they occur.
        """
        total, (logits, rows, terms, net) = batch.global_size, prediction
        loss = self.task.loss(logits, batch.label, total)
        counts = batch.times() if self.l2 or self.l2_bias else None
        if self.l2_scale is not None:
            scale = self.l2_scale[batch.features]
            counts = scale if counts is None else scale * counts
        if self.l2:
            loss = loss + self.l2 * _total(rows.square().sum(-1), counts) / total
        if self.l2_bias and terms is not None:
            loss = loss + self.l2_bias * _total(terms.square(), counts) / total
        if self.l2_net and net is not None:
            loss = loss + self.l2_net * net * (batch.size / total)
        return loss


def _total(squares: Tensor, times: Tensor | None) -> Tensor:
    return squares.sum() if times is None else (squares * times).sum()
