"""From checked settings to objects: data, model, method, trainings."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from hydra.utils import instantiate

from dnis_lightning.blocks import Blocks, make_blocks
from dnis_lightning.blueprint import Blueprint, build_interaction
from dnis_lightning.config import Settings
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.errors import ConfigError
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.budget import Budget, compression_rate, parse_budget
from dnis_lightning.search.prune import Pruning
from dnis_lightning.search.trial import Phase, Stopping, Trial
from dnis_lightning.tasks import TASKS, Objective, Task
from dnis_lightning.training.fit_module import WeightStep


def prepare_data(settings: Settings) -> Prepared:
    """Encode or open the data, and its split and vocabulary."""
    data = settings.data
    source = instantiate(data.source)
    return prepare(source, cache=data.cache, split=data.split, split_seed=data.split_seed, min_count=data.min_count)


def make_blueprint(settings: Settings, prepared: Prepared, task: Task) -> Blueprint:
    """What the models of this run have in common."""
    vocabulary, model, search = prepared.vocabulary, settings.model, settings.search
    unseen = [int(row) for row in vocabulary.out_of_vocabulary if vocabulary.frequency[row] == 0]
    space = FeatureSpace(tuple(int(offset) for offset in vocabulary.offsets), tuple(unseen))
    blocks = blocks_of(settings, prepared)
    mean = float(np.asarray(prepared.dataset.label[prepared.split.train], dtype=np.float64).mean())
    bias = {"mean": task.base_logit(mean), "zero": 0.0, "none": None}[model.global_bias]
    std = (
        float(np.sqrt(2 / (space.features + max(search.base_dim, 1)))) if model.init == "xavier" else float(model.init)
    )
    return Blueprint(
        space, model.interaction, search.base_dim, std, model.first_order, bias, blocks.block_of, blocks.count
    )


def blocks_of(settings: Settings, prepared: Prepared) -> Blocks:
    """The blocks of the features by their frequency in train."""
    search, vocabulary = settings.search, prepared.vocabulary
    return make_blocks(
        vocabulary.frequency,
        vocabulary.field_of,
        blocks=search.blocks,
        blocking=search.blocking,
        per=search.blocks_per,
    )


def check_machine(settings: Settings) -> None:
    """Raise ConfigError when the devices asked for are not there: before any data is read."""
    there, asked = torch.cuda.device_count(), settings.trainer.devices
    if settings.trainer.accelerator == "gpu" and there < asked:
        raise ConfigError(f"trainer.accelerator=gpu: {asked} asked for, torch sees {there} CUDA GPUs; take trainer=cpu")


def check_trial(settings: Settings) -> None:
    """Raise ConfigError when search.trial names none of the method's trials."""
    trial, name = settings.search.trial, settings.search.name
    if trial is None:
        return
    count = instantiate(settings.search.method).trial_count
    if count is None:
        raise ConfigError(f"search.trial={trial}: a trial of search={name} depends on those before it; leave it out")
    if trial >= count:
        raise ConfigError(f"search.trial={trial}: search={name} has trials 0 to {count - 1}")


def check_fit(settings: Settings, prepared: Prepared) -> None:
    """Raise ConfigError when task, blocks or model do not go with the data: before a folder is made."""
    if settings.data.task == "ctr" and not np.isin(prepared.dataset.label, (0, 1)).all():
        raise ConfigError("data.task=ctr: the labels are not all 0 or 1; take data.task=rating")
    blueprint = make_blueprint(settings, prepared, TASKS[settings.data.task]())
    build_interaction(blueprint.interaction, fields=blueprint.space.fields, dims=blueprint.dims)


def make_objective(settings: Settings) -> Objective:
    """The loss of the task with this model's L2."""
    return Objective(TASKS[settings.data.task](), settings.model.l2, settings.model.l2_bias)


def weight_step(settings: Settings) -> WeightStep:
    """How the weights move."""
    chosen = settings.optimizer
    node = instantiate(chosen.node)
    factory = node if isinstance(node, partial) else partial(node)
    return WeightStep(factory, chosen.clip_norm, chosen.plateau_factor, chosen.plateau_patience)


def budgets(settings: Settings) -> list[Budget]:
    """The bounds to cut at: search.budget, or else search.rates."""
    given = settings.search.budget
    if given is None:
        return [compression_rate(rate) for rate in settings.search.rates]
    return [parse_budget(text) for text in ([given] if isinstance(given, str) else given)]


def pruning(settings: Settings) -> Pruning:
    """How tables are cut, and trained once more afterwards."""
    chosen = settings.prune
    stopping = Stopping(chosen.finetune_epochs, settings.trainer.patience)
    phase = Phase("fine_tune", "train+search", stopping) if chosen.finetune_epochs else None
    return Pruning(chosen.by, tuple(chosen.thresholds), phase)


def trial_model(blueprint: Blueprint, trial: Trial, seed: int) -> Recommender:
    """The model of a trial; its start is given by the seed, and so is the same for trials of the same shape."""
    torch.manual_seed(seed)
    return blueprint.build(dims=trial.dims, gated=trial.gated)
