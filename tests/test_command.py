"""The command line from end to end on planted data: what a run leaves behind, and what it says of a user's mistakes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dnis_lightning.blueprint import rebuild
from dnis_lightning.errors import RunError
from dnis_lightning.packed import PackedEmbedding
from dnis_lightning.scheme import Scheme
from tests.command import TINY, TINY_DNIS, dnis, result_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """One DNIS run with two cuts and a threshold: its folder and its result."""
    return result_of(dnis(tmp_path_factory.mktemp("run"), *TINY_DNIS, "prune.thresholds=[0.01]"))


def test_the_folder_is_named_by_data_model_search_time_job_and_seed(finished) -> None:
    folder, _ = finished
    assert folder.parent.name == "synthetic-mf-dnis"
    date, time, job, seed = folder.name.split("-")
    assert (len(date), len(time), job, seed) == (8, 6, "0", "s0")


def test_a_run_leaves_all_its_files(finished) -> None:
    folder, _ = finished
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {"config.yaml", "metrics.csv", "run.log", "result.json", "recommender.json", "dims.csv"}
    expected |= {"checkpoints/last.ckpt", "checkpoints/best.ckpt"}
    expected |= {f"schemes/{name}.safetensors" for name in ("cr-2", "cr-4", "eps-0.01")}
    names_of_figures = ("learning_curves", "gates", "gates_over_time", "search_health", "dims_cr-2", "who_pays")
    expected |= {f"figures/{name}.png" for name in names_of_figures}
    assert expected <= names
    assert not [name for name in names if Path(name).name.startswith(".")], "no temporary file is left"


def test_the_result_has_the_fixed_keys(finished) -> None:
    _, result = finished
    identity = {"schema", "data", "model", "search", "profile", "task", "seed", "split", "split_seed", "trial"}
    sizes = {"rows", "features", "fields", "base_dim", "chosen_dim", "blocks"}
    outcome = {"diagnostics", "unpruned", "pruned", "trials", "seconds", "peak_rss_mib", "environment", "command"}
    assert identity | sizes | outcome <= set(result)
    assert set(result["rows"]) == {"train", "search", "select", "test"}
    assert result["rows"] == {"train": 4800, "search": 300, "select": 300, "test": 600}
    assert {"kept", "first_order", "interaction", "bytes", "metrics"} <= set(result["unpruned"])
    for cut in result["pruned"]:
        assert {"budget", "kept", "compression_rate", "bytes", "layout", "dtype", "seconds"} <= set(cut)
        assert set(cut["metrics"]) == {"select/mse", "test/mse"}
        assert set(cut["metrics_before_finetune"]) == {"select/mse"}, "test is looked at once"
    assert {"prepare", "search", "train", "total"} == set(result["seconds"])


def test_the_result_says_who_pays(finished) -> None:
    _, result = finished
    groups, cut = result["who_pays"]["groups"], result["pruned"][1]
    everyone = groups[0]
    assert (everyone["by"], everyone["rows"]) == ("all", result["rows"]["test"])
    assert everyone["unpruned"]["value"] == pytest.approx(result["unpruned"]["metrics"]["test/mse"], rel=1e-6)
    told = everyone["cuts"][cut["budget"]]
    assert told["value"] == pytest.approx(cut["metrics"]["test/mse"], rel=1e-6)
    assert told["difference"] == pytest.approx(cut["differences"]["test/mse"]["difference"])
    change = cut["metrics"]["test/mse"] - result["unpruned"]["metrics"]["test/mse"]
    assert told["difference"] == pytest.approx(change, rel=1e-3)
    assert told["low"] < told["difference"] < told["high"]
    assert sum(group["rows"] for group in groups if group["by"] == "rarest") == everyone["rows"]
    assert {group["by"] for group in groups} == {"all", "block", "rarest"}


def test_a_search_says_in_result_and_log_whether_it_is_to_be_trusted(finished) -> None:
    folder, result = finished
    told = result["diagnostics"]
    assert (told["phase"], told["epochs"], len(told["blocks"])) == ("dnis/search", 3, 4)
    assert [block["gates"] for block in told["blocks"]] == pytest.approx(result["gates_per_block"], abs=1e-6)
    assert sum(block["features"] for block in told["blocks"]) == result["features"]
    assert all(0.5 < block["data_share"] < 1 for block in told["blocks"]), "of a small penalty"
    assert all(block["signal"] > 0 and not block["dead"] for block in told["blocks"])
    assert any(block["drift"] > 0 for block in told["blocks"])
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "dnis/search"]
    gaps = [float(row["select/mse"]) - float(row["search/loss"]) for row in (rows[0], rows[-1])]
    growth = (gaps[1] - gaps[0]) / float(rows[-1]["select/mse"])
    assert told["gap"] == pytest.approx({"first": gaps[0], "last": gaps[1], "growth": growth})
    log = (folder / "run.log").read_text()
    assert re.search(r"block  features  data share  signal +gates +drift\n +1 +\d+ +0\.\d\d ", log)


def test_cuts_keep_what_their_budget_allows(finished) -> None:
    folder, result = finished
    whole = result["features"] * result["base_dim"]
    by_name = {cut["budget"]: cut for cut in result["pruned"]}
    for rate in (2, 4):  # a step is of up to K entries
        assert whole / rate - result["base_dim"] < by_name[f"cr:{rate}"]["kept"] <= round(whole / rate)
    for name, cut in by_name.items():
        scheme, _ = Scheme.load(folder / "schemes" / f"{name.replace(':', '-')}.safetensors")
        assert scheme.kept == cut["kept"]


def test_each_cut_is_packed_as_the_result_says(finished) -> None:
    folder, result = finished
    for cut in result["pruned"]:
        name = cut["budget"].replace(":", "-")
        packed = PackedEmbedding.open(folder / "embedding" / name)
        scheme, _ = Scheme.load(folder / "schemes" / f"{name}.safetensors")
        assert (folder / "embedding" / name / "table.safetensors").stat().st_size == cut["bytes"]
        assert (packed.table.layout.name, packed.table.values.dtype) == (cut["layout"], cut["dtype"])
        assert np.array_equal(packed.rows(np.arange(result["features"])), scheme.dense())
        of_run = {key: result[key] for key in ("data", "model", "search", "task", "seed")}
        assert packed.told["run"] == {**of_run, "budget": cut["budget"]}
    assert sorted(path.name for path in (folder / "embedding").iterdir()) == ["cr-2", "cr-4", "eps-0.01"]


def test_dims_say_what_each_feature_keeps(finished) -> None:
    folder, result = finished
    with (folder / "dims.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["field", "feature", "block", "frequency", "dims"]
    assert len(rows) == result["features"]
    assert sum(int(row["dims"]) for row in rows) == result["pruned"][0]["kept"]
    assert sum(int(row["dims@cr:4"]) for row in rows) == result["pruned"][1]["kept"]
    assert sum(int(row["frequency"]) for row in rows) == 2 * result["rows"]["train"]


def test_metrics_have_a_row_an_epoch(finished) -> None:
    folder, _ = finished
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    assert list(dict.fromkeys(row["phase"] for row in rows))[:3] == ["dnis/warm_start", "dnis/search", "dnis/fit"]
    assert all(row["select/mse"] for row in rows)
    assert all(row["search/loss"] for row in rows if row["phase"] == "dnis/search")


def test_a_finished_run_can_be_rebuilt(finished) -> None:
    folder, result = finished
    unpruned, cut = rebuild(folder), rebuild(folder, "cr:2")
    assert unpruned.gates.shape == (4, 6)
    assert int(cut.table.mask.sum()) == result["pruned"][0]["kept"]
    assert torch.equal(cut.table.weight[~cut.table.mask], torch.zeros(int((~cut.table.mask).sum())))
    with pytest.raises(RunError, match="no cut"):
        rebuild(folder, "cr:3")
    with pytest.raises(RunError, match="is this the folder of a run"):
        rebuild(folder.parent)


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(tmp_path: Path) -> None:
    runs = [result_of(dnis(tmp_path, *TINY, "search=none", f"seed={seed}"))[1] for seed in (5, 5, 6)]
    assert runs[0]["unpruned"]["metrics"] == runs[1]["unpruned"]["metrics"]
    assert runs[0]["unpruned"]["metrics"] != runs[2]["unpruned"]["metrics"]
    assert runs[0]["rows"] == runs[2]["rows"]


def test_biases_alone_are_a_legal_model(tmp_path: Path) -> None:
    _, result = result_of(dnis(tmp_path, *TINY, "search=none", "search.base_dim=0"))
    assert result["unpruned"]["kept"] == 0
    assert result["diagnostics"] is None, "no gates"
    assert np.isfinite(result["unpruned"]["metrics"]["test/mse"])


@pytest.mark.parametrize("profile", ["paper", "authors"])
def test_profiles_run_and_say_who_they_are(profile: str, tmp_path: Path) -> None:
    folder, result = result_of(dnis(tmp_path, *TINY, f"profile={profile}", "model=fm", "prune=gates"))
    assert (result["profile"], result["split"]) == (profile, profile)
    assert result["search_is_select"]
    assert result["diagnostics"]["gap"] is None
    warnings = result["warnings"]
    assert any("take data.split=three_way" in warning for warning in warnings)
    log = (folder / "run.log").read_text()
    told = [re.findall(rf"WARNING {one}", log) for one in ("dnis/search: (.*)", "(no better on select than .*)")]
    assert [*told[0], *told[1]] == warnings
    assert all(cut["metrics_before_finetune"]["select/mse"] == cut["metrics"]["select/mse"] for cut in result["pruned"])


def test_clicks_have_auc_and_logloss_and_are_calibrated(tmp_path: Path) -> None:
    folder, result = result_of(
        dnis(tmp_path, *TINY_DNIS, "data.task=ctr", "model=fm", "data.field_count=3", "search.xi=0.01")
    )
    assert set(result["unpruned"]["metrics"]) == {"select/auc", "select/logloss", "test/auc", "test/logloss"}
    assert (folder / "figures/calibration.png").stat().st_size > 5000
    for one in (result["unpruned"], *result["pruned"]):
        told = one["calibration"]
        assert sum(part["rows"] for part in told["bins"]) == result["rows"]["test"]
        assert 0 < told["predicted"] < 1
        assert abs(told["predicted"] - told["observed"]) <= told["error"] + 1e-9
    assert set(result["pruned"][0]["differences"]) == {"test/auc", "test/logloss"}


def write_clicks(folder: Path) -> None:
    """A small file in Criteo's format, without rhyme or reason."""
    rng = np.random.default_rng(0)
    rows = [
        "\t".join(
            [str(int(rng.random() < 0.3))]
            + [str(int(x)) if x < 90 else "" for x in rng.integers(-3, 100, 13)]
            + [f"{x:08x}" if x else "" for x in rng.integers(0, 12, 26)]
        )
        for _ in range(1500)
    ]
    (folder / "train.txt").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("numeric", ["scalar", "log2"])
