"""The ONNX graph of a shipped model against torch: every model, every type, every kind of field."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from hydra import compose, initialize_config_dir

from dnis_lightning import onnx_file
from dnis_lightning.blueprint import build_interaction
from dnis_lightning.embedding.mixed import MixedTable
from dnis_lightning.embedding.packed_table import PackedLookup
from dnis_lightning.errors import RunError
from dnis_lightning.onnx_file import PaddedLookup, write_onnx
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.fields import FieldIds, PackedField
from dnis_lightning.packed.layouts import LayoutName
from dnis_lightning.packed.numbers import Binned, Scaled
from dnis_lightning.packed.texts import Texts
from dnis_lightning.packed.values import DTypeName
from dnis_lightning.paths import config_dir
from dnis_lightning.recommender import FeatureSpace, Recommender, tables_of
from dnis_lightning.scheme import Scheme
from dnis_lightning.serving import Predictor

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
MODELS = sorted(path.stem for path in (config_dir() / "model").glob("[!_]*.yaml"))
NO_BLOCKS = np.zeros(0, dtype=np.int32)


def ids_of(*names: str) -> FieldIds:
    return FieldIds.of(Texts.of(names))


CATEGORIES = [
    PackedField("user", "categorical", 0, 4, ids=ids_of("5", "", "9")),
    PackedField("item", "categorical", 4, 9, ids=ids_of("a", "b", "c", "d")),
]
ALL_KINDS = [
    *CATEGORIES,
    PackedField("price", "numeric", 9, 11, numbers=Scaled(True, 0.0, 4.0)),
    PackedField("age", "numeric", 11, 15, numbers=Binned(np.array([1.0, 2.0]))),
    PackedField("tags", "multi", 15, 18, 3, ids=ids_of("x", "y")),
]


def predictor_of(
    name: str,
    fields: list[PackedField],
    *,
    task: str = "ctr",
    dtype: DTypeName = "fp32",
    layout: LayoutName | None = None,
) -> Predictor:
    """A shipped model with weights as they were drawn; half of the table is kept."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        node = compose("config", overrides=[f"model={name}"]).model.interaction
    torch.manual_seed(0)
    interaction = dict(node)
    module = build_interaction(interaction, fields=len(fields), dims=6)
    space = FeatureSpace((0, *(one.end for one in fields)))
    model = Recommender(space, module, dims=6, std=0.5, first_order=True)
    with torch.no_grad():
        model.first_order.weight.normal_()
    mask = torch.rand(space.features, 6 * tables_of(module)) < 0.5
    model.keep(model.merged_table(), mask)
    told = {
        "model": {"interaction": interaction, "dims": 6, "first_order": True, "global_bias": True},
        "run": {"task": task},
        "pooling": "mean",
        "raw_form": {"missing": [""], "multi_separator": "|"},
    }
    table = model.scheme().packed(NO_BLOCKS, dtype, layout)
    return Predictor.of(PackedEmbedding(table, tuple(fields), told), model.rest())


def score(path: Path, **rows: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in rows.items()})[0]


