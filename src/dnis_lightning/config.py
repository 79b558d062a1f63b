"""The configuration as a whole: a check that finds all faults before any file is read, and its fingerprint."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from yaml import YAMLError

from dnis_lightning.errors import ConfigError, RunError
from dnis_lightning.keys import flatten, moves_figures
from dnis_lightning.quantities import STARTS_AFRESH
from dnis_lightning.search.budget import parse_budget
from dnis_lightning.settings import Node, Settings

GIVEN_BY_THE_RUN = {"fields", "dims"}
"""Arguments of an interaction that the run fills in from data and search, if the signature has them."""


def check_config(config: DictConfig, overrides: Iterable[str] = ()) -> Settings:
    """Check a composed configuration as a whole, and give it as a value.

    overrides: what the user wrote on the command line; a key in them that nothing reads is a fault.
    Raises ConfigError with one line for each fault.
    """
    overrides = list(overrides)
    faults = [*unread_keys(config, overrides), *idle_keys(config, overrides)]
    raw = OmegaConf.to_container(config, resolve=False)
    absent = sorted(_without_value(raw))
    faults += [f"{key}: no value; write {key}=..." for key in absent]
    filled = config.copy()
    for key in absent:
        OmegaConf.update(filled, key, None)  # else what takes its value from there could not be resolved
    try:
        plain = OmegaConf.to_container(filled, resolve=True)
    except OmegaConfBaseException as fault:
        raise _cannot_run([*faults, f"{fault.full_key}: {str(fault).splitlines()[0]}"]) from fault
    assert isinstance(plain, dict)
    settings, wrong = _validated(plain)
    faults += [line for line in wrong if line.split(":")[0] not in {fault.split(":")[0] for fault in faults}]
    at_nodes = [_as_written(fault, raw) for path, node in _nodes(plain) for fault in _check_node(path, node)]
    faults += [line for line in at_nodes if line.split(":")[0] not in {fault.split(":")[0] for fault in faults}]
    wrong_budgets = list(_wrong_budgets(plain))
    if wrong_budgets:
        faults = [line for line in faults if not line.startswith("search.budget")]
    faults += wrong_budgets
    faults += _wrong_in_topk(plain)
    if settings is not None and settings.trainer.devices > 1 and settings.trainer.strategy != "ddp":
        faults.append(f"trainer.devices: {settings.trainer.devices} processes need trainer.strategy=ddp")
    if faults or settings is None:
        raise _cannot_run(list(dict.fromkeys(faults)))
    return settings


def configuration_of(run: Path, given: str) -> DictConfig:
    """The configuration that a run was started with; given: its folder as the user wrote it.

    Raises RunError when the folder holds none.
    """
    try:
        config = OmegaConf.load(run / "config.yaml")
    except (OSError, ValueError, OmegaConfBaseException, YAMLError) as fault:
        raise RunError(f"{given}: no config.yaml that can be read there; name the folder of a run") from fault
    if not isinstance(config, DictConfig):
        raise RunError(f"{given}: its config.yaml is not one of ours; name the folder of a run")
    return config


def settings_of(run: Path) -> Settings:
    """The checked configuration of a run. Raises RunError as `configuration_of`, ConfigError as `check_config`."""
    return check_config(configuration_of(run, str(run)))


def fingerprint(config: DictConfig, data: str) -> str:
    """A name for what a run computes, from its configuration and its data's own fingerprint.

    Equal for configurations that differ only in where and how things are kept, shown and shared out.
    """
    told = {key: value for key, value in flatten(OmegaConf.to_container(config, resolve=True)) if moves_figures(key)}
    return hashlib.sha256(json.dumps([told, data], sort_keys=True).encode()).hexdigest()[:16]


def _cannot_run(faults: list[str]) -> ConfigError:
    return ConfigError("\n  ".join(["this configuration cannot be run:", *faults]))


def _wrong_budgets(plain: Mapping[Any, Any]) -> Iterator[str]:
    given = (plain.get("search") or {}).get("budget")
    for text in given if isinstance(given, list) else [] if given is None else [given]:
        try:
            parse_budget(str(text))
        except ConfigError as fault:
            yield str(fault)


def _wrong_in_topk(plain: Mapping[Any, Any]) -> Iterator[str]:
    data = plain.get("data") or {}
    if data.get("candidates") is not None and data.get("split") != "leave_one_out":
        yield (
            f"data.candidates: its positives are the test rows of data.split=leave_one_out, not of "
            f"{data.get('split')}; take that, or leave it out"
        )
    if data.get("least_label") is not None and data.get("label", "") is None:
        yield "data.least_label: with data.label=null no row has a label; name its column, or leave this out"


def _validated(plain: Mapping[Any, Any]) -> tuple[Settings | None, list[str]]:
    try:
        return Settings.model_validate(plain), []
    except ValidationError as fault:
        return None, list(_lines(fault, ""))


def _lines(fault: ValidationError, path: str) -> Iterator[str]:
    """One line for each key at fault, however many of a union's branches complain."""
    found: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for error in fault.errors(include_url=False):
        keys = [
            str(part) for part in error["loc"] if re.fullmatch(r"[a-z_0-9]+", str(part)) and part not in _UNION_TAGS
        ]
        key = ".".join([path, *keys]).strip(".")
        if error["type"] == "missing":
            yield f"{key}: no value; write {key}=..."
            continue
        found.setdefault(key, []).append(_expectation(error["msg"]))
        values[key] = error["input"]
    for key, expectations in found.items():
        if values[key] != "???":
            yield f"{key}: it {' or '.join(dict.fromkeys(expectations))}, got {values[key]!r}"


