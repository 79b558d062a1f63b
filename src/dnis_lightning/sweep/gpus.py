"""Which GPU the jobs of a process are on, where jobs run side by side."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dnis_lightning.errors import ConfigError

SWEEP_GPUS = "DNIS_SWEEP_GPUS"
"""Environment variable by which the process that starts a sweep tells its workers which GPUs they share."""


def hand_out_gpus() -> None:
    """Let the jobs of this sweep share the GPUs that this process sees. Raises ConfigError when there is none."""
    import torch  # asked for its GPUs, torch does not start CUDA

    there = torch.cuda.device_count()
    if there == 0:
        raise ConfigError("hydra/launcher=gpus: torch sees no CUDA GPU; take hydra/launcher=local trainer=cpu")
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ[SWEEP_GPUS] = ",".join((named or [str(number) for number in range(there)])[:there])


def shared_gpus() -> list[str]:
    """The GPUs that the jobs of a sweep share, as CUDA_VISIBLE_DEVICES names them; empty where none were handed out."""
    return [name for name in os.environ.get(SWEEP_GPUS, "").split(",") if name]


def own_gpu(sweep: Path, job: int, held: dict[Path, int]) -> dict[str, str]:
    """The environment that shows a job one GPU alone: always the same one for all jobs of a process.

    Jobs take unequal time: by their number alone, two could share a GPU while another idles. So each process that runs
    jobs holds a lock in the sweep's folder while it lives. held: by sweep, the place that this process has.
    """
    gpus = shared_gpus()
    if not gpus:
        return {}
    if sweep not in held:
        held[sweep] = _free_place(sweep, job)
    return {"CUDA_VISIBLE_DEVICES": gpus[held[sweep] % len(gpus)]}


def _free_place(sweep: Path, job: int) -> int:
    """The first place that no other process holds; the job's number where the disk knows no locks."""
    for place in range(_MOST_PLACES):
        handle = os.open(sweep / f"gpu-{place}", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return place  # the handle stays open, and with it the lock, until this process ends
        except BlockingIOError:
            os.close(handle)
        except OSError:
            os.close(handle)
            break
    return job


_MOST_PLACES = 256
