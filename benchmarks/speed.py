"""Seconds per step of training and of search, against a plain loop in the same run: `make bench`.

Every mode is a whole epoch through the trainer, validation included, as a run has it; modes take turns, and the median
of the rounds counts. The reference is what public recommender libraries do: `nn.Embedding` with a dense gradient and
the default Adam. Writes outputs/bench/bench.json and prints a table. Arguments: rounds=3 rows=200000
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnis_lightning.blocks import make_blocks
from dnis_lightning.data.loader import Loader
from dnis_lightning.data.prepare import Prepared, prepare
from dnis_lightning.data.synthetic import Synthetic
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.interaction.fm import FM
from dnis_lightning.paths import whole_file
from dnis_lightning.recommender import FeatureSpace, Recommender
from dnis_lightning.search.trial import GateStep, Phase, Stopping
from dnis_lightning.tasks import Objective, Rating
from dnis_lightning.training.fit_module import WeightStep
from dnis_lightning.training.journal import Journal
from dnis_lightning.training.phases import PhaseRunner, TrainerOptions

DIMS, BATCH, BLOCKS = 64, 4096, 10
SHAPES = {"two fields, 20k features": (2, 10_000), "39 fields, 195k features": (39, 5_000)}
MODES: dict[str, Phase | None] = {
    "reference": None,
    "plain": Phase("fit", "train", Stopping(1, 1)),
    "search, first order": Phase("search", "train", Stopping(1, 1), GateStep(xi=0.0)),
    "search, second order": Phase("search", "train", Stopping(1, 1), GateStep(xi=0.001)),
}


def main() -> None:
    """Measure and report."""
    given = dict(argument.split("=") for argument in sys.argv[1:])
    rounds, rows = int(given.get("rounds", 3)), int(given.get("rows", 200_000))
    lines = [line for name, shape in SHAPES.items() for line in _measure(name, shape, rows, rounds)]
    path = Path("outputs/bench/bench.json")
    with whole_file(path) as part:
        part.write_text(json.dumps(lines, indent=1) + "\n")
    print("| data | mode | ms a step | rows/s | of the reference's time | CPU s |\n|---|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line['data']} | {line['name']} | {1000 * line['seconds_per_step']:.1f} | "
            f"{line['samples_per_second']:,.0f} | {line['ratio_to_reference']:.2f} | {line['cpu_seconds']:.1f} |"
        )
    print(f"\n{path}; {torch.get_num_threads()} threads; peak {lines[-1]['peak_rss_mib']:.0f} MiB")


def _measure(name: str, shape: tuple[int, int], rows: int, rounds: int) -> Iterator[dict[str, Any]]:
    fields, features = shape
    with tempfile.TemporaryDirectory() as folder:
        source = Synthetic(rows=rows, field_count=fields, features_per_field=features)
        prepared = prepare(source, cache=Path(folder) / "cache")
        steps = len(_loader(prepared, "train"))
        jobs = {mode: partial(_epoch, prepared, phase, Path(folder)) for mode, phase in MODES.items()}
        jobs["loader alone"] = partial(_load, prepared)
        times: dict[str, list[tuple[float, float]]] = {mode: [] for mode in jobs}
        for _ in range(rounds):
            for mode, job in jobs.items():
                times[mode].append(_timed(job))
    reference = statistics.median(wall for wall, _ in times["reference"])
    for mode, taken in times.items():
        wall, cpu = (statistics.median(values) for values in zip(*taken, strict=True))
        yield {
            "name": mode,
            "data": name,
            "model": "fm",
            "mode": mode,
            "device": "cpu",
            "seconds_per_step": wall / steps,
            "samples_per_second": prepared.rows["train"] / wall,
            "ratio_to_reference": wall / reference,
            "cpu_seconds": cpu,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def _timed(job: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def _epoch(prepared: Prepared, phase: Phase | None, folder: Path) -> None:
    if phase is None:
        _reference(prepared)
        return
    step = WeightStep(partial(torch.optim.Adam, lr=1e-3, fused=True))
    journal = Journal(folder / "last.ckpt")
    runner = PhaseRunner(
        prepared,
        Objective(Rating()),
        step,
        TrainerOptions(),
        journal,
        batch_size=BATCH,
        seed=0,
        on_row=lambda rows: None,
    )
    runner.fit(phase.name, phase, _model(prepared, gated=phase.gate_step is not None), keep_weights=False)


def _model(prepared: Prepared, *, gated: bool) -> Recommender:
    vocabulary = prepared.vocabulary
    model = Recommender(FeatureSpace(tuple(vocabulary.offsets.tolist())), FM(), dims=DIMS)
    if gated:
        blocks = make_blocks(vocabulary.frequency, vocabulary.field_of, blocks=BLOCKS)
        model.selection = SoftSelection(blocks.block_of, blocks.count, DIMS)
    return model


def _reference(prepared: Prepared) -> None:
    """FM with dense gradients and the default Adam over the same batches, and a pass over the select split."""
    features = prepared.vocabulary.features
    table, terms = nn.Embedding(features, DIMS), nn.Embedding(features, 1)
    nn.init.normal_(table.weight, std=0.01)
    optimizer = torch.optim.Adam([*table.parameters(), *terms.parameters()], lr=1e-3)

    def predict(ids: torch.Tensor) -> torch.Tensor:
        rows = table(ids)
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(1)
        return pairs + terms(ids).sum((1, 2))

    for batch in _loader(prepared, "train"):
        optimizer.zero_grad()
        (predict(batch.ids) - batch.label).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        for batch in _loader(prepared, "select"):
            predict(batch.ids)


def _load(prepared: Prepared) -> None:
    for _ in _loader(prepared, "train"):
        pass


def _loader(prepared: Prepared, part: str) -> Loader:
    return Loader([prepared.parts[part]], batch_size=BATCH, shuffle=True)


if __name__ == "__main__":
    main()
