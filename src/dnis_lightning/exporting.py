"""From a finished run to a folder that can be shipped."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file

from dnis_lightning import build
from dnis_lightning.batch import Batch
from dnis_lightning.blueprint import Blueprint, load_best, pruned_model
from dnis_lightning.config import settings_of
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.mapping import FILE as SCHEMA_FILE
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.errors import ConfigError, RunError, UserError
from dnis_lightning.folder import RunFolder
from dnis_lightning.measures import cost_on_select
from dnis_lightning.onnx_file import write_onnx
from dnis_lightning.packed import PackedEmbedding, PackedTable
from dnis_lightning.packed.embedding import WEIGHTS
from dnis_lightning.packed.fields import PackedField
from dnis_lightning.packed.resident import resident_bytes
from dnis_lightning.packed.tensors import DAMAGE
from dnis_lightning.packed.values import DTypeName
from dnis_lightning.paths import whole_file, whole_folder
from dnis_lightning.plain_files import write_dense, write_described, write_structured
from dnis_lightning.quantities import CutBy
from dnis_lightning.recommender import GATES, Recommender, tables_of
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.budget import parse_budget
from dnis_lightning.search.importance import IMPORTANCE, Importance
from dnis_lightning.search.prune import cut_mask
from dnis_lightning.serving import Predictor, described
from dnis_lightning.settings import Settings
from dnis_lightning.shipping import Shipping, Wanted, worth_trying
from dnis_lightning.training.datamodule import SplitsDataModule

log = logging.getLogger(__name__)

Metrics = dict[str, Any]
_Choose = Callable[[Scheme, Mapping[str, torch.Tensor]], tuple[PackedTable, Metrics]]
"""Packs a table, given its model's other weights; with metrics on select, where they are known."""
_TEST_ROWS = 10_000


@dataclass(frozen=True)
class Exported:
    """What was written.

    metrics: on select, where they are known. files: the bytes of each. outside: those of the model's other weights.
    others: those of the table in other forms. resident: what a process takes that reads the table; None where that was
    not measured.
    """

    budget: str
    table: PackedTable
    metrics: Metrics
    files: Mapping[str, int]
    outside: Mapping[str, int]
    others: Mapping[str, int]
    resident: int | None


def export(run: RunFolder, to: Path, wanted: Wanted) -> Exported:
    """Write table, raw ids and model of a finished run into a new folder, whole or not at all.

    A budget that is none of its cuts is one for another: the whole table cut anew, without training.
    Raises RunError where the folder is there already, or the type of numbers is to be found out by data that cannot be
    read, and ConfigError for what is no budget.
    """
    if to.exists() or to.is_symlink():
        raise RunError(f"{to}: it is there already; name a new folder with --to")
    result = _result_of(run)
    budget = _budget(run, result, wanted.budget)
    blueprint, _ = Blueprint.load(run.path / "recommender.json")
    layout = "blocks" if wanted.format == "structured" else wanted.layout  # the zeros of a dense one would be kept
    shipping = Shipping(blueprint.block_of, layout, wanted.dtype, wanted.tolerance)
    tried, most = _tried(run, blueprint, result, budget, wanted.by, shipping)
    if wanted.dtype is None:
        choose = _by_select(run, blueprint, shipping)
    else:
        known = _known(result, budget, wanted.dtype) if wanted.by is None else {}
        choose = _in_type(shipping, wanted.dtype, known)
    for scheme, rest in tried:
        table, metrics = choose(scheme, rest)
        if table.bytes <= most:
            break
    fields, told = _fields_and_told(run, result, budget)
    told |= {"select": metrics, "model": described(blueprint), "bytes": dict(table.parts)}
    with whole_folder(to, anew=True) as part:
        if wanted.format == "onnx":
            predictor = Predictor.of(PackedEmbedding(table, fields, told), rest)
            write_described(part, table, fields, {**told, **write_onnx(part, predictor, _test_rows(run))})
        else:
            with whole_file(part / WEIGHTS) as weights:  # safetensors alone would shut everybody else out
                save_file({name: tensor.contiguous() for name, tensor in rest.items()}, weights)
            _WRITERS[wanted.format](part, table, fields, told)
        files = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
        resident = resident_bytes(part) if wanted.format == "packed" else None
    first_order = sum(one.nbytes for name, one in rest.items() if name.startswith("first_order."))
    outside = {
        "first-order terms": first_order,
        "interaction": sum(one.nbytes for one in rest.values()) - first_order,
    }
    others = {"dense fp32": 4 * scheme.features * scheme.base_dim, "COO fp32": scheme.coo_bytes}
    return Exported(budget, table, metrics, files, outside, others, resident)


