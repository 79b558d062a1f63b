"""Describes a data set as a run would see it: encoded into the cache, split, its features counted, put into blocks."""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dnis_lightning.config import check_config
from dnis_lightning.errors import ConfigError, UserError
from dnis_lightning.paths import config_dir, expand, whole_file
from dnis_lightning.reword import message_of, reword
from dnis_lightning.settings import Settings

if TYPE_CHECKING:  # torch and Lightning load only once the words are known to be good
    from dnis_lightning.data.prepare import Prepared
    from dnis_lightning.data.source import Source
    from dnis_lightning.report.description import Description

_UNLABELLED = "dnis_lightning.data.table.Unlabelled"


@dataclass(frozen=True)
class Asked:
    """What is to be described: checked settings, the source, and sentences on what was not given."""

    settings: Settings
    source: Source
    notes: tuple[str, ...] = ()


def asked_for(words: Sequence[str]) -> Asked:
    """What the words of a command line name: an option of the group `data` or files, then keys.

    Keys of the group `data` may do without its name. Raises UserError for what is not there or cannot be.
    """
    what, *rest = words
    keys = [_full_key(word) for word in rest if "=" in word]
    more = [word for word in rest if "=" not in word]
    if given := next((key for key in keys if re.match(r"\+{0,2}data[=@]", key)), None):
        raise ConfigError(f"{given}: {what} is described already; name the data once")
    if what in (options := _options()):
        if more:
            raise ConfigError(f"{more[0]}: after {what} only keys are expected, as key=value")
        return _of_option(_composed([f"data={what}", *keys], what), keys)
    _check_name(what, options)
    if given := next((key for key in keys if key.lstrip("+").startswith("data.path=")), None):
        raise ConfigError(
            f"{given}: {what} is taken for the path; to describe an option, name one of {_listed(options)}"
        )
    config = _composed(["data=table", *keys], "table")
    config.data.path = [what, *more] if more else what
    return _of_option(config, keys)


def _of_option(config: DictConfig, keys: Sequence[str]) -> Asked:
    """The check of the configuration; for a table that lacks label or task, with stand-ins for them."""
    from dnis_lightning.blueprint import construct

    absent = [key for key in ("label", "task") if OmegaConf.is_missing(config.data, key)]
    for key, stand_in in (("label", "none"), ("task", "rating")):
        if key in absent:
            config.data[key] = stand_in
    settings = check_config(config, keys)
    if "label" not in absent:
        notes = ("data.task is not given: the label is read as a number.",) if absent else ()
        return Asked(settings, construct(settings.data.source), notes)
    node = {key: value for key, value in settings.data.source.items() if key not in ("label", "task")}
    said = " and ".join(f"data.{key}" for key in absent)
    note = f"{said} {'are' if len(absent) > 1 else 'is'} not given: no column is left out as the label."
    return Asked(settings, construct({**node, "_target_": _UNLABELLED}), (note,))


def schema_of(source: Source) -> str:
    """What each column of a table is taken for, as text; "" for other sources."""
    from dnis_lightning.data.table import Table

    return str(source.schema) if isinstance(source, Table) else ""


def describe(asked: Asked) -> Description:
    """Encode the data or open what was encoded, and count. Raises UserError when that cannot be done."""
    from dnis_lightning import build
    from dnis_lightning.report.description import block_facts

    settings = asked.settings
    prepared = build.prepare_data(settings, asked.source)
    try:
        found = build.blocks_of(settings, prepared)
    except ConfigError as fault:
        return _description(settings, prepared, blocks=(), no_blocks=str(fault))
    return _description(settings, prepared, blocks=block_facts(found, prepared.vocabulary.frequency))


def _description(settings: Settings, prepared: Prepared, **blocks: Any) -> Description:
    from dnis_lightning.data.statistics import field_facts
    from dnis_lightning.report.description import Description

    blocking, per = settings.search.blocking, settings.search.blocks_per
    named = blocking if isinstance(blocking, str) else f"[{','.join(map(str, blocking))}]"
    return Description(
        data=settings.data.name,
        instances=prepared.dataset.rows,
        skipped=prepared.dataset.skipped,
        example=prepared.dataset.example,
        rows=prepared.rows,
        fields=field_facts(prepared),
        table_rows=prepared.vocabulary.features,
        base_dim=settings.search.base_dim,
        least=settings.data.min_count,
        by_field=settings.data.min_counts or {},
        blocking=named if per == "table" else f"{named}, of each field",
        **blocks,
    )


def write(told: Description, folder: Path) -> list[Path]:
    """Write describe.png and describe.json into a folder, made if absent; their paths.

    Raises UserError when the folder cannot be written to.
    """
    from dnis_lightning.report.data_picture import data_picture
    from dnis_lightning.report.description import as_json
    from dnis_lightning.report.figures import save

    picture, numbers = folder / "describe.png", folder / "describe.json"
    try:
        save(data_picture(told.data, told.fields, told.blocks, told.least), picture)
        with whole_file(numbers) as part:
            part.write_text(json.dumps(as_json(told), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as fault:
        raise UserError(f"{folder}: cannot be written ({fault.strerror}); choose another with --to") from fault
    return [picture, numbers]


def _composed(overrides: list[str], name: str) -> DictConfig:
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose("config", overrides=overrides)
    except OverrideParseException as fault:
        reason = str(fault).splitlines()[0]
        raise ConfigError(
            f"{fault.override}: this cannot be read ({reason}); are brackets and quotes closed?"
        ) from fault
    except (HydraException, OmegaConfBaseException, ValueError) as fault:
        raise ConfigError(reword(message_of(fault), f"python -m dnis_lightning data={name} --cfg job")) from fault


def _full_key(word: str) -> str:
    """A key with its group."""
    match = re.match(r"([+~]*)([^.=@/]*)(.*)", word, re.DOTALL)
    assert match is not None, "it matches anything"
    known = match[2] in {*Settings.model_fields, "hydra", "experiment", "contender"}
    return word if known else f"{match[1]}data.{match[2]}{match[3]}"


def _options() -> list[str]:
    """The options of the group `data`."""
    return sorted(path.stem for path in (config_dir() / "data").glob("[!_]*.yaml"))


def _check_name(what: str, options: Sequence[str]) -> None:
    """Raise UserError for what is neither a file nor a pattern."""
    if expand(what).exists() or glob.has_magic(what):
        return
    if "=" in what:
        raise ConfigError(f"{what}: a file or one of {_listed(options)} comes first, then keys")
    near = difflib.get_close_matches(what, options, 1)
    hint = f"; did you mean {near[0]}?" if near else f", and no option of that name; the options are {_listed(options)}"
    raise UserError(f"{what}: there is no such file{hint}")


def _listed(options: Sequence[str]) -> str:
    return ", ".join(options)
