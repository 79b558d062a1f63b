"""The main command: from Hydra's configuration to a run in its folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dnis_lightning.config import check_config, fingerprint, unread_keys
from dnis_lightning.errors import ConfigError, RunError, UserError
from dnis_lightning.folder import SHARED_FOLDER, RunFolder, find_folder, is_rank_zero, new_folder
from dnis_lightning.paths import config_dir, expand
from dnis_lightning.settings import Settings


def execute() -> int:
    """Run what the command line says; the exit code. A user's mistake is one sentence on standard error."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra raises, and the rewording is ours
    signal.signal(signal.SIGTERM, _terminate)
    with tempfile.NamedTemporaryFile("r", prefix="dnis-faults-") as told:
        task = Task(told.name)
        try:
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(task)()
        except (HydraException, OmegaConfBaseException) as fault:
            return _fail(told.read() + reword(_message(fault)))
        except ValueError as fault:  # what Hydra raises for group=null
            if task.called:
                raise
            return _fail(reword(str(fault)))
        except Terminated:
            return _fail(f"terminated; {_GO_ON}", 128 + signal.SIGTERM)
        except KeyboardInterrupt:
            return _fail(f"interrupted; {_GO_ON}", 128 + signal.SIGINT)
        faults = told.read()
    return _fail(faults.rstrip()) if faults else 0


_MAY_MOVE = ("data.cache=", "trainer.threads=", "trainer.progress=")
_GO_ON = "the same command with resume=auto goes on from the last checkpoint"


class Terminated(BaseException):
    """SIGTERM, as a scheduler sends it. No Exception, so that nobody takes it for a failure of a job."""


def _terminate(number: int, frame: object) -> None:
    raise Terminated


class Task:
    """What Hydra calls for each job, in this process or, under a launcher, in others.

    A user's mistake is kept from Hydra, which would print a preface and show a sweep's first only: it is appended to
    the file `faults`, which the jobs of a sweep share.
    """

    __name__ = "dnis_lightning"  # Hydra names the job after its function

    def __init__(self, faults: str) -> None:
        self.faults, self.called = faults, False

    def __call__(self, config: DictConfig) -> str | None:
        """The run's folder, or None where there is none."""
        self.called = True
        try:
            return job(config)
        except UserError as fault:
            with open(self.faults, "a", encoding="utf-8") as told:
                told.write(_of_which_job(str(fault)) + "\n")
            return None


def job(config: DictConfig) -> str:
    """One job: check everything, then prepare the data, then run. Returns the run's folder."""
    hydra_config = HydraConfig.get()
    many = hydra_config.mode == RunMode.MULTIRUN
    overrides = list(hydra_config.overrides.task)
    if os.environ.get("LOCAL_RANK", "0") != "0" and SHARED_FOLDER not in os.environ:
        raise ConfigError("LOCAL_RANK is set, as by torchrun: start one process, with trainer=ddp it starts the others")
    if config.resume not in (None, "auto"):
        config = _configuration_of(expand(str(config.resume)), str(config.resume), overrides)
        overrides = []
    if many:  # a sweep over options may set keys that only some of them read
        for sentence in unread_keys(config, overrides):
            print(f"warning: {sentence}", file=sys.stderr)
    settings = check_config(config, () if many else overrides)
    if many and settings.trainer.devices > 1:
        raise ConfigError(
            f"trainer.devices={settings.trainer.devices} under -m: each process would run the whole sweep again; "
            "run the jobs one by one without -m, or take trainer.devices=1"
        )
    sweep = Path(hydra_config.sweep.dir).name if many else None
    return _run(config, settings, int(hydra_config.job.num) if many else 0, sweep)


def reword(message: str) -> str:
    """Hydra's explanation of a wrong option or key, in one sentence."""
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    if match := re.search(
        r"Could not (?:find|load) '([^']+)/([^'/]+)'.*?Available options in '[^']+': (.*?)(?: Config search path|$)",
        text,
    ):
        group, option, options = match.groups()
        known = [name for name in options.split() if not name.startswith("_")]
        return f"{group}={option}: there is no such option; choose one of {', '.join(known)}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"{match[1]}: there is no such key; --cfg job shows those there are"
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"{match[1]}: the key is there already; write it without +"
    return text


