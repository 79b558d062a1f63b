"""Are GMF, MLP and NeuMF as good as published? He et al. 2017 on MovieLens-1M, by their protocol.

    python -m benchmarks.ncf ncf_test_negatives.csv             # three models, an hour on one core
    python -m benchmarks.ncf ncf_test_negatives.csv --model gmf --seed 1

Plain tables, dense Adam at a constant rate, four negatives a row; HR@10 and NDCG@10 of one positive among 99 negatives.
What is published is the best epoch **on the test rows**, so that each epoch is tested here, too, which no run does: a
run's own figure is that of the epoch that was best on a held-out row of each user. DNIS_DATA names the folder of the
raw data.

The published figures are those of https://github.com/guoyang9/NCF: 20 epochs, batches of 256 rows, 32 factors, which
is a GMF 32 wide and an MLP of 256, 128, 64 and 32, so K = 128. Its NeuMF joins these two and is not trained
beforehand; ours has one K for both. He et al.'s own code has .692 / .425 for that MLP and .701 / .425 for that NeuMF
(according to the same page).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir

from dnis_lightning import build
from dnis_lightning.config import check_config
from dnis_lightning.folder import RunFolder
from dnis_lightning.paths import config_dir
from dnis_lightning.run import Run
from dnis_lightning.search.bilevel import frozen
from dnis_lightning.training.fit_module import FitModule

ARGUMENTS = (
    "data=movielens-1m",
    "data.task=topk",
    "data.split=leave_one_out",
    "data.top=[10,100]",
    "data.batch_size=128",
    "search=none",
    "optimizer=adam",
    "optimizer.plateau_patience=null",
    "trainer.threads=1",
)
FIGURES = ("hr@10", "ndcg@10")


@dataclass(frozen=True)
class Model:
    """A model at the width that its published figures, HR@10 and NDCG@10, are of."""

    base_dim: int
    published: tuple[float, float]


MODELS = {"gmf": Model(32, (0.706, 0.433)), "mlp": Model(128, (0.688, 0.416)), "neumf": Model(64, (0.699, 0.421))}


class EachEpoch(L.Callback):
    """Tests every epoch among the candidates."""

    def __init__(self, name: str) -> None:
        self.name, self.began = name, time.perf_counter()
        self.figures: list[dict[str, float]] = []

    @torch.no_grad()
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps and prints what this epoch has."""
        assert isinstance(pl_module, FitModule)
        task = pl_module.objective.task
        metrics: Any = task.metrics()
        with frozen(pl_module.recommender):
            for query in trainer.datamodule.candidates_dataloader():  # type: ignore[attr-defined]
                task.assess(metrics, pl_module.recommender, query)
        self.figures.append({name: float(value) for name, value in metrics.compute().items()})
        told = ", ".join(f"{name} {self.figures[-1][name]:.4f}" for name in FIGURES)
        print(f"{self.name}: epoch {len(self.figures)}: {told}, {time.perf_counter() - self.began:.0f} s", flush=True)


def main() -> None:
    """Train, test each epoch, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", type=Path)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    lines = [
        _line(model, seed, given.candidates, given.epochs)
        for model in given.model or MODELS
        for seed in given.seed or [0]
    ]
    print(
        "model | K | seed | epoch by select | HR@10 | NDCG@10 | best HR@10 | best NDCG@10 | published HR@10 | NDCG@10"
    )
    print("\n".join(lines))


def _line(name: str, seed: int, candidates: Path, epochs: int) -> str:
    model = MODELS[name]
    more = [f"model={name}", f"search.base_dim={model.base_dim}", f"seed={seed}", f"data.candidates={candidates}"]
    more += [f"trainer.max_epochs={epochs}", f"trainer.patience={epochs}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        settings = check_config(compose("config", [*ARGUMENTS, *more]))
    torch.set_num_threads(settings.trainer.threads or 1)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(settings, build.prepare_data(settings), RunFolder(Path(folder)))
        each = EachEpoch(f"{name}, seed {seed}")
        run.phases.callbacks = lambda: [each]
        result = run.go()
    chosen = {figure: result["unpruned"]["metrics"][f"test/{figure}_of_100"] for figure in FIGURES}
    epoch = run.journal.done["uniform/fit"]["best_epoch"]
    best = [max(one[figure] for one in each.figures) for figure in FIGURES]
    cells = [*chosen.values(), *best, *model.published]
    return " | ".join([name, str(model.base_dim), str(seed), str(epoch), *(f"{cell:.3f}" for cell in cells)])


if __name__ == "__main__":
    main()
