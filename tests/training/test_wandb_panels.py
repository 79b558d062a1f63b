"""The W&B side of a run: the real client writes, offline into a file and online to a small server of our own."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import wandb
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from wandb.proto import wandb_internal_pb2

from dnis_lightning.paths import config_dir
from dnis_lightning.training.callbacks import History
from dnis_lightning.training.wandb_panels import WandbPanels, finish, gate_panels, heatmap, log_dims, log_figures

LOGGERS = config_dir() / "logger"


class Gated(L.LightningModule):
    """One weight to train, gates that fall a little every epoch, and select metrics."""

    measured = ("mse", "auc")

    def __init__(self, gates: Tensor | None) -> None:
        super().__init__()
        self.weight, self.gates = torch.nn.Parameter(torch.ones(1)), gates

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weight * batch).square().mean()

    def on_train_epoch_end(self) -> None:
        assert self.logger is not None
        self.logger.log_metrics(
            {"epoch": self.current_epoch + 1, "train/loss": 1.0, "select/mse": 0.5, "select/auc": 0.7}
        )
        if self.gates is not None:
            self.gates = self.gates * 0.9

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home of its own for the client, which otherwise keeps keys, settings and caches in the user's."""
    wandb.teardown()  # the client reads its environment once
    for name in ("HOME", "WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB_DISABLE_GIT", "true")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "30")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    wandb.teardown()


def wandb_logger(folder: Path, *overrides: str) -> WandbLogger:
    """The logger of conf/logger/wandb.yaml."""
    folder.mkdir(exist_ok=True)
    with initialize_config_dir(str(LOGGERS.parent), version_base="1.3"):
        config = compose(overrides=["+logger=wandb", *overrides])
        return instantiate(config.logger.node, save_dir=str(folder))


def fit(logger: Any, gates: Tensor | None, epochs: int = 2) -> None:
    trainer = L.Trainer(
        max_epochs=epochs,
        log_every_n_steps=1,
        logger=logger,
        callbacks=[WandbPanels()],
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Gated(gates), DataLoader([torch.ones(1)] * 4, batch_size=2))  # type: ignore[arg-type]


def records(folder: Path) -> list[Any]:
    """The records of the one finished run under a folder; the client's last write may come after `finish` returns."""
    for _ in range(200):
        found = _read(next(folder.glob("wandb/*run-*/*.wandb")))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{folder}: no whole run after ten seconds")


def _read(path: Path) -> list[Any]:
    """The records of a `.wandb` file: LevelDB's log framing, 32 KiB to a block."""
    data, found, whole = path.read_bytes(), [], b""
    at = 7  # after the file's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a header: padding
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4) and at <= len(data):  # full, or the last piece
            found.append(wandb_internal_pb2.Record.FromString(whole))  # type: ignore[attr-defined]
            whole = b""
    return found


def history(found: list[Any]) -> dict[str, list[Any]]:
    """All values of each key that was logged; those of pictures and histograms are tables of their own."""
    values: dict[str, list[Any]] = {}
    for record in found:
        row: dict[str, Any] = {}
        for item in record.history.item:
            *path, last = item.nested_key
            inner = row
            for key in path:
                inner = inner.setdefault(key, {})
            inner[last] = json.loads(item.value_json)
        for key, value in row.items():
            values.setdefault(key, []).append(value)
    return values


@pytest.fixture
def gates() -> Tensor:
    return torch.rand(3, 8, generator=torch.Generator().manual_seed(0))


def test_offline_run_holds_configuration_curves_gates_and_definitions(tmp_path: Path, gates: Tensor) -> None:
    logger = wandb_logger(tmp_path / "run", "logger.mode=offline", "logger.group=sweep", "logger.tags=[a,b]")
    logger.log_hyperparams({"seed": 3})
    fit(logger, gates)
    log_dims(logger, np.array([0, 3, 3, 8]), "cr:2")
    figures = tmp_path / "figures"
    figures.mkdir()
    Image.fromarray(heatmap(gates.numpy())).save(figures / "gates.png")
    log_figures(logger, figures)
    finish(logger)

    found = records(tmp_path / "run")
    run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (run.project, run.run_group, list(run.tags)) == ("dnis-lightning", "sweep", ["a", "b"])
    updates = [item for record in found for item in record.config.update]
    assert {item.key: item.value_json for item in updates}["seed"] == "3"

    seen = history(found)
    assert seen["select/mse"] == [0.5, 0.5]
    for block in range(3):
        expected = [float(gates[block].mean()) * 0.9**epoch for epoch in (0, 1)]
        assert seen[f"gates/mean_block_{block + 1}"] == pytest.approx(expected, rel=1e-5)
    assert [image["_type"] for image in seen["gates/heatmap"]] == ["image-file"] * 2
    assert [sum(bars["values"]) for bars in seen["gates/histogram"]] == [24, 24]
    assert seen["dims/cr-2"][0]["values"] == [1, 0, 0, 2, 0, 0, 0, 0, 1]
    assert seen["figures/gates"][0]["_type"] == "image-file"
    assert len(list((tmp_path / "run").glob("wandb/*run-*/files/media/images/**/*.png"))) == 3

    defined = {
        record.metric.name or record.metric.glob_name: record.metric for record in found if record.HasField("metric")
    }
    assert all(defined[name].step_metric == "epoch" for name in ("*", "select/*", "train/*", "search/*", "gates/*"))
    assert defined["select/mse"].summary.min
    assert defined["select/auc"].summary.max
    assert defined["epoch"].options.hidden


