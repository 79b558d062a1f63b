"""What the presets of launchers compute: `${dnis.path:…}`, `${dnis.jobs:…}`, `${dnis.gpu_jobs:…}`."""

from __future__ import annotations

import os

from omegaconf import OmegaConf

from dnis_lightning.paths import expand
from dnis_lightning.sweep.gpus import shared_gpus


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("dnis.path", lambda path: str(expand(path)), replace=True)
    OmegaConf.register_new_resolver("dnis.jobs", jobs_on_cores, replace=True)
    OmegaConf.register_new_resolver("dnis.gpu_jobs", lambda asked: asked or len(shared_gpus()) or 1, replace=True)


def jobs_on_cores(asked: int | None, threads: int | None) -> int:
    """How many jobs at a time: as many as asked for, or as the cores of this machine take."""
    return asked or max(1, cores() // (threads or 1))


def cores() -> int:
    """The cores that this process may use."""
    try:
        from joblib import cpu_count  # it knows of containers' shares, too
    except ImportError:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(cpu_count())
