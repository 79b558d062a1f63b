"""What is found, what is passed over and why, and which runs count."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from dnis_lightning.errors import UserError
from dnis_lightning.report.collect import collect
from dnis_lightning.report.settle import USED, Settled, settle
from tests.report.runs import make_run, part, rating


def settled(*paths: Path) -> Settled:
    return settle(collect(paths).runs)


def counting(one: Settled) -> pd.DataFrame:
    return one.frame[one.frame["used"] == USED]


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "b", rating(0.7))
    make_run(tmp_path, rating(0.8))
    assert len(collect([tmp_path]).runs) == 2


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    path = make_run(tmp_path, rating(0.7))
    (tmp_path / "link").symlink_to(path.parent)
    runs = collect([tmp_path, path, path.parent, tmp_path / "link" / "result.json"]).runs
    assert len(runs) == 1


def test_a_search_that_diverged_is_no_fault_of_the_result(tmp_path: Path) -> None:
    block = {"data_share": None, "signal": None, "dead": False}
    told = {"blocks": [block], "drift": {"first": None, "last": 0.1}, "gap": None, "warnings": ["the search diverged"]}
    make_run(tmp_path, rating(0.7), diagnostics=told)
    one = settled(tmp_path)
    assert counting(one)["search_signal"].isna().all()
    assert len(counting(one)) == 1


BAD = {
    "empty": (b"", "not JSON"),
    "half": (b'{"schema": 1, "data": "movie', "not JSON"),
    "binary": (b"\x89PNG\xff\xfe", "utf-8"),
    "nested": (b"[" * 100_000, "recursion"),
    "list": (b"[1, 2]", "no result of a run"),
    "foreign": (b'{"accuracy": 0.9}', "no result of a run"),
    "newer": (b'{"schema": 2}', "schema 2; this version reads schema 1"),
    "lacking": (b'{"schema": 1, "data": "x"}', "it lacks model, search"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_with_their_reason(kind: str, tmp_path: Path) -> None:
    content, reason = BAD[kind]
    good, bad = make_run(tmp_path / "good", rating(0.7)), tmp_path / "bad" / "result.json"
    bad.parent.mkdir()
    bad.write_bytes(content)
    found = collect([tmp_path])
    assert [run.path for run in found.runs] == [good]
    assert len(found.skipped) == 1
    assert str(bad) in found.skipped[0]
    assert reason in found.skipped[0]
    with pytest.raises(UserError, match=r"no result\.json of a finished run that can be read") as fault:
        collect([bad])
    assert reason in str(fault.value)


ODD = {
    "who_pays.groups": {"who_pays": {"metric": "mse"}},
    "who_pays.groups.0.unpruned": {"who_pays": {"metric": "mse", "groups": [{"by": "block", "cuts": {}}]}},
    "diagnostics.blocks.0.data_share": {"diagnostics": {"blocks": [{"signal": 1.0, "dead": False}]}},
}


@pytest.mark.parametrize("lacking", ODD)
def test_a_result_that_lacks_what_tables_are_made_of_is_passed_over(lacking: str, tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", rating(0.7))
    make_run(tmp_path / "odd", rating(0.7), **ODD[lacking])
    found = collect([tmp_path])
    assert [run.path for run in found.runs] == [good]
    assert "it lacks" in found.skipped[0]
    assert lacking in found.skipped[0]


def test_a_value_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.7))
    bad = make_run(tmp_path, rating(0.7), unpruned={"kept": "many", "metrics": {}})
    (skipped,) = collect([tmp_path]).skipped
    assert str(bad) in skipped
    assert "it lacks unpruned.bytes" in skipped
    assert "unpruned.kept" in skipped
    assert "'many'" in skipped


def test_a_broken_link_and_an_unfinished_run_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "good", rating(0.7))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").symlink_to(tmp_path / "gone")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "fingerprint").write_text("abc")
    begun, broken = sorted(collect([tmp_path]).skipped)
    assert "unfinished" in begun
    assert "cannot be read (No such file or directory)" in broken


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "good", rating(0.7))
    file, folder = make_run(tmp_path / "shut", rating(0.7)), make_run(tmp_path / "closed", rating(0.7)).parent
    file.chmod(0)
    folder.chmod(0)
    try:
        found = collect([tmp_path])
        assert len(found.runs) == 1
        assert all("Permission denied" in line for line in found.skipped)
        assert len(found.skipped) == 2
    finally:
        folder.chmod(0o755)


def test_a_damaged_config_is_named_and_the_run_kept(tmp_path: Path) -> None:
    path = make_run(tmp_path, rating(0.7))
    path.with_name("config.yaml").write_text("a: [1,")
    found = collect([tmp_path])
    assert len(found.runs) == 1
    assert "config.yaml: cannot be read" in found.skipped[0]


def test_absent_paths_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such file or folder"):
        collect([tmp_path, tmp_path / "nowhere"])


def test_of_reruns_the_newest_counts(tmp_path: Path) -> None:
    for name, value in (("20260102-000000-0-s0", 0.7), ("20260101-000000-0-s0", 0.8)):
        path = make_run(tmp_path, rating(value), name=name)
        path.with_name("fingerprint").write_text("same\n")
    one = settled(tmp_path)
    assert counting(one)["test/mse"].tolist() == [0.7]
    assert len(one.frame) == 2
    assert any("1 runs were run again later" in note for note in one.notes)


def test_a_run_with_cuts_and_one_without_share_the_unpruned_model(tmp_path: Path) -> None:
    make_run(tmp_path, rating(0.7), config={"search.rates": []})
    cut = part(rating(0.8), 500, budget="cr:2", seconds=30.0)
    make_run(tmp_path, rating(0.7), config={"search.rates": [2]}, pruned=[cut])
    one = settled(tmp_path)
    assert counting(one)["cut"].tolist() == ["unpruned", "cr:2"]
    assert any("more than one run" in note for note in one.notes)


def test_a_cut_pays_for_itself_and_not_for_the_others(tmp_path: Path) -> None:
    cuts = [part(rating(0.8), 500, budget=f"cr:{rate}", seconds=10.0 * rate) for rate in (2, 5)]
    make_run(tmp_path, rating(0.7), pruned=cuts)  # 100 s in all, 70 of them for the cuts
    assert settled(tmp_path).frame["seconds"].tolist() == [30.0, 50.0, 80.0]


def test_single_trial_jobs_are_one_run_at_the_price_of_all(tmp_path: Path) -> None:
    selects = {(0, 0): 0.5, (0, 1): 0.4, (0, 2): 0.6, (1, 0): 0.3, (1, 1): 0.35}
    for (seed, trial), select in selects.items():
        trials = [{"name": f"dim={4 * trial + 4}"}]
        make_run(tmp_path, {"select/mse": select}, search="grid", seed=seed, trial=trial, trials=trials)
    best = counting(settled(tmp_path)).set_index("seed").sort_index()
    assert best["trial"].tolist() == [1, 0]
    assert best["trial_name"].tolist() == ["dim=8", "dim=4"]
    assert best["seconds"].tolist() == [300.0, 200.0]
    assert best["jobs"].tolist() == [3, 2]


def test_a_diverged_trial_is_never_the_best(tmp_path: Path) -> None:
    for trial, select in enumerate((None, 0.9)):
        make_run(tmp_path, {"select/mse": select}, search="grid", trial=trial)
    assert counting(settled(tmp_path))["trial"].tolist() == [1]


def test_a_run_of_all_trials_takes_the_place_of_single_ones(tmp_path: Path) -> None:
    make_run(tmp_path, {"select/mse": 0.1}, search="grid", trial=0)
    make_run(tmp_path, rating(0.7), search="grid")
    one = settled(tmp_path)
    assert counting(one)["test/mse"].tolist() == [0.7]
    assert any("single-trial" in note for note in one.notes)


def test_the_score_among_trials_of_clicks_is_logloss(tmp_path: Path) -> None:
    for trial, (auc, logloss) in enumerate(((0.9, 0.6), (0.8, 0.5))):
        metrics = {"select/auc": auc, "select/logloss": logloss}
        make_run(tmp_path, metrics, search="grid", task="ctr", trial=trial)
    assert counting(settled(tmp_path))["trial"].tolist() == [1]


def test_older_results_lack_keys_that_have_come_since(tmp_path: Path) -> None:
    path = make_run(tmp_path, rating(0.7), config=None)
    told = json.loads(path.read_text())
    for key in ("blocks", "l2", "trials", "environment"):
        told.pop(key)
    path.write_text(json.dumps(told))
    assert settled(tmp_path).frame["coo_npz_bytes"].isna().all()
