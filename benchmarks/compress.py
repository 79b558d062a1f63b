"""`compress` on a matrix factorisation of plain torch, MovieLens-1M: `make compress`.

    DNIS_DATA=raw/ python -m benchmarks.compress              # three seeds, ten minutes on two cores
    DNIS_DATA=raw/ python -m benchmarks.compress --seeds 1

The model is trained until the error on 5 % of the rows grows, then cut: by magnitude and trained on
(`search_epochs=0`), and with gates found first. The rows held out are those that the gates learn on, and decide when to
stop; 10 % are the test. Prints a table of the mean squared error.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.runs import cell
from dnis_lightning import compress
from dnis_lightning.data.movielens import MovieLens
from dnis_lightning.data.store import encode
from dnis_lightning.paths import expand

DIMS, BATCH, L2 = 64, 4096, 0.05
Batches = list[tuple[Tensor, Tensor]]


class Factors(nn.Module):
    """Users and items in one table; μ + b_u + b_i + ⟨e_u, e_i⟩."""

    def __init__(self, features: int, mean: float) -> None:
        super().__init__()
        self.table, self.bias = nn.Embedding(features, DIMS), nn.Embedding(features, 1)
        self.mean = nn.Parameter(torch.tensor(mean))
        nn.init.normal_(self.table.weight, std=0.05)
        nn.init.zeros_(self.bias.weight)

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Ratings (B,), and the mean squared length of the rows (B, 2) of users and items."""
        rows = self.table(pairs)
        ratings = rows.prod(1).sum(1) + self.bias(pairs).sum((1, 2)) + self.mean
        return ratings, rows.square().sum((1, 2)).mean()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Squared error, in training with L2 on the rows of the batch."""
    ratings, squares = model(batch[0])
    error = functional.mse_loss(ratings, batch[1])
    return error + L2 * squares if model.training else error


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    train, held_out, test, features = _batches(expand(os.environ.get("DNIS_DATA", "~/.cache/dnis_lightning")))
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        model = _trained(Factors(features, float(train[0][1].mean())), train, held_out)
        size = 4 * features * DIMS / 2**20
        found.setdefault(("–", "as it was"), []).append((_error(model, test), size, 0.0))
        for rate in (2, 5, 10):
            for name, epochs in (("by magnitude", 0), ("by search", 5)):
                cut, began = copy.deepcopy(model), time.perf_counter()
                options = {"rate": rate, "search_epochs": epochs, "finetune_epochs": 10}
                table = compress(cut, cut.table, loss, train, held_out, **options)  # type: ignore[arg-type]
                seconds, mib = time.perf_counter() - began, table.packed().bytes / 2**20
                found.setdefault((f"{rate}", name), []).append((_error(cut, test), mib, seconds))
    print("| CR | cut | MiB | test MSE | seconds |\n|---|---|---|---|---|")
    for (cr, name), runs in found.items():
        errors, sizes, took = zip(*runs, strict=True)
        line = f"{statistics.mean(sizes):.2f} | {cell(errors)} | {statistics.mean(took):.0f}"
        print(f"| {cr} | {name} | {line} |")


def _batches(root: Path) -> tuple[Batches, Batches, Batches, int]:
    """Batches of train (85 %), held out (5 %) and test, and the number of users and items."""
    data = encode(MovieLens("1m", str(root)), expand("~/.cache/dnis_lightning/encoded"))
    user, item = (np.asarray(codes).astype(np.int64) for codes in data.codes)
    order = np.random.default_rng(0).permutation(data.rows)
    pairs = torch.from_numpy(np.stack([user, item + data.cardinalities[0]], axis=1)[order])
    rating = torch.from_numpy(np.array(data.label)[order])
    bounds = [0, int(0.85 * data.rows), int(0.9 * data.rows), data.rows]
    made = [
        list(zip(pairs[start:end].split(BATCH), rating[start:end].split(BATCH), strict=True))
        for start, end in pairwise(bounds)
    ]
    return made[0], made[1], made[2], sum(data.cardinalities)


def _trained(model: Factors, train: Batches, held_out: Batches) -> Factors:
    """With the weights of the epoch of least error on the rows held out."""
    optimizer, best, least = torch.optim.Adam(model.parameters(), 1e-3), model.state_dict(), float("inf")
    while True:
        model.train()
        for batch in train:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
        if (found := _error(model, held_out)) >= least:
            break
        best, least = copy.deepcopy(model.state_dict()), found
    model.load_state_dict(best)
    return model.train()


def _error(model: nn.Module, batches: Batches) -> float:
    model.eval()
    with torch.no_grad():
        total = sum(float(loss(model, batch)) * len(batch[1]) for batch in batches)
    return total / sum(len(label) for _, label in batches)


if __name__ == "__main__":
    main()