def _run(config: DictConfig, settings: Settings, number: int, sweep: str | None) -> str:
    """Check what torch and the data have to say, then run in a new folder or in the one to go on in."""
    from dnis_lightning import build  # torch and Lightning load only once the configuration is known to be good
    from dnis_lightning.launch import start

    began = time.perf_counter()
    build.check_machine(settings)
    build.check_method(settings)
    prepared = build.prepare_data(settings)
    build.check_fit(settings, prepared)
    folder = _unfinished(settings, fingerprint(config, prepared.dataset.fingerprint))
    if folder is not None and folder.finished():
        if is_rank_zero():
            print(f"already finished: {folder.path}", file=sys.stderr)
            print(folder.path)
        return str(folder.path)
    is_new = folder is None
    if folder is None:
        trial = settings.search.trial
        suffix = f"s{settings.seed}" + ("" if trial is None else f"-t{trial}")
        folder = new_folder(expand(settings.output_dir), _kind(settings), number, suffix)
        os.environ[SHARED_FOLDER] = str(folder.path)
    seconds = time.perf_counter() - began
    command = shlex.join(["python", "-m", "dnis_lightning", *sys.argv[1:]])
    try:
        start(config, settings, folder, prepared, prepare_seconds=seconds, command=command, sweep=sweep)
    except UserError:
        if is_new and not folder.checkpoint.exists() and is_rank_zero():  # nothing to go on with
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    if is_rank_zero():
        print(folder.path)
    return str(folder.path)


def _unfinished(settings: Settings, mark: str) -> RunFolder | None:
    """The folder to go on in: that of rank zero, the one named, or the one found by its fingerprint `mark`.

    Raises RunError when the one named has another.
    """
    if not is_rank_zero():
        return RunFolder(Path(os.environ[SHARED_FOLDER]))
    if settings.resume is None:
        return None
    if settings.resume == "auto":
        folder = find_folder(expand(settings.output_dir), _kind(settings), mark)
    else:
        folder = RunFolder(expand(settings.resume))
        if folder.fingerprint() != mark:
            raise RunError(
                f"resume={settings.resume}: its configuration or its data changed since; start again without resume="
            )
    if folder is not None:
        os.environ[SHARED_FOLDER] = str(folder.path)
    return folder


def _configuration_of(folder: Path, given: str, overrides: list[str]) -> DictConfig:
    """The configuration that a run was started with.

    Raises RunError when the folder holds none, ConfigError when the command line asks for something else besides.
    """
    try:
        config = OmegaConf.load(folder / "config.yaml")
    except (OSError, ValueError, OmegaConfBaseException) as fault:
        raise RunError(f"resume={given}: no config.yaml that can be read there; name the folder of a run") from fault
    if not isinstance(config, DictConfig):
        raise RunError(f"resume={given}: its config.yaml is not one of ours; name the folder of a run")
    others = [override for override in overrides if not override.startswith(("resume=", *_MAY_MOVE))]
    if others:
        raise ConfigError(
            f"resume={given}: a run goes on with its own configuration, only {' and '.join(_MAY_MOVE)} may change; "
            f"drop {' '.join(others)}"
        )
    with open_dict(config):
        config.resume = given
        config.merge_with_dotlist([override for override in overrides if override.startswith(_MAY_MOVE)])
    return config


def _kind(settings: Settings) -> str:
    return f"{settings.data.name}-{settings.model.name}-{settings.search.name}"


def _of_which_job(message: str) -> str:
    """The message, under -m with the job it is of."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return message
    return f"job {hydra_config.job.num} ({hydra_config.job.override_dirname.replace(',', ' ')}): {message}"


def _message(fault: BaseException) -> str:
    """What an error says, or where it says nothing, what its cause says."""
    cause = fault.__cause__ or fault.__context__
    return str(fault) or (_message(cause) if cause else type(fault).__name__)


def _fail(message: str, code: int = 1) -> int:
    if is_rank_zero() or SHARED_FOLDER not in os.environ:  # else rank zero says it
        print(message, file=sys.stderr)
    return code