def test_clicks_with_numbers_are_searched_cut_and_rebuilt(numeric: str, tmp_path: Path) -> None:
    write_clicks(tmp_path)
    quick = [one for one in TINY_DNIS if not one.startswith("data")]
    arguments = ("data=criteo", f"data.root={tmp_path}", f"data.numeric={numeric}", "model=fm", "data.batch_size=256")
    folder, result = result_of(dnis(tmp_path, *arguments, *quick, "search.blocking=decades"))
    assert (result["fields"], result["task"]) == (39, "ctr")
    assert result["rows"] == {"train": 1200, "search": 75, "select": 75, "test": 150}
    assert all(np.isfinite(value) for cut in result["pruned"] for value in cut["metrics"].values())
    assert rebuild(folder, "cr:4").table.weight.shape == (result["features"], 6)


@pytest.mark.parametrize("search", ["random", "mde", "pep"])
def test_rivals_go_with_clicks_numbers_and_blocks_without_features(search: str, tmp_path: Path) -> None:
    write_clicks(tmp_path)
    arguments = ("data=criteo", f"data.root={tmp_path}", "model=deepfm", "model.hidden=[8]", "data.batch_size=256")
    few = {"random": ["search.trials=2"], "mde": ["search.temperatures=[0.5]"], "pep": ["prune.learned_epochs=2"]}
    small = ("search.base_dim=4", "trainer.max_epochs=2", "trainer.threads=1", "profile=authors")
    folder, result = result_of(dnis(tmp_path, *arguments, *small, f"search={search}", *few[search]))
    assert result["blocks"] == 6, "decades: most of them have no feature here"
    assert np.isfinite(result["unpruned"]["metrics"]["test/logloss"])
    assert rebuild(folder).scheme().kept == result["unpruned"]["kept"]


