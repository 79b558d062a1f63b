"""Which way a metric is better, and how metrics and models are called. Light, so that all files here may know."""

from __future__ import annotations

from collections.abc import Sequence

LARGER_IS_BETTER = {"auc", "recall", "mrr", "ndcg", "hit"}
_MONITOR = {"rating": "mse", "ctr": "logloss"}
_NAMES = {"mse": "MSE", "auc": "AUC", "logloss": "Logloss", "mrr": "MRR", "ndcg": "NDCG", "recall": "Recall"}
_MODELS = {
    "mf": "MF",
    "mlp": "MLP",
    "neumf": "NeuMF",
    "fm": "FM",
    "wide_deep": "Wide&Deep",
    "deepfm": "DeepFM",
    "dcn": "DCN-v2",
    "xdeepfm": "xDeepFM",
    "autoint": "AutoInt",
}


def larger_is_better(metric: str) -> bool:
    """Whether of two values of a metric, `auc` or `ndcg@10`, the larger is the better one."""
    return metric.split("@")[0] in LARGER_IS_BETTER


def monitor(task: str, metrics: Sequence[str]) -> str:
    """The metric that chooses among trials and rows on the select split: the task's own, or else the first."""
    own = _MONITOR.get(task, "")
    return own if own in metrics or not metrics else metrics[0]


def title(metric: str) -> str:
    """A metric as the paper writes it."""
    name, _, at = metric.partition("@")
    return _NAMES.get(name, name) + (f"@{at}" if at else "")


def model_rank(model: str) -> tuple[int, str]:
    """Sorts models as the paper's tables have them; others follow by name."""
    known = list(_MODELS)
    return (known.index(model) if model in known else len(known), model)


def model_title(model: str) -> str:
    """A model as the paper writes it."""
    return _MODELS.get(model, model)