def _known(result: Mapping[str, Any], budget: str, dtype: str) -> Metrics:
    """Metrics on select, where the run measured those of this table in this type."""
    for one in _all(result):
        if (one["budget"], one["dtype"]) == (budget, dtype):
            return {name: value for name, value in one["metrics"].items() if name.startswith("select/")}
    return {}


def _fields_and_told(run: RunFolder, result: Mapping[str, Any], budget: str) -> tuple[tuple[PackedField, ...], Metrics]:
    """Raw ids, and what there is to know of raw rows, from any of the run's own embeddings."""
    one = PackedEmbedding.open(run.embedding((result["pruned"] or [{"budget": "unpruned"}])[0]["budget"]))
    try:
        told = {name: one.told[name] for name in ("pooling", "raw_form", "user")}
        return one.fields, {**told, "run": {**one.told["run"], "budget": budget}}
    except DAMAGE as fault:
        raise RunError(f"{run.path}: its embedding/ does not say {fault}; run the search again") from fault


def _write_packed(folder: Path, table: PackedTable, fields: tuple[PackedField, ...], more: Mapping[str, Any]) -> None:
    PackedEmbedding(table, fields).save(folder, more)


_WRITERS = {"packed": _write_packed, "dense": write_dense, "structured": write_structured}


def _in_type(shipping: Shipping, dtype: DTypeName, known: Metrics) -> _Choose:
    return lambda scheme, rest: (shipping.packed(scheme, dtype), known)


def _by_select(run: RunFolder, blueprint: Blueprint, shipping: Shipping) -> _Choose:
    """What gives a table in the type that the select rows allow, and its metrics on these."""
    try:
        settings, prepared = _data_of(run)
    except UserError as fault:
        raise RunError(f"the type of numbers is chosen by the run's data: {fault}; --dtype fp32 needs none") from fault
    feedback = build.make_feedback(settings, prepared)
    task = build.make_task(settings)
    evaluation = build.make_evaluation(settings, prepared, task, feedback)

    def choose(scheme: Scheme, rest: Mapping[str, torch.Tensor]) -> tuple[PackedTable, Metrics]:
        arrays = {name: tensor.numpy() for name, tensor in rest.items()}

        def metrics_of(other: Scheme) -> Metrics:
            return evaluation.metrics(pruned_model(blueprint, other, arrays), "select")

        return shipping.choose(
            scheme, metrics_of(scheme), metrics_of, lambda found: cost_on_select(task.monitor, found)
        )

    return choose


def _data_of(run: RunFolder) -> tuple[Settings, Prepared]:
    """The run's configuration and data. Raises UserError where these cannot be read, or are others by now."""
    settings = _settings(run)
    prepared = build.prepare_data(settings)
    if prepared.parts["select"].checksum() != _select_crc(run):  # the fingerprint changes with a copied file, too
        raise RunError(f"{run.path}: its data have changed since")
    return settings, prepared


def _settings(run: RunFolder) -> Settings:
    try:
        return settings_of(run.path)
    except ConfigError as fault:  # a key that there was not
        why = str(fault).splitlines()[-1].strip()
        raise RunError(f"{run.path}: the run of another version ({why}); run the search again") from fault


def _test_rows(run: RunFolder) -> Batch | None:
    """Some of the run's test rows; None, with a word in the log, where its data are not at hand."""
    try:
        _, prepared = _data_of(run)
    except UserError as fault:
        log.warning("the graph is checked on random rows alone, not on test rows: %s", fault)
        return None
    loader = cast(Loader, SplitsDataModule(prepared, batch_size=_TEST_ROWS, seed=0).test_dataloader())
    return next(iter(loader), None)