@pytest.mark.parametrize(
    "options",
    [
        ("search.base_dim=0",),
        ("search.blocks_per=field", "search.blocking=mass"),
        ("search.blocking=[10,-1]", "model.first_order=false", "model.global_bias=none"),
        ("data.split=time", "search.gates_optimizer=adam", "optimizer.clip_norm=0.1"),
        ("data.split=leave_one_out", "search.epoch=shortest"),
    ],
    ids=lambda options: options[0],
)
def test_options_run(options: tuple[str, ...], tmp_path: Path) -> None:
    given = {option.split("=")[0] for option in options}
    base = [one for one in TINY_DNIS if one.split("=")[0] not in given]
    if "search.blocking=[10,-1]" in options:
        base.remove("search.blocks=4")
    _, result = result_of(dnis(tmp_path, *base, *options))
    assert np.isfinite(result["unpruned"]["metrics"]["test/mse"])
    assert (result["diagnostics"] is None) == (options == ("search.base_dim=0",)), "no dimensions, no gates"
    assert result["blocks"] == {"search.blocks_per=field": 8, "search.blocking=[10,-1]": 2}.get(options[0], 4)


def test_whole_gates_go(tmp_path: Path) -> None:
    cuts = ("search.rates=[2]", "prune.thresholds=[0.999]")
    folder, result = result_of(dnis(tmp_path, *TINY_DNIS[:-1], *cuts, "prune=gates"))
    half, cut = (Scheme.load(folder / "schemes" / f"{name}.safetensors")[0].mask() for name in ("cr-2", "eps-0.999"))
    blocks = np.array(json.loads((folder / "recommender.json").read_text())["block_of"])
    gates = rebuild(folder).gates.detach().numpy()
    for block in range(4):
        assert (half[blocks == block] == half[blocks == block][0]).all(), "a block's features keep the same dims"
    assert np.array_equal(cut, (gates >= 0.999)[blocks])
    assert 0 < result["pruned"][0]["kept"] <= result["features"] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_ends_where_the_cpu_ends(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY_DNIS, CUDA_VISIBLE_DEVICES="0")
    assert done.stderr.count("trainer=gpu trains on it") == 1
    assert "Trainer(" not in done.stderr, "Lightning says it of each phase, in words of its own"
    _, cpu = result_of(done)
    _, gpu = result_of(dnis(tmp_path, *TINY_DNIS, "trainer=gpu", CUDA_VISIBLE_DEVICES="0"))
    assert gpu["unpruned"]["metrics"] == pytest.approx(cpu["unpruned"]["metrics"], rel=1e-3)


