"""Seconds per step of training and of search, against a plain loop in the same run: `make bench`.

    python -m benchmarks.speed                      # everything; some 30 minutes
    python -m benchmarks.speed --only fm-lazy       # the cases whose names have this in them, and their reference
    python -m benchmarks.speed --rounds 1 --small   # a look, on small data

The reference is what public recommender libraries do: `nn.Embedding` with a dense gradient and the default Adam over
the same batches. All else are epochs through the trainer, as a run has them; timed are the steps after the first few,
from the end of one to the end of the last, so that whatever happens in between counts, and validation does not. Every
measurement is a process of its own, whose peak memory is its own; cases take turns, and the median of rounds counts.
Prints a table, and writes outputs/bench/bench.json and bench.png.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnis_lightning.data.prepare import Prepared
    from dnis_lightning.recommender import Recommender

DIMS, BATCH, BLOCKS = 64, 4096, 10
WARM = 5
"""Steps that are not timed."""
OUTPUT = Path("outputs/bench")


@dataclass(frozen=True)
class Case:
    """What is measured: a model on data, and how it is trained; steps: so many of them.

    features: rows of the table, more than the data have; None = as many.
    """

    data: str
    model: str
    mode: str
    steps: int
    dims: int = DIMS
    batch: int = BATCH
    features: int | None = None

    @property
    def name(self) -> str:
        """Such as criteo-fm-lazy."""
        sizes = f"-k{self.dims}" * (self.dims != DIMS) + f"-b{self.batch}" * (self.batch != BATCH)
        sizes += f"-n{self.features}" if self.features else ""
        return f"{self.data}-{self.model}-{self.mode}{sizes}"

    @property
    def reference(self) -> str:
        """The name of the case that it is held against."""
        return replace(self, mode="reference").name


MODES = {"reference": 16, "adam": 30, "lazy": 100, "catchup": 100, "search1": 60, "search2": 40}
CASES = [
    Case(data, model, mode, steps * (1 if data == "criteo" else 4))
    for data, model in (("criteo", "fm"), ("criteo", "deepfm"), ("movielens", "mf"))
    for mode, steps in MODES.items()
]
CASES += [
    Case("criteo", "deepfm", "bf16", 60),
    Case("criteo", "deepfm", "compiled", 60),
    *(Case("criteo", "fm", mode, 200) for mode in ("loader", "distinct", "nothing")),
    *(Case("movielens", "mf", mode, 400) for mode in ("loader", "distinct", "nothing")),
]
ALONE = {"loader", "distinct", "nothing"}
"""Modes that have no reference: batches; batches with their distinct features; training whose steps do nothing."""
CASES += [Case("criteo", "fm", mode, 24, dims=dims) for dims in (16, 128) for mode in ("reference", "lazy")]
CASES += [Case("criteo", "fm", mode, 24, batch=batch) for batch in (1024, 16384) for mode in ("reference", "lazy")]
CASES += [
    Case("movielens", "mf", mode, 24, dims=16, features=features)
    for features in (10**6, 10**7)
    for mode in ("reference", "lazy")
]


def main() -> None:
    """Measure and report; with --one, measure that case alone, here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="data of a tenth of the size, and few steps")
    parser.add_argument("--at", type=Path, help="folder for the made-up data (default: a temporary one)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases = [replace(case, steps=max(case.steps // 10, WARM + 2)) if given.small else case for case in CASES]
    if given.one:
        print(json.dumps(_measure(next(c for c in cases if c.name == given.one), given.at, given.small)))
        return
    wanted = [case for case in cases if given.only in case.name]
    if not wanted:
        sys.exit(f"--only {given.only}: there is no such case, only {', '.join(case.name for case in cases)}")
    references = {case.reference for case in wanted if case.mode not in ALONE}
    wanted = [case for case in cases if case in wanted or case.name in references]
    with tempfile.TemporaryDirectory() as folder:
        at = given.at or Path(folder)
        for data in dict.fromkeys(case.data for case in wanted):
            _prepared(data, at, given.small)
        lines = list(_lines(wanted, given.rounds, at, given.small))
    _report(lines)


def _lines(cases: list[Case], rounds: int, at: Path, small: bool) -> Iterator[dict[str, Any]]:
    found: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            print(f"round {number + 1}: {case.name}", file=sys.stderr, flush=True)
            found[case.name].append(_apart(case, at, small))
    medians = {
        name: {key: statistics.median(one[key] for one in taken) for key in taken[0]} for name, taken in found.items()
    }
    for case in cases:
        told = medians[case.name]
        seconds = told["seconds_per_step"]
        reference = None if case.mode in ALONE else medians.get(case.reference)
        yield {
            "name": case.name,
            "data": case.data,
            "model": case.model,
            "mode": case.mode,
            "device": "cpu",
            "batch": case.batch,
            "dims": case.dims,
            "precision": _options(case)["precision"],
            "samples_per_second": case.batch / seconds,
            "ratio_to_reference": None if reference is None else reference["seconds_per_step"] / seconds,
            **told,
        }


def _apart(case: Case, at: Path, small: bool) -> dict[str, float]:
    """Measure a case in a process of its own."""
    flags = ["--small"] * small
    command = [sys.executable, "-m", "benchmarks.speed", "--one", case.name, "--at", str(at), *flags]
    environment = dict(os.environ)
    if case.mode != "reference":  # which public libraries do not set
        environment["THP_MEM_ALLOC_ENABLE"] = "1"
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(case: Case, at: Path, small: bool) -> dict[str, float]:
    import torch

    from dnis_lightning.memory import keep_freed_memory

    if case.mode != "reference":  # as a run does
        keep_freed_memory()
    prepared = _prepared(case.data, at, small)
    measure = {"reference": _reference, "loader": _load, "distinct": _load}.get(case.mode, _fit)
    seconds, cpu = measure(case, prepared)
    return {
        "seconds_per_step": seconds,
        "cpu_seconds": cpu,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "features": case.features or prepared.vocabulary.features,
        "threads": torch.get_num_threads(),
    }


class _Clock:
    """Wall and CPU seconds a step, of all steps but the first few."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        """A step has ended."""
        self._ends.append((time.perf_counter(), time.process_time()))

    def per_step(self) -> tuple[float, float]:
        """Seconds, CPU seconds."""
        first, last = self._ends[WARM - 1], self._ends[-1]
        steps = len(self._ends) - WARM
        return (last[0] - first[0]) / steps, (last[1] - first[1]) / steps


def _prepared(data: str, at: Path, small: bool) -> Prepared:
    """Made-up data, prepared in a folder once."""
    from benchmarks.criteo_log import generate
    from dnis_lightning.data.criteo import Criteo
    from dnis_lightning.data.prepare import prepare
    from dnis_lightning.data.synthetic import Synthetic
    from dnis_lightning.paths import whole_file

    part = 10 if small else 1
    if data == "criteo":
        text = at / f"criteo-{part}.txt"
        if not text.exists():
            with whole_file(text) as file:
                generate(file, 2_000_000 // part, 0)
        return prepare(Criteo(path=str(text)), cache=at / "cache")
    source = Synthetic(rows=2_000_000 // part, field_count=2, features_per_field=83_000 // part, zipf=0.9)
    return prepare(source, cache=at / "cache")


def _fit(case: Case, prepared: Prepared) -> tuple[float, float]:
    import lightning as L
    import torch

    from dnis_lightning.search.trial import GateStep, Phase, Stopping
    from dnis_lightning.tasks import Objective, Rating
    from dnis_lightning.training.fit_module import FitModule, WeightStep
    from dnis_lightning.training.journal import Journal
    from dnis_lightning.training.lazy_adam import LazyAdam
    from dnis_lightning.training.phases import PhaseRunner, TrainerOptions

    clock = _Clock()

    class Ticking(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            clock.tick()

    dense = partial(torch.optim.Adam, lr=1e-3, fused=True)
    lazy = partial(LazyAdam, lr=1e-3, catch_up=case.mode == "catchup")
    step = WeightStep(dense if case.mode == "adam" else lazy, by_row=case.mode != "adam")
    gates = GateStep(xi=0.001 if case.mode == "search2" else 0.0) if case.mode.startswith("search") else None
    if case.mode == "nothing":
        FitModule.training_step = lambda self, batch, batch_idx: None  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        runner = PhaseRunner(
            _cut(prepared, case),
            Objective(Rating()),
            step,
            TrainerOptions(checkpoint_every_n_steps=10**9, **_options(case)),
            Journal(Path(folder) / "last.ckpt"),
            batch_size=case.batch,
            seed=0,
            on_row=lambda rows: None,
            callbacks=lambda: [Ticking()],
        )
        phase = Phase("fit", "train", Stopping(1, 1), gates)
        runner.fit("fit", phase, _model(case, prepared, gated=gates is not None), keep_weights=False)
    return clock.per_step()


def _options(case: Case) -> dict[str, Any]:
    low = case.mode in ("bf16", "compiled")
    return {"precision": "bf16-mixed" if low else "32-true", "compile": case.mode == "compiled"}


def _cut(prepared: Prepared, case: Case) -> Prepared:
    """The same data with as many rows as the steps need."""
    rows = case.steps * case.batch
    parts = {name: replace(part, rows=min(part.rows, rows)) for name, part in prepared.parts.items()}
    for name in ("select", "test"):
        parts[name] = replace(parts[name], rows=min(parts[name].rows, case.batch))
    return replace(prepared, parts=parts)


def _model(case: Case, prepared: Prepared, *, gated: bool) -> Recommender:
    from dnis_lightning.blocks import make_blocks
    from dnis_lightning.data.arrays import forget
    from dnis_lightning.embedding.selection import SoftSelection
    from dnis_lightning.interaction.deepfm import DeepFM
    from dnis_lightning.interaction.fm import FM
    from dnis_lightning.interaction.mf import MF
    from dnis_lightning.recommender import FeatureSpace, Recommender

    vocabulary = prepared.vocabulary
    fields = len(vocabulary.fields)
    kinds: dict[str, Any] = {"fm": FM, "mf": partial(MF, fields), "deepfm": partial(DeepFM, fields, case.dims)}
    interaction = kinds[case.model]()
    offsets = [*vocabulary.offsets.tolist()[:-1], case.features or vocabulary.features]
    model = Recommender(FeatureSpace(tuple(offsets)), interaction, dims=case.dims)
    if gated:
        blocks = make_blocks(vocabulary.frequency, vocabulary.field_of, blocks=BLOCKS)
        forget(vocabulary.frequency)
        model.selection = SoftSelection(blocks.block_of, blocks.count, case.dims)
    return model


def _reference(case: Case, prepared: Prepared) -> tuple[float, float]:
    """The model with dense gradients and the default Adam."""
    import torch
    from torch import nn

    features, fields = case.features or prepared.vocabulary.features, len(prepared.vocabulary.fields)
    table, terms = nn.Embedding(features, case.dims), nn.Embedding(features, 1)
    nn.init.normal_(table.weight, std=0.01)
    widths = [fields * case.dims, 400, 400, 400]
    layers = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.ReLU())]
    tower = nn.Sequential(*layers, nn.Linear(widths[-1], 1)) if case.model == "deepfm" else None
    modules = nn.ModuleList([table, terms, *([] if tower is None else [tower])])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-3)

    def predict(batch: Any) -> torch.Tensor:
        rows, linear = table(batch.ids), terms(batch.ids).squeeze(-1)
        if batch.values is not None:
            rows, linear = rows * batch.values.unsqueeze(-1), linear * batch.values
        if case.model == "mf":
            return (rows[:, 0] * rows[:, 1]).sum(1) + linear.sum(1)
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(1)
        deep = 0 if tower is None else tower(rows.flatten(1)).squeeze(-1)
        return pairs + linear.sum(1) + deep

    clock = _Clock()
    for batch in _loader(_cut(prepared, case), case):
        optimizer.zero_grad()
        (predict(batch) - batch.label).square().mean().backward()
        optimizer.step()
        clock.tick()
    return clock.per_step()


def _load(case: Case, prepared: Prepared) -> tuple[float, float]:
    clock = _Clock()
    for _ in _loader(_cut(prepared, case), case):
        clock.tick()
    return clock.per_step()


def _loader(prepared: Prepared, case: Case) -> Any:
    from dnis_lightning.data.loader import Loader

    return Loader([prepared.parts["train"]], batch_size=case.batch, shuffle=True, distinct=case.mode == "distinct")


def _report(lines: list[dict[str, Any]]) -> None:
    from dnis_lightning.paths import whole_file

    with whole_file(OUTPUT / "bench.json") as part:
        part.write_text(json.dumps(lines, indent=1) + "\n")
    print("| case | features | ms a step | rows/s | times the reference | CPU ms a step | peak MiB |")
    print(f"|{'---|' * 7}")
    for line in lines:
        ratio = line["ratio_to_reference"]
        print(
            f"| {line['name']} | {line['features']:,.0f} | {1000 * line['seconds_per_step']:.3g} | "
            f"{line['samples_per_second']:,.0f} | {'' if ratio is None else f'{ratio:.3g}'} | "
            f"{1000 * line['cpu_seconds']:.3g} | {line['peak_rss_mib']:,.0f} |"
        )
    _draw(lines, OUTPUT / "bench.png")
    print(f"\n{OUTPUT / 'bench.json'}, {OUTPUT / 'bench.png'}; {lines[0]['threads']:.0f} threads")


def _draw(lines: list[dict[str, Any]], path: Path) -> None:
    """How many times as fast as the reference each case is, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [line for line in lines if line["ratio_to_reference"] is not None][::-1]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.28 * len(shown)), layout="constrained")
    colours = ["#999999" if line["mode"] == "reference" else "#0072b2" for line in shown]
    bars = axes.barh([line["name"] for line in shown], [line["ratio_to_reference"] for line in shown], color=colours)
    axes.bar_label(bars, [f" {line['ratio_to_reference']:.3g}×" for line in shown], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("steps a second, times those of the reference loop")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
