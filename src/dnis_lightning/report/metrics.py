"""How metrics and models are called."""

from __future__ import annotations

_NAMES = {
    "mse": "MSE",
    "auc": "AUC",
    "logloss": "Logloss",
    "recall": "Recall",
    "hr": "HR",
    "mrr": "MRR",
    "ndcg": "NDCG",
    "precision": "Precision",
    "map": "MAP",
}
_MODELS = {
    "mf": "MF",
    "gmf": "GMF",
    "mlp": "MLP",
    "neumf": "NeuMF",
    "fm": "FM",
    "wide_deep": "Wide&Deep",
    "deepfm": "DeepFM",
    "dcn": "DCN-v2",
    "xdeepfm": "xDeepFM",
    "autoint": "AutoInt",
}


def title(metric: str) -> str:
    """A metric as the paper writes it."""
    name, _, at = metric.partition("@")
    return _NAMES.get(name, name) + (f"@{at.replace('_', ' ')}" if at else "")


def model_rank(model: str) -> tuple[int, str]:
    """Sorts models as the paper's tables have them; others follow by name."""
    known = list(_MODELS)
    return (known.index(model) if model in known else len(known), model)


def model_title(model: str) -> str:
    """A model as the paper writes it."""
    return _MODELS.get(model, model)