_UNION_TAGS = {"str", "int", "float", "bool", "constrained", "list"}


def _expectation(message: str) -> str:
    message = re.sub(r"^(Input|String|List|Value) s", "s", message)
    message = re.sub(r", unable to parse.*", "", message)
    return message[0].lower() + message[1:]


def _as_written(fault: str, raw: Any) -> str:
    """A sentence on an argument of a node, under the key that the user sets, where the node takes it from there."""
    path, colon, rest = fault.partition(":")
    value: Any = raw
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    written = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return f"{written[1] if written else path}{colon}{rest}"


def _without_value(raw: Any, path: str = "") -> Iterator[str]:
    """The keys that are ???."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _without_value(value, f"{path}.{key}" if path else str(key))
    elif raw == "???":
        yield path


def _nodes(plain: Any, path: str = "") -> Iterator[tuple[str, Node]]:
    if isinstance(plain, dict):
        if "_target_" in plain:
            yield path, plain
        for key, value in plain.items():
            yield from _nodes(value, f"{path}.{key}" if path else str(key))


def _check_node(path: str, node: Node) -> Iterator[str]:
    """Bind a node to the signature of what it calls."""
    try:
        target = _locate(node["_target_"])
    except (ImportError, AttributeError, ValueError) as fault:
        yield f"{path}._target_: cannot import {node['_target_']!r} ({fault})"
        return
    signature = inspect.signature(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    takes = [name for name in signature.parameters if name != "self"]
    for key in given.keys() - set(takes) if not open_ended else ():
        yield f"{path}.{key}: {target.__name__} takes no such argument, only {', '.join(takes)}"
    for name in _needed(signature) - given.keys() - GIVEN_BY_THE_RUN if not node.get("_partial_") else ():
        yield f"{path}.{name}: {target.__name__} needs it"
    hints = _hints(target)
    for key in given.keys() & hints.keys():
        yield from _check_value(f"{path}.{key}", given[key], hints[key])


def _needed(signature: inspect.Signature) -> set[str]:
    """Parameters without a default, `*args` and `**kwargs` aside."""
    loose = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name for name, p in signature.parameters.items() if p.default is p.empty and p.kind not in loose}


def _check_value(path: str, value: Any, hint: Any) -> Iterator[str]:
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as fault:
        if value != "???":
            expectations = dict.fromkeys(_expectation(error["msg"]) for error in fault.errors())
            yield f"{path}: it {' or '.join(expectations)}, got {value!r}"
    except PydanticSchemaGenerationError:
        return  # an annotation that is no plain value: the constructor has to check it


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError):
        return {}


def _locate(path: str) -> Any:
    module, _, name = str(path).rpartition(".")
    return getattr(import_module(module), name)


def unread_keys(config: DictConfig, overrides: Iterable[str]) -> Iterator[str]:
    """A sentence on each key that the user set and nothing reads: not in the schema, in a node, or interpolated."""
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    text = json.dumps(raw, default=str)
    taken = set(re.findall(r"\$\{([a-z_]\w*(?:\.\w+)*)\}", text))
    read = taken | set(_schema_keys(Settings)) | {"profile", "experiment", "contender"}
    chosen = set(_chosen(config, text))
    inside = tuple(f"{path}." for path in [*chosen, *taken, *(path for path, _ in _nodes(raw))])
    groups = {str(key): value for key, value in raw.items() if isinstance(value, dict)}
    given = [re.split(r"[=@]", override.lstrip("+~"))[0] for override in overrides]
    if {"contender", "experiment"} & set(given):
        read.add("data.default_budget")  # of those contenders that cut
    for key in given:
        of_chosen = any(one == key or one.startswith(f"{key}.") for one in chosen)
        if key in read or of_chosen or key.startswith(inside) or key in groups or key.startswith("hydra"):
            continue
        group = key.split(".")[0]
        name = groups.get(group, {}).get("name")
        of = f" with {group}={name}" if name else ""
        yield f"{key}: nothing reads this key{of}; is it misspelt?"


def _chosen(config: DictConfig, text: str) -> Iterator[str]:
    """The keys that `${oc.select:path.${key}.leaf,…}` looks for, by the values that these keys have."""
    for path, key, leaf in re.findall(r"\$\{oc\.select:([\w.]+)\.\$\{([\w.]+)\}((?:\.\w+)*)", text):
        yield f"{path}.{OmegaConf.select(config, key, throw_on_missing=False)}{leaf}"


def idle_keys(config: DictConfig, overrides: Iterable[str]) -> Iterator[str]:
    """A sentence on each key that the user set and another key makes idle."""
    words = [re.split(r"[=@]", override.lstrip("+~"), maxsplit=1) for override in overrides]
    given = {word[0] for word in words}
    if not all(OmegaConf.is_dict(config.get(group)) for group in ("search", "model")):
        return
    if "search.rates" in given and config.search.get("budget") is not None:
        yield "search.rates: search.budget is set and takes its place; give one of the two"
    if "search.give_up" in given and config.search.get("start_counts") is False:
        yield "search.give_up: nothing reads it with search.start_counts=false"
    if "search.blocks" in given and OmegaConf.is_list(config.search.get("blocking")):
        yield "search.blocks: the sizes in search.blocking give the number of blocks; leave one of the two out"
    plain = [word[1] for word in words if word[0] == "contender" and re.fullmatch(r"(uniform|random)_\d+", word[-1])]
    if plain and "search.base_dim" in given:
        yield f"search.base_dim: contender={plain[0]} has a width of its own; leave one of the two out"
    if "model.l2_bias" in given and not config.model.get("first_order", True):
        yield "model.l2_bias: there are no first-order terms with model.first_order=false"
    if "optimizer.plateau_floor" in given and config.optimizer.get("plateau_patience") is None:
        yield "optimizer.plateau_floor: nothing reads it with optimizer.plateau_patience=null"
    if "ship.tolerance" in given and (dtype := config.ship.get("dtype")) != "auto":
        yield f"ship.tolerance: nothing reads it with ship.dtype={dtype}; it is of auto"
    yield from _idle_in_topk(config, given)
    yield from _idle_pruning(config, sorted(key for key in given if key == "prune" or key.startswith("prune.")))


_OF_TOPK = {
    f"data.{name}"
    for name in ("least_label", "negatives", "negatives_power", "loss", "positive_weight", "top", "candidates")
}


def _idle_in_topk(config: DictConfig, given: Iterable[str]) -> Iterator[str]:
    if not OmegaConf.is_dict(config.get("data")):
        return
    if (task := config.data.get("task")) != "topk":
        yield from (
            f"{key}: nothing reads it with data.task={task}; it is of topk" for key in sorted(_OF_TOPK & set(given))
        )
    elif "data.positive_weight" in given and config.data.get("loss") == "bpr":
        yield "data.positive_weight: nothing reads it with data.loss=bpr; it is of bce"


_ONLY_OF = {
    "prune.rounds": ("iterative",),
    "prune.round_epochs": ("iterative",),
    "prune.gradual_epochs": ("gradual",),
    **{f"prune.learned_{name}": ("learned",) for name in ("epochs", "start", "lr", "decay", "per")},
    **{
        f"prune.nis_{name}": ("nis_single", "nis_multi")
        for name in ("parts", "cost_weight", "lr", "samples", "warm_up", "epochs")
    },
}
"""The schedules of cuts that read a key."""


def _idle_pruning(config: DictConfig, given: Sequence[str]) -> Iterator[str]:
    if not OmegaConf.is_dict(config.get("prune")):
        return
    search, prune = config.search, config.prune
    nothing = not (search.get("rates") or search.get("budget") or prune.get("thresholds"))
    for key in given:
        if nothing and key != "prune.thresholds":
            yield f"{key}: nothing is cut; say to what, as search.rates=[2], or leave it out"
        elif (schedule := prune.get("schedule")) not in _ONLY_OF.get(key, (schedule,)):
            yield f"{key}: nothing reads it with prune.schedule={schedule}; it is of {' and '.join(_ONLY_OF[key])}"
        elif key == "prune.finetune_epochs" and schedule in STARTS_AFRESH:
            yield f"{key}: nothing reads it with prune.schedule={schedule}, which trains what is kept in any case"


def _schema_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        if inspect.isclass(info.annotation) and issubclass(info.annotation, BaseModel):
            yield from _schema_keys(info.annotation, f"{prefix}{name}.")
