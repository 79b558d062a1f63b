"""A model as it is shipped: raw rows in, scores out, and the best items for users."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from hydra.errors import InstantiationException
from safetensors import SafetensorError
from safetensors.torch import load_file

from dnis_lightning.blueprint import Blueprint, build_interaction
from dnis_lightning.data.mapping import RawMapping
from dnis_lightning.data.source import Column
from dnis_lightning.embedding.packed_table import PackedLookup
from dnis_lightning.embedding.table import EmbeddingTable
from dnis_lightning.errors import DataError, RunError
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.embedding import WEIGHTS
from dnis_lightning.packed.fields import PackedField
from dnis_lightning.packed.tensors import DAMAGE
from dnis_lightning.recommender import FeatureSpace, Recommender

_OURS = "dnis_lightning.interaction"
_USERS_AT_ONCE = 256


def described(blueprint: Blueprint) -> dict[str, Any]:
    """What a manifest has to say of a model outside its table."""
    return {
        "interaction": blueprint.interaction,
        "dims": blueprint.dims,
        "first_order": blueprint.first_order,
        "global_bias": blueprint.bias is not None,
    }


@dataclass
class Predictor:
    """A shipped model.

    task: what it predicts. unknown: for each field, how many values so far were ids that have no row of their own; it
    is counted by `scores` and `recommend`, without a lock.
    """

    model: Recommender
    embedding: PackedEmbedding
    mapping: RawMapping
    task: str
    unknown: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str, *, check: bool = True, allow: Sequence[str] = ()) -> Predictor:
        """What an export wrote.

        allow: packages, besides our interactions, of which the model may be made: a folder names classes, and to make
        one runs its code. Raises RunError where the folder is absent, damaged, an embedding without a model, or wants
        more than that.
        """
        folder = Path(folder)
        embedding = PackedEmbedding.open(folder, check=check)
        if "model" not in embedding.told:
            raise RunError(f"{folder}: an embedding without its model; python -m dnis_lightning.export RUN writes both")
        try:
            _check_trusted(embedding.told["model"]["interaction"], (_OURS, *allow))
            return cls.of(embedding, load_file(folder / WEIGHTS))
        except ImportError as fault:
            advice = "put the folder of that module on PYTHONPATH"
            raise RunError(f"{folder}: a class of the model cannot be imported ({fault}); {advice}") from fault
        except (*DAMAGE, SafetensorError, RuntimeError, InstantiationException) as fault:
            raise RunError(f"{folder}: the model cannot be read ({fault}); export the run again") from fault

    @classmethod
    def of(cls, embedding: PackedEmbedding, rest: Mapping[str, torch.Tensor]) -> Predictor:
        """Of an embedding whose `told` has the model, and the weights outside the table."""
        model = _built(embedding, embedding.told["model"])
        model.load_rest(rest)
        return cls(model.eval(), embedding, RawMapping.of(embedding), embedding.told["run"]["task"])

    @torch.inference_mode()
    def scores(self, columns: Mapping[str, Column] | pa.Table) -> np.ndarray:
        """(R,) float32: for each of some raw rows a rating, the probability of a click, or how well the item suits.

        Raises DataError as `RawMapping.encode` does.
        """
        batch = self.mapping.encode(columns, self.unknown)
        logits = self.model(batch).logits
        return (logits.sigmoid() if self.task == "ctr" else logits).numpy()

    @torch.inference_mode()
    def recommend(
        self, users: Sequence[str], top: int, seen: Mapping[str, Sequence[str]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each user the `top` items of highest score, best first, with scores; of equal ones the more frequent.

        seen: items that are left out, by user. Raises DataError for a model that does not rank items for users.
        """
        user, item = self.user_and_item()
        rows, first = torch.from_numpy(user.features(list(users))), item.first + 1
        self.unknown[user.name] = self.unknown.get(user.name, 0) + int((rows == user.first).sum())
        catalogue = torch.arange(first, item.end)
        assert item.ids is not None, "items have ids"
        names, found = item.ids.names(), []
        for start in range(0, len(users), _USERS_AT_ONCE):
            some, own = rows[start : start + _USERS_AT_ONCE], users[start : start + _USERS_AT_ONCE]
            scores = self.model.scores(some, catalogue, self.embedding.fields.index(user)).float()
            for number, one in enumerate(own):
                had = item.features(list((seen or {}).get(one, ())))
                scores[number, had[had >= first] - first] = -torch.inf
            best, places = (part[:, :top].tolist() for part in scores.sort(descending=True, stable=True))
            for values, chosen in zip(best, places, strict=True):
                pairs = zip(chosen, values, strict=True)
                found.append([(names[place], value) for place, value in pairs if value > -np.inf])
        return found

    def user_and_item(self) -> tuple[PackedField, PackedField]:
        """The two fields of a model that ranks items for users. Raises DataError where it is no such model."""
        user, fields = self.embedding.told.get("user"), self.embedding.fields
        if self.task != "topk" or user is None:
            raise DataError(f"this model is of the task {self.task}; only one of topk ranks items for users")
        one, other = fields
        return (one, other) if one.name == user else (other, one)


def _check_trusted(node: Any, allowed: Sequence[str]) -> None:
    """Raise RunError for a class, however deep in a node, of another package, and for what could become one."""
    if isinstance(node, str) and "${" in node:
        raise RunError(f"the model has a value that is worked out when it is read, {node}; export its run again")
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None and not _is_of(str(target), allowed):
            raise RunError(
                f"the model is made of {target}; if you trust it, allow it: --allow {str(target).rpartition('.')[0]}"
            )
        for value in node.values():
            _check_trusted(value, allowed)
    elif isinstance(node, list | tuple):
        for value in node:
            _check_trusted(value, allowed)


def _is_of(target: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name is that of a class which one of the packages defines.

    The name alone does not say so: that of a module may go on with what it has imported.
    """
    within = tuple(f"{package}." for package in packages)
    if not target.startswith(within):
        return False
    found = pkgutil.resolve_name(target)
    return isinstance(found, type) and f"{found.__module__}.".startswith(within)


def _built(embedding: PackedEmbedding, told: Mapping[str, Any]) -> Recommender:
    offsets = (0, *(one.end for one in embedding.fields))
    return Recommender(
        FeatureSpace(offsets),
        build_interaction(told["interaction"], fields=len(embedding.fields), dims=told["dims"]),
        dims=told["dims"],
        first_order=told["first_order"],
        global_bias=0.0 if told["global_bias"] else None,
        table=cast(EmbeddingTable, PackedLookup(embedding.table)),  # it is only looked up
    )