def test_a_users_own_model_joins_by_one_yaml(tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "class Product(torch.nn.Module):\n"
        '    """fields and dims are given because the signature has them."""\n'
        "    def __init__(self, fields: int, dims: int, hidden: int = 4):\n"
        "        super().__init__()\n"
        "        self.layers = torch.nn.Sequential(\n"
        "            torch.nn.Linear(fields * dims, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))\n"
        "    def forward(self, rows, batch):\n"
        "        return self.layers(rows.flatten(1)).squeeze(-1)\n"
    )
    (tmp_path / "options" / "model").mkdir(parents=True)
    (tmp_path / "options" / "model" / "mine.yaml").write_text(
        "defaults: [_common, _self_]\nname: mine\ninteraction:\n  _target_: my_models.Product\n  hidden: 8\n"
    )
    folder, result = result_of(dnis(tmp_path, "--config-dir", "options", *TINY_DNIS, "model=mine"))
    assert folder.parent.name == "synthetic-mine-dnis"
    assert result["unpruned"]["interaction"] == 2 * 6 * 8 + 8 + 8 + 1
    told = json.loads((folder / "recommender.json").read_text())
    assert told["interaction"] == {"_target_": "my_models.Product", "hidden": 8}
    _, half = result_of(
        dnis(tmp_path, "--config-dir", "options", *TINY_DNIS, "model=mine", "trainer.precision=bf16-mixed")
    )
    assert half["unpruned"]["metrics"] != result["unpruned"]["metrics"]
    assert half["unpruned"]["metrics"] == pytest.approx(result["unpruned"]["metrics"], rel=0.05)


