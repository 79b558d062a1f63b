"""A packed table with the raw ids of its rows, as a folder that can be shipped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnis_lightning.errors import RunError
from dnis_lightning.packed.fields import PackedField, Raw, read_fields, write_fields
from dnis_lightning.packed.table import PackedTable
from dnis_lightning.packed.tensors import DAMAGE
from dnis_lightning.paths import finite, write_json

MANIFEST, TABLE, VOCABULARY = "manifest.json", "table.safetensors", "vocabulary.safetensors"
WEIGHTS = "model.safetensors"
"""Beside an embedding: all weights of its model outside the table, where that is shipped, too."""
PLAIN = "tables.json"
"""What other forms of export have in place of a manifest."""
_FORMAT, _VERSION = "dnis-lightning packed embedding", 1


@dataclass(frozen=True, eq=False)
class PackedEmbedding:
    """An embedding table in few bytes: rows by raw ids, of which there is one set for each field.

    table: N features × K dimensions. fields: which rows are whose. told: what else is in its manifest.
    """

    table: PackedTable
    fields: tuple[PackedField, ...]
    told: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str, *, check: bool = True) -> PackedEmbedding:
        """What `save` wrote, memory-mapped: only rows that are looked up are read.

        check: compare the checksums first, for which the files are read once.
        Raises RunError where the folder is absent, damaged, of a later version or something else.
        """
        folder = Path(folder)
        if (folder / PLAIN).is_file():
            raise RunError(f"{folder}: plain arrays or a graph, for other systems; this reads --format packed alone")
        if folder.is_file():
            raise RunError(f"{folder}: a file, expected a folder; PackedTable.load reads a table without its raw ids")
        try:
            told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if not isinstance(told, dict) or told.get("format") != _FORMAT:
                raise ValueError(f"{MANIFEST} is of something else")
            if told["version"] != _VERSION:
                raise ValueError(f"version {told['version']} of the format, this program reads {_VERSION}")
            if told["sha256"] != digest_of(told):
                raise ValueError(f"{MANIFEST} has been changed")
            for name in dict.fromkeys([TABLE, VOCABULARY, *told["files"]]):
                _check(folder / name, told["files"][name], whole=check)
            fields = read_fields(folder / VOCABULARY, told["fields"])
            made = cls(PackedTable.load(folder / TABLE), fields, told)
            if (fields[-1].end if fields else 0) != made.table.features:
                raise ValueError("fields and table do not go together")
        except DAMAGE as fault:
            why = f"{fault} is not there" if isinstance(fault, KeyError) else fault
            raise RunError(f"{folder}: not a packed embedding that can be read ({why}); export it again") from fault
        return made

    def save(self, folder: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write the files into a folder; the manifest, with `more` in it, comes last.

        Its checksums are of all .safetensors files there, others too, and of itself.
        """
        self.table.save(folder / TABLE)
        fields = write_fields(folder / VOCABULARY, self.fields)
        told: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "features": self.table.features,
            "dims": self.table.dims,
            "kept": self.table.kept,
            "layout": self.table.layout.name,
            "dtype": self.table.values.dtype,
            "fields": fields,
            **(more or {}),
            "files": {path.name: _facts(path) for path in sorted(folder.glob("*.safetensors"))},
        }
        told = finite(told)
        write_json(folder / MANIFEST, told | {"sha256": digest_of(told)})

    def field(self, name: str) -> PackedField:
        """The field of a name. Raises KeyError where there is none."""
        for one in self.fields:
            if one.name == name:
                return one
        raise KeyError(f"{name}: no field of this name; there are {', '.join(one.name for one in self.fields)}")

    def features(self, name: str, raw: Raw) -> np.ndarray:
        """(T,) int64: the table rows of raw ids of a field; that of all other ids where one is not known."""
        return self.field(name).features(raw)

    def rows(self, features: np.ndarray) -> np.ndarray:
        """Rows (…, K) float32 of features (…)."""
        return self.table.rows(features)

    def lookup(self, name: str, raw: Raw) -> np.ndarray:
        """Rows (T, K) float32 of raw values of a field, times what `PackedField.encode` gives beside them."""
        features, values = self.field(name).encode(raw)
        return self.rows(features) * values[:, None]


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _check(path: Path, facts: Mapping[str, Any], *, whole: bool) -> None:
    if (size := path.stat().st_size) != facts["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes, its manifest says {facts['bytes']}")
    if whole and _digest(path) != facts["sha256"]:
        raise ValueError(f"{path.name} has another checksum than its manifest says")


def digest_of(told: Mapping[str, Any]) -> str:
    """The checksum of what a manifest says besides it, however that is laid out."""
    rest = {name: value for name, value in told.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
