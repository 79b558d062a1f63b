"""From a finished run to a folder that is shipped, and from that to scores: those of the trained model."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dnis_lightning import export, plain_files, predict, recommend
from dnis_lightning.blueprint import rebuild
from dnis_lightning.data.mapping import RawMapping
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.packed.embedding import digest_of
from dnis_lightning.scheme import EVERY, Scheme
from dnis_lightning.serving import Predictor
from dnis_lightning.shipping import write_embedding
from tests.command import TINY, TINY_DNIS, dnis, loaded, result_of

SHORT = (
    "data.batch_size=256",
    "search.base_dim=4",
    "search.blocks=3",
    "search.rates=[2,4]",
    "search.search_epochs=2",
    "search.least_epochs=1",
    "prune.finetune_epochs=1",
    "trainer.max_epochs=2",
    "trainer.threads=1",
)
Run = tuple[Path, dict[str, object]]


@pytest.fixture(scope="module")
def clicks() -> pa.Table:
    """1,500 clicks: ids with leading zeros, prices and tags that may be missing; the last 300 are the test."""
    rng = np.random.default_rng(0)
    user, rows = rng.integers(0, 40, 1500), 1500
    price = [
        None if gone else round(float(x), 3)
        for x, gone in zip(rng.exponential(9, rows), rng.random(rows) < 0.1, strict=True)
    ]
    tags = ["|".join(f"t{tag}" for tag in rng.integers(0, 12, rng.integers(0, 4))) for _ in range(rows)]
    clicked = (rng.random(rows) < 1 / (1 + np.exp(-rng.normal(size=50)[user]))).astype(int)
    part = np.repeat(["train", "search", "select", "test"], [1000, 100, 100, 300])
    names = [f"{one:04d}" for one in user]
    names[1499] = "nobody"
    return pa.table({"user": names, "price": price, "tags": tags, "clicked": clicked, "part": part})


@pytest.fixture(scope="module")
def of_clicks(clicks: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("clicks")
    pa.csv.write_csv(clicks, place / "clicks.csv")
    columns = (
        "data.label=clicked",
        "data.split=column",
        "data.split_column=part",
        "data.multi=[tags]",
        "data.numeric=[price]",
    )
    return result_of(dnis(place, "data=table", f"data.path={place}/clicks.csv", "data.task=ctr", *columns, *SHORT))


def said_by(main: object, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(one) for one in arguments])  # type: ignore[operator]
    out, err = capsys.readouterr()
    return code, out, err


def logloss(scores: np.ndarray, clicked: np.ndarray) -> float:
    return float(-np.log(np.where(clicked == 1, scores.astype(np.float64), 1 - scores.astype(np.float64))).mean())


@pytest.mark.parametrize("budget", ["cr:2", "cr:4", "unpruned"])
def test_a_file_is_scored_as_the_run_evaluates(
    of_clicks: Run, clicks: pa.Table, budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = of_clicks
    ship, test = tmp_path / "ship", clicks.slice(1200)
    assert said_by(export.main, capsys, folder, "--to", ship, "--budget", budget, "--dtype", "fp32")[0] == 0
    assert len({path.stat().st_mode for path in ship.iterdir()}) == 1, "who may read one may read all"
    pa.csv.write_csv(test.select(["tags", "part", "user", "price"]), tmp_path / "test.csv")
    code, _, err = said_by(predict.main, capsys, ship, tmp_path / "test.csv", "--to", tmp_path / "scores.csv")
    assert (code, err.splitlines()[-1]) == (0, "300 rows; ids without a row of their own: 1 of user")
    scores = np.loadtxt(tmp_path / "scores.csv", skiprows=1)
    told = {"unpruned": result["unpruned"]} | {cut["budget"]: cut for cut in result["pruned"]}  # type: ignore[attr-defined]
    wanted = told[budget]["metrics"]["test/logloss"]  # type: ignore[index]
    assert logloss(scores, test["clicked"].to_numpy()) == pytest.approx(wanted, abs=1e-6)

    batch = RawMapping.load(folder).encode({one: test[one] for one in ("user", "price", "tags")})
    model = rebuild(folder, None if budget == "unpruned" else budget)
    with torch.no_grad():
        np.testing.assert_allclose(scores, model(batch).logits.sigmoid().numpy(), atol=1e-6)


def test_text_and_parquet_are_scored_alike(of_clicks: Run, clicks: pa.Table, tmp_path: Path) -> None:
    folder, _ = of_clicks
    ship, test = tmp_path / "ship", clicks.slice(1200)
    assert export.main([str(folder), "--to", str(ship), "--budget", "cr:2", "--dtype", "int8"]) == 0
    lists = pa.array([[tag for tag in tags.split("|") if tag] for tags in test["tags"].to_pylist()])
    pq.write_table(test.set_column(2, "tags", lists), tmp_path / "rows.parquet")
    pa.csv.write_csv(test, tmp_path / "rows.csv")
    headless = "\n".join((tmp_path / "rows.csv").read_text().replace('"', "").replace(",", "\t").splitlines()[1:])
    (tmp_path / "rows.txt").write_text(headless + "\n")
    columns = ["--separator", "tab", "--columns", "user,price,tags,clicked,part"]
    found = []
    for name, more in (("rows.parquet", []), ("rows.csv", []), ("rows.txt", columns)):
        to = tmp_path / f"{name}.scores"
        assert predict.main([str(ship), str(tmp_path / name), "--to", str(to), *more]) == 0
        found.append(np.loadtxt(to, skiprows=1))
    assert len(found[0]) == 300
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_the_type_is_chosen_by_the_select_rows(
    of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = of_clicks
    bytes_of = {}
    for tolerance in ("0", "10"):
        ship = tmp_path / f"ship{tolerance}"
        code, out, _ = said_by(export.main, capsys, folder, "--to", ship, "--budget", "cr:2", "--tolerance", tolerance)
        assert code == 0
        assert out.splitlines()[-1] == str(ship)
        embedding = PackedEmbedding.open(ship)
        bytes_of[tolerance] = (ship / "table.safetensors").stat().st_size
        assert f"(cr:2: {embedding.table.layout.name}, {embedding.table.values.dtype}" in out
        exact = result["pruned"][0]["metrics"]["select/auc"]  # type: ignore[index]
        assert embedding.told["select"]["select/auc"] >= (exact if tolerance == "0" else 0)
    assert bytes_of["10"] < bytes_of["0"] or PackedEmbedding.open(tmp_path / "ship0").table.values.dtype != "fp32"
    assert bytes_of["10"] < result["pruned"][0]["bytes"]  # type: ignore[index]


def test_without_its_data_a_run_is_exported_in_a_type_that_is_named(
    of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = of_clicks
    source = folder.parents[2] / "clicks.csv"
    source.rename(source.with_suffix(".gone"))
    try:
        code, _, err = said_by(export.main, capsys, folder, "--to", tmp_path / "ship", "--budget", "cr:2")
        assert code == 1
        assert f"the type of numbers is chosen by the run's data: {source}" in err
        assert "--dtype fp32 needs none" in err
        assert not (tmp_path / "ship").exists()
        assert export.main([str(folder), "--to", str(tmp_path / "ship"), "--budget", "cr:2", "--dtype", "bf16"]) == 0
    finally:
        source.with_suffix(".gone").rename(source)


def test_a_gated_model_of_projected_rows_is_scored_as_it_was(tmp_path: Path) -> None:
    folder, _ = result_of(dnis(tmp_path, *TINY, "search=mde", "model=deepfm"))
    assert export.main([str(folder), "--to", str(tmp_path / "ship"), "--dtype", "fp32"]) == 0
    raw = {f"field{one}": pa.array([str(n) for n in range(40)] + ["nobody"]) for one in range(2)}
    mapping = RawMapping.load(folder)
    assert mapping.columns == tuple(raw)
    with torch.no_grad():
        wanted = rebuild(folder)(mapping.encode(raw)).logits.numpy()
    np.testing.assert_allclose(Predictor.open(tmp_path / "ship").scores(raw), wanted, atol=1e-6)


@pytest.fixture(scope="module")
def of_log(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """50 users had 8 of 25 items each, by their taste."""
    place, rng = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    affinity = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 25)) * 2 + rng.gumbel(size=(50, 25))
    had = np.argsort(-affinity, axis=1)[:, :8]
    lines = [f"i{item},u{user},{when}" for user, items in enumerate(had) for when, item in enumerate(items)]
    (place / "log.csv").write_text("\n".join(["what,who,when", *lines]) + "\n")
    keys = ("data.task=topk", "data.label=null", "data.fields=[what,who]", "data.user=who", "data.time=when")
    more = ("data.split=leave_one_out", "data.top=[3]", "model=neumf", "trainer.max_epochs=4")
    return result_of(dnis(place, "data=table", "data.path=log.csv", *SHORT, *keys, *more))


def test_recommended_items_give_the_metrics_of_the_run(
    of_log: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = of_log
    ship, place = tmp_path / "ship", folder.parents[2]
    assert said_by(export.main, capsys, folder, "--to", ship, "--budget", "cr:2", "--dtype", "fp32")[0] == 0
    rows = list(csv.DictReader((place / "log.csv").open()))
    last = {row["who"]: row["what"] for row in rows if row["when"] == "7"}
    (tmp_path / "seen.csv").write_text(
        "who,what\n" + "".join(f"{row['who']},{row['what']}\n" for row in rows if row["when"] != "7")
    )
    users = [word for user in last for word in ("--user", user)]
    code, out, err = said_by(recommend.main, capsys, ship, *users, "--top", 3, "--seen", tmp_path / "seen.csv")
    assert (code, err) == (0, "")
    found: dict[str, list[str]] = {}
    recommended = list(csv.DictReader(out.splitlines()))
    for row in recommended:
        found.setdefault(row["who"], []).append(row["what"])
    batch = RawMapping.load(folder).encode(
        {one: pa.array([row[one] for row in recommended]) for one in ("who", "what")}
    )
    with torch.no_grad():
        scores = rebuild(folder, "cr:2")(batch).logits.numpy()
    np.testing.assert_allclose([float(row["score"]) for row in recommended], scores, atol=1e-6)
    assert all(len(items) == 3 for items in found.values())
    hits = np.mean([last[user] in found[user] for user in last])
    assert hits == pytest.approx(result["pruned"][0]["metrics"]["test/hr@3"], abs=1e-6)  # type: ignore[index]


def test_logs_without_a_header_and_without_rows(
    of_log: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = of_log
    ship, log = tmp_path / "ship", folder.parents[2] / "log.csv"
    assert export.main([str(folder), "--to", str(ship), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    capsys.readouterr()
    header, *rows = log.read_text().splitlines()
    user = rows[0].split(",")[header.split(",").index("who")]
    (tmp_path / "bare.data").write_text("\n".join(row.replace(",", "\t") for row in rows) + "\n")
    (tmp_path / "empty.csv").write_text(header + "\n")
    found = {}
    for name, more in (
        ("log", ["--seen", log]),
        ("bare", ["--seen", tmp_path / "bare.data", "--columns", header, "--separator", "tab"]),
        ("empty", ["--seen", tmp_path / "empty.csv"]),
        ("none", []),
    ):
        code, found[name], err = said_by(recommend.main, capsys, ship, "--user", user, "--top", 99, *more)
        assert (code, err) == (0, "")
    assert found["log"] == found["bare"]
    assert found["empty"] == found["none"] != found["log"]
    code, out, _ = said_by(predict.main, capsys, ship, tmp_path / "empty.csv")
    assert (code, out) == (0, "score\n")


def test_a_stranger_gets_what_suits_all_others(of_log: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = of_log
    assert export.main([str(folder), "--to", str(tmp_path / "ship"), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    capsys.readouterr()
    code, out, err = said_by(recommend.main, capsys, tmp_path / "ship", "--user", "nobody", "--user", "u3", "--top", 99)
    assert code == 0
    assert err == "1 of 2 users have no row of their own: theirs is that of all others\n"
    scores = [float(row["score"]) for row in csv.DictReader(out.splitlines()) if row["who"] == "nobody"]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 25, "all that there are"


def _told(folder: Path, **changed: object) -> None:
    told = json.loads((folder / "manifest.json").read_text()) | changed
    (folder / "manifest.json").write_text(json.dumps(told | {"sha256": digest_of(told)}))


def test_another_cut_keeps_to_bytes_in_the_type_that_is_asked_for(of_clicks: Run, tmp_path: Path) -> None:
    folder, _ = of_clicks
    layouts = {}
    for dtype in ("fp32", "int8"):
        ship = tmp_path / dtype
        assert export.main([str(folder), "--to", str(ship), "--budget", "0.9KiB", "--dtype", dtype]) == 0
        assert (ship / "table.safetensors").stat().st_size <= 0.9 * 1024
        layouts[dtype] = PackedEmbedding.open(ship).table.layout.name
    assert layouts["fp32"] != "dense"
    assert layouts["int8"] == "dense", "of small numbers all of this table fits"


def test_another_cut_fills_bytes_in_the_type_that_does(of_clicks: Run, tmp_path: Path) -> None:
    folder, _ = of_clicks
    kept = {}
    for name, more in {"fp32": ["--dtype", "fp32"], "0": ["--tolerance", "0"], "10": ["--tolerance", "10"]}.items():
        ship = tmp_path / name
        assert export.main([str(folder), "--to", str(ship), "--budget", "0.9KiB", "--by", "prefix", *more]) == 0
        assert (ship / "table.safetensors").stat().st_size <= 0.9 * 1024
        kept[name] = Predictor.open(ship).embedding.table.kept
        dtype = PackedEmbedding.open(ship).table.values.dtype
        assert dtype == {"fp32": "fp32", "10": "int8"}.get(name, dtype)
    assert kept["fp32"] <= kept["0"] <= kept["10"]
    assert kept["fp32"] < kept["10"]


def test_gates_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = result_of(dnis(tmp_path, *TINY, "search=none"))
    options = ("--budget", "cr:4", "--by", "gates", "--to", tmp_path / "ship")
    code, _, err = said_by(export.main, capsys, folder, *options)
    assert code == 1
    assert re.search(r"--by gates: .* has a model without gates; take --by elements or --by prefix", err)


def test_mistakes_are_named(of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = of_clicks
    ship, rows = tmp_path / "ship", tmp_path / "rows.csv"
    for arguments, says in [
        ((folder, "--to", ship), "it has several cuts; choose with --budget: cr:2, cr:4, unpruned"),
        ((folder, "--to", ship, "--budget", "0.1KiB"), "--budget 0.1KiB: the file is larger even with nothing kept"),
        ((folder, "--to", ship, "--budget", "a:9"), "--budget a:9: no cut of .*, which has cr:2, cr:4, unpruned"),
        ((folder, "--to", folder), "it is there already; name a new folder with --to"),
        ((tmp_path, "--to", ship), "no result.json that can be read; name the folder of a finished run"),
        ((folder, "--to", ship, "--tolerance", -1), "--tolerance -1.0: expected a share, 0 or above"),
        ((folder,), "--to; see python -m dnis_lightning.export --help"),
        ((folder, "--to", ship, "--dtype", "fp8"), "fp8"),
        ((folder, "--to", ship, "--by", "gates"), "--by: which budget to cut to"),
        ((folder, "--to", ship, "--dtype", "int8", "--tolerance", 1), "nothing reads it with --dtype int8"),
        (
            (folder, "--to", ship, "--format", "dense", "--layout", "csr"),
            "--layout: nothing reads it with",
        ),
    ]:
        code, _, err = said_by(export.main, capsys, *arguments)
        assert code == 1
        assert re.search(says, err), err
        assert not ship.exists()
    assert export.main([str(folder), "--to", str(ship), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    rows.write_text("user,price,tag\n0001,3,t1\n")
    whole = tmp_path / "whole.csv"
    whole.write_text("user,price,tags\n0001,3,t1\n")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "bad.csv").write_text("user,price,tags\n0001,3,t1\n0002,cheap,t1\n")
    plain = tmp_path / "plain"
    assert export.main([str(folder), "--to", str(plain), "--budget", "cr:2", "--format", "dense"]) == 0
    pq.write_table(pa.table({"user": [{"id": 1}], "price": [3.0], "tags": ["t1"]}), tmp_path / "nested.parquet")
    for arguments, says in [
        ((ship, rows), "rows.csv: no column tags, which the model takes; it has user, price, tag"),
        ((ship, tmp_path / "bad.csv"), "bad.csv:3: price is 'cheap', expected a number"),
        ((ship, tmp_path / "none.csv"), r"none.csv: cannot be read \(No such file or directory\)"),
        ((ship, whole, "--to", tmp_path), "this is a folder; name a file"),
        ((plain, rows), "plain arrays or a graph, for other systems; this reads --format packed alone"),
        ((ship / "table.safetensors", rows), "a file, expected a folder"),
        ((ship, rows, "--separator", ""), "--separator='': expected one character or more"),
        ((ship, rows, "--columns", "user,tags,user"), "--columns: 'user' stands there twice"),
        (
            (ship, tmp_path / "nested.parquet"),
            r"nested.parquet: user is of the type struct<.*, expected ids or numbers",
        ),
        ((folder / "embedding" / "cr-2", rows), "an embedding without its model"),
        ((tmp_path / "none", rows), "not a packed embedding that can be read"),
    ]:
        code, _, err = said_by(
            predict.main, capsys, *arguments, *(() if "--to" in arguments else ("--to", tmp_path / "to.csv"))
        )
        assert code == 1
        assert re.search(says, err), err
        assert not (tmp_path / "to.csv").exists()
    for arguments, says in [
        ((ship, "--user", "0001"), "this model is of the task ctr; only one of topk ranks items for users"),
        ((ship, "--user", "0001", "--top", 0), "--top 0: expected 1 or more"),
    ]:
        code, _, err = said_by(recommend.main, capsys, *arguments)
        assert (code, says in err) == (1, True)


def test_changed_data_do_not_choose_the_type(
    clicks: pa.Table, of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = of_clicks
    source = folder.parents[2] / "clicks.csv"
    before = source.read_bytes()
    try:
        pa.csv.write_csv(clicks.slice(1), source)
        code, _, err = said_by(export.main, capsys, folder, "--to", tmp_path / "ship", "--budget", "cr:2")
    finally:
        source.write_bytes(before)  # a file of another time, but with the same rows
    assert export.main([str(folder), "--to", str(tmp_path / "same"), "--budget", "cr:2"]) == 0
    assert code == 1
    assert "its data have changed since" in err
    assert not (tmp_path / "ship").exists()


def test_what_a_kill_has_left_is_no_hindrance(of_clicks: Run, tmp_path: Path) -> None:
    folder, _ = of_clicks
    (folder / "embedding" / ".cr-2.abc").mkdir()
    assert export.main([str(folder), "--to", str(tmp_path / "ship"), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    again = tmp_path / "again"
    (tmp_path / ".again.abcd1234").mkdir()
    write_embedding(again, PackedEmbedding.open(folder / "embedding" / "cr-2"), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "ship"]


def test_a_folder_that_somebody_else_makes_meanwhile_is_left_alone(
    of_clicks: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = of_clicks
    save = PackedEmbedding.save

    def slow(self: PackedEmbedding, *arguments: object) -> None:
        (tmp_path / "ship").mkdir()
        save(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PackedEmbedding, "save", slow)
    arguments = (folder, "--to", tmp_path / "ship", "--budget", "cr:2", "--dtype", "fp32")
    code, out, err = said_by(export.main, capsys, *arguments)
    assert (code, out) == (1, "")
    assert "ship: cannot be written (it has been made meanwhile); nothing is written" in err
    assert not list((tmp_path / "ship").iterdir())


def test_ids_are_unknown_that_training_never_saw_and_no_others(of_clicks: Run, tmp_path: Path) -> None:
    folder, _ = of_clicks
    assert export.main([str(folder), "--to", str(tmp_path / "ship"), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    predictor = Predictor.open(tmp_path / "ship")
    tags = ["t1|zzz|yyy", "", None, "t2"]
    predictor.scores({"user": ["", None, "nobody", "0001"], "price": [1.0, None, 2.0, 3.0], "tags": tags})
    assert predictor.unknown == {"user": 1, "tags": 2}


def test_a_model_of_classes_that_nobody_allowed_is_not_made(
    of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = of_clicks
    ship = tmp_path / "ship"
    assert export.main([str(folder), "--to", str(ship), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    told = json.loads((ship / "manifest.json").read_text())["model"]
    victim = tmp_path / "victim"
    victim.write_text("")
    unlink = {"_target_": "os.unlink", "_args_": [str(victim)]}
    for node in ({"_target_": "pathlib.Path.unlink"}, {**told["interaction"], "more": [unlink]}):
        _told(ship, model={**told, "interaction": node})
        code, _, err = said_by(predict.main, capsys, ship, "rows.csv")
        assert code == 1
        assert re.search(r"the model is made of (os|pathlib.Path).unlink; if you trust it, allow it: --allow", err)
        assert victim.exists()
    worked_out = {**told["interaction"], "more": "${oc.create:'{_target_: os.unlink}'}"}
    _told(ship, model={**told, "interaction": worked_out})
    assert "a value that is worked out when it is read" in said_by(predict.main, capsys, ship, "rows.csv")[2]
    through_ours = "dnis_lightning.interaction.dcn.torch.os.unlink"
    _told(ship, model={**told, "interaction": {**told["interaction"], "more": {**unlink, "_target_": through_ours}}})
    assert f"the model is made of {through_ours}" in said_by(predict.main, capsys, ship, "rows.csv")[2]
    assert victim.exists()
    _told(ship, model={**told, "interaction": {"_target_": "nowhere.Tower"}})
    code, _, err = said_by(predict.main, capsys, ship, "rows.csv", "--allow", "nowhere")
    assert code == 1
    assert "a class of the model cannot be imported (No module named 'nowhere')" in err
    assert "Traceback" not in err


def test_output_goes_where_it_can(of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = of_clicks
    ship, rows = tmp_path / "ship", tmp_path / "rows.csv"
    assert export.main([str(folder), "--to", str(ship), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    content = "user,price,tags\n0001,3,t1\n0002,,\n"
    rows.write_text(content)
    (tmp_path / "file").write_text("")
    for to, says in [
        (rows, "this is the file of the rows; name another"),
        (tmp_path / "file" / "scores.csv", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ]:
        code, _, err = said_by(predict.main, capsys, ship, rows, "--to", to)
        assert code == 1
        assert says in err
        assert rows.read_text() == content
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert predict.main([str(ship), str(rows), "--to", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "file").read_text().split()) == 3
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        assert predict.main([str(ship), str(rows), "--to", str(tmp_path / "pipe")]) == 0
        assert read.result(timeout=30) == (tmp_path / "file").read_text()
    assert (tmp_path / "pipe").is_fifo()


def test_lists_are_no_pairs(of_log: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = of_log
    assert export.main([str(folder), "--to", str(tmp_path / "ship"), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    pq.write_table(pa.table({"who": ["u1"], "what": [["i1", "i2"]]}), tmp_path / "seen.parquet")
    code, _, err = said_by(
        recommend.main, capsys, tmp_path / "ship", "--user", "u1", "--seen", tmp_path / "seen.parquet"
    )
    assert code == 1
    assert "seen.parquet: what is a list column, expected a user and an item in each row" in err
    code, _, err = said_by(recommend.main, capsys, tmp_path / "ship", "--user", "\udcff")
    assert (code, "expected text in UTF-8" in err) == (1, True)


@pytest.mark.parametrize("content", ["{}", "[]", "3", "null", "{", '{"pruned": 1, "unpruned": {}}'])
def test_a_foreign_result_is_named(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "embedding").mkdir()
    (tmp_path / "result.json").write_text(content)
    code, _, err = said_by(export.main, capsys, tmp_path, "--to", tmp_path / "ship")
    assert code == 1
    assert "no result.json that can be read; name the folder of a finished run" in err


def test_weights_that_do_not_go_with_the_model_are_refused(
    of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = of_clicks
    ship = tmp_path / "ship"
    assert export.main([str(folder), "--to", str(ship), "--budget", "cr:2", "--dtype", "fp32"]) == 0
    told = json.loads((ship / "manifest.json").read_text())
    _told(ship, model={**told["model"], "first_order": False})
    code, _, err = said_by(predict.main, capsys, ship, "rows.csv")
    assert code == 1
    assert "export the run again" in err
    _told(ship, model={**told["model"], "first_order": True, "global_bias": True})
    assert said_by(predict.main, capsys, ship, "rows.csv")[2].endswith(
        "rows.csv: cannot be read (No such file or directory); is the path right?\n"
    )
    weights = load_file(ship / "model.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[1:]}, ship / "model.safetensors")
    facts = {
        "bytes": (ship / "model.safetensors").stat().st_size,
        "sha256": hashlib.sha256((ship / "model.safetensors").read_bytes()).hexdigest(),
    }
    _told(ship, files={**told["files"], "model.safetensors": facts})
    assert f"weights of another model: {sorted(weights)[0]}" in said_by(predict.main, capsys, ship, "rows.csv")[2]
    content = bytearray((ship / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (ship / "model.safetensors").write_bytes(content)
    assert "model.safetensors has another checksum" in said_by(predict.main, capsys, ship, "rows.csv")[2]


def test_a_run_is_cut_to_another_budget_without_training(
    of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = of_clicks
    options = ("--budget", "cr:8", "--by", "elements", "--dtype", "fp32")
    code, out, err = said_by(export.main, capsys, folder, "--to", tmp_path / "ship", *options)
    assert code == 0
    assert "cr:8: cut from the whole table as the run left it, by elements, without training" in err
    table = PackedEmbedding.open(tmp_path / "ship").table
    assert table.kept == round(result["features"] * 4 / 8)  # type: ignore[operator]
    merged = np.abs(rebuild(folder).merged_table().numpy())
    kept = table.unprojected() != 0
    assert np.array_equal(table.unprojected()[kept], rebuild(folder).merged_table().numpy()[kept])
    assert merged[kept].min() >= merged[~kept].max()
    for part in ("values", "indices", "projections", "first-order terms", "interaction", "vocabulary.safetensors"):
        assert re.search(rf"^ *{part} +[0-9.]+ MiB$", out, re.MULTILINE), part
    memory = re.search(r"^memory of a process that reads table and raw ids +([0-9.]+) MiB$", out, re.MULTILINE)
    assert memory
    assert 0 < float(memory[1]) < 100


def test_a_run_is_cut_by_its_gates_afterwards(of_clicks: Run, tmp_path: Path) -> None:
    folder, _ = of_clicks
    to = tmp_path / "tables"
    options = ["--budget", "cr:2", "--by", "gates", "--format", "structured"]
    assert export.main([str(folder), "--to", str(to), *options]) == 0
    told = json.loads((to / "tables.json").read_text())
    assert len(told["tables"]) <= 3, "one for each block at most"
    found = rows_of_plain_files(to, np.arange(told["features"]))
    assert 0 < np.count_nonzero(found) <= told["features"] * 4 / 2
    merged = rebuild(folder).merged_table().numpy()
    assert np.array_equal(found[found != 0], merged[found != 0])


def test_a_run_is_cut_to_first_dimensions_afterwards(of_clicks: Run, tmp_path: Path) -> None:
    folder, result = of_clicks
    options = ["--budget", "cr:4", "--by", "prefix", "--dtype", "fp32"]
    assert export.main([str(folder), "--to", str(tmp_path / "ship"), *options]) == 0
    packed = PackedEmbedding.open(tmp_path / "ship").table
    assert packed.layout.name == "prefix"
    assert packed.kept <= result["features"] * 4 / 4  # type: ignore[operator]
    whole = rebuild(folder)
    whole.turn(torch.tensor([float(row["frequency"]) for row in csv.DictReader((folder / "dims.csv").open())]))
    found, turned = packed.unprojected(), whole.merged_table().numpy()
    assert np.allclose(np.abs(found[found != 0]), np.abs(turned[found != 0]), atol=1e-4)


def rows_of_plain_files(folder: Path, features: np.ndarray) -> np.ndarray:
    """What a system would do that knows the files of --format structured alone."""
    told = json.loads((folder / "tables.json").read_text())
    table_of, row_of = np.load(folder / told["table_of"]), np.load(folder / told["row_of"])
    rows = np.zeros((len(features), told["dims"]), dtype=np.float32)
    for number, one in enumerate(told["tables"]):
        mine = np.flatnonzero(table_of[features] == number)
        found = np.load(folder / one["file"])
        assert found.shape == (one["rows"], one["dims"])
        narrow = found[row_of[features[mine]]]
        if "projection" in one:
            rows[mine] = narrow @ np.load(folder / one["projection"])
        else:
            rows[np.ix_(mine, one["columns"])] = narrow
    return rows


def test_plain_arrays_are_the_table(of_clicks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = of_clicks
    embedding = PackedEmbedding.open(folder / "embedding" / "cr-2")
    everything = np.arange(embedding.table.features)
    for form in ("dense", "structured"):
        to = tmp_path / form
        code, out, _ = said_by(export.main, capsys, folder, "--to", to, "--budget", "cr:2", "--format", form)
        assert code == 0
        assert "the table as dense fp32" in out
        told = json.loads((to / "tables.json").read_text())
        assert told["features"] == len(everything)
        assert told["run"]["budget"] == "cr:2"
        ids = pq.read_table(to / told["ids"]).to_pylist()
        for one in ids[:: max(len(ids) // 20, 1)]:
            assert embedding.features(one["field"], [one["id"]])[0] == one["row"]
        assert {one["field"] for one in ids} == {"user", "tags"}
    assert np.array_equal(np.load(tmp_path / "dense" / "weight.npy"), embedding.rows(everything))
    assert np.array_equal(rows_of_plain_files(tmp_path / "structured", everything), embedding.rows(everything))


def test_the_graph_of_a_run_scores_its_test_rows(of_clicks: Run, clicks: pa.Table, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, result = of_clicks
    arguments = ["--budget", "cr:2", "--format", "onnx", "--dtype", "fp32"]
    assert export.main([str(folder), "--to", str(tmp_path / "graph"), *arguments]) == 0
    told = json.loads((tmp_path / "graph" / "tables.json").read_text())
    batch = RawMapping.load(folder).encode(clicks.slice(1200))
    session = onnxruntime.InferenceSession(tmp_path / "graph" / told["onnx"], providers=["CPUExecutionProvider"])
    found = session.run([told["output"]], {"ids": batch.ids.numpy(), "values": batch.values.numpy()})[0]
    wanted = result["pruned"][0]["metrics"]["test/logloss"]  # type: ignore[index]
    assert logloss(found, clicks["clicked"].to_numpy()[1200:]) == pytest.approx(wanted, abs=1e-5)
    assert told["checked_rows"] == {"random": 1000, "test": 300}
    assert sorted(path.name for path in (tmp_path / "graph").iterdir()) == ["ids.parquet", "model.onnx", "tables.json"]


def test_blocks_of_whole_dimensions_are_small_tables(tmp_path: Path) -> None:
    folder, result = result_of(dnis(tmp_path, *TINY_DNIS, "prune=gates"))
    assert export.main([str(folder), "--to", str(tmp_path / "out"), "--budget", "cr:2", "--format", "structured"]) == 0
    told = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert len(told["tables"]) <= result["blocks"]
    assert sum(one["rows"] * one["dims"] for one in told["tables"]) == result["pruned"][0]["kept"]


def test_projections_are_files_of_their_own(tmp_path: Path) -> None:
    folder, _ = result_of(dnis(tmp_path, *TINY, "search=mde"))
    for form in ("dense", "structured"):
        assert export.main([str(folder), "--to", str(tmp_path / form), "--format", form]) == 0
    wanted = PackedEmbedding.open(folder / "embedding" / "unpruned").rows(everything := np.arange(120))
    assert list((tmp_path / "structured").glob("projection*.npy"))
    np.testing.assert_allclose(rows_of_plain_files(tmp_path / "structured", everything), wanted, atol=1e-6)
    assert np.array_equal(np.load(tmp_path / "dense" / "weight.npy")[:120], wanted)


def test_a_cut_of_single_entries_makes_no_small_tables(
    of_clicks: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plain_files, "MOST_TABLES", 3)
    folder, _ = of_clicks
    code, _, err = said_by(
        export.main, capsys, folder, "--to", tmp_path / "o", "--budget", "cr:2", "--format", "structured"
    )
    assert code == 1
    assert re.search(r"in \d+ different sets of dimensions, of which there may be 3; prune.by=gates", err)
    assert not (tmp_path / "o").exists()


def test_torch_is_not_loaded_to_tell_a_mistake(tmp_path: Path) -> None:
    names = ("torch", "lightning", "hydra")
    sentence, at_last = loaded("dnis_lightning.export", "run", names=names, code=1, folder=tmp_path)
    assert "--to" in sentence
    assert at_last == "[]"


def test_small_tables_of_first_dimensions_have_the_axes_that_they_need(tmp_path: Path) -> None:
    rng, lengths = np.random.default_rng(0), np.array([3, 1, 0, 2, 3, 1, 1, 2, 3])
    axes, table = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
    scheme = Scheme.from_dense(table, np.arange(4) < lengths[:, None], {EVERY: axes})
    packed, every = scheme.packed(np.zeros(9, dtype=int)), np.arange(9)
    plain_files.write_structured(tmp_path, packed, [], {"dims": 4})
    assert np.allclose(rows_of_plain_files(tmp_path, every), packed.rows(every), atol=1e-6)
