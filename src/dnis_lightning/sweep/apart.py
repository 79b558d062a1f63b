"""A process for each job of a sweep, so that one which dies takes no other with it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf

from dnis_lightning.errors import Terminated, raise_terminated
from dnis_lightning.sweep.gpus import own_gpu
from dnis_lightning.sweep.outcome import job_folder

Job = Callable[[DictConfig], None]

_PLACES: dict[Path, int] = {}  # which GPU this process holds: it lives as long as the process, like the lock


def run_apart(job: Job, config: DictConfig) -> str | None:
    """Do a job in a process of its own, wait for it, and tell how the process died if it did.

    Under a launcher that runs jobs side by side, a death in the launcher's own processes would end the whole sweep.
    """
    hydra = HydraConfig.get()
    alone = {"SLURM_JOB_NAME": "interactive"}  # keeps Lightning from what it does in Slurm for many processes a job
    process = subprocess.Popen(
        [sys.executable, "-m", "dnis_lightning.sweep.apart"],
        stdin=subprocess.PIPE,
        cwd=hydra.runtime.cwd,
        env=os.environ | alone | own_gpu(job_folder(hydra).parent, int(hydra.job.num), _PLACES),
    )
    try:
        _send(process, pickle.dumps((job, config, _plain_hydra())))
        return _death(_wait(process))
    finally:
        _end(process)


def _plain_hydra() -> Any:
    """Hydra's own configuration without the classes of its plugins, which pickle does not find by their names."""
    return OmegaConf.to_container(HydraConfig.instance().cfg, resolve=True)


def _send(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(message)
        process.stdin.flush()  # it stays open: its end is how the process learns of ours
    except BrokenPipeError:
        return


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code; the process is ended when the one that started this one has died, as joblib's workers live on."""
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            continue
    _end(process)
    os._exit(1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the process end, if it has not; not longer than it takes to write a file."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _death(code: int) -> str | None:
    if code >= 0:
        return f"its process ended with exit code {code}" if code else None
    hint = "; was there enough memory?" if code == -signal.SIGKILL else ""
    return f"its process was killed by {signal.Signals(-code).name}{hint}"


def main() -> int:
    """Read a job from standard input and do it; its end there, when the launcher's process is gone, ends the job."""
    signal.signal(signal.SIGTERM, raise_terminated)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # Slurm's warnings: the launcher's process heeds them
        signal.signal(number, signal.SIG_IGN)
    try:
        job, config, hydra = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_standard_input, daemon=True).start()
        setup_globals()
        HydraConfig.instance().cfg = OmegaConf.create(hydra)
        job(config)
    except (Terminated, KeyboardInterrupt, EOFError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return 128 + signal.SIGTERM
    return 0


def _end_with_standard_input() -> None:
    while os.read(0, 1):  # past sys.stdin, whose lock would be held when the process ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
