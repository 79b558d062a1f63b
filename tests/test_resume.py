"""A run that was killed goes on from its last checkpoint and ends bit for bit where an unbroken one ends."""

from __future__ import annotations

import csv
import re
import signal
from pathlib import Path

import pytest

from dnis_lightning.blueprint import rebuild
from dnis_lightning.folder import RunFolder
from tests.command import TINY_DNIS, command, dnis, environment, figures_of, result_of
from tests.warm import run_module

LONGER = (*TINY_DNIS, "trainer.max_epochs=6", "search.search_epochs=6", "prune.finetune_epochs=4", "trainer.patience=9")
EVERY_STEPS = "trainer.checkpoint_every_n_steps=7"


def kill_when(folder: Path, pattern: str, arguments: tuple[str, ...]) -> Path:
    """Start a run, SIGKILL it once a line of its log matches, and return its folder."""
    full = command(folder, *arguments)
    done = run_module(
        "dnis_lightning", full[3:], cwd=folder, env=environment(), timeout=240, kill_when=rf"(?m){pattern}"
    )
    assert done.returncode == -signal.SIGKILL, "it was killed, and not too late"
    return next(folder.glob("outputs/*/*"))


def curves_of(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the time they took."""
    clock = {"seconds", "rows/s"}
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in clock} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory):
    return result_of(dnis(tmp_path_factory.mktemp("unbroken"), *LONGER, EVERY_STEPS))


@pytest.mark.parametrize(
    "moment",
    [
        "warm_start: epoch 3:",
        "warm_start: 6 epochs",
        "search: epoch 9:",
        "fit: epoch 15",
        "fine_tune/cr:2: epoch 2",
        "fine_tune-elements/cr:2: epoch 2",
        "fine_tune-warm_start/cr:2: epoch 2",
        "cr:2: kept",
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one(moment: str, unbroken, tmp_path: Path) -> None:
    folder = kill_when(tmp_path, re.escape(moment), (*LONGER, EVERY_STEPS))
    assert not (folder / "result.json").exists()
    other = {"PYTHONHASHSEED": "1"} if moment == "search: epoch 9:" else {}  # nothing hangs on the order of sets
    resumed, result = result_of(dnis(tmp_path, *LONGER, EVERY_STEPS, "resume=auto", **other))
    assert resumed == folder
    assert figures_of(result) == figures_of(unbroken[1])
    assert curves_of(folder) == curves_of(unbroken[0])


def test_dropout_and_batch_statistics_go_on(tmp_path: Path) -> None:
    arguments = (*LONGER, EVERY_STEPS, "model=mlp", "model.dropout=0.3", "model.batch_norm=true", "optimizer=lazy_adam")
    folder, unbroken = result_of(dnis(tmp_path, *arguments))
    folder.rename(tmp_path / "away")
    killed = kill_when(tmp_path, "search: epoch 9:", arguments)
    _, result = result_of(dnis(tmp_path, *arguments, "resume=auto"))
    assert figures_of(result) == figures_of(unbroken)
    assert curves_of(killed) == curves_of(tmp_path / "away")


def test_a_rotation_goes_on(tmp_path: Path) -> None:
    """Of a model whose table turns its rows back, and trains what they are multiplied by."""
    arguments = (*LONGER, EVERY_STEPS, "model=dcn", "model.hidden=[8]", "prune=prefix")
    folder, unbroken = result_of(dnis(tmp_path, *arguments))
    assert [cut["by"] for cut in unbroken["pruned"]] == ["prefix"] * len(unbroken["pruned"])  # type: ignore[attr-defined]
    folder.rename(tmp_path / "away")
    killed = kill_when(tmp_path, re.escape("fine_tune/cr:2: epoch 2"), arguments)
    _, result = result_of(dnis(tmp_path, *arguments, "resume=auto"))
    assert figures_of(result) == figures_of(unbroken)
    assert curves_of(killed) == curves_of(tmp_path / "away")


def test_a_run_can_be_named(unbroken, tmp_path: Path) -> None:
    folder = kill_when(tmp_path, "search: epoch 9:", (*LONGER, EVERY_STEPS))
    _, result = result_of(dnis(tmp_path, f"resume={folder}"))
    assert figures_of(result) == figures_of(unbroken[1])


def test_a_named_run_keeps_its_own_configuration(unbroken, tmp_path: Path) -> None:
    done = dnis(tmp_path, f"resume={unbroken[0]}", "model.l2=0.5")
    assert done.returncode == 1
    assert "a run goes on with its own configuration, only data.cache= and" in done.stderr
    assert "drop model.l2=0.5" in done.stderr


def test_a_run_on_other_data_or_with_an_edited_configuration_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "ml-1m" / "ratings.dat"
    path.parent.mkdir()
    rows = [f"{u}::{i}::{1 + (u + i) % 5}::{100 * u + i}" for u in range(1, 30) for i in range(1, 30)]
    path.write_text("\n".join(rows) + "\n")
    arguments = ("data=movielens-1m", f"data.root={tmp_path}", "search=none", "search.base_dim=2", "data.batch_size=64")
    first, _ = result_of(dnis(tmp_path, *arguments, "trainer.max_epochs=2"))
    again, _ = result_of(dnis(tmp_path, *arguments, "trainer.max_epochs=2", "resume=auto"))
    assert first == again
    path.write_text("\n".join(reversed(rows)) + "\n")
    other, _ = result_of(dnis(tmp_path, *arguments, "trainer.max_epochs=2", "resume=auto"))
    assert other != first
    done = dnis(tmp_path, f"resume={first}")
    assert done.returncode == 1
    assert "its configuration or its data changed since; start again without resume=" in done.stderr
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("max_epochs: 2", "max_epochs: 3"))
    assert dnis(tmp_path, f"resume={other}").returncode == 1
    (other / "config.yaml").write_text(text.replace("    patience:", "    old_name:"))
    done = dnis(tmp_path, f"resume={other}")
    assert done.returncode == 1
    assert "search.method.patience: " in done.stderr
    assert "if another version of dnis-lightning wrote it, go on with that version, or start again" in done.stderr


def test_two_processes_do_not_go_on_in_one_run(tmp_path: Path) -> None:
    folder = kill_when(tmp_path, "search: epoch 9:", (*LONGER, EVERY_STEPS))
    with RunFolder(folder).at_work():
        done = dnis(tmp_path, f"resume={folder}")
    assert done.returncode == 1
    assert "another process is at work in this run; wait for it" in done.stderr
    result_of(dnis(tmp_path, f"resume={folder}"))


STEPWISE = {
    "iterative": (r"round-2/cr:4: epoch", ("search=magnitude", "prune.rounds=3", "prune.round_epochs=3")),
    "gradual": (r"gradual/cr:4: epoch 1[3-9]:", ("search=magnitude", "prune.gradual_epochs=6")),
    "thresholds": (r"thresholds/cr:4: epoch", ("search=pep", "prune.learned_epochs=5")),
    "policy": (r"policy/cr:4: epoch", ("search=nis_me", "prune.nis_epochs=4", "prune.nis_warm_up=1")),
}


@pytest.mark.parametrize("killed", list(STEPWISE))
def test_cuts_in_several_steps_go_on_where_they_were(killed: str, tmp_path: Path) -> None:
    moment, method = STEPWISE[killed]
    own = method[0] in ("search=pep", "search=nis_me")
    schedule = () if own else (f"prune.schedule={killed}",)
    idle = ("search.search", "search.least", "trainer.max", *(("prune.finetune",) if own else ()))
    tiny = [one for one in TINY_DNIS if not one.startswith(idle)]
    arguments = (*tiny, *method, *schedule, "trainer.max_epochs=6", EVERY_STEPS)
    folder, unbroken = result_of(dnis(tmp_path, *arguments))
    folder.rename(tmp_path / "away")
    again = kill_when(tmp_path, moment, arguments)
    resumed, result = result_of(dnis(tmp_path, *arguments, "resume=auto"))
    assert resumed == again
    assert figures_of(result) == figures_of(unbroken)
    assert curves_of(again) == curves_of(tmp_path / "away")


TWO_WIDTHS = """
from dnis_lightning.search.trial import Phase, Stopping, Trial


class TwoWidths:
    trial_count, gated, projected = 2, False, False

    def __init__(self, widths: list[int]):
        self.widths = widths

    def trials(self, blocks):
        for dims in self.widths:
            yield Trial(f"dim={dims}", (Phase("fit", "train+search", Stopping(4, 9)),), dims=dims)
"""


def test_a_method_of_many_trials_keeps_the_best_whenever_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "two_widths.py").write_text(TWO_WIDTHS)
    (tmp_path / "options" / "search").mkdir(parents=True)
    (tmp_path / "options" / "search" / "two.yaml").write_text(
        "defaults: [_common, _self_]\nname: two\nrates: [2]\nmethod: {_target_: two_widths.TwoWidths, widths: [4, 0]}\n"
    )
    tiny = [one for one in TINY_DNIS if not one.startswith(("search.search", "search.least", "search.rates"))]
    arguments = ("--config-dir", "options", *tiny, "search=two", EVERY_STEPS)
    folder, unbroken = result_of(dnis(tmp_path, *arguments, "seed=4"))
    told = {trial["name"]: trial["select/mse"] for trial in unbroken["trials"]}
    assert list(told) == ["dim=4", "dim=0"]
    assert told["dim=4"] < told["dim=0"], "the data have interactions"
    assert (unbroken["chosen_dim"], unbroken["unpruned"]["kept"]) == (4, 4 * unbroken["features"])
    assert rebuild(folder).table.weight.shape[1] == rebuild(folder, "cr:2").table.weight.shape[1] == 4

    folder.rename(tmp_path / "away")
    killed = kill_when(tmp_path, r"dim=0/fit: epoch 6", (*arguments, "seed=4"))
    resumed, result = result_of(dnis(tmp_path, *arguments, "seed=4", "resume=auto"))
    assert resumed == killed
    assert figures_of(result) == figures_of(unbroken)

    one, alone = result_of(dnis(tmp_path, *arguments, "seed=4", "search.trial=1"))
    assert one.name.endswith("-s4-t1")
    assert [trial["name"] for trial in alone["trials"]] == ["dim=0"]
    assert set(alone["unpruned"]["metrics"]) == {"select/mse"}, "a job of one trial does not look at test"
    assert all(set(cut["metrics"]) == {"select/mse"} for cut in alone["pruned"])
    done = dnis(tmp_path, *arguments, "search.trial=2")
    assert "search.trial=2: search=two has trials 0 to 1" in done.stderr


def test_a_finished_run_is_not_done_again(unbroken) -> None:
    folder, _ = unbroken
    before = (folder / "result.json").stat().st_mtime_ns
    root = folder.parents[2]
    done = dnis(root, *LONGER, EVERY_STEPS, "resume=auto")
    assert done.returncode == 0
    assert "already finished" in done.stderr
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_a_damaged_result_is_written_anew(tmp_path: Path) -> None:
    folder, whole = result_of(dnis(tmp_path, *TINY_DNIS))
    path = folder / "result.json"
    path.write_bytes(path.read_bytes()[:50])
    again, result = result_of(dnis(tmp_path, *TINY_DNIS, "resume=auto"))
    assert again == folder
    assert figures_of(result) == figures_of(whole)


def test_what_a_killed_run_has_left_half_written_goes(tmp_path: Path) -> None:
    folder = kill_when(tmp_path, "search: epoch 9:", (*LONGER, EVERY_STEPS))
    stale = [
        folder / ".metrics.csv.abcdefgh",
        folder / "figures" / ".gates.png.12345678",
        folder / "embedding" / ".a.12345678",
    ]
    stale[2].mkdir(parents=True)
    for path in (stale[0], stale[1], stale[2] / "table.safetensors"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    result_of(dnis(tmp_path, f"resume={folder}"))
    assert not [path for path in stale if path.exists()]


def test_a_configuration_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("::: [")
    done = run_module("dnis_lightning", ["resume=run"], cwd=tmp_path, env=environment(), timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip() == "resume=run: no config.yaml that can be read there; name the folder of a run"


def test_auto_starts_afresh_where_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    folder, _ = result_of(dnis(tmp_path, *TINY_DNIS, "resume=auto"))
    other, _ = result_of(dnis(tmp_path, *TINY_DNIS, "resume=auto", "seed=1"))
    assert folder != other


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_an_unreadable_checkpoint_is_named_and_left(content: bytes | None, tmp_path: Path) -> None:
    folder = kill_when(tmp_path, "search: epoch 9:", (*LONGER, EVERY_STEPS))
    path = folder / "checkpoints" / "last.ckpt"
    damaged = path.read_bytes()[:-1000] if content is None else content
    path.write_bytes(damaged)
    done = dnis(tmp_path, f"resume={folder}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    why, way_on = r"( \(.+\)|, it is damaged)", "remove the folder it is in, and resume= begins this run anew"
    assert re.search(rf"last\.ckpt: the checkpoint cannot be read{why}; {way_on}", done.stderr)
    assert path.read_bytes() == damaged
    result_of(dnis(tmp_path, *TINY_DNIS))
