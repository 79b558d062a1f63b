"""What cannot be run: on this machine, by this method, with these data."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import torch

from dnis_lightning.blueprint import Blueprint, build_interaction, construct
from dnis_lightning.build import (
    LEARNING_RATE,
    budgets,
    make_blueprint,
    make_feedback,
    make_task,
    shipping,
    weight_step,
)
from dnis_lightning.data.interactions import user_column
from dnis_lightning.data.negatives import Feedback
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.data.queries import Queries
from dnis_lightning.errors import ConfigError
from dnis_lightning.quantities import STARTS_AFRESH
from dnis_lightning.recommender import tables_of
from dnis_lightning.settings import Settings
from dnis_lightning.training.lazy_adam import LazyAdam

log = logging.getLogger(__name__)

_LEAST_STEPS, _GOOD_STEPS = 10, 50
"""Of an epoch."""
_LARGEST_LABEL, _LEAST_LABEL = 1e12, 1e-12
"""Their squares, summed over many rows, are still numbers of single precision, with all digits."""
_MOST_OFFSET = 1e5
"""Standard deviations from 0 to the mean of labels, of whose seven digits two are left then."""


def check_machine(settings: Settings) -> None:
    """Raise ConfigError when the devices or the compiler asked for are not there: before any data is read."""
    there, asked = torch.cuda.device_count(), settings.trainer.devices
    if settings.trainer.accelerator == "gpu" and there < asked:
        raise ConfigError(f"trainer.accelerator=gpu: {asked} asked for, torch sees {there} CUDA GPUs; take trainer=cpu")
    if settings.trainer.accelerator == "cpu" and there:
        log.info("torch sees a CUDA GPU here; trainer=gpu trains on it")
    variable, language, usual = ("CC", "C", "gcc") if settings.trainer.accelerator == "gpu" else ("CXX", "C++", "g++")
    compiler = os.environ.get(variable, usual)
    if settings.trainer.compile and shutil.which(compiler) is None:
        raise ConfigError(
            f"trainer.compile=true: torch.compile needs a {language} compiler, there is no {compiler}; install one, "
            f"name it in {variable}, or take trainer.compile=false"
        )


def check_method(settings: Settings) -> None:
    """Raise ConfigError for values that method, model or optimizer do not take, no such trial, no gates to prune by."""
    method, trial, name = construct(settings.search.method), settings.search.trial, settings.search.name
    if trial is not None and method.trial_count is None:
        raise ConfigError(f"search.trial={trial}: a trial of search={name} depends on those before it; leave it out")
    if trial is not None and trial >= method.trial_count:
        raise ConfigError(f"search.trial={trial}: search={name} has trials 0 to {method.trial_count - 1}")
    source = construct(settings.data.source)
    if settings.data.task == "topk":
        user_column(source.name, source.fields, source.user_field)
    build_interaction(settings.model.interaction, fields=len(source.fields), dims=settings.search.base_dim)
    try:
        optimizer = weight_step(settings, LEARNING_RATE).optimizer([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"optimizer: {settings.optimizer.node['_target_']} does not take this ({fault})") from fault
    if settings.optimizer.by_row and not isinstance(optimizer, LazyAdam):
        name = settings.optimizer.node["_target_"]
        raise ConfigError(f"optimizer.by_row=true: {name} does not step by row; take optimizer=lazy_adam")
    if budgets(settings):
        _check_pruning(settings, gated=method.gated, projected=method.projected)
    if settings.sweep.minimise not in (known := ["unpruned", *(one.name for one in budgets(settings))]):
        raise ConfigError(
            f"sweep.minimise={settings.sweep.minimise}: there is no such cut; choose one of {', '.join(known)}"
        )


def _check_pruning(settings: Settings, *, gated: bool, projected: bool) -> None:
    by, schedule, name = settings.prune.by, settings.prune.schedule, settings.search.name
    if by == "gates" and not gated:
        raise ConfigError(f"prune=gates: search={name} has no gates; take prune=elements")
    if any(budget.epsilon is not None for budget in budgets(settings)) and schedule != "one_shot":
        raise ConfigError(
            f"prune.thresholds: a cut at ε is made at once, not with prune.schedule={schedule}; take one_shot, or rates"
        )
    if by in ("prefix", "best") and schedule not in ("one_shot", "iterative"):
        raise ConfigError(
            f"prune={by}: prune.schedule={schedule} cuts single entries; take prune=elements, or another schedule: "
            "one_shot, iterative"
        )
    if by == "gates" and schedule != "one_shot":
        raise ConfigError(f"prune.schedule={schedule}: gates go all at once; take one_shot, or prune=elements")
    if projected and schedule == "learned":
        raise ConfigError(
            f"prune.schedule=learned: entries of projected tables have no thresholds; take another, or "
            f"search.projected=false with search={name}"
        )
    if gated and schedule in STARTS_AFRESH:
        raise ConfigError(
            f"prune.schedule={schedule}: it starts afresh, without the gates of search={name}; take "
            f"search={STARTS_AFRESH[schedule]}"
        )
    if schedule.startswith("nis_"):
        _check_nis(settings, projected=projected)


def _check_nis(settings: Settings, *, projected: bool) -> None:
    schedule, search = settings.prune.schedule, settings.search
    if projected:
        raise ConfigError(
            f"prune.schedule={schedule}: parts of projected tables cannot be left out; take another, or "
            f"search.projected=false with search={search.name}"
        )
    if search.blocks_per == "table" and len(construct(settings.data.source).fields) > 1:
        raise ConfigError(
            f"prune.schedule={schedule}: it decides on each field by itself; take search.blocks_per=field"
        )
    if settings.prune.nis_parts > search.base_dim:
        raise ConfigError(
            f"prune.nis_parts: {settings.prune.nis_parts} of search.base_dim={search.base_dim}; take at most as many"
        )


def check_fit(settings: Settings, prepared: Prepared) -> None:
    """Raise ConfigError when task, min_count or blocks do not go with the data: before a folder is made."""
    if settings.data.task == "ctr" and not prepared.dataset.binary:
        raise ConfigError("data.task=ctr: the labels are not all 0 or 1; take data.task=rating")
    if prepared.vocabulary.is_out_of_vocabulary.all():
        most = "no feature occurs that often in train"
        raise ConfigError(f"data.min_count={settings.data.min_count}: {most}; take a smaller one")
    if settings.data.task == "rating":
        _check_scale(prepared.mean_label, prepared.label_std)
    if (feedback := make_feedback(settings, prepared)) is not None:
        _check_queries(settings, feedback)
    _warn_of_few_steps(settings.data.batch_size, prepared.rows["train"])
    blueprint = make_blueprint(settings, prepared, make_task(settings))
    _check_sizes(settings, blueprint)


def _check_scale(mean: float, std: float) -> None:
    """Raise ConfigError for labels whose squares do not go into single precision; warn where little is left of them."""
    found = f"data.label: labels with a mean of {mean:.3g} and a standard deviation of {std:.3g}"
    if max(abs(mean), std) > _LARGEST_LABEL:
        raise ConfigError(f"{found} are too large for single precision; divide them")
    if 0 < std < _LEAST_LABEL:
        log.warning("%s are too small for single precision; multiply them", found)
    elif abs(mean) > _MOST_OFFSET * std > 0:
        log.warning("%s lose what tells them apart in single precision; subtract a constant from them", found)


def _check_sizes(settings: Settings, blueprint: Blueprint) -> None:
    """Raise ConfigError when a budget in bytes is smaller than a file in which nothing is kept.

    Where trials choose the width, that of one dimension is looked at.
    """
    given, block_of = budgets(settings), blueprint.block_of
    if all(budget.size is None and budget.bytes_share is None for budget in given):
        return
    interaction = build_interaction(blueprint.interaction, fields=blueprint.space.fields, dims=blueprint.dims)
    if not blueprint.dims:  # no table, so there is nothing of which to take a share
        given = [budget for budget in given if budget.bytes_share is None]
    given = [budget.of_table(len(block_of) * blueprint.dims * tables_of(interaction)) for budget in given]
    sizes = {budget.name: budget.size for budget in given if budget.size is not None}
    dims = settings.search.base_dim if construct(settings.search.method).trial_count == 1 else 1
    nothing = np.zeros((len(block_of), dims * tables_of(interaction)), dtype=bool)
    shipped = shipping(settings, block_of)
    least = min(shipped.bytes_of(nothing, {}, dtype) for dtype in shipped.widths)
    for name, size in sizes.items():
        if size < least:
            raise ConfigError(
                f"search.budget: {name} are {size:,.0f} bytes, and the file of this table has {least:,} "
                f"with nothing kept (ship.layout={settings.ship.layout}); take a larger budget"
                f"{'' if settings.ship.layout == 'auto' else ', or ship.layout=auto'}"
            )


def _warn_of_few_steps(batch_size: int, rows: int) -> None:
    """Epochs of a few steps end before training has converged, and what is compared then is who trained longer."""
    steps = -(-rows // batch_size)
    if steps < _LEAST_STEPS <= rows:
        log.warning(
            "data.batch_size=%d: an epoch of %s rows has %d steps, too few for trainer.max_epochs and the like to mean "
            "what they usually do; data.batch_size=%d has some %d",
            batch_size,
            f"{rows:,}",
            steps,
            better := 1 << max(rows // _GOOD_STEPS, 1).bit_length() - 1,
            rows // better,
        )


def _check_queries(settings: Settings, feedback: Feedback) -> None:
    dataset = feedback.interactions.prepared.dataset
    if settings.data.least_label is None and dataset.binary and not dataset.label.all() and dataset.label.any():
        log.warning(
            "%s: some labels are 0, some 1; every row counts as an item that was had, whatever its label; "
            "data.least_label=1 leaves out the zeros",
            dataset.name,
        )
    if feedback.interactions.catalogue < 2:
        raise ConfigError(
            f"data.task=topk: {feedback.interactions.catalogue} items occur often enough in train, so there is nothing "
            f"to choose; see data.min_count={settings.data.min_count} and data.min_counts"
        )
    for part in ("select", "test"):
        if not len(Queries(feedback.interactions, part)):
            raise ConfigError(
                f"data.split={settings.data.split}: no user has an item in {part} that was not there before; take "
                "another data.split"
            )