def test_two_runs_of_one_process_are_two_runs_of_one_group(tmp_path: Path) -> None:
    runs = []
    for job in range(2):
        logger = wandb_logger(tmp_path / f"run{job}", "logger.mode=offline", "logger.group=sweep")
        fit(logger, None, epochs=1)
        finish(logger)
        found = records(tmp_path / f"run{job}")
        runs.append(next(record.run for record in found if record.HasField("run")))
        assert not any(key.startswith("gates/") for key in history(found))
    assert runs[0].run_id != runs[1].run_id
    assert {run.run_group for run in runs} == {"sweep"}


def test_a_run_that_an_error_ends_is_marked_as_failed(tmp_path: Path) -> None:
    logger = wandb_logger(tmp_path / "run", "logger.mode=offline")

    def job() -> None:
        try:
            logger.log_metrics({"train/loss": 1.0})
            raise ZeroDivisionError
        finally:
            finish(logger)

    with pytest.raises(ZeroDivisionError):
        job()
    assert [record.exit.exit_code for record in records(tmp_path / "run") if record.HasField("exit")] == [1]


class FakeServer(ThreadingHTTPServer):
    """As much of a W&B server as a run needs: it takes runs, rows and files, and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.runs: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.files: list[str] = []
        self.exit_code: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        told = json.loads(body)
        self._send(self._rows(told) if self.path.endswith("/file_stream") else {"data": self._query(told)})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.files.append(self.path)
        self._send({})

    def _rows(self, told: dict[str, Any]) -> dict[str, Any]:
        lines = told.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.server.rows += [json.loads(line) for line in lines]
        self.server.exit_code = told.get("exitcode", self.server.exit_code)
        return {}

    def _query(self, told: dict[str, Any]) -> dict[str, Any]:
        given = told.get("variables") or {}
        if "upsertBucket" in told["query"]:
            self.server.runs.append(given)
            project = {"name": given.get("project") or "dnis-lightning", "entity": {"name": "someone"}}
            bucket = {
                "id": "abc",
                "name": given.get("name"),
                "displayName": "a run",
                "config": "{}",
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}
        if "createRunFiles" in told["query"]:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "abc", "uploadHeaders": [], "files": files}}
        return {
            "viewer": {"id": "u", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
        }

    def _send(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # the client goes without a farewell
            super().handle()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def test_online_run_arrives(tmp_path: Path, gates: Tensor, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert wandb.setup().settings.base_url == server.url
    logger = wandb_logger(tmp_path / "run", "logger.group=sweep", "logger.mode=online")
    fit(logger, gates)
    finish(logger)
    assert server.runs[0]["groupName"] == "sweep"
    assert [row["select/mse"] for row in server.rows if "select/mse" in row] == [0.5, 0.5]
    assert [row["epoch"] for row in server.rows if "gates/heatmap" in row] == [1, 2]
    assert sum("gates/heatmap" in path for path in server.files) == 2
    assert server.exit_code == 0


def test_epochs_are_counted_through_all_phases_where_a_history_does(tmp_path: Path, gates: Tensor) -> None:
    logger = wandb_logger(tmp_path / "run", "logger.mode=offline")
    past = {"rows": [{"epoch": 1, "phase": "warm_start"}, {"epoch": 2, "phase": "search"}]}
    trainer = L.Trainer(logger=logger, callbacks=[History("search", past, on_row=print)], enable_checkpointing=False)
    WandbPanels().on_train_epoch_end(trainer, Gated(gates))
    finish(logger)
    seen = history(records(tmp_path / "run"))
    assert seen["epoch"] == [2]
    assert len(seen["gates/heatmap"]) == 1


def test_other_loggers_see_nothing(tmp_path: Path, gates: Tensor) -> None:
    logger = CSVLogger(tmp_path)
    fit(logger, gates)
    for given in (logger, False, None):
        log_dims(given, np.array([1, 2]), "cr:2")
        log_figures(given, tmp_path)
        finish(given)
    assert not any(key.startswith(("gates", "dims", "figures")) for row in logger.experiment.metrics for key in row)
    assert wandb.run is None


def test_disabled_run_writes_nothing(tmp_path: Path, gates: Tensor) -> None:
    logger = wandb_logger(tmp_path / "run", "logger.mode=disabled")
    fit(logger, gates, epochs=1)
    log_dims(logger, np.array([1, 2]), "cr:2")
    finish(logger)
    assert not list((tmp_path / "run").rglob("*.wandb"))


def test_finish_begins_no_run(tmp_path: Path) -> None:
    finish(wandb_logger(tmp_path / "run", "logger.mode=offline"))
    assert not list((tmp_path / "run").iterdir())


def test_at_most_fifty_blocks_have_a_curve() -> None:
    names = [name for name in gate_panels(torch.ones(173, 4)) if name.startswith("gates/mean_block_")]
    assert len(names) == 50
    assert {"gates/mean_block_1", "gates/mean_block_173"} <= set(names)


def test_heatmap_is_brightest_where_gates_are_open() -> None:
    picture = heatmap(np.array([[0.0, 1.0], [0.0, 0.0]])).astype(int)
    height, width, channels = picture.shape
    assert channels == 3
    open_gate, closed, below = (
        picture[int(height * y), int(width * x)].sum() for y, x in ((0.2, 0.2), (0.2, 0.65), (0.7, 0.2))
    )
    assert open_gate > closed == below


def test_without_wandb_there_is_no_logger_to_build() -> None:
    assert OmegaConf.load(LOGGERS / "csv.yaml") == {"node": None}