MISTAKES = {
    "unknown option": (
        ["model=mg"],
        r"^model=mg: there is no such option; choose one of autoint, dcn, deepfm, fm, gmf, mf, mlp",
    ),
    "misspelt key": (["data.batchsize=3"], r"^data\.batchsize: there is no such key"),
    "new key": (["+new=3"], r"new: nothing reads this key"),
    "new key in a group": (["+search.foo=3"], r"search\.foo: nothing reads this key with search=dnis"),
    "key without a use": (["search=none", "search.xi=0.1"], r"search\.xi: nothing reads this key with search=none"),
    "negative dimension": (
        ["search.base_dim=-1"],
        r"search\.base_dim: it should be greater than or equal to 0, got -1",
    ),
    "text for a number": (
        ["optimizer.lr=fast"],
        r"optimizer\.lr: it should be 'auto' or should be a valid number, got 'fast'",
    ),
    "no value": (["data.batch_size=???"], r"data\.batch_size: no value; write data\.batch_size=\.\.\."),
    "wrong choice": (["search.gates_optimizer=lion"], r"should be 'sgd' or 'adam', got 'lion'"),
    "rate below one": (["search.rates=[0.5]"], r"search\.rates.*greater than or equal to 1, got 0\.5"),
    "budget": (
        ["search.budget=25MB"],
        r"search\.budget: '25MB'; it should read like cr:20, 10%, 25MiB, bytes:10% or loss:0.5%",
    ),
    "too many blocks": (["search.blocks=500"], r"search\.blocks: 500 blocks for \d+ features"),
    "empty split": (["data.rows=3"], r"data\.split=three_way: of the 3 rows of synthetic none is left"),
    "no such run": (["resume=nowhere"], r"resume=nowhere: no config\.yaml that can be read there"),
    "two fields for mf": (
        ["data.field_count=3"],
        r"model=mf: matrix factorisation joins 2 fields, this data has 3; take model=fm",
    ),
    "task": (
        ["data.task=rating", "model.global_bias=middle"],
        r"model\.global_bias: it should be 'mean', 'zero' or 'none'",
    ),
    "gates of none": (["search=none", "search.rates=[2]", "prune=gates"], r"prune=gates: search=none has no gates"),
    "trial": (["search.trial=1"], r"search\.trial=1: search=dnis has trials 0 to 0"),
    "least epochs": (
        ["search.search_epochs=3"],
        r"search\.least_epochs: 5 of search\.search_epochs=3: .* take search\.least_epochs=3, or more epochs",
    ),
    "optimizer": (["+optimizer.node.betas=[0.9,0.5]"], r"optimizer: \S*LazyAdam does not take this \(betas=0\.9, 0\.5"),
    "by row": (
        ["optimizer=adam", "optimizer.by_row=true"],
        r"optimizer\.by_row=true: torch\.optim\.Adam does not step by row",
    ),
    "divergence": (["search=none", "optimizer.lr=1e10"], r"training diverged|is no finite number: training diverged"),
    "min_count": (["data.min_count=100000"], r"data\.min_count=100000: no feature occurs that often"),
    "no group": (["search=null"], r"^search=null: there is no such option; choose one of dnis, grid, "),
    "no name of a group": (["model="], r"^model=: there is no such option; choose one of autoint, "),
    "no launcher": (["hydra/launcher=null"], r"^hydra/launcher=null: .*leave out hydra/launcher= to have the default"),
    "number to resume": (["resume=5"], r"resume=5: no config\.yaml that can be read there"),
    "missing file": (
        ["data=criteo", "model=fm", "data.path=/nowhere/train.txt"],
        r"/nowhere/train\.txt: cannot be read",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence(name: str, tmp_path: Path) -> None:
    arguments, says = MISTAKES[name]
    base = [a for a in TINY if not a.startswith(tuple(x.split("=")[0].lstrip("+") + "=" for x in arguments))]
    if name == "missing file":
        base = ["trainer.threads=1"]
    done = dnis(tmp_path, *base, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(says, done.stderr.strip(), re.MULTILINE), done.stderr
    assert name == "divergence" or not list((tmp_path / "outputs").glob("*/*")), "no half-made run is left"


def test_a_key_that_only_the_options_swept_over_have(tmp_path: Path) -> None:
    done = dnis(tmp_path, "-m", "model=deepfm,wide_deep", "model.hidden=[4]")
    assert done.returncode == 1
    assert re.search(r"^model\.hidden: there is no such key; .*write \+\+model\.hidden=$", done.stderr.strip())


def test_an_outputs_folder_that_is_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "outputs").symlink_to(tmp_path / "unmounted")
    done = dnis(tmp_path, *TINY, timeout=60)
    assert done.returncode == 1
    assert "the run's folder cannot be made; choose another output_dir=" in done.stderr


def test_a_launcher_of_many_processes_is_named(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY, LOCAL_RANK="1")
    assert done.returncode == 1
    assert "LOCAL_RANK is set, as by torchrun: start one process" in done.stderr


def test_a_model_that_does_not_go_with_the_fields_is_named_before_any_file_is_read(tmp_path: Path) -> None:
    done = dnis(tmp_path, "data=criteo", "model=mf", f"data.root={tmp_path}")
    assert done.returncode == 1
    assert "model=mf: matrix factorisation joins 2 fields, this data has 39; take model=fm" in done.stderr


def test_all_faults_come_in_one_message(tmp_path: Path) -> None:
    done = dnis(tmp_path, *TINY, "search.gates_lr=0", "model.l2=-1", "+new=3", "data.split=half")
    assert done.returncode == 1
    for key in ("gates_lr", "model.l2", "new", "data.split"):
        assert key in done.stderr
    assert done.stderr.startswith("this configuration cannot be run:")
