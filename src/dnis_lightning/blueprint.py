"""What the models of a run are built from, saved with it, and the models of a finished run built anew."""

from __future__ import annotations

import inspect
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn

from dnis_lightning.embedding.mixed import MixedTable
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.errors import RunError, UserError
from dnis_lightning.folder import RunFolder
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.paths import whole_file
from dnis_lightning.recommender import GATES, FeatureSpace, Recommender, tables_of
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.trial import Trial
from dnis_lightning.shipping import as_shipped


@dataclass(frozen=True)
class Blueprint:
    """All that a recommender is built from.

    interaction: its node. std: of the table's start, None for Xavier's √(2 / (N + K)). bias: the start of the global
    bias, or None. block_of (N,), blocks: see `Blocks`. dims, block_dims, projected: see `Trial`.
    """

    space: FeatureSpace
    interaction: dict[str, Any]
    dims: int
    std: float | None
    first_order: bool
    bias: float | None
    block_of: np.ndarray
    blocks: int
    block_dims: tuple[int, ...] | None = None
    projected: bool = False

    def of(self, trial: Trial) -> Blueprint:
        """The blueprint of a trial's models."""
        dims = self.dims if trial.dims is None else trial.dims
        return replace(self, dims=dims, block_dims=trial.block_dims, projected=trial.projected)

    def build(self, *, gated: bool = False) -> Recommender:
        """A recommender with fresh weights from torch's present random state."""
        module = build_interaction(self.interaction, fields=self.space.fields, dims=self.dims)
        model = Recommender(
            self.space,
            module,
            dims=self.dims,
            std=self._std,
            first_order=self.first_order,
            global_bias=self.bias,
            table=self._mixed_table(tables_of(module)),
        )
        if gated:
            model.selection = SoftSelection(self.block_of, self.blocks, self.dims * tables_of(module))
        return model

    def save(self, path: Path, **more: Any) -> None:
        """Write `recommender.json`, whole or not at all, with `more` in it."""
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
            "block_dims": self.block_dims,
            "projected": self.projected,
        }
        with whole_file(path) as part:
            part.write_text(json.dumps(told | more))

    @classmethod
    def load(cls, path: Path) -> tuple[Blueprint, dict[str, Any]]:
        """Read what `save` wrote: the blueprint, and all that stood in the file.

        Raises RunError when the file is absent or not of this kind.
        """
        try:
            told = json.loads(path.read_text())
            space = FeatureSpace(tuple(told["offsets"]), tuple(told["unseen"]))
            names = ("interaction", "dims", "std", "first_order", "bias", "blocks")
            parts = {name: told[name] for name in names} | {"projected": told.get("projected", False)}
            widths = told.get("block_dims")
            parts["block_dims"] = None if widths is None else tuple(widths)
            block_of = np.asarray(told["block_of"], dtype=np.int64)
            if block_of.shape != (space.features,):
                raise ValueError(f"block_of has {block_of.size} blocks for {space.features} features")
            return cls(space, block_of=block_of, **parts), told
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise RunError(
                f"{path}: not a model description that can be read ({fault}); is this the folder of a run?"
            ) from fault

    @property
    def _std(self) -> float:
        return math.sqrt(2 / (self.space.features + max(self.dims, 1))) if self.std is None else self.std

    def _mixed_table(self, copies: int) -> MixedTable | None:
        if self.block_dims is None:
            return None
        return MixedTable(
            self.block_of, self.block_dims, self.dims, copies=copies, projected=self.projected, std=self._std
        )


def build_interaction(node: Mapping[str, Any], **known: int) -> nn.Module:
    """Call an interaction's constructor; `fields` and `dims` are given if its signature has them.

    Raises ConfigError when the constructor does, as for data that the model cannot take.
    """
    takes = inspect.signature(get_class(node["_target_"])).parameters
    return construct(node, **{name: value for name, value in known.items() if name in takes and name not in node})


def construct(node: Mapping[str, Any], **given: Any) -> Any:
    """Call the constructor of a node. Raises UserError when the constructor does, without Hydra's wrapping."""
    try:
        return instantiate(dict(node), **given)
    except InstantiationException as fault:
        if isinstance(fault.__cause__, UserError):
            raise fault.__cause__ from None
        raise


def pruned_model(blueprint: Blueprint, scheme: Scheme, rest: Mapping[str, np.ndarray]) -> Recommender:
    """The model that ships a scheme: its table, and the weights outside the table."""
    model = blueprint.build()
    model.keep(torch.from_numpy(scheme.dense()), torch.from_numpy(scheme.mask()))
    model.table.load_projections(scheme.projections)
    model.load_rest({name: torch.from_numpy(array) for name, array in rest.items()})
    return model


def save_pruned(run: RunFolder, name: str, scheme: Scheme, model: Recommender) -> None:
    """Write what `pruned_model` takes, whole or not at all: a scheme, and the model's weights outside the table."""
    scheme.save(run.scheme(name), {weight: tensor.numpy() for weight, tensor in model.rest().items()})


def save_best(run: RunFolder, model: Recommender, trial: str) -> None:
    """Write `best.ckpt`, whole or not at all: the weights of the best trial so far, and its name."""
    with whole_file(run.best) as part:
        torch.save({"recommender": dict(model.state_dict()), "trial": trial}, part)


def load_best(run: RunFolder) -> dict[str, Any]:
    """Read what `save_best` wrote. Raises RunError when it is absent or damaged."""
    try:
        found: dict[str, Any] = torch.load(run.best, map_location="cpu", weights_only=True, mmap=True)
        if {"recommender", "trial"} - found.keys():
            raise ValueError("other weights")
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError) as fault:
        reason = f" ({fault.strerror})" if isinstance(fault, OSError) and fault.strerror else ", the file is damaged"
        way_on = f"remove {run.best.parent}, and resume={run.path} trains it anew"
        raise RunError(f"{run.best}: the weights cannot be read{reason}; {way_on}") from fault
    return found


def rebuild(folder: Path | str, budget: str | None = None) -> Recommender:
    """The model of a finished run, in evaluation mode: unpruned, or cut to one of its budgets, as it is shipped.

    Raises RunError when the folder is not that of a run, or has no such cut.
    """
    run = RunFolder(Path(folder))
    blueprint, _ = Blueprint.load(run.path / "recommender.json")
    if budget is not None:
        if not run.scheme(budget).exists():
            there = sorted(path.stem.replace("-", ":", 1) for path in (run.path / "schemes").glob("*.safetensors"))
            raise RunError(
                f"{run.path}: no cut {budget}; it has {', '.join(there) or 'none'}; python -m dnis_lightning.export "
                "makes others"
            )
        scheme, rest = Scheme.load(run.scheme(budget))
        if run.embedding(budget).exists():
            scheme = as_shipped(scheme, PackedEmbedding.open(run.embedding(budget)).table)
        return pruned_model(blueprint, scheme, rest).eval()
    weights = load_best(run)["recommender"]
    model = blueprint.build(gated=GATES in weights)
    model.load_weights(weights)
    return model.eval()
