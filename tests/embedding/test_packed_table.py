"""The packed table as a module: rows as NumPy reads them, on the way of gradients and on that of compiled loops."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from dnis_lightning.embedding.mixed import MixedTable
from dnis_lightning.embedding.packed_table import PackedLookup
from dnis_lightning.errors import RunError
from dnis_lightning.packed import loops
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.values import DTypeName
from dnis_lightning.scheme import Scheme

LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
DTYPES: tuple[DTypeName, ...] = get_args(DTypeName)
NO_BLOCKS = np.zeros(0, dtype=np.int32)


def scheme_of(features: int = 90, dims: int = 20, density: float = 0.3) -> Scheme:
    rng = np.random.default_rng(0)
    kept = rng.random((features, dims)) < density
    kept[40:60], kept[60:80] = kept[40], False
    return Scheme.from_dense(rng.normal(size=(features, dims)).astype(np.float32), kept)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [20, 300])
def test_rows_are_those_that_numpy_reads(layout: LayoutName, dtype: DTypeName, dims: int) -> None:
    packed = scheme_of(dims=dims).packed(NO_BLOCKS, dtype, layout)
    module, wanted = PackedLookup(packed), np.random.default_rng(1).integers(90, size=(6, 11))
    expected = packed.rows(wanted)
    assert np.array_equal(module(torch.from_numpy(wanted)).detach().numpy(), expected)
    with torch.no_grad():
        assert np.array_equal(module(torch.from_numpy(wanted).int()).numpy(), expected)
    assert module(torch.zeros(0, dtype=torch.int64)).shape == (0, dims)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_of_no_dimensions_and_one_of_no_entries(layout: LayoutName) -> None:
    nothing = PackedLookup(scheme_of(dims=0).packed(NO_BLOCKS, "fp32", layout))
    assert nothing(torch.arange(5)).shape == (5, 0)
    empty = PackedLookup(scheme_of(density=0).packed(NO_BLOCKS, "fp32", layout))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert not empty(torch.arange(60, 80)).any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_gradients_reach_what_is_kept_and_nothing_else(layout: LayoutName, dtype: DTypeName) -> None:
    scheme = scheme_of()
    module, features = PackedLookup(scheme.packed(NO_BLOCKS, dtype, layout)), torch.tensor([3, 50, 3, 70])
    weights = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    (module(features) * weights).sum().backward()
    expected = np.zeros((90, 20), dtype=np.float32)
    np.add.at(expected, features.numpy(), weights.numpy())
    stored = np.ones_like(scheme.mask()) if layout == "dense" else scheme.mask()
    if layout == "prefix":  # up to the last entry
        stored = np.flip(np.maximum.accumulate(np.flip(stored, 1), 1), 1)
    wanted = expected[stored]
    assert module.values.grad is not None
    tolerance = {"fp32": 1e-6, "fp16": 2**-10, "bf16": 2**-7}[dtype]
    np.testing.assert_allclose(module.values.grad.float().numpy(), wanted, rtol=tolerance, atol=tolerance)


def test_fine_tuning_shows_in_rows_and_in_what_is_packed_again() -> None:
    module = PackedLookup(scheme_of().packed(NO_BLOCKS, "fp32", "csr"))
    features = torch.arange(90)
    with torch.no_grad():
        before = module(features)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(features).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = module(features)
    torch.testing.assert_close(after, before * 0.8)
    assert np.array_equal(module.packed().rows(np.arange(90)), after.numpy())


def test_int8_has_no_gradient() -> None:
    module = PackedLookup(scheme_of().packed(NO_BLOCKS, "int8", "csr"))
    assert not list(filter(lambda one: one.requires_grad, module.parameters()))
    assert not module(torch.arange(3)).requires_grad


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_some_projections_do_not_occur_in(layout: LayoutName) -> None:
    torch.manual_seed(0)
    block_of = np.repeat([0, 1, 2], [4, 3, 2])
    table = MixedTable(block_of, [2, 6, 3], 6, copies=2, projected=True, std=1.0)
    scheme = Scheme.from_dense(table.entries().numpy(), table.kept().numpy(), table.projection_arrays())
    packed = scheme.packed(block_of, "fp32", layout)
    whole, module = packed.rows(np.arange(9)), PackedLookup(packed)
    for wanted in ([], [0], [5], [8], [0, 8], [[5, 0]]):
        features = np.array(wanted, dtype=np.int64)
        np.testing.assert_allclose(packed.rows(features), whole[features], rtol=1e-5)
        np.testing.assert_allclose(module(torch.from_numpy(features)).detach().numpy(), whole[features], rtol=1e-5)
    for kind in ("half", "double", "bfloat16"):
        found = getattr(PackedLookup(packed), kind)()(torch.arange(9)).detach().float().numpy()
        np.testing.assert_allclose(found, whole, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_default_type_changes_nothing(layout: LayoutName) -> None:
    packed = scheme_of().packed(NO_BLOCKS, "fp32", layout)
    module = PackedLookup(packed)
    torch.set_default_dtype(torch.float64)
    try:
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                found = module(torch.arange(90))
                assert found.dtype == torch.float32
                assert np.array_equal(found.detach().numpy(), packed.rows(np.arange(90)))
    finally:
        torch.set_default_dtype(torch.float32)


def test_scales_are_loaded_with_the_values_that_they_are_of() -> None:
    scheme = scheme_of()
    doubled = Scheme(scheme.indptr, scheme.positions, scheme.values * 2, scheme.base_dim)
    one, other = (PackedLookup(each.packed(NO_BLOCKS, "int8", "csr")) for each in (scheme, doubled))
    one.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(one(torch.arange(90)), other(torch.arange(90)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_projected_rows_and_their_gradients_are_those_of_the_trained_table(layout: LayoutName) -> None:
    torch.manual_seed(0)
    block_of = np.repeat([0, 1, 2, 0, 3], [5, 9, 3, 2, 4])
    table = MixedTable(block_of, [8, 4, 0, 2], 8, copies=2, projected=True, std=1.0)
    scheme = Scheme.from_dense(table.entries().numpy(), table.kept().numpy(), table.projection_arrays())
    module, wanted = PackedLookup(scheme.packed(block_of, "fp32", layout)), torch.arange(23).flip(0)
    torch.testing.assert_close(module(wanted), table(wanted))
    weights = torch.randn(23, 16)
    (module(wanted) * weights).sum().backward()
    (table(wanted) * weights).sum().backward()
    for block, matrix in table.projections.items():
        torch.testing.assert_close(module.projections[block].grad, matrix.grad.view(-1, 8))
    with torch.no_grad():
        torch.testing.assert_close(module(wanted), table(wanted))
        module.projections["1"].mul_(2)
    assert np.allclose(module.packed().rows(np.arange(23)), module(torch.arange(23)).detach().numpy(), atol=1e-6)


def test_weights_that_are_loaded_later_are_those_of_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    one, other = (PackedLookup(scheme_of().packed(NO_BLOCKS, "fp32", "csr")) for _ in range(2))
    features = torch.arange(90)
    with torch.no_grad():
        one(features)
        other.values.mul_(3)
        one.load_state_dict(other.state_dict())
        torch.testing.assert_close(one(features), other(features))
        one.values = torch.nn.Parameter(other.values * 2)
        torch.testing.assert_close(one(features), 2 * other(features))


def test_without_numba_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(coded: bool) -> None:
        raise ImportError

    monkeypatch.setattr(loops, "_kernels", none)
    packed = scheme_of().packed(NO_BLOCKS, "int8", "bitmap")
    with torch.no_grad():
        assert np.array_equal(PackedLookup(packed)(torch.arange(90)).numpy(), packed.rows(np.arange(90)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("wanted", [[-1], [90], [10**12]])
def test_a_feature_that_is_not_there_is_refused(layout: LayoutName, wanted: list[int]) -> None:
    module = PackedLookup(scheme_of().packed(NO_BLOCKS, "fp32", layout))
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(IndexError, match=r"the table has 0 … 89"):
            module(torch.tensor(wanted))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["float", "half", "double", "bfloat16"])
def test_a_module_in_another_type_has_its_rows_in_that(dtype: DTypeName, kind: str) -> None:
    packed = scheme_of().packed(NO_BLOCKS, dtype, "csr")
    module = getattr(PackedLookup(packed), kind)()
    with torch.no_grad():
        found = module(torch.arange(90))
    with torch.enable_grad():
        assert torch.equal(found, module(torch.arange(90)))
    np.testing.assert_allclose(found.numpy(), packed.rows(np.arange(90)), rtol=2**-7, atol=2**-7)
    np.testing.assert_allclose(module.packed().rows(np.arange(90)), found.numpy(), rtol=2**-7, atol=2**-7)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_it_is_pickled_after_it_was_used_and_has_no_trace() -> None:
    packed = scheme_of().packed(NO_BLOCKS, "fp32", "csr")
    module = PackedLookup(packed)
    with torch.no_grad():
        module(torch.arange(90))
        packed.rows(np.arange(90))
        again = pickle.loads(pickle.dumps(module))
        assert torch.equal(again(torch.arange(90)), module(torch.arange(90)))
        assert np.array_equal(pickle.loads(pickle.dumps(packed)).rows(np.arange(90)), packed.rows(np.arange(90)))
    with pytest.raises(RuntimeError, match="a packed table has no trace"):
        torch.jit.trace(module, (torch.tensor([1, 2]),))


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.safetensors").write_bytes(b"nothing of the kind")
    for name in ("table.safetensors", "none.safetensors"):
        with pytest.raises(RunError, match=rf"{name}: not a packed table that can be read"):
            PackedLookup.load(tmp_path / name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_on_a_gpu_are_those_on_the_cpu(layout: LayoutName, dtype: DTypeName) -> None:
    packed = scheme_of().packed(NO_BLOCKS, dtype, layout)
    module = PackedLookup(packed).cuda()
    assert np.array_equal(module(torch.arange(90).cuda()).detach().cpu().numpy(), packed.rows(np.arange(90)))
    assert np.array_equal(module.packed().rows(np.arange(90)), packed.rows(np.arange(90)))