def _tried(
    run: RunFolder, blueprint: Blueprint, result: Mapping[str, Any], budget: str, by: CutBy | None, shipping: Shipping
) -> tuple[list[tuple[Scheme, dict[str, torch.Tensor]]], float]:
    """Tables of a budget, each with the model's other weights, to be tried in turn, and the most bytes of their file.

    There is one: a cut that the run has, unless it is to be made anew, or the whole table as it is or is cut now. But
    bytes are filled in each type that may be shipped and is worth it; the one that holds the most entries comes first.
    """
    if by is None and any(cut["budget"] == budget for cut in result["pruned"]):
        scheme, arrays = Scheme.load(run.scheme(budget))
        return [(scheme, {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})], math.inf
    model = _whole(run, blueprint)
    if budget == "unpruned":
        return [(model.scheme(), model.rest())], math.inf
    whole = result["features"] * result["base_dim"] * tables_of(model.interaction)
    del model
    bound = parse_budget(budget).of_table(whole)
    if bound.loss is not None:
        raise RunError(f"--budget {budget}: only a run finds that out; here write cr:20, 10% or 25MiB")
    pruning = build.pruning(_settings(run))
    pruning = replace(pruning, by=by or pruning.by)
    log.info("%s: cut from the whole table as the run left it, by %s, without training", budget, pruning.by)
    if pruning.by == "gates" and GATES not in load_best(run)["recommender"]:
        raise RunError(f"--by gates: {run.path} has a model without gates; take --by elements or --by prefix")
    importance = _importance(run, pruning.by)
    types, most = shipping.widths[-1:] if bound.size is None else shipping.widths, bound.most_bytes

    def cut(dtype: DTypeName) -> tuple[Scheme, dict[str, torch.Tensor]]:
        model = _whole(run, blueprint)

        fits = shipping.fits(most, model.table.projection_arrays, dtype)
        mask = cut_mask(model, bound, pruning, importance, whole, fits)  # turns the table
        model.keep(model.merged_table(), mask)
        return model.scheme(), model.rest()  # turned, other weights are others, too

    tried = worth_trying([cut(dtype) for dtype in types], lambda one: one[0].kept)
    if not tried[0][0].kept and shipping.packed(tried[-1][0], types[-1]).bytes > most:
        raise RunError(f"--budget {budget}: the file is larger even with nothing kept; take a larger one")
    return tried, most


def _whole(run: RunFolder, blueprint: Blueprint) -> Recommender:
    """The run's model, as its last training left it."""
    weights = load_best(run)["recommender"]
    model: Recommender = blueprint.build(gated=GATES in weights)
    model.load_weights(weights)
    return model


def _all(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*result["pruned"], {"budget": "unpruned", **result["unpruned"]}]


def _budget(run: RunFolder, result: Mapping[str, Any], given: str | None) -> str:
    """One of the run's own, or one for another cut."""
    names = [one["budget"] for one in _all(result)]
    if given is None and len(names) > 2:
        raise RunError(f"{run.path}: it has several cuts; choose with --budget: {', '.join(names)}")
    if given is None or given in names:
        return names[0] if given is None else given
    try:
        budget = parse_budget(given)
    except ConfigError as fault:
        raise RunError(
            f"--budget {given}: no cut of {run.path}, which has {', '.join(names)}; for another write cr:20, 10% "
            "or 25MiB"
        ) from fault
    if result["features"] and not result["base_dim"]:
        raise RunError(f"--budget {given}: the table of {run.path} has no dimensions, so nothing can be cut")
    cuts = {replace(parse_budget(cut["budget"]), name=""): cut["budget"] for cut in result["pruned"]}
    return str(cuts.get(replace(budget, name=""), budget.name))


def _result_of(run: RunFolder) -> dict[str, Any]:
    try:
        found = json.loads((run.path / "result.json").read_text(encoding="utf-8"))
        for one in _all(found):
            one["budget"], one["dtype"], one["metrics"].items()
        int(found["features"]), int(found["base_dim"])
    except DAMAGE as fault:
        raise RunError(f"{run.path}: no result.json that can be read; name the folder of a finished run") from fault
    if not (run.path / "embedding").is_dir():
        raise RunError(f"{run.path}: a run of an earlier version, without embedding/; run the search again")
    return dict(found)


def _importance(run: RunFolder, by: CutBy) -> Importance:
    """What cuts by `prefix` go by, and no others."""
    if by != "prefix":
        return Importance(torch.zeros(0), lambda model: torch.zeros(0))
    return Importance.load(run.path / IMPORTANCE)


def _select_crc(run: RunFolder) -> int:
    try:
        return int(json.loads((run.path / SCHEMA_FILE).read_text(encoding="utf-8"))["select_crc"])
    except DAMAGE as fault:
        raise RunError(f"{run.path / SCHEMA_FILE}: cannot be read ({fault}); run the search again") from fault
