"""What is settled in the starting process, before the first job of a sweep begins."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # no public way makes jobs of overrides
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dnis_lightning.errors import ConfigError
from dnis_lightning.paths import expand
from dnis_lightning.settings import Settings
from dnis_lightning.sweep.gpus import hand_out_gpus

SWEEP_FOLDER = "DNIS_SWEEP_FOLDER"
"""Environment variable that says where the sweep of this process has its folder."""


class RefusedError(BaseException):
    """No job may begin. No Exception, because Hydra makes warnings of those that its callbacks raise."""


class BeforeSweep(Callback):
    """Hydra calls this under -m, in the process that starts the sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the sweep's folder. Raises RefusedError for what no job could do."""
        try:
            for one in _trainers(config):
                refuse_processes(int(one.trainer.devices))
            if config.hydra.runtime.choices["hydra/launcher"] == "gpus":
                hand_out_gpus()
            logging.getLogger("hydra_plugins").setLevel(logging.CRITICAL)  # what failed is told at the end
            os.environ[SWEEP_FOLDER] = str(expand(str(config.hydra.sweep.dir)))
        except ConfigError as fault:
            raise RefusedError(str(fault)) from fault
        except (HydraException, OmegaConfBaseException, TypeError, ValueError):
            return  # an option or a value that is none: Hydra or the job names it


def refuse_processes(devices: int) -> None:
    """Raise ConfigError for a job of several processes."""
    if devices > 1:
        raise ConfigError(
            f"trainer.devices={devices} under -m: each process would run the whole sweep again; "
            "run the jobs one by one without -m, or take trainer.devices=1"
        )


def started_sweep() -> Path | None:
    """The folder of the sweep that this process started, if it did."""
    name = os.environ.get(SWEEP_FOLDER)
    return Path(name) if name else None


def _trainers(config: DictConfig) -> Iterator[DictConfig]:
    """The configurations that a sweep goes through, each swept key that cannot change the trainer left out."""
    loader = GlobalHydra.instance().config_loader()
    swept = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*swept, *config.hydra.overrides.task])
    (batch,) = BasicSweeper.split_arguments([one for one in parsed if _may_change_the_trainer(one)], None)
    for overrides in batch:
        yield loader.load_sweep_config(config, overrides)


def _may_change_the_trainer(override: Override) -> bool:
    """Whether a key is one of the trainer's, or chooses what may set any key, as a profile does."""
    group = re.split(r"[.@]", override.get_key_element().lstrip("+~"))[0]
    fixed = set(Settings.model_fields) - {"trainer", "profile"}
    return group not in fixed and (override.is_discrete_sweep() or not override.is_sweep_override())
