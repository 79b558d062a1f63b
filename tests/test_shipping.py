"""What a run packs: in which form, and that its figures are of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dnis_lightning.blueprint import rebuild
from dnis_lightning.errors import RunError
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.scheme import Scheme
from dnis_lightning.shipping import Shipping, as_shipped
from tests.command import TINY, TINY_DNIS, dnis, result_of

NO_BLOCKS = np.zeros(40, dtype=np.int32)


@pytest.fixture
def scheme() -> Scheme:
    rng = np.random.default_rng(0)
    return Scheme.from_dense(rng.normal(size=(400, 16)).astype(np.float32), rng.random((400, 16)) < 0.5)


def chosen(scheme: Scheme, dtype: str | None, worse: dict[str, float], tolerance: float = 0.01) -> tuple[str, float]:
    """The type that is chosen, and its metric, where types are so much worse than fp32, whose metric is 2."""

    def evaluate(other: Scheme) -> dict[str, float]:
        names = {one: as_shipped(scheme, scheme.packed(NO_BLOCKS, one)).values for one in worse}
        name = next(one for one, values in names.items() if np.array_equal(values, other.values))
        return {"mse": 2 + worse[name]}

    shipping = Shipping(NO_BLOCKS, None, dtype, tolerance)  # type: ignore[arg-type]
    packed, metrics = shipping.choose(scheme, {"mse": 2.0}, evaluate, lambda found: found["mse"])
    return packed.values.dtype, metrics["mse"]


@pytest.mark.parametrize(
    ("worse", "wanted"),
    [
        ({"int8": 0.019, "fp16": 0.0, "bf16": 0.0}, ("int8", 2.019)),
        ({"int8": 0.021, "fp16": 0.001, "bf16": 0.03}, ("fp16", 2.001)),
        ({"int8": 0.021, "fp16": 0.021, "bf16": 0.01}, ("bf16", 2.01)),
        ({"int8": 1.0, "fp16": 1.0, "bf16": 1.0}, ("fp32", 2.0)),
        ({"int8": float("nan"), "fp16": -0.5, "bf16": 1.0}, ("fp16", 1.5)),
    ],
)
def test_the_smallest_type_within_the_tolerance_is_taken(
    scheme: Scheme, worse: dict[str, float], wanted: tuple[str, float]
) -> None:
    assert chosen(scheme, None, worse) == pytest.approx(wanted)


def test_a_type_that_is_asked_for_is_taken_whatever_it_costs(scheme: Scheme) -> None:
    assert chosen(scheme, "int8", {"int8": 1.0}) == ("int8", 3.0)
    assert chosen(scheme, "fp32", {}) == ("fp32", 2.0)


def test_numbers_too_large_for_fp16_are_no_choice() -> None:
    large = Scheme.from_vectors([np.array([0, 1])], [np.array([70_000.0, 1])], 2)
    shipping = Shipping(NO_BLOCKS, None, None)
    packed, _ = shipping.choose(large, {"mse": 2.0}, lambda other: {"mse": 2.0}, lambda found: found["mse"])
    assert packed.values.dtype != "fp16"
    with pytest.raises(RunError, match="into fp16: fp16 holds numbers up to 65504, not 70000; take fp32, by"):
        shipping.packed(large, "fp16")


@pytest.mark.parametrize(
    ("more", "dtypes"),
    [(("ship.dtype=int8", "ship.layout=csr"), {"int8"}), (("ship.dtype=auto", "ship.tolerance=10"), {"int8", "fp16"})],
)
def test_the_figures_of_a_run_are_those_of_what_it_ships(
    more: tuple[str, ...], dtypes: set[str], tmp_path: Path
) -> None:
    folder, result = result_of(dnis(tmp_path, *TINY_DNIS, *more))
    _, exact = result_of(dnis(tmp_path, *TINY_DNIS, *(one for one in more if one.startswith("ship.layout="))))
    pairs = [(result["unpruned"], exact["unpruned"]), *zip(result["pruned"], exact["pruned"], strict=True)]
    for facts, other in pairs:
        assert facts["dtype"] in dtypes
        assert facts["kept"] == other["kept"], "the cut is made before"
        assert facts["bytes"] < other["bytes"]
        for name in ("select/mse", "test/mse"):
            assert facts["metrics"][name] != other["metrics"][name]
            assert facts["metrics"][name] == pytest.approx(other["metrics"][name], rel=0.05)
    packed, weight = PackedEmbedding.open(folder / "embedding" / "cr-2"), rebuild(folder, "cr:2").table.weight
    assert packed.table.values.dtype in dtypes
    assert np.array_equal(weight.detach().numpy(), packed.rows(np.arange(len(weight))))


def test_a_run_without_cuts_packs_the_whole_table(tmp_path: Path) -> None:
    folder, result = result_of(dnis(tmp_path, *TINY, "search=none"))
    packed = PackedEmbedding.open(folder / "embedding" / "unpruned")
    assert packed.table.bytes == result["unpruned"]["bytes"]
    weight = rebuild(folder).table.weight.detach().numpy()
    assert np.array_equal(packed.rows(np.arange(len(weight))), weight)


def test_projected_rows_are_shipped(tmp_path: Path) -> None:
    folder, result = result_of(dnis(tmp_path, *TINY, "search=mde"))
    packed, model = PackedEmbedding.open(folder / "embedding" / "unpruned"), rebuild(folder)
    everything = np.arange(packed.table.features)

    wanted = model.table(torch.from_numpy(everything)).detach().numpy()
    np.testing.assert_allclose(packed.rows(everything), wanted, atol=1e-6)
    assert packed.table.parts["projections"] > 0
    assert packed.table.bytes == result["unpruned"]["bytes"]


def test_a_tolerance_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY, "ship.tolerance=0.1")
    assert done.returncode == 1
    assert "ship.tolerance: nothing reads it with ship.dtype=fp32; it is of auto" in done.stderr
