"""The measurements run, on next to nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from benchmarks import ablation, frontier, robust, untaken
from benchmarks.criteo_log import CATEGORIES as SHAPES
from benchmarks.criteo_log import generate
from benchmarks.runs import finished
from dnis_lightning import build, cutting
from dnis_lightning.config import check_config
from dnis_lightning.data.criteo import CATEGORIES, Criteo
from dnis_lightning.embedding.selection import SoftSelection
from dnis_lightning.interaction.fm import FM
from dnis_lightning.interaction.neumf import NeuMF
from dnis_lightning.measures import worse_by
from dnis_lightning.recommender import GATES, FeatureSpace, Recommender
from dnis_lightning.run import Run
from dnis_lightning.search.budget import parse_budget
from dnis_lightning.search.importance import Importance
from dnis_lightning.search.prune import Pruning, cut_mask
from dnis_lightning.search.trial import GateStep, Stopping
from dnis_lightning.tasks import Objective, Rating
from dnis_lightning.training.fit_module import WeightStep
from dnis_lightning.training.search_module import SearchModule
from tests.command import TINY, TINY_DNIS, environment
from tests.data.conftest import real_data  # noqa: F401
from tests.test_config import composed

CHECKOUT = Path(__file__).parents[1]
S = TypeVar("S", bound=SearchModule)


def measure(folder: Path, *arguments: str, timeout: int = 240, **more: str) -> str:
    command = [sys.executable, "-m", *arguments]
    paths = environment(PYTHONPATH=os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "src")]), **more)
    done = subprocess.run(command, cwd=folder, env=paths, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_case_is_timed_against_its_reference(tmp_path: Path) -> None:
    printed = measure(tmp_path, "benchmarks.speed", "--rounds", "1", "--small", "--only", "movielens-mf-search1")
    lines = json.loads((tmp_path / "outputs" / "bench" / "bench.json").read_text())
    assert [line["name"] for line in lines] == ["movielens-mf-reference", "movielens-mf-search1"]
    assert lines[0]["ratio_to_reference"] == 1
    assert all(line["seconds_per_step"] > 0 and line["peak_rss_mib"] > 0 for line in lines)
    assert printed.count("\n| ") == len(lines)
    assert (tmp_path / "outputs" / "bench" / "bench.png").stat().st_size > 1000


def test_tables_of_results_can_be_printed_of_nothing(tmp_path: Path) -> None:
    printed = measure(tmp_path, "benchmarks.results", "--table")
    assert printed.count("### ") == 4


@pytest.mark.parametrize("module", ["frontier", "ablation", "robust"])
def test_a_table_of_no_runs_is_refused(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--table"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "src")])),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "leave --table out" in done.stderr


def test_damaged_runs_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"search": {"name": "none"}, "data": {}}
    for name, config, result in (
        ("good", yaml.safe_dump(whole), '{"seed": 1}'),
        ("half result", yaml.safe_dump(whole), '{"se'),
        ("half config", "searc", "{}"),
        ("no config", None, "{}"),
    ):
        folder = tmp_path / "kind" / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(result)
        if config is not None:
            (folder / "config.yaml").write_text(config)
    assert list(finished(tmp_path)) == [(whole, {"seed": 1})]
    assert capsys.readouterr().err.count("passed over: ") == 3


def test_a_made_up_log_reads_as_criteo_and_has_its_variety(tmp_path: Path) -> None:
    log = tmp_path / "train.txt"
    generate(log, 20_000, seed=0)
    assert 230 < log.stat().st_size / 20_000 < 255
    chunks = list(Criteo(path=str(log)).chunks())
    label = np.concatenate([chunk.label for chunk in chunks])
    assert len(label) == 20_000
    assert 0.24 < label.mean() < 0.27
    second = np.concatenate([np.asarray(chunk.columns["I2"], dtype=np.float32) for chunk in chunks])
    assert (second < 0).any()
    distinct = []
    for name, shape in zip(CATEGORIES, SHAPES, strict=True):
        values = pd.Series(np.concatenate([np.asarray(chunk.columns[name]) for chunk in chunks])).replace("", None)
        assert abs(values.isna().mean() - shape.missing) < 0.02
        assert values.dropna().str.fullmatch("[0-9a-f]{8}").all()
        assert values.nunique() <= shape.distinct
        distinct.append(values.nunique())
    assert 60_000 < sum(distinct) < 80_000


def test_a_made_up_log_follows_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(tmp_path / name, 2_000, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_a_wide_log_never_repeats_where_values_are_many(tmp_path: Path) -> None:
    generate(tmp_path / "log", 20_000, seed=0, wide=True)
    rows = [line.split("\t") for line in (tmp_path / "log").read_text().splitlines()]
    for values, shape in zip(zip(*(row[14:] for row in rows), strict=True), SHAPES, strict=True):
        assert (len(set(values)) == len(rows)) == (shape.distinct > 50_000)


def test_preparation_is_measured_job_by_job(tmp_path: Path) -> None:
    printed = measure(tmp_path, "benchmarks.preparation", "--rows", "3000", "--at", str(tmp_path / "at"))
    report = json.loads((tmp_path / "outputs" / "preparation" / "preparation.json").read_text())
    assert [job["job"] for job in report["jobs"]] == [
        "the made-up log",
        "prepared",
        "opened again",
        "a pass in batches of 4,096",
        "a pass as one of 4 ranks: rows of all",
        "a pass as one of 16 ranks: rows of all",
    ]
    assert {job["rows"] for job in report["jobs"] if "ranks" in job["job"]} == {2400}
    assert all(job["seconds"] > 0 and job["peak_rss_mib"] > 0 for job in report["jobs"])
    assert printed.count("\n| ") == len(report["jobs"])
    assert not list((tmp_path / "at").iterdir())


@pytest.mark.data
@pytest.mark.slow
def test_a_model_is_held_against_what_is_published(tmp_path: Path, real_data: Path) -> None:  # noqa: F811
    candidates = str(real_data / "ncf" / "ncf_test_negatives.csv")
    arguments = ("benchmarks.ncf", candidates, "--model", "gmf", "--epochs", "1")
    printed = measure(tmp_path, *arguments, DNIS_DATA=str(real_data))
    assert "gmf, seed 0: epoch 1: hr@10 0." in printed
    cells = printed.splitlines()[-1].split(" | ")
    assert cells[:4] == ["gmf", "32", "0", "1"]
    assert cells[4:6] == cells[6:8], "there is one epoch to choose from"
    assert 0.3 < float(cells[4]) < 0.71


@pytest.mark.slow
def test_packed_tables_are_timed_beside_a_dense_one(tmp_path: Path) -> None:
    printed = measure(tmp_path, "benchmarks.packed", "--features", "20000", "--rounds", "1")
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("| 10% |")]
    files = {row[2].strip(): float(row[3]) for row in rows}
    assert files["csr, int8"] < files["csr, fp16"] < files["csr, fp32"] < 0.15 * files["dense, fp32"]
    assert all("×" in row[5] for row in rows if "dense" not in row[2])


@pytest.mark.slow
@pytest.mark.data
def test_compress_is_measured_on_real_data(tmp_path: Path, real_data: Path) -> None:  # noqa: F811
    few = ("--seeds", "1", "--rates", "10")
    printed = measure(tmp_path, "benchmarks.compress", *few, timeout=900, DNIS_DATA=str(real_data))
    lines = [line.split("|") for line in printed.splitlines() if line.startswith("| ")]
    errors = {(line[1].strip(), line[2].strip()): float(line[4]) for line in lines[1:]}
    assert errors["–", "as it was"] < errors["10", "first dimensions"] < errors["10", "a plain table, K = 6"]
    assert errors["10", "a plain table, K = 6"] < errors["10", "single entries, by search"] < 1


def _run_of(
    folder: Path,
    method: tuple[str, str | None, str],
    seed: int,
    parts: list[tuple[int, float, float]],
    base_dim: int = 64,
) -> None:
    """What runs leave; method: search, prune.by, None where nothing is cut, and schedule.

    parts: bytes, and the metric on select and on test, the first of the whole table.
    """
    search, by, schedule = method
    budget = None if by is None else ["1MiB"]
    config = {"search": {"name": search, "budget": budget}, "prune": {"by": by or "elements", "schedule": schedule}}
    told = [{"bytes": size, "metrics": {"select/mse": on_select, "test/mse": test}} for size, on_select, test in parts]
    result = {
        "seed": seed,
        "features": 1000,
        "base_dim": base_dim,
        "unpruned": told[0],
        "pruned": told[1:],
        "seconds": {"total": 60.0},
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(json.dumps(result))


PLAIN = ("none", None, "one_shot")


def test_a_frontier_counts_what_is_best_on_select_of_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = frontier.CASES[0]
    monkeypatch.setattr(frontier, "OUTPUTS", tmp_path)
    runs, whole = tmp_path / case.name / "runs", 4 * 64 * 1000
    for seed in (0, 1):
        _run_of(runs / f"wide{seed}", PLAIN, seed, [(whole, 0.80, 0.81)])
        _run_of(runs / f"narrow{seed}", PLAIN, seed, [(whole // 2, 0.79, 0.84)], 32)
        _run_of(runs / f"none{seed}", PLAIN, seed, [(200, 0.99, 0.98 + seed)], 0)
        cuts = [(whole, 0.80, 0.81), (whole // 2, 0.70, 0.71), (whole // 5, 0.75, 0.76)]
        _run_of(runs / f"dnis{seed}", ("dnis", "prefix", "one_shot"), seed, cuts)
        _run_of(runs / f"cut{seed}", ("none", "elements", "gradual"), seed, cuts[:2])
        _run_of(runs / f"turned{seed}", ("none", "prefix", "one_shot"), seed, cuts)
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in frontier._markdown(case)}
    assert lines["uniform"][:3] == ["0.8400 ± 0.0000", "0.8400 ± 0.0000", "1.4800 ± 0.7071"]
    assert lines["DNIS"][:4] == ["0.7100 ± 0.0000", "0.7100 ± 0.0000", "0.7600 ± 0.0000", "–"]
    assert lines["magnitude gradual"][:3] == ["0.7100 ± 0.0000", "0.7100 ± 0.0000", "–"]
    assert lines["turned axes alone"][2] == "0.7600 ± 0.0000"
    assert "MDE" not in lines
    assert frontier._budgets(case)[50] == f"{(whole / 2 + frontier.HEADER) / 2**20:.6f}MiB"
    frontier._draw(case)
    assert (tmp_path / f"{case.name}.png").stat().st_size > 10_000


def test_a_frontier_of_another_recipe_has_a_folder_of_its_own() -> None:
    case = frontier.CASES[0]
    assert case.with_also([]) == case
    other = case.with_also(["optimizer.lr=0.001"])
    assert other.name == "movielens-100k-mf-optimizer-lr-0-001"
    assert composed(*other.arguments).optimizer.lr == 0.001


def test_every_contender_of_a_frontier_is_known_again_by_its_configuration() -> None:
    for row in frontier.rows_of(frontier.CASES[0], "[1MiB]", one_l2=True):
        config = composed(*frontier.CASES[0].arguments, *row.arguments)
        assert frontier._label(OmegaConf.to_container(config, resolve=True)) == row.label
        assert config.search.budget == (None if row.label in ("uniform", *frontier.WHOLE) else ["1MiB"])


def _run_on(
    folder: Path, name: str, test: list[float], *, width: int = 64, blocks: int = 10, batch: int = 4096
) -> None:
    """What a run with seed 0 leaves; test: its metric of the whole table, and of the cut."""
    parts = [{"kept": 10 * width, "bytes": 40 * width, "metrics": {"test/mse": one}} for one in test]
    search = {"name": name, "base_dim": width, "blocks": blocks}
    folder.mkdir(parents=True)
    config = {"search": search, "data": {"batch_size": batch}, "seed": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    told = {"blocks": [{"dead": block == 0} for block in range(blocks)]}
    result = {
        "diagnostics": told,
        "warnings": ["one"],
        "unpruned": parts[0],
        "pruned": parts[1:],
        "seconds": {"total": 90.0},
    }
    (folder / "result.json").write_text(json.dumps(result))


def test_a_search_stands_beside_the_plain_tables_of_its_own_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robust, "OUTPUTS", tmp_path)
    runs = tmp_path / "movielens-100k-mf" / "runs"
    _run_on(runs / "a", "dnis", [0.8, 0.79])
    _run_on(runs / "b", "dnis", [0.81, 0.78], width=32, blocks=10)
    _run_on(runs / "c", "dnis", [0.82, 0.77], blocks=5)
    _run_on(runs / "d", "none", [0.95, 0.9], width=6)
    _run_on(runs / "e", "none", [0.95, 0.91], width=3)
    _run_on(runs / "f", "none", [1.0, 0.99], width=0)
    _run_on(runs / "g", "none", [0.6, 0.5], width=6, batch=256)
    lines = {name: dict(_rows(robust._markdown(name))) for name in ("width", "blocks", "batch")}
    assert lines["width"]["64"] == ["0.8000", "0.7900", "0.9000", "0.9900", "640", "2,560", "240", "1", "1", "1.5"]
    assert lines["width"]["32"] == ["0.8100", "0.7800", "0.9100", "0.9900", "320", "1,280", "120", "1", "1", "1.5"]
    assert lines["width"]["128"] == ["–", "–", "–", "0.9900", "–", "–", "–", "–", "–", "–"]
    assert lines["blocks"]["5"][:4] == ["0.8200", "0.7700", "0.9000", "0.9900"]
    assert lines["blocks"]["5"][-3:] == ["1", "1", "1.5"]
    assert lines["batch"]["256"][2:4] == ["0.5000", "–"]


def _rows(markdown: Iterator[str]) -> Iterator[tuple[str, list[str]]]:
    for line in markdown:
        head, *cells = line.strip("| ").split(" | ")
        yield head, cells


def test_series_of_other_data_or_models_have_folders_of_their_own() -> None:
    folders = {series.folder: series.data for series in robust.SERIES}
    assert len(folders) == len(set(folders.values())) == len({series.data for series in robust.SERIES})


def test_every_setting_is_swept_over_with_what_it_is_held_against() -> None:
    for name in robust._names():
        settings = [setting for series in robust.SERIES if series.name == name for setting in series.settings]
        told = [dict(word.split("=", 1) for word in row.arguments) for row in robust._rows(name)]
        searched = [one for one in told if one["search"] == "dnis"]
        for setting in settings:
            assert any(all(str(setting[key]) in one[key].split(",") for key in setting) for one in searched)
        plain = {width for one in told if one["search"] == "none" for width in one["search.base_dim"].split(",")}
        assert plain == {"0", *(str(max(1, round(setting["search.base_dim"] / 10))) for setting in settings)}
        for row in robust._rows(name):
            swept = [
                word.split(",")[0] if word.startswith(tuple(robust.BY_DEFAULT)) else word for word in row.arguments
            ]
            check_config(composed(*swept), swept)


def test_an_ablation_is_held_against_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "OUTPUTS", tmp_path)
    for variant, shift in ((ablation.RECIPE, 0.0), ("no penalty", 0.01)):
        for seed in range(3):
            parts = [{"budget": "20%", "metrics": {"test/mse": test + shift * seed}} for test in (0.8, 0.7, 0.9)]
            folder = ablation._folder("movielens-100k-mf", variant) / "runs" / str(seed)
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text("{}")
            told = {"seed": seed, "unpruned": parts[0], "pruned": parts[1:], "seconds": {"total": 60}}
            (folder / "result.json").write_text(json.dumps(told))
    lines = dict(_rows(ablation._markdown("movielens-100k-mf")))
    assert lines["the recipe"] == ["0.8000 ± 0.0000", "0.7000 ± 0.0000", "0.9000 ± 0.0000", "–", "1.0"]
    # differences of 0, 0.01, 0.02: standard deviation 0.01, t of two degrees of freedom 4.3027
    assert lines["no penalty"] == ["0.8100 ± 0.0100", "0.7100 ± 0.0100", "0.9100 ± 0.0100", "+0.0100 ± 0.0248", "1.0"]


def test_an_ablation_of_another_recipe_has_a_place_of_its_own() -> None:
    also = ["data.default_l2_power=0", "prune=prefix"]
    told = ablation.arguments_of("movielens-100k-mf", "1 block", also)
    assert told[-1] == "search.blocks=1"
    assert set(also) < set(told)
    assert ablation._folder("movielens-100k-mf", "1 block", also) != ablation._folder("movielens-100k-mf", "1 block")
    config = composed(*told)
    check_config(config, told)
    assert config.model.l2_power == 0


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_every_ablation_can_be_run(variant: str) -> None:
    told = ablation.arguments_of("movielens-1m-mf", variant)
    config = composed(*told, f"output_dir={ablation._folder('movielens-1m-mf', variant)}")
    check_config(config, told)
    assert config.model.l2 == {"L2 half as large": 0.4, "L2 twice as large": 1.6}.get(variant, 0.8)


@pytest.mark.parametrize("variant", [one for one in ablation.REPLACED if one != ablation.AVERAGED])
@pytest.mark.slow
def test_what_was_not_taken_can_be_run(variant: str, tmp_path: Path) -> None:
    name = ablation.REPLACED[variant][0]
    gates = [_gates(tmp_path, "dnis_lightning"), _gates(tmp_path, "benchmarks.untaken", name)]
    after_the_search = ("from-the-start", "finer", *untaken.BY_SELECT, "unseen-uncounted", *untaken.CONSTANTS)
    assert np.allclose(*gates) == (name in after_the_search)


def test_what_is_kept_is_trained_from_the_start() -> None:
    with untaken._replaced("from-the-start"):
        assert [step.fresh for step in build.OneShot(Stopping(3, 3)).steps(10, 5)] == [True]
    assert [step.fresh for step in build.OneShot(Stopping(3, 3)).steps(10, 5)] == [False]


def test_unseen_ids_count_for_the_rows_of_train_alone() -> None:
    vocabulary = SimpleNamespace(expected=np.array([3.0, 1.0, 2.0]), frequency=np.array([0, 1, 2]))
    run: Any = SimpleNamespace(prepared=SimpleNamespace(vocabulary=vocabulary), evaluation=SimpleNamespace(inputs=list))
    assert Run._new_importance(run).frequency.tolist() == [3, 1, 2]
    with untaken._replaced("unseen-uncounted"):
        assert Run._new_importance(run).frequency.tolist() == [0, 1, 2]


def test_no_rival_is_hopeless() -> None:
    with untaken._replaced("every-rival"):
        assert worse_by(0.5, cutting.RIVAL_MARGIN) == math.inf
    assert worse_by(0.5, cutting.RIVAL_MARGIN) < 1


def test_the_table_before_the_search_needs_a_lead_of_its_own() -> None:
    with untaken._replaced("any-lead"):
        assert worse_by(0.5, cutting.LEAD) == 0.5
    with untaken._replaced("start-uncut"):
        assert not worse_by(0.5, cutting.LEAD) < 1e9
    assert 0.5 < worse_by(0.5, cutting.LEAD) < 0.51


def test_single_entries_go_within_first_dimensions() -> None:
    torch.manual_seed(0)
    features, dims = 30, 6
    bound, pruning = parse_budget("20%"), Pruning("prefix", build.OneShot())
    even = Importance(torch.ones(features), lambda model: torch.ones(2, dims))

    def cut_by(mask_of: Callable[..., torch.Tensor], rate: float) -> torch.Tensor:
        torch.manual_seed(1)
        model = Recommender(FeatureSpace((0, 10, features)), FM(), dims=dims, std=1.0)
        return mask_of(model, replace(bound, rate=rate), pruning, even, features * dims, lambda mask: True)

    found, wider = cut_by(untaken.finer_mask, 5), cut_by(cut_mask, 5 / untaken.MORE)
    assert int(found.sum()) == 36
    assert 36 < int(wider.sum()) <= 45
    assert bool((wider | ~found).all()), "none is outside of the first dimensions"


def test_a_dimension_of_a_block_counts_for_what_select_loses_without_it() -> None:
    torch.manual_seed(0)
    features, dims = 30, 4
    block_of = torch.arange(features) // 10
    losses = torch.tensor([[4.0, 3, 2, 1], [8, 6, -4, 2], [0, 0, 0, 1]])

    def score(model: Recommender) -> float:
        there = torch.stack([model.table.entries()[block_of == block].any(0) for block in range(3)])
        return float((losses * ~there).sum())

    by_loss = untaken.ByLossOfSelect(
        torch.ones(features), lambda model: torch.ones(2, dims), block_of, blocks=3, score=score
    )
    model = Recommender(FeatureSpace((0, 10, features)), FM(), dims=dims, std=1.0)
    model.turn(torch.ones(features))
    before = model.merged_table()
    worth, _ = by_loss.by_table(model, 0.5)
    ever, _ = Importance(torch.ones(features), lambda model: torch.ones(2, dims)).by_table(model, 0.5)
    squares = torch.zeros(3, dims).index_add_(0, block_of, worth.square())
    assert torch.allclose(squares, losses.clamp(min=untaken.LEAST_LOSS))
    within = (worth / ever)[:10].abs()
    assert torch.allclose(within, within[:1].expand_as(within)), "within a dimension of a block the order stays"
    assert torch.equal(before, model.merged_table())


def test_blocks_count_for_what_select_loses_as_they_shrink() -> None:
    torch.manual_seed(0)
    features, dims = 30, 4
    block_of = torch.arange(features) // 10
    per_unit = torch.tensor([0.5, -1.0, 2.0])

    def score(model: Recommender) -> float:
        scales = torch.stack([(model.table.entries() / before)[block_of == block].mean() for block in range(3)])
        return -float((per_unit * scales).sum())

    even = torch.ones(features)
    by_gradient = untaken.ByGradientOfSelect(
        even, lambda model: torch.ones(2, dims), block_of=block_of, blocks=3, score=score
    )
    model = Recommender(FeatureSpace((0, 10, features)), FM(), dims=dims, std=1.0)
    model.turn(even)
    before = model.merged_table()
    worth, _ = by_gradient.by_table(model, 0.5)
    ever, _ = Importance(even, lambda model: torch.ones(2, dims)).by_table(model, 0.5)
    squares = torch.zeros(3).index_add_(0, block_of, worth.square().sum(1))
    assert torch.allclose(squares, per_unit.clamp(min=untaken.LEAST_LOSS), atol=1e-5)
    within = (worth / ever)[:10].abs()
    assert torch.allclose(within, within[:1, :1].expand_as(within)), "within a block the order stays"


def _search(
    kind: type[S], dims: int, *, lr: float = 1.0, penalty: float = 0.0, steps: int = 1, model: nn.Module | None = None
) -> S:
    """Over two blocks of five features, gates (2, dims)."""
    recommender = Recommender(FeatureSpace((0, 5, 10)), model or FM(), dims=dims, std=1.0)
    recommender.selection = SoftSelection(np.arange(10) // 5, 2, dims)
    sgd = WeightStep(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    gate_step = GateStep(lr=lr, penalty=penalty, penalty_stage="normalised")
    return kind(recommender, Objective(Rating()), sgd, gate_step, steps_per_epoch=steps)


def _descend(search: SearchModule, push: torch.Tensor, steps: int) -> None:
    """Steps of the gates by a push (2, dims) that is given, in place of the gradient of a loss."""

    def pushed(search: SearchModule, *batches: object) -> None:
        search.selection.gates.grad = push

    nothing: Any = None
    with patch.object(SearchModule, "descend_gates", pushed):
        for _ in range(steps):
            search.descend_gates(nothing, nothing)


def test_a_block_learns_one_length() -> None:
    search = _search(untaken.LearnedLengths, 8, lr=0.5)
    _descend(search, torch.tensor([[1.0], [-1.0]]) + torch.zeros(2, 8), 3)
    # each step takes 0.5 · (8 / 4) dimensions off 7 + 8 / 4; the other block is as long as may be
    assert search.lengths.flatten().tolist() == [6, 9]
    assert search.selection.gates.tolist() == [[1, 1, 1, 1, 1, 0.5, 0, 0], [1] * 8]
    _descend(search, torch.tensor([[1.0], [1.0]]) * (torch.arange(8) == 0), 1)
    assert search.lengths.flatten().tolist() == [6, 9], "gates that do not depend on a length have no say"


def test_a_length_holds_for_each_of_two_tables() -> None:
    search = _search(untaken.LearnedLengths, 16, lr=0.5, model=NeuMF(2, 8))
    _descend(search, torch.ones(2, 16), 3)
    assert search.selection.gates.tolist() == [[1, 1, 1, 1, 1, 0.5, 0, 0] * 2] * 2


@pytest.mark.parametrize("density", [0.2, 0.05])
def test_a_penalty_is_steered_to_a_share_of_the_gates(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    search = _search(untaken.Steered, 4)
    at_the_end: Any = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=9), estimated_stepping_batches=10)
    monkeypatch.setattr(untaken.Steered, "trainer", at_the_end)
    monkeypatch.setattr(untaken.Steered, "density", density)
    step, _ = search._penalised(torch.tensor([[1.0, -1, 1, -1]] * 2))
    assert float(search.selection.gates.mean() - step.mean()) == pytest.approx(density)


def test_moments_are_carried_and_the_rate_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.ones(3))

    def stepped(rate: float, steps: int) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam([weight], lr=rate)
        for _ in range(steps):
            weight.grad = torch.ones(3)
            optimizer.step()
        return optimizer

    search = _search(untaken.MomentsCarried, 4)
    own = stepped(0.25, 0)
    monkeypatch.setattr(untaken.Remembered, "left", stepped(0.5, 7).state_dict())
    monkeypatch.setattr(search, "optimizers", lambda use_pl_optimizer: [own, None])
    search.on_fit_start()
    assert float(own.state[weight]["step"]) == 7
    assert own.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("what", "understood"),
    [
        ("noise", True),
        ("noise:3", False),
        ("lengths", False),
        ("lengths:4:2", True),
        ("lengths:4:b", False),
        ("given", False),
        ("given:here:there", True),
        ("steered", True),
        ("steered:20", True),
        ("steered:20:5", False),
        ("steered:0.2", False),
        ("steered:0", False),
        ("steered:200", False),
        ("given:", False),
    ],
)
def test_what_is_replaced_takes_what_it_needs(what: str, understood: bool) -> None:
    name, *told = what.split(":")
    assert untaken._understood(name, told) is understood


def test_blocks_stand_still_where_their_gradient_is_noise() -> None:
    search = _search(untaken.FrozenWhereNoise, 40, lr=0.2, penalty=0.1, steps=50)
    agrees = torch.tensor([[1.0], [0.0]])
    torch.manual_seed(0)
    for _ in range(50):
        gradient = torch.randn(2, 40) + agrees
        step, penalty = search._penalised(gradient)
        search.pushes.add(gradient, step, penalty)
    assert bool((step[0] != 0).all())
    assert bool((step[1] == 0).all())
    assert torch.equal(torch.as_tensor(penalty), 0.1 * agrees)


def test_rows_may_be_as_long_as_one_says(tmp_path: Path) -> None:
    given = (
        *TINY[:-4],
        "search.base_dim=4",
        *TINY[-3:],
        "search=none",
        f"output_dir={tmp_path}/o",
        f"data.cache={tmp_path}/cache",
    )
    measure(tmp_path, "benchmarks.untaken", "lengths:4:2:1:1", *given)
    (path,) = (tmp_path / "o").glob("*/*/result.json")
    assert json.loads(path.read_text())["block_dims"] == [4, 2, 1, 1]


def test_gates_of_two_searches_are_averaged(tmp_path: Path) -> None:
    first = _gates(tmp_path / "first", "dnis_lightning")
    second = _gates(tmp_path / "second", "benchmarks.untaken", "swapped")
    assert not np.allclose(first, second)
    runs = [str(_weights(tmp_path / name).parents[1]) for name in ("first", "second")]
    mean = _gates(tmp_path / "mean", "benchmarks.untaken", ":".join(["given", *runs]))
    assert np.allclose(mean, (first + second) / 2)


def _gates(folder: Path, *module: str) -> np.ndarray:
    """(L, K) that a small search ends with."""
    folder.mkdir(exist_ok=True)
    places = [f"data.cache={folder}/cache", f"output_dir={folder}/outputs"]
    measure(folder, *module, *TINY_DNIS, "search.warm_start=1", "search.fit_epochs=1", *places)
    return torch.load(_weights(folder), weights_only=True)["recommender"][GATES].numpy()


def _weights(folder: Path) -> Path:
    return max(folder.glob("outputs/*/*/checkpoints/best.ckpt"), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("wrong", [["--variant", "no such"], ["--only", "nothing"]])
def test_an_ablation_names_what_it_knows(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation", "--table", *wrong])
    with pytest.raises(SystemExit):
        ablation.main()
    assert f"argument {wrong[0]}: invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--methods", "DNIS,nothing"], ["--widths", "5"]])
def test_a_frontier_names_what_it_knows(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["frontier", "--table", *wrong])
    with pytest.raises(SystemExit):
        frontier.main()
    assert {"--methods": "there is no nothing", "--widths": "5 is no contender"}[wrong[0]] in capsys.readouterr().err


def test_budgets_of_two_tables_are_shares_of_both() -> None:
    neumf = next(case for case in frontier.CASES if case.name == "movielens-1m-neumf")
    assert frontier._limits(neumf, {"features": 1000})[100] == 2 * 4 * 64 * 1000 + frontier.HEADER
