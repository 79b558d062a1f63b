"""A new run that starts where an earlier one ended: by raw id, as new ids have come and old ones have gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dnis_lightning.blueprint import Blueprint, rebuild
from dnis_lightning.errors import ConfigError
from dnis_lightning.folder import RunFolder
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.fields import PackedField
from dnis_lightning.packed.numbers import Binned
from dnis_lightning.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Earlier:
    """What an earlier run left: its model, uncut and with gates merged in.

    row_of (N,): the row that each feature of the new run had there, −1 where it had none. same_fields: whether both
    have the same ones in the same order.
    """

    model: Recommender
    blueprint: Blueprint
    row_of: np.ndarray
    same_fields: bool

    @classmethod
    def load(cls, folder: Path, fields: Sequence[PackedField]) -> Earlier:
        """Of a finished run; fields: those of the new one.

        Raises RunError where the folder is not that of a run, ConfigError where no field is the same.
        """
        run = RunFolder(folder)
        blueprint, _ = Blueprint.load(run.path / "recommender.json")
        packed = sorted(path for path in (run.path / "embedding").glob("[!.]*"))
        if not packed:
            raise ConfigError(f"start_from={folder}: no embedding/ there; name the folder of a finished run")
        known = {one.name: one for one in PackedEmbedding.open(packed[0]).fields}
        rows = [_rows(one, known.get(one.name)) for one in fields]
        if all((some[1:] < 0).all() for some in rows):
            raise ConfigError(f"start_from={folder}: it has none of the ids of these data; leave it out")
        same_fields = [_shape(one) for one in fields] == [_shape(one) for one in known.values()]
        return cls(rebuild(folder), blueprint, np.concatenate(rows), same_fields)

    @torch.no_grad()
    def give_to(self, model: Recommender, blueprint: Blueprint) -> Recommender:
        """The model with the rows of features that there were, and all weights outside the tables, as they ended.

        Raises ConfigError for a model of another kind.
        """
        for name in ("interaction", "dims", "first_order"):
            own, other = getattr(blueprint, name), getattr(self.blueprint, name)
            if own != other:
                raise ConfigError(
                    f"start_from: this run has models with {name}={own}, that one with {other}; make them the same"
                )
        if blueprint.block_dims is not None or self.blueprint.block_dims is not None:
            raise ConfigError("start_from: a model has blocks of different widths; it starts models of one width alone")
        rest, before = model.rest(), self.model.rest()
        if not self.same_fields and any(name.startswith("interaction.") for name in rest):
            raise ConfigError(
                "start_from: the fields are others than in that run, or in another order, and the model has weights of "
                "each; take data.fields as they were there"
            )
        for name in sorted(rest.keys() | before.keys()):
            own, other = (tuple(one[name].shape) if name in one else None for one in (rest, before))
            if own != other and not name.startswith("first_order."):
                raise ConfigError(
                    f"start_from: the weights {name} are {_there(own)} in this run, {_there(other)} in that one; take "
                    "the same fields and the same model"
                )
        there = torch.from_numpy(np.flatnonzero(self.row_of >= 0))
        rows = torch.from_numpy(self.row_of)[there]
        table = model.table.entries()
        table[there] = self.model.merged_table()[rows]
        model.table.keep(table, None)
        if model.first_order is not None and self.model.first_order is not None:
            model.first_order.weight[there] = self.model.first_order.weight[rows]
        old = {name: weight for name, weight in before.items() if not name.startswith("first_order.")}
        model.load_rest(model.rest() | old)
        return model

    @property
    def said(self) -> str:
        """How many features start where they ended."""
        old = int((self.row_of >= 0).sum())
        return f"{old:,} of {len(self.row_of):,} features start as they ended there, the others afresh"


def _shape(one: PackedField) -> tuple[str, str, int]:
    return one.name, one.kind, one.columns


def _there(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else f"of the shape {shape}"


def _rows(new: PackedField, old: PackedField | None) -> np.ndarray:
    """(rows of the field,) those that it had before, −1 for none. The first, of all other ids, stays what it was."""
    found = np.full(new.end - new.first, -1, dtype=np.int64)
    if old is None or old.kind != new.kind:
        return found
    found[0] = old.first
    if new.ids is not None and old.ids is not None:
        before = old.of_texts(new.ids.packed_names())
        found[1:] = np.where(before == old.first, -1, before)
    elif _alike(new, old):
        found[1:] = np.arange(old.first + 1, old.end)
    return found


def _alike(new: PackedField, old: PackedField) -> bool:
    """Whether numbers become the same in both."""
    if isinstance(new.numbers, Binned) and isinstance(old.numbers, Binned):
        return np.array_equal(new.numbers.edges, old.numbers.edges)
    return new.numbers == old.numbers
