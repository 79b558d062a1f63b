"""What a run leaves behind for its reader: `result.json`, `dims.csv`, and the table on its last lines."""

from __future__ import annotations

import math
import os
import platform
import resource
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch

from dnis_lightning import __version__
from dnis_lightning.blueprint import Blueprint, construct
from dnis_lightning.columns import aligned
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.data.synthetic import Synthetic
from dnis_lightning.facts import Size
from dnis_lightning.measures import cost_on_select, headline, monitor
from dnis_lightning.packed import PackedTable
from dnis_lightning.recommender import Recommender
from dnis_lightning.scheme import Scheme
from dnis_lightning.settings import Settings

SCHEMA = 1


def identity(
    settings: Settings, prepared: Prepared, blueprint: Blueprint, queries: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, Any]:
    """The keys of `result.json` that say what was run on what; queries: see `Queries.told`, of each part."""
    return {
        "schema": SCHEMA,
        "data": settings.data.name,
        "model": settings.model.name,
        "search": settings.search.name,
        "profile": settings.profile,
        "task": settings.data.task,
        "seed": settings.seed,
        "split": settings.data.split,
        "split_seed": settings.data.split_seed,
        "search_is_select": prepared.split.shared,
        "trial": settings.search.trial,
        "rows": prepared.rows,
        **({} if queries is None else {"queries": queries}),
        "skipped_rows": prepared.dataset.skipped,
        "features": blueprint.space.features,
        "fields": blueprint.space.fields,
        "base_dim": settings.search.base_dim,
        "chosen_dim": blueprint.dims if blueprint.dims != settings.search.base_dim else None,
        "block_dims": blueprint.block_dims,
        "schedule": settings.prune.schedule,
        "blocks": blueprint.blocks,
        "l2": settings.model.l2,
        "l2_bias": settings.model.l2_bias,
        "l2_net": settings.model.l2_net,
    }


def select_metric(told: Mapping[str, Any], of: str) -> float:
    """What decided on select, smaller is better, of a finished run's unpruned model or of one of its cuts."""
    models = {"unpruned": told["unpruned"]} | {cut["budget"]: cut for cut in told["pruned"]}
    metrics = models[of]["metrics"]
    names = [name.removeprefix("select/") for name in metrics if name.startswith("select/")]
    decisive = monitor(told["task"], names)
    return cost_on_select(decisive, metrics)


def other_sizes(model: Recommender) -> tuple[int, int]:
    """The entries of a model outside its table: of first-order terms, and of all of the interaction."""
    first_order = 0 if model.first_order is None else model.first_order.weight.numel()
    return first_order, sum(parameter.numel() for parameter in model.interaction.parameters())


def scheme_size(scheme: Scheme, whole: int, packed: PackedTable) -> Size:
    """How large a table is. whole: N·K, by which the compression rate is counted."""
    return {
        "kept": scheme.kept,
        "compression_rate": whole / scheme.kept if scheme.kept else None,
        "bytes": packed.bytes,
        "layout": packed.layout.name,
        "dtype": packed.values.dtype,
        "projections": sum(matrix.size for matrix in scheme.projections.values()),
        "coo_bytes": scheme.coo_bytes,
        "coo_npz_bytes": scheme.coo_npz_bytes(),
    }


def costs(done: Mapping[str, Mapping[str, Any]], *, prepare: float, total: float) -> dict[str, Any]:
    """Seconds of preparing, of searching and of all other training, from the facts of a run's steps; peak memory."""
    trainings = {step: facts["seconds"] for step, facts in done.items() if not step.startswith(("cut/", "trial/"))}
    search = sum(seconds for step, seconds in trainings.items() if step.endswith("/search"))
    train = sum(trainings.values()) - search
    seconds = {"prepare": prepare, "search": search, "train": train, "total": total}
    return {"seconds": seconds, "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def environment(settings: Settings) -> dict[str, Any]:
    """Versions, device and threads."""
    gpu = settings.trainer.accelerator == "gpu"
    return {
        "dnis_lightning": __version__,
        "torch": torch.__version__,
        "lightning": L.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": settings.trainer.devices,
        "host_cores": os.cpu_count(),
    }


def dims_rows(prepared: Prepared, blueprint: Blueprint, dims: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The rows of `dims.csv`: column `dims` is of the first of the tables in `dims`, the others follow by name."""
    vocabulary = prepared.vocabulary
    first, *others = dims.items()
    columns = {"dims": first[1]} | {f"dims@{name}": counts for name, counts in others}
    return [
        {
            "field": name,
            "feature": raw,
            "block": int(blueprint.block_of[row]) + 1,  # 1 is the most frequent, as in the figures
            "frequency": int(vocabulary.frequency[row]),
        }
        | {column: int(counts[row]) for column, counts in columns.items()}
        for row, (name, raw) in enumerate(vocabulary.names())
    ]


def recovery_of(settings: Settings, prepared: Prepared, dims: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """For made-up data the score of each cut against the planted dims, by budget; None for all other data."""
    source = construct(settings.data.source)
    if not isinstance(source, Synthetic):
        return None
    return {name: vars(source.score(prepared.vocabulary, kept)) for name, kept in dims.items()}


def summary(result: Mapping[str, Any]) -> str:
    """The unpruned model and every cut in a table of text: what is kept, real bytes, metrics; and their differences."""
    lines = [{"budget": "unpruned", **result["unpruned"]}, *result["pruned"]]
    metrics = headline(list(result["unpruned"]["metrics"]))
    head, rows = ["", "kept", "CR", "MiB", "layout", *metrics], []
    for line in lines:
        rate = line["compression_rate"]
        rows.append(
            [
                line["budget"],
                f"{line['kept']:,}",
                "–" if rate is None else f"{rate:.4g}",
                f"{line['bytes'] / 2**20:.3f}",
                line["layout"],
                *(f"{line['metrics'][name]:.5f}" for name in metrics),
            ]
        )
    if result.get("biases"):
        known = result["biases"]["metrics"]
        rows.append(["biases alone", "0", "–", "–", "–", *(f"{known[name]:.5f}" for name in metrics)])
    told = [*_difference_lines(result), *_recovery_lines(result.get("recovery") or {})]
    return "\n".join([*aligned(head, rows, left=()), *told])


def _difference_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """How each cut differs from the unpruned model by the metric that decides, as in `test/mse`."""
    for cut in result["pruned"]:
        found = {name.removeprefix("test/"): one for name, one in cut.get("differences", {}).items()}
        decisive = monitor(result["task"], list(found))
        told = found.get(decisive, {})
        if told.get("low") is not None:
            between = f"95 % interval {told['low']:+.5f} to {told['high']:+.5f}"
            yield f"{cut['budget']} against unpruned: test/{decisive} {told['difference']:+.5f}, {between}"


def _recovery_lines(recoveries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{name}: mean dims kept per planted block {_rounded(score['kept'])}, planted {_rounded(score['useful'])}; "
        f"rank correlation {_or_dash(score['rank_correlation'])} "
        f"(by frequency alone {_or_dash(score['frequency_correlation'])}), "
        f"error {score['error']:.2f} (the same for all {score['even_error']:.2f})"
        for name, score in recoveries.items()
    ]


def _or_dash(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _rounded(values: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)
