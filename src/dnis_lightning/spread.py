"""Trials that jobs of their own, by search.trial, have finished already."""

from __future__ import annotations

import shutil

from dnis_lightning.folder import RunFolder
from dnis_lightning.paths import whole_file
from dnis_lightning.training.journal import Journal


def has_trained(job: RunFolder) -> bool:
    """Whether a finished job still has what can be taken over: its journal and the weights of its trial."""
    return job.finished() and job.checkpoint.is_file() and job.best.is_file()


def take_over(job: RunFolder, trial: str, journal: Journal) -> None:
    """Note a trial's steps, curves and time in a run's journal, as if the run had trained it itself."""
    other = Journal.open(job.checkpoint)
    for step, facts in other.done.items():
        if step == f"trial/{trial}" or step.startswith(f"{trial}/"):
            journal.done[step] = facts
    for step, file in other.kept.items():
        if step.startswith(f"{trial}/"):
            journal.kept[step] = journal.save(other.load(file))
    journal.before += other.done[f"trial/{trial}"]["seconds"]
    history, more = journal.history, other.history
    before = list(history.get("rows", []))
    # the job's cuts, which come after its trial, are made anew
    rows = [row for row in more.get("rows", []) if row["phase"].startswith(f"{trial}/")]
    journal.history = {
        "rows": before + [row | {"epoch": len(before) + row["epoch"]} for row in rows],
        "gates": [*history.get("gates", []), *more.get("gates", [])],
        "gate_epochs": [*history.get("gate_epochs", []), *(len(before) + e for e in more.get("gate_epochs", []))],
    }


def copy_best(job: RunFolder, run: RunFolder) -> None:
    """Make the job's weights the best ones of the run."""
    with whole_file(run.best) as part:
        shutil.copyfile(job.best, part)
