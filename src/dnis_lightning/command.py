"""The main command: from Hydra's configuration to a run in its folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from dnis_lightning.config import check_config, configuration_of, fingerprint, idle_keys, unread_keys
from dnis_lightning.errors import ConfigError, RunError, Terminated, UserError, raise_interrupted, raise_terminated
from dnis_lightning.folder import SHARED_FOLDER, RunFolder, find_folder, is_rank_zero, logging_early, new_folder
from dnis_lightning.paths import config_dir, expand
from dnis_lightning.reword import message_of, reword, sentence_for
from dnis_lightning.settings import Settings
from dnis_lightning.sweep.apart import run_apart
from dnis_lightning.sweep.before import SWEEP_FOLDER, RefusedError, refuse_processes, started_sweep
from dnis_lightning.sweep.outcome import Outcome, best_of_study, faults, job_folder, tidy
from dnis_lightning.sweep.resolvers import register

register()


def execute() -> int:
    """Run what the command line says; the exit code. A user's mistake is one sentence on standard error."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra raises, and the rewording is ours
    os.environ.pop(SWEEP_FOLDER, None)
    signal.signal(signal.SIGTERM, raise_terminated)
    signal.signal(signal.SIGINT, raise_interrupted)
    try:
        return _execute(Task(shlex.join(["python", "-m", "dnis_lightning", *sys.argv[1:]])))
    finally:
        if (sweep := started_sweep()) is not None:
            tidy(sweep)


