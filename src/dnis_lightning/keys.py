"""Dotted keys of a configuration, and which of them a run's figures depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_KEPT = {"resume", "output_dir", "logger", "sweep", "hydra"}
_DATA = {"root", "cache", "mirrors"}  # what lies there is in the data's own fingerprint
_TRAINER = {"threads", "progress", "checkpoint_every_n_steps"}
_PASSED_ON = ("data.default_", "data.l2_of", "data.authors_")  # stand in other keys too, wherever something reads them


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and JSON values of nested mappings; 2.0 is written 2."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(_plain(value), default=str, ensure_ascii=False)


def moves_figures(key: str) -> bool:
    """Whether a run's figures depend on a dotted key; not where and how things are kept, shown and shared out."""
    group, leaf = key.split(".")[0], key.rpartition(".")[2]
    if group in _KEPT or key.startswith(_PASSED_ON):
        return False
    return not ((group == "data" and leaf in _DATA) or (group == "trainer" and leaf in _TRAINER))


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
