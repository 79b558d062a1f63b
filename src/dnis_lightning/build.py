"""From checked settings to objects: data, model, method, trainings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from hydra.utils import instantiate

from dnis_lightning.blocks import Blocks, make_blocks
from dnis_lightning.blueprint import Blueprint, construct
from dnis_lightning.data.arrays import forget
from dnis_lightning.data.interactions import Interactions
from dnis_lightning.data.liked import Liked
from dnis_lightning.data.negatives import Feedback
from dnis_lightning.data.packing import pack_fields
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.roles import near
from dnis_lightning.data.source import Source
from dnis_lightning.data.table import Table
from dnis_lightning.data.vocabulary import VocabularyOptions
from dnis_lightning.earlier import Earlier
from dnis_lightning.errors import ConfigError
from dnis_lightning.evaluation import Evaluation
from dnis_lightning.groups import Groups
from dnis_lightning.paths import expand
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.budget import Budget, at_threshold, compression_rate, parse_budget
from dnis_lightning.search.prune import Pruning
from dnis_lightning.search.schedule import Gradual, Iterative, LearnedThresholds, OneShot, PolicySearch, Schedule
from dnis_lightning.search.trial import Stopping
from dnis_lightning.settings import Settings
from dnis_lightning.shipping import Shipping
from dnis_lightning.tasks import ClickThrough, Objective, Rating, Task, TopK
from dnis_lightning.training.fit_module import WeightStep

log = logging.getLogger(__name__)

LEARNING_RATE = 0.001
_FOR_RARE_FEATURES = 0.003
_OFTEN = 30
"""Times that a feature occurs in train: where most do so, `LEARNING_RATE` is the rate of `optimizer.lr=auto`."""


def prepare_data(settings: Settings, source: Source | None = None) -> Prepared:
    """Encode or open the data, its split, its vocabulary and the rows of its parts; says what a table is taken for.

    source: in place of that of the settings.
    """
    data = settings.data
    source = construct(data.source) if source is None else source
    if isinstance(source, Table):
        source.check_split(data.split, given_test=data.candidates is not None)
        log.info("%s", source.described())
    if data.least_label is not None:
        source = Liked(source, data.least_label)
    _check_min_counts(data.min_counts or {}, [field.name for field in source.fields])
    prepared = prepare(
        source,
        cache=data.cache,
        split=data.split,
        split_seed=data.split_seed,
        options=VocabularyOptions(data.min_count, data.min_counts or {}, data.numeric_as, data.bins),
        pooling=data.pooling,
        max_values=data.max_values,
        with_user=data.task == "topk",
        candidates=data.candidates,
    )
    told = prepared.dataset
    if told.skipped:
        log.warning("%s: %s bad rows were left out; the first: %s", told.name, f"{told.skipped:,}", told.example)
    return prepared


def _check_min_counts(given: Mapping[str, int], fields: Sequence[str]) -> None:
    """Raise ConfigError for a field that is not there."""
    for name in given:
        if name not in fields:
            there = ", ".join(fields[:20]) + (", …" if len(fields) > 20 else "")
            raise ConfigError(f"data.min_counts: there is no field {name!r}, only {there}{near(name, fields)}")


def make_blueprint(settings: Settings, prepared: Prepared, task: Task) -> Blueprint:
    """What the models of this run have in common, before any trial changes widths."""
    vocabulary, model, search = prepared.vocabulary, settings.model, settings.search
    unseen = [int(row) for row in vocabulary.out_of_vocabulary if vocabulary.frequency[row] == 0]
    space = FeatureSpace(tuple(int(offset) for offset in vocabulary.offsets), tuple(unseen))
    blocks = blocks_of(settings, prepared)
    bias = (
        task.base_logit(prepared.mean_label)
        if model.global_bias == "mean"
        else {"zero": 0.0, "none": None}[model.global_bias]
    )
    std = None if model.init == "xavier" else float(model.init)
    return Blueprint(
        space, model.interaction, search.base_dim, std, model.first_order, bias, blocks.block_of, blocks.count
    )


def blocks_of(settings: Settings, prepared: Prepared) -> Blocks:
    """The blocks of the features by their frequency in train."""
    search, vocabulary = settings.search, prepared.vocabulary
    blocks = make_blocks(
        vocabulary.frequency,
        vocabulary.field_of,
        blocks=search.blocks,
        blocking=search.blocking,
        per=search.blocks_per,
    )
    forget(vocabulary.frequency)
    return blocks


def make_task(settings: Settings) -> Task:
    """What is predicted, and by which loss."""
    data = settings.data
    if data.task == "topk":
        return TopK(negatives=data.negatives, loss=data.loss, positive_weight=data.positive_weight, tops=data.top)
    return Rating() if data.task == "rating" else ClickThrough()


def make_feedback(settings: Settings, prepared: Prepared) -> Feedback | None:
    """Who had what, for data.task=topk. Raises ConfigError where the data do not say."""
    data = settings.data
    if data.task != "topk":
        return None
    return Feedback(Interactions.of(prepared), data.negatives, data.negatives_power)


def make_evaluation(settings: Settings, prepared: Prepared, task: Task, feedback: Feedback | None) -> Evaluation:
    """What models are evaluated on; feedback: see `make_feedback`."""
    gpu = settings.trainer.accelerator == "gpu" and torch.cuda.is_available()  # exports may be made elsewhere
    return Evaluation(prepared, task, settings.data.batch_size, feedback, gpu)


def groups_of_test(prepared: Prepared, evaluation: Evaluation, blocks: Blocks) -> Groups:
    """The test rows by how often what stands in them occurs in train."""
    vocabulary = prepared.vocabulary
    return Groups.of(evaluation.batches("test"), blocks, vocabulary.frequency, vocabulary.stands_for_unseen)


def make_objective(settings: Settings, prepared: Prepared) -> Objective:
    """The loss of the task with this model's L2."""
    model, l2_scale = settings.model, None
    if model.l2_power and (model.l2 or model.l2_bias):
        frequency = torch.tensor(prepared.vocabulary.frequency, dtype=torch.float32)
        l2_scale = frequency.clamp(min=1) ** -model.l2_power
    return Objective(make_task(settings), l2_of_rows(settings, prepared), model.l2_bias, model.l2_net, l2_scale)


