"""What the measurements have in common: jobs that go on where they stopped, what they leave, and cells of tables."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RATINGS = (
    "data=table",
    "data.columns=[user,item,rating,time]",
    "data.label=rating",
    "data.task=rating",
    "data.fields=[user,item]",
)
"""A file of ratings without a header, read as a table of one's own."""
TWEETS = (
    *RATINGS,
    "data.name=movietweetings",
    "data.path=${data.root}/movietweetings/ratings.dat",
    "data.separator='::'",
)

TUNED_TWEETS = (*TWEETS, "data.batch_size=1024", "data.default_l2_bias=0.4", "data.default_l2_per_std=false")
"""With biases whose L2 was chosen at K = 64, as that of rows was: 3."""


@dataclass(frozen=True)
class Row:
    """A line of a table: its label, and the arguments of its runs beside data, model and seeds."""

    label: str
    arguments: tuple[str, ...]


def sweep(arguments: Sequence[str]) -> int:
    """Run what is missing of a sweep, each job on one core; 1 where a job failed, else 0."""
    return launch("dnis_lightning", "-m", *arguments)


def launch(module: str, *arguments: str) -> int:
    """Run a module on one core, going on where it was cut short; its exit code."""
    words = ["-m", module, *arguments, "resume=auto", "trainer.threads=1"]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    return subprocess.run([sys.executable, *words], env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode


def slug(label: str) -> str:
    """A label as the name of a folder, of letters that an override of Hydra may have without quotes."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in label).strip("-")


def refuse_absent(outputs: Path, parser: ArgumentParser) -> None:
    """End with a usage error where there are no runs of which --table could be printed."""
    if not outputs.is_dir():
        parser.error(f"--table: there is no {outputs} with finished runs here; leave --table out to make them")


def finished(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The configuration and the result of each finished run in an output_dir; what cannot be read is told of."""
    for run, result in results_in(folder):
        try:
            config = yaml.safe_load((run / "config.yaml").read_text())
            if not isinstance(config, dict) or "search" not in config:
                raise ValueError("it is not whole")
        except (OSError, ValueError, yaml.YAMLError) as fault:
            print(f"passed over: {run / 'config.yaml'}: {fault}", file=sys.stderr)
            continue
        yield config, result


def results_in(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and the result of each finished run in an output_dir; what cannot be read is told of."""
    for path in sorted(folder.glob("*/*/result.json")):
        try:
            result = json.loads(path.read_text())
            if not isinstance(result, dict):
                raise ValueError("it is no result of a run")
        except (OSError, ValueError) as fault:
            print(f"passed over: {path}: {fault}", file=sys.stderr)
            continue
        yield path.parent, result


def cell(values: Sequence[float | None], digits: int = 4) -> str:
    """Mean ± standard deviation over the seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"
