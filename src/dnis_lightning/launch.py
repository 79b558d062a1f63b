"""Starts a run in its folder: the lock, the log, the logger, and what a full disk says."""

from __future__ import annotations

import contextlib
import copy
import errno
from collections.abc import Iterator
from typing import Any

import pyarrow
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError

from dnis_lightning.blueprint import construct
from dnis_lightning.config import fingerprint
from dnis_lightning.data.mapping import save_mapping
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.errors import RunError
from dnis_lightning.folder import RunFolder, Said, find_folder, is_rank_zero, logging_to
from dnis_lightning.memory import keep_freed_memory, pass_over_what_is_loaded
from dnis_lightning.run import Run
from dnis_lightning.settings import Settings
from dnis_lightning.spread import has_trained
from dnis_lightning.training.wandb_panels import finish


def start(
    config: DictConfig,
    settings: Settings,
    folder: RunFolder,
    prepared: Prepared,
    *,
    prepare_seconds: float,
    command: str,
    sweep: str | None = None,
    said: Said | None = None,
) -> dict[str, Any]:
    """Run a job in its folder: config.yaml first, result.json last; sweep: the name of the sweep it is of.

    said: what was logged before there was a folder.

    Returns the result. Raises RunError when the disk is full or the logger cannot start.
    """
    keep_freed_memory()
    pass_over_what_is_loaded()
    if settings.trainer.threads is not None:
        torch.set_num_threads(settings.trainer.threads)
    with _full_disk_named(folder), folder.at_work(), logging_to(folder, said):
        if is_rank_zero():
            save_mapping(folder.path, prepared)
            folder.write_text("config.yaml", OmegaConf.to_yaml(config, resolve=True))
            folder.write_text("fingerprint", fingerprint(config, prepared.fingerprint) + "\n")
        pyarrow.default_memory_pool().release_unused()  # what reading, counting and naming features took
        logger = make_logger(config, settings, folder, sweep)
        trial_jobs = finished_trials(config, settings, folder, prepared.fingerprint)
        try:
            return Run(settings, prepared, folder, logger, prepare_seconds, command, trial_jobs).go()
        finally:
            finish(logger)


def finished_trials(config: DictConfig, settings: Settings, folder: RunFolder, data: str) -> dict[int, RunFolder]:
    """With resume=auto, the finished jobs of this same configuration that ran one of its trials alone, by its number.

    data: the fingerprint of the prepared data.
    """
    if settings.resume != "auto" or settings.search.trial is not None:
        return {}
    found: dict[int, RunFolder] = {}
    for number in range(construct(settings.search.method).trial_count or 0):
        alone = copy.deepcopy(config)
        alone.search.trial = number
        job = find_folder(folder.path.parents[1], folder.path.parent.name, fingerprint(alone, data))
        if job is not None and has_trained(job):
            found[number] = job
    return found


def make_logger(config: DictConfig, settings: Settings, folder: RunFolder, sweep: str | None = None) -> Any:
    """The logger of the group `logger`, or False: metrics.csv is written in any case. Jobs of a sweep share a group.

    Raises RunError when W&B refuses.
    """
    node = settings.logger.node
    if node is None or not is_rank_zero():
        return False
    from wandb.errors import Error as WandbError

    group = {"group": sweep} if sweep is not None and node.get("group", "") is None else {}
    known = {"save_dir": str(folder.path), "id": f"{folder.path.parent.name}-{folder.path.name}", "resume": "allow"}
    logger = instantiate(node, **known, **group)  # a run that goes on goes on there, too
    try:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
    except WandbError as fault:
        reason = str(fault).splitlines()[0].rstrip(".")
        raise RunError(f"logger=wandb: {reason}; logger.mode=offline writes to the run's folder alone") from fault
    return logger


_SIGNS_OF_A_FULL_DISK = ("inline_container", "iostream error", "No space left", "os error 28")
"""In what torch and safetensors say of files that they cannot write."""


@contextlib.contextmanager
def _full_disk_named(folder: RunFolder) -> Iterator[None]:
    """Turn what writers raise on a full disk into a RunError: each library has an exception of its own for it."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as fault:
        full = isinstance(fault, OSError) and fault.errno in {errno.ENOSPC, errno.EDQUOT}
        if not full and not any(sign in str(fault) for sign in _SIGNS_OF_A_FULL_DISK):
            raise
        raise RunError(
            f"{folder.path}: the disk is full; make room there, and the same command with resume=auto goes on"
        ) from fault