def _execute(task: Task) -> int:
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(task)()
    except (HydraException, OmegaConfBaseException) as fault:
        return _fail("\n".join([*_told(task), reword(message_of(fault))]))
    except RefusedError as fault:
        return _fail(str(fault))
    except Terminated:
        return _fail(f"terminated; {_GO_ON}", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {_GO_ON}", 128 + signal.SIGINT)
    except Exception as fault:
        if started_sweep() is not None:  # jobs keep theirs: it is the launcher's, or the sweeper's
            return _fail("\n".join([*_told(task), _end_of_sweep(fault)]))
        if task.called or not isinstance(fault, ValueError):
            raise
        return _fail(reword(str(fault)))  # what Hydra raises for group=null
    if (sweep := started_sweep()) is not None and (best := best_of_study(sweep)):
        print(best, file=sys.stderr)
    told = _told(task)
    return _fail("\n".join(told)) if told else 0


_MAY_MOVE = ("data.cache=", "trainer.threads=", "trainer.progress=")
_GO_ON = "the same command with resume=auto goes on from the last checkpoint"


class Task:
    """What Hydra calls for each job, in this process or, under a launcher, in others.

    A user's mistake is kept from Hydra, which would print a preface and show a sweep's first only. So is, in a sweep,
    any other failure, or Hydra would end it. command: what the user wrote, for the record.
    """

    __name__ = "dnis_lightning"  # Hydra names the job after its function

    def __init__(self, command: str) -> None:
        self.command, self.called = command, False
        self.faults: list[str] = []

    def __call__(self, config: DictConfig) -> float | None:
        """The number that a sweep minimises, or None where there is none."""
        self.called = True
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return self._of_a_sweep(config)
        try:
            return job(config, self.command)
        except UserError as fault:
            self.faults.append(str(fault))
            return None

    def in_sweep(self, config: DictConfig) -> None:
        """Do a job of a sweep and leave word of its outcome in the job's folder, whatever comes."""
        try:
            _leave_word(number=job(config, self.command))
        except UserError as fault:
            _leave_word(fault=str(fault))
        except (Exception, SystemExit) as fault:
            _leave_word(fault=_unexpected(fault))

    def _of_a_sweep(self, config: DictConfig) -> float | None:
        hydra_config = HydraConfig.get()
        folder = job_folder(hydra_config)
        folder.mkdir(parents=True, exist_ok=True)
        if hydra_config.launcher["_target_"].endswith(".BasicLauncher"):
            self.in_sweep(config)
        elif (death := run_apart(self.in_sweep, config)) is not None:
            _leave_word(fault=death)
        outcome = Outcome.read(folder)
        return None if outcome is None else outcome.number


def _leave_word(number: float | None = None, fault: str | None = None) -> None:
    hydra_config = HydraConfig.get()
    Outcome(number, fault, tuple(hydra_config.overrides.task)).write(job_folder(hydra_config))


def job(config: DictConfig, command: str) -> float | None:
    """One job: check everything, then prepare the data, then run. Returns what a sweep minimises, if it is of one."""
    hydra_config = HydraConfig.get()
    many = hydra_config.mode == RunMode.MULTIRUN
    overrides = list(hydra_config.overrides.task)
    if os.environ.get("LOCAL_RANK", "0") != "0" and SHARED_FOLDER not in os.environ:
        raise ConfigError("LOCAL_RANK is set, as by torchrun: start one process, with trainer=ddp it starts the others")
    if config.resume not in (None, "auto"):
        config = _to_resume(expand(str(config.resume)), str(config.resume), overrides)
        overrides = []
    if many:  # a sweep over options may set keys that only some of them read
        for sentence in (*unread_keys(config, overrides), *idle_keys(config, overrides)):
            print(f"warning: {sentence}", file=sys.stderr)
    try:
        settings = check_config(config, () if many else overrides)
    except ConfigError as fault:
        raise ConfigError(f"{fault}{_of_another_version(config.resume)}") from fault
    if many:
        refuse_processes(settings.trainer.devices)
    sweep = Path(hydra_config.sweep.dir).name if many else None
    folder = _run(config, settings, int(hydra_config.job.num) if many else 0, command, sweep)
    if is_rank_zero():
        print(folder.path)
    return _to_minimise(folder, settings) if many else None


def _run(config: DictConfig, settings: Settings, number: int, command: str, sweep: str | None) -> RunFolder:
    """Check what torch and the data have to say, then run in a new folder or in the one to go on in."""
    from dnis_lightning import build, checks  # torch and Lightning load only once the configuration is known to be good
    from dnis_lightning.launch import start

    began = time.perf_counter()
    with logging_early() as said:
        checks.check_machine(settings)
        checks.check_method(settings)
        prepared = build.prepare_data(settings)
        checks.check_fit(settings, prepared)
    folder = _unfinished(settings, fingerprint(config, prepared.fingerprint))
    if folder is not None and folder.finished():
        if is_rank_zero():
            print(f"already finished: {folder.path}", file=sys.stderr)
        return folder
    is_new = folder is None
    if folder is None:
        trial = settings.search.trial
        suffix = f"s{settings.seed}" + ("" if trial is None else f"-t{trial}")
        folder = new_folder(expand(settings.output_dir), _kind(settings), number, suffix)
        os.environ[SHARED_FOLDER] = str(folder.path)
    seconds = time.perf_counter() - began
    try:
        start(config, settings, folder, prepared, prepare_seconds=seconds, command=command, sweep=sweep, said=said)
    except UserError:
        if is_new and not folder.checkpoint.exists() and is_rank_zero():  # nothing to go on with
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    except Exception as fault:
        fault.add_note(_keep_traceback(folder.path))
        raise
    return folder


def _to_minimise(folder: RunFolder, settings: Settings) -> float:
    from dnis_lightning.result import select_metric

    return select_metric(json.loads((folder.path / "result.json").read_text()), settings.sweep.minimise)


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


def _to_resume(folder: Path, given: str, overrides: list[str]) -> DictConfig:
    """The configuration that a run was started with.

    Raises RunError when the folder holds none, ConfigError when the command line asks for something else besides.
    """
    config = configuration_of(folder, f"resume={given}")
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


def _of_another_version(resume: str | None) -> str:
    """What else is to be said where a configuration cannot be run, if it is that of a run to go on with."""
    if resume in (None, "auto"):
        return ""
    return (
        f"\nresume={resume}: that is what its config.yaml says; if another version of dnis-lightning wrote it, go on "
        "with that version, or start again without resume="
    )


def _kind(settings: Settings) -> str:
    return f"{settings.data.name}-{settings.model.name}-{settings.search.name}"


def _unexpected(fault: BaseException) -> str:
    """A failure that is no user's mistake, in a sentence that says where its traceback is."""
    notes = getattr(fault, "__notes__", None) or [_keep_traceback(job_folder(HydraConfig.get()))]
    return "; ".join([_kind_and_text(fault), *notes])


def _end_of_sweep(fault: Exception) -> str:
    """What a launcher or a sweeper that gave up has to say."""
    if "No trials are completed yet" in str(fault):  # Optuna has no error of its own for it
        return "no trial of the study has finished"
    if isinstance(fault, ValueError) and (told := sentence_for(str(fault))):
        return told  # what Hydra raises for group=null
    if isinstance(fault, FileNotFoundError) and os.sep not in str(fault.filename or os.sep):
        missing = f"{fault.filename}: there is no such program here"
        return f"{missing}, so the sweep has stopped; choose another hydra/launcher="
    if isinstance(fault, OSError) and fault.strerror:
        where = fault.filename or started_sweep()
        return (
            f"{where}: cannot be written ({fault.strerror}), so the sweep has stopped; make room there, or choose "
            f"another output_dir=; {_GO_ON}"
        )
    return f"the sweep has stopped: {_kind_and_text(fault)}; {_GO_ON}"


def _keep_traceback(folder: Path) -> str:
    """Write the traceback of the exception at hand into a folder; a sentence that says where."""
    path = folder / "traceback.txt"
    try:
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as fault:
        return f"its traceback cannot be written to {path} ({fault.strerror})"
    return f"its traceback is in {path}"


def _kind_and_text(fault: BaseException) -> str:
    return ": ".join(filter(None, [type(fault).__name__, " ".join(str(fault).split())]))


def _told(task: Task) -> list[str]:
    """All faults of the run, or of the sweep's jobs."""
    sweep = started_sweep()
    return task.faults if sweep is None else faults(sweep)


def _fail(message: str, code: int = 1) -> int:
    if is_rank_zero() or SHARED_FOLDER not in os.environ:  # else rank zero says it
        print(message, file=sys.stderr)
    return code