RAW = {
    "user": pa.array(["5", "9", None, "stranger"] * 5),
    "item": pa.array(["d", "a", "b", "c"] * 5),
    "price": pa.array([1.5, None, -3.0, 1e6] * 5),
    "age": pa.array([0.5, 1.0, None, 9.0] * 5),
    "tags": pa.array(["x|y|x|y", "", "y", "z"] * 5),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_scores_as_torch_does(name: str, tmp_path: Path) -> None:
    only_two = name in ("mf", "gmf", "neumf")
    predictor = predictor_of(name, CATEGORIES if only_two else ALL_KINDS, task="rating" if only_two else "ctr")
    told = write_onnx(tmp_path, predictor)
    assert list(told["inputs"]) == (["ids"] if only_two else ["ids", "values"])
    batch = predictor.mapping.encode(RAW)
    rows = {"ids": batch.ids} | ({} if only_two else {"values": batch.values})
    found = score(tmp_path / told["onnx"], **rows)
    np.testing.assert_allclose(found, predictor.scores(RAW), rtol=1e-5, atol=1e-5)
    assert len(np.unique(found)) > 2


@pytest.mark.parametrize("dtype", get_args(DTypeName))
@pytest.mark.parametrize("layout", ["dense", "csr"])  # blocks and bitmap are stored as csr
def test_every_type_scores_as_torch_does(dtype: DTypeName, layout: LayoutName, tmp_path: Path) -> None:
    predictor = predictor_of("fm", CATEGORIES, dtype=dtype, layout=layout)
    write_onnx(tmp_path, predictor)
    found = score(tmp_path / "model.onnx", ids=predictor.mapping.encode(RAW).ids)
    np.testing.assert_allclose(found, predictor.scores(RAW), rtol=1e-5, atol=1e-5)


def test_projections_are_in_the_graph() -> None:
    torch.manual_seed(0)
    block_of = np.repeat([0, 1, 2, 0, 3], [5, 9, 3, 2, 4])
    table = MixedTable(block_of, [8, 4, 0, 2], 8, copies=2, projected=True, std=1.0)
    scheme = Scheme.from_dense(table.entries().numpy(), table.kept().numpy(), table.projection_arrays())
    wanted = torch.arange(23).flip(0)
    for layout in ("dense", "csr"):
        padded = PaddedLookup(scheme.packed(block_of, "fp32", layout))
        torch.testing.assert_close(padded(wanted), table(wanted))


@pytest.mark.parametrize("layout", [None, "csr"])
def test_a_model_of_projected_rows_scores_as_torch_does(layout: LayoutName | None, tmp_path: Path) -> None:
    predictor, block_of = predictor_of("fm", CATEGORIES), np.repeat([0, 1, 2], 3)
    table = MixedTable(block_of, [6, 3, 1], 6, copies=1, projected=True, std=1.0)
    scheme = Scheme.from_dense(table.entries().numpy(), table.kept().numpy(), table.projection_arrays())
    packed = PackedEmbedding(scheme.packed(block_of, "fp32", layout), tuple(CATEGORIES), predictor.embedding.told)
    projected = Predictor.of(packed, predictor.model.rest())
    write_onnx(tmp_path, projected)
    found = score(tmp_path / "model.onnx", ids=projected.mapping.encode(RAW).ids)
    np.testing.assert_allclose(found, projected.scores(RAW), rtol=1e-5, atol=1e-5)
    assert isinstance(projected.model.table, PackedLookup)


class Untraceable(torch.nn.Module):
    """Decides by values, which no graph can."""

    def __init__(self, fields: int, dims: int) -> None:
        super().__init__()

    def forward(self, rows: torch.Tensor, batch: object) -> torch.Tensor:
        return rows.sum((1, 2)) if rows.sum().item() > 0 else rows.prod(1).sum(1)


def test_a_model_without_a_graph_is_named(tmp_path: Path) -> None:
    predictor = predictor_of("fm", CATEGORIES)
    predictor.model.interaction = Untraceable(2, 6)
    with pytest.raises(RunError, match="--format onnx: torch makes no graph of this model"):
        write_onnx(tmp_path, predictor)


def test_a_graph_that_scores_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaddedLookup, "_rows", lambda self, features: torch.ones(features.shape[0], self.dims))
    with pytest.raises(RunError, match="scores of random rows are off by"):
        write_onnx(tmp_path, predictor_of("mf", CATEGORIES))


def test_rows_of_the_test_are_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of("fm", CATEGORIES)
    test = predictor.mapping.encode({"user": RAW["user"], "item": RAW["item"]})
    assert write_onnx(tmp_path, predictor, test)["checked_rows"] == {"random": 1000, "test": 20}
    monkeypatch.setattr(onnx_file, "_random_rows", lambda predictor, count: {"ids": torch.tensor([[1, 5]] * 3)})
    rows = PaddedLookup._rows
    monkeypatch.setattr(PaddedLookup, "_rows", lambda self, ids: rows(self, ids) * (ids != 2)[:, None])
    with pytest.raises(RunError, match="scores of test rows are off by"):
        write_onnx(tmp_path, predictor_of("fm", CATEGORIES), test)


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunError, match=r"onnxruntime is not installed; pip install 'dnis-lightning\[onnx\]'"):
        write_onnx(tmp_path, predictor_of("mf", CATEGORIES))
