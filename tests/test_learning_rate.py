"""The learning rate by default is by how often most features occur; what is asked for stands above that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import dnis, result_of

ONE_EPOCH = ("data=synthetic", "data.rows=4000", "model=mf", "search=none", "search.rates=[]", "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (("data.features_per_field=20",), 0.001),
        (("data.features_per_field=1000",), 0.003),
        (("data.features_per_field=1000", "optimizer.lr=0.02"), 0.02),
        (("data.features_per_field=1000", "optimizer=adam"), 0.001),
        (("data.features_per_field=1000", "profile=paper"), 0.001),
    ],
)
def test_rare_features_take_larger_steps(given: tuple[str, ...], rate: float, tmp_path: Path) -> None:
    folder, result = result_of(dnis(tmp_path, *ONE_EPOCH, *given))
    assert result["learning_rate"] == rate
    header, row = (folder / "metrics.csv").read_text().splitlines()
    assert float(dict(zip(header.split(","), row.split(","), strict=True))["lr"]) == rate
