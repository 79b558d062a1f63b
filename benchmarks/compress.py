"""`compress` on a matrix factorisation of plain torch, MovieLens-1M: `make compress`.

    DNIS_DATA=raw/ python -m benchmarks.compress              # three seeds, most of an hour
    DNIS_DATA=raw/ python -m benchmarks.compress --seeds 1 --rates 10

The model is trained until the error on 5 % of the rows grows, then cut, to single entries (`prune="elements"`) and to
first dimensions, each at once (`search_epochs=0`) and with gates found first, and trained on. Narrow tables of about as
many entries are trained from the start, with each L2, of which the rows held out choose, and then a second time, as
those that are cut are. The rows held out are those that the gates learn on, and decide when to stop; 10 % are the test.
Prints a table of the mean squared error.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.runs import cell
from dnis_lightning import compress
from dnis_lightning.data.movielens import MovieLens
from dnis_lightning.data.store import encode
from dnis_lightning.paths import expand

DIMS, BATCH, L2, EPOCHS = 64, 4096, 0.05, 10
CUTS: dict[str, dict[str, Any]] = {
    "single entries": {"prune": "elements", "search_epochs": 0},
    "single entries, by search": {"prune": "elements", "search_epochs": 5},
    "first dimensions": {"prune": "prefix", "search_epochs": 0},
    "first dimensions, by search": {"prune": "prefix", "search_epochs": 5},
}
PLAIN = {2: 32, 5: 12, 10: 6}
"""The width of a plain table of about as many entries as are kept at a rate."""
PLAIN_L2 = (0.03, 0.05, 0.08)
Batches = list[tuple[Tensor, Tensor]]


class Factors(nn.Module):
    """Users and items in one table; μ + b_u + b_i + ⟨e_u, e_i⟩."""

    def __init__(self, features: int, mean: float, dims: int = DIMS, l2: float = L2) -> None:
        super().__init__()
        self.table, self.bias, self.l2 = nn.Embedding(features, dims), nn.Embedding(features, 1), l2
        self.mean = nn.Parameter(torch.tensor(mean))
        nn.init.normal_(self.table.weight, std=0.05)
        nn.init.zeros_(self.bias.weight)

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Ratings (B,), and the L2 on the rows (B, 2) of users and items, a mean."""
        rows = self.table(pairs)
        ratings = rows.prod(1).sum(1) + self.bias(pairs).sum((1, 2)) + self.mean
        return ratings, self.l2 * rows.square().sum((1, 2)).mean()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Squared error, in training with L2 on the rows of the batch."""
    ratings, penalty = model(batch[0])
    error = functional.mse_loss(ratings, batch[1])
    return error + penalty if model.training else error


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=int, nargs="+", choices=PLAIN, default=[*PLAIN])
    given = parser.parse_args()
    train, held_out, test, features = _batches(expand(os.environ.get("DNIS_DATA", "~/.cache/dnis_lightning")))
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for seed in range(given.seeds):
        mean = float(train[0][1].mean())
        torch.manual_seed(seed)
        model = _trained(Factors(features, mean), train, held_out)
        found.setdefault(("–", "as it was"), []).append((_error(model, test), _mib(model), 0.0))
        for rate in given.rates:
            dims = PLAIN[rate]
            for name, options in CUTS.items():
                cut, began = copy.deepcopy(model), time.perf_counter()
                table = compress(cut, cut.table, loss, train, held_out, rate=rate, finetune_epochs=EPOCHS, **options)
                seconds, mib = time.perf_counter() - began, table.packed().bytes / 2**20
                found.setdefault((f"{rate}", name), []).append((_error(cut, test), mib, seconds))
            began, plain = time.perf_counter(), []
            for l2 in PLAIN_L2:
                torch.manual_seed(seed)
                plain.append(_trained(_trained(Factors(features, mean, dims, l2), train, held_out), train, held_out))
            best = min(plain, key=lambda one: _error(one, held_out))
            facts = _error(best, test), _mib(best), time.perf_counter() - began
            found.setdefault((f"{rate}", f"a plain table, K = {dims}"), []).append(facts)
    print("| CR | cut | MiB | test MSE | seconds |\n|---|---|---|---|---|")
    for (cr, name), runs in found.items():
        errors, sizes, took = zip(*runs, strict=True)
        line = f"{statistics.mean(sizes):.2f} | {cell(errors)} | {statistics.mean(took):.0f}"
        print(f"| {cr} | {name} | {line} |")


def _mib(model: Factors) -> float:
    return 4 * model.table.weight.numel() / 2**20


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
    """With the weights of least error on the rows held out, as it is or after the epochs until that grows."""
    optimizer, best = torch.optim.Adam(model.parameters(), 1e-3), copy.deepcopy(model.state_dict())
    least = _error(model, held_out)
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
