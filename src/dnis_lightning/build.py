"""From checked settings to objects: data, model, method, trainings."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn

from dnis_lightning.blocks import Blocks, make_blocks
from dnis_lightning.config import Settings
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.errors import ConfigError, RunError, UserError
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.budget import Budget, compression_rate, parse_budget
from dnis_lightning.search.prune import Pruning
from dnis_lightning.search.trial import Phase, Stopping, Trial
from dnis_lightning.tasks import TASKS, Objective, Task
from dnis_lightning.training.fit_module import WeightStep


@dataclass(frozen=True)
class Blueprint:
    """All that a recommender is built from, JSON-able but for the block of each feature.

    interaction: its node. std: of the table's start. bias: the start of the global bias, or None.
    block_of (N,), blocks: see `Blocks`.
    """

    space: FeatureSpace
    interaction: dict[str, Any]
    dims: int
    std: float
    first_order: bool
    bias: float | None
    block_of: np.ndarray
    blocks: int

    def build(self, *, dims: int | None = None, gated: bool = False) -> Recommender:
        """A recommender with fresh weights from torch's present random state."""
        width = self.dims if dims is None else dims
        module = build_interaction(self.interaction, fields=self.space.fields, dims=width)
        model = Recommender(
            self.space, module, dims=width, std=self.std, first_order=self.first_order, global_bias=self.bias
        )
        if gated:
            model.selection = SoftSelection(self.block_of, self.blocks, model.table.weight.shape[1])
        return model

    def save(self, path: Path, **more: Any) -> None:
        """Write `recommender.json`, and the blocks beside it."""
        told = {
            "offsets": list(self.space.offsets),
            "unseen": list(self.space.unseen),
            "interaction": self.interaction,
            "dims": self.dims,
            "std": self.std,
            "first_order": self.first_order,
            "bias": self.bias,
            "blocks": self.blocks,
            "block_of": self.block_of.tolist(),
        }
        path.write_text(json.dumps(told | more))

    @classmethod
    def load(cls, path: Path) -> tuple[Blueprint, dict[str, Any]]:
        """Read what `save` wrote: the blueprint, and all that stood in the file.

        Raises RunError when the file is absent or not of this kind.
        """
        try:
            told = json.loads(path.read_text())
            space = FeatureSpace(tuple(told["offsets"]), tuple(told["unseen"]))
            names = ("interaction", "dims", "std", "first_order", "bias")
            parts = {name: told[name] for name in names}
            return cls(
                space, **parts, block_of=np.asarray(told["block_of"], dtype=np.int64), blocks=told["blocks"]
            ), told
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise RunError(
                f"{path}: not a model description that can be read ({fault}); is this the folder of a run?"
            ) from fault


def build_interaction(node: Mapping[str, Any], **known: int) -> nn.Module:
    """Call an interaction's constructor; `fields` and `dims` are given if its signature has them.

    Raises ConfigError when the constructor does, as for data that the model cannot take.
    """
    takes = inspect.signature(get_class(node["_target_"])).parameters
    given = {name: value for name, value in known.items() if name in takes and name not in node}
    try:
        return instantiate(dict(node), **given)
    except InstantiationException as fault:
        if isinstance(fault.__cause__, UserError):
            raise fault.__cause__ from None
        raise


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
    """The model of a trial, its start a function of the seed and the trial's name alone."""
    torch.manual_seed(seed)
    return blueprint.build(dims=trial.dims, gated=trial.gated)


def pruned_model(blueprint: Blueprint, scheme: Scheme, rest: Mapping[str, np.ndarray]) -> Recommender:
    """The model that ships a scheme: its table, and the weights outside the table."""
    model = blueprint.build()
    model.keep(torch.from_numpy(scheme.dense()), torch.from_numpy(scheme.mask()))
    state = model.state_dict()
    state.update({name: torch.from_numpy(array) for name, array in rest.items()})
    model.load_state_dict(state)
    return model
