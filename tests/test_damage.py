"""Files of a run that are damaged are named, and what is not needed is passed over."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from dnis_lightning.blueprint import Blueprint, load_best
from dnis_lightning.command import _end_of_sweep, _keep_traceback
from dnis_lightning.errors import RunError
from dnis_lightning.folder import RunFolder, logging_to
from dnis_lightning.recommender import FeatureSpace


def test_a_fingerprint_that_cannot_be_read_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fingerprint").write_bytes(b"\xff\xfe\0")
    with caplog.at_level("WARNING"):
        assert RunFolder(tmp_path).fingerprint() == ""
    assert "fingerprint: cannot be read, so resume=auto passes this run over" in caplog.text


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], None])
def test_weights_of_something_else_are_named_with_what_to_do(content: object, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.best.parent.mkdir(parents=True)
    if content is None:
        run.best.write_bytes(b"")
    else:
        torch.save(content, run.best)
    with pytest.raises(
        RunError, match=r"best\.ckpt: the weights cannot be read, the file is damaged; remove .*resume="
    ):
        load_best(run)


def test_blocks_of_other_features_are_no_model_description(tmp_path: Path) -> None:
    path = tmp_path / "recommender.json"
    Blueprint(FeatureSpace((0, 3)), {"_target_": "x"}, 2, 0.1, True, None, np.zeros(3, dtype=int), 1).save(path)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"block_of": [0, 0]}))
    with pytest.raises(RunError, match="block_of has 2 blocks for 3 features"):
        Blueprint.load(path)


def test_a_log_that_a_full_disk_cuts_short_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.log").symlink_to("/dev/full")
    with logging_to(RunFolder(tmp_path)):
        logging.getLogger("dnis_lightning").info("word")
    assert "Traceback" not in capsys.readouterr().err


def test_what_cannot_be_written_down_is_said(tmp_path: Path) -> None:
    assert "cannot be written to" in _keep_traceback(tmp_path / "nowhere")
    fault = FileNotFoundError(2, "No such file or directory", "/proc/foo")
    said = "/proc/foo: cannot be written (No such file or directory), so the sweep has stopped; make room there, or"
    assert _end_of_sweep(fault).startswith(said)


def test_an_error_of_several_lines_still_says_that_the_sweep_has_stopped() -> None:
    assert _end_of_sweep(ValueError("one\n two")).startswith("the sweep has stopped: ValueError: one two; ")


def test_a_program_that_a_launcher_wants_is_named() -> None:
    fault = FileNotFoundError(2, "No such file or directory", "sbatch")
    assert _end_of_sweep(fault) == (
        "sbatch: there is no such program here, so the sweep has stopped; choose another hydra/launcher="
    )