def l2_of_rows(settings: Settings, prepared: Prepared) -> float:
    """L2 on the rows of the table in the labels' own unit.

    Where labels are c times as large, rows whose products add up to them are √c times as large, the squared error c²
    times and so, at the same optimum, L2 on the rows c times; that on first-order terms stays. Of rows that a tower
    takes that is half of the way: its last layer may take all of c, and the rows then want c² times.
    """
    model = settings.model
    return model.l2 * (prepared.label_std if model.l2_per_std and model.l2 else 1.0)


def learning_rate(settings: Settings, prepared: Prepared) -> float:
    """The step of the weights at first: `optimizer.lr`, or where that is auto one that suits most features.

    Adam by row moves a row by about the rate at each occurrence of its feature, however far it has to go. So where most
    occur seldom, a small one creeps (docs/results.md, "The learning rate").
    """
    given = settings.optimizer.node.get("lr", settings.optimizer.lr)
    if given != "auto":
        return float(given)
    often = prepared.vocabulary.frequency
    return LEARNING_RATE if np.median(often[often > 0]) >= _OFTEN else _FOR_RARE_FEATURES


def weight_step(settings: Settings, learning_rate: float) -> WeightStep:
    """How the weights move, from this learning rate on, unless the optimizer's node has one of its own."""
    chosen = settings.optimizer
    return WeightStep(
        instantiate({"lr": learning_rate} | chosen.node),
        chosen.clip_norm,
        chosen.plateau_factor,
        chosen.plateau_patience,
        chosen.plateau_floor,
        chosen.by_row,
    )


def budgets(settings: Settings) -> list[Budget]:
    """What to cut to: search.budget, or else search.rates, then thresholds; equal ones once, by the first name."""
    given = settings.search.budget
    if given is None:
        found = [compression_rate(rate) for rate in settings.search.rates]
    else:
        found = [parse_budget(text) for text in ([given] if isinstance(given, str) else given)]
    found += map(at_threshold, settings.prune.thresholds)
    named: dict[Budget, Budget] = {}
    for budget in found:
        named.setdefault(replace(budget, name=""), budget)
    return list(named.values())


def pruning(settings: Settings) -> Pruning:
    """How tables are cut, and trained meanwhile and once more afterwards."""
    chosen = settings.prune
    if chosen.by == "best":
        return Pruning("prefix", _schedule(settings), chosen.frequency_power, rival="elements")
    return Pruning(chosen.by, _schedule(settings), chosen.frequency_power)


def _schedule(settings: Settings) -> Schedule:
    chosen, patience = settings.prune, settings.trainer.patience
    finetune = Stopping(chosen.finetune_epochs, patience) if chosen.finetune_epochs else None
    if chosen.schedule == "iterative":
        return Iterative(chosen.rounds, Stopping(chosen.round_epochs, patience), finetune)
    if chosen.schedule == "gradual":
        return Gradual(chosen.gradual_epochs, finetune)
    retrain = Stopping(settings.trainer.max_epochs, patience)
    if chosen.schedule in ("nis_single", "nis_multi"):
        return PolicySearch(
            "single" if chosen.schedule == "nis_single" else "multi",
            chosen.nis_parts,
            chosen.nis_cost_weight,
            chosen.nis_lr,
            chosen.nis_samples,
            chosen.nis_warm_up,
            chosen.nis_epochs,
            retrain,
        )
    if chosen.schedule == "learned":
        return LearnedThresholds(
            epochs=chosen.learned_epochs,
            start=chosen.learned_start,
            lr=chosen.learned_lr,
            granularity=chosen.learned_per,
            decay=chosen.learned_decay,
            retrain=retrain,
        )
    return OneShot(finetune)


def shipping(settings: Settings, block_of: np.ndarray) -> Shipping:
    """How tables are packed; block_of (N,): the block of each feature."""
    chosen = settings.ship
    layout = None if chosen.layout == "auto" else chosen.layout
    return Shipping(block_of, layout, None if chosen.dtype == "auto" else chosen.dtype, chosen.tolerance)


def earlier(settings: Settings, prepared: Prepared) -> Earlier | None:
    """The run that this one starts from. Raises RunError and ConfigError as `Earlier.load` does."""
    if settings.start_from is None:
        return None
    found = Earlier.load(expand(settings.start_from), pack_fields(prepared))
    log.info("start_from=%s: %s", settings.start_from, found.said)
    return found


def trial_model(blueprint: Blueprint, seed: int, *, gated: bool = False) -> Recommender:
    """A model in its initial state, which is given by the seed, and so is the same for trials of the same shape."""
    torch.manual_seed(seed)
    return blueprint.build(gated=gated)
