"""Where weights wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dnis_lightning.errors import RunError
from dnis_lightning.training.journal import Journal


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"table.weight": torch.full((3, 2), value)}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_no_weights_are_overwritten_that_the_journal_on_disk_refers_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "last.ckpt")
    journal.best = journal.save(weights(1))
    journal.write()
    better = journal.best = journal.save(weights(2))
    killed = Journal.open(journal.path)  # here, before the next writing
    assert killed.best != better
    assert torch.equal(killed.load(killed.best)["table.weight"], weights(1)["table.weight"])
    assert torch.equal(journal.load(better)["table.weight"], weights(2)["table.weight"])
    journal.write()
    assert files(tmp_path) == {"last.ckpt", better}
    assert Journal.open(journal.path).best == better


def test_a_finished_step_leaves_what_it_ended_with(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "last.ckpt")
    first = journal.save(weights(1))
    journal.record("first", {"seconds": 1.0}, first)
    journal.write()
    journal.best = journal.save(weights(2))
    journal.record("second", {"seconds": 1.0})
    journal.write()
    opened = Journal.open(journal.path)
    assert opened.weights_of == "first"
    assert opened.best is None
    assert files(tmp_path) == {"last.ckpt", first}
    assert torch.equal(opened.load(opened.weights)["table.weight"], weights(1)["table.weight"])


def test_the_best_of_one_step_is_none_of_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "last.ckpt")
    journal.begin("first")
    journal.best = journal.save(weights(1))
    journal.write()
    assert not journal.begin("second")
    assert journal.best is None
    assert torch.equal(journal.load("weights-1.ckpt")["table.weight"], weights(1)["table.weight"]), (
        "it is on disk still"
    )


def test_a_kill_leaves_nothing_for_good(tmp_path: Path) -> None:
    (tmp_path / ".weights-2.ckpt.x1y2").write_bytes(b"half")
    (tmp_path / "weights-7.ckpt").write_bytes(b"whole")
    Journal(tmp_path / "last.ckpt").write()
    assert files(tmp_path) == {"last.ckpt"}


def test_what_is_put_aside_stays_as_long_as_it_is_wanted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "last.ckpt")
    with journal.aside(weights(1)) as name:
        journal.best = journal.save(weights(2))
        journal.write()
        journal.best = journal.save(weights(3))
        journal.write()
        assert torch.equal(journal.load(name)["table.weight"], weights(1)["table.weight"])
    journal.write()
    assert files(tmp_path) == {"last.ckpt", journal.best}


def test_what_is_kept_stays_when_later_steps_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "last.ckpt")
    for number, step in enumerate(("first", "second", "third")):
        journal.record(step, {}, journal.save(weights(number)), keep=step == "first")
        journal.write()
    again = Journal.open(tmp_path / "last.ckpt")
    assert files(tmp_path) == {"last.ckpt", again.weights, again.kept["first"]}
    assert torch.equal(again.load(again.kept["first"])["table.weight"], weights(0)["table.weight"])
    again.kept.clear()
    again.write()
    assert files(tmp_path) == {"last.ckpt", again.weights}


def test_weights_that_are_gone_are_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "last.ckpt")
    name = journal.save(weights(1))
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: the checkpoint cannot be read \(No such file.*\); remove the folder"):
        journal.load(name)


def test_another_process_writes_nothing_and_knows_the_names(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "last.ckpt", writes=True), Journal(tmp_path / "last.ckpt", writes=False)
    for value in (1, 2, 3):
        one.best, other.best = one.save(weights(value)), other.save(weights(-value))
        one.write()
        other.write()
        assert one.best == other.best
        assert torch.equal(other.load(other.best)["table.weight"], weights(value)["table.weight"])
