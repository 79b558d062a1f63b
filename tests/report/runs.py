"""Makes folders of finished runs, as small as `result.json` and `config.yaml` can be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

METRICS = {"rating": ("mse",), "ctr": ("auc", "logloss")}


def part(values: Mapping[str, float | None], kept: int = 1000, **more: Any) -> dict[str, Any]:
    """An unpruned model, or a cut if `budget` is among `more`; `values` are metrics with their split."""
    return {"kept": kept, "bytes": 4 * kept, "metrics": dict(values), **more}


def rating(test: float | None, select: float = 0.5) -> dict[str, float | None]:
    """The metrics of a rating model."""
    return {"select/mse": select, "test/mse": test}


def make_run(outputs: Path, metrics: Mapping[str, float | None], name: str = "", **keys: Any) -> Path:
    """Write the folder of one run and return its `result.json`.

    keys: those of `result.json` that are to be other than here; `config`: dotted keys for `config.yaml`, which None
    leaves out.
    """
    config = keys.pop("config", {})
    result = {
        **{
            "schema": 1,
            "data": "movielens-1m",
            "model": "mf",
            "search": "dnis",
            "profile": "default",
            "task": "rating",
        },
        **{"seed": 0, "split": "three_way", "split_seed": 0, "trial": None, "features": 100, "fields": 2},
        **{"rows": {"train": 80, "search": 5, "select": 5, "test": 10}, "base_dim": 10, "blocks": 5, "l2": 0.0},
        **{"unpruned": part(metrics), "pruned": [], "trials": [], "seconds": {"total": 100.0}, "environment": {}},
        **keys,
    }
    number = len(list(outputs.glob("*"))) if outputs.exists() else 0
    folder = outputs / (name or f"20260101-0000{number:02d}-{number}-s{result['seed']}")
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(_told(result, config)))
    (folder / "result.json").write_text(json.dumps(result))
    return folder / "result.json"


def _told(result: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        "seed": result["seed"],
        "output_dir": f"somewhere/{result['seed']}",
        "profile": result["profile"],
        "data": {"name": result["data"], "root": f"/scratch/{result['seed']}", "split": result["split"]},
        "model": {"name": result["model"], "l2": result["l2"]},
        "search": {"name": result["search"], "base_dim": result["base_dim"], "trial": result["trial"]},
        "trainer": {"threads": 1 + result["seed"]},
    }
    for key, value in config.items():
        group, _, leaf = key.partition(".")
        told.setdefault(group, {})[leaf] = value
    return told
