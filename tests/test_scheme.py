"""The mixed dimension scheme as a value and as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from dnis_lightning.errors import RunError
from dnis_lightning.scheme import EVERY, Scheme


@pytest.fixture
def scheme() -> Scheme:
    table = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9], [0, 1, 0]], dtype=np.float32)
    kept = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    return Scheme.from_dense(table, kept)


def test_d_and_v_of_a_small_table(scheme: Scheme) -> None:
    positions, values = scheme.vectors()
    assert [d.tolist() for d in positions] == [[0, 2], [], [0, 1, 2], [1]]
    assert [v.tolist() for v in values] == [[1, 3], [], [7, 8, 9], [1]]
    assert scheme.dims_per_feature.tolist() == [2, 0, 3, 1]
    assert scheme.kept == 6
    assert scheme.compression_rate == 2


@given(st.integers(1, 40), st.integers(0, 300), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_d_and_v_round_trip(features: int, dims: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(features, dims)).astype(np.float32)
    kept = rng.random((features, dims)) < density
    scheme = Scheme.from_dense(table, kept)
    again = Scheme.from_vectors(*scheme.vectors(), base_dim=dims)
    for one in (scheme, again):
        assert np.array_equal(one.dense(), np.where(kept, table, 0))
        assert np.array_equal(one.mask(), kept)


def test_files_round_trip(scheme: Scheme, tmp_path: Path) -> None:
    projected = Scheme(scheme.indptr, scheme.positions, scheme.values, 3, {1: np.ones((2, 3), np.float32)})
    projected.save(tmp_path / "s.safetensors", {"bias": np.array(0.5, np.float32)})
    read, extra = Scheme.load(tmp_path / "s.safetensors")
    assert np.array_equal(read.dense(), scheme.dense())
    assert read.base_dim == 3
    assert np.array_equal(read.projections[1], np.ones((2, 3)))
    every = Scheme(scheme.indptr, scheme.positions, scheme.values, 3, {EVERY: np.full((1, 3), 2, np.float32)})
    every.save(tmp_path / "e.safetensors")
    packed = Scheme.load(tmp_path / "e.safetensors")[0].packed(np.array([0, 1, 1, 2]))
    assert np.array_equal(packed.rows(np.arange(4)), scheme.dense()[:, :1] @ np.full((1, 3), 2))
    assert extra == {"bias": np.float32(0.5)}


def test_coo_counts_values_rows_columns_and_projections(scheme: Scheme) -> None:
    assert scheme.coo_bytes == 6 * (4 + 4 + 4)
    projected = Scheme(scheme.indptr, scheme.positions, scheme.values, 3, {0: np.ones((2, 3), np.float32)})
    assert projected.coo_bytes == scheme.coo_bytes + 2 * 3 * 4


@pytest.mark.parametrize("content", [None, b"", b"not a scheme", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "cr-2.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"cr-2\.safetensors: not a scheme"):
        Scheme.load(path)


@pytest.mark.parametrize(("features", "dims"), [(50, 8), (300, 64), (7, 300), (5, 0)])
def test_coo_npz_bytes_are_those_of_the_file_on_disk(features: int, dims: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(features, dims)).astype(np.float32)
    kept = rng.random(table.shape) < 0.3
    sparse.save_npz(tmp_path / "cut.npz", sparse.coo_matrix(np.where(kept, table, 0)), compressed=True)
    size = (tmp_path / "cut.npz").stat().st_size
    assert Scheme.from_dense(table, kept).coo_npz_bytes() == size
