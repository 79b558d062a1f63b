"""What watches a training: the best weights and when to stop, the history, and the checkpoint of the whole run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor

from dnis_lightning.errors import stop_if_interrupted
from dnis_lightning.measures import cost, headline, worse_by
from dnis_lightning.paths import whole_file
from dnis_lightning.recommender import Recommender
from dnis_lightning.search.trial import Stopping
from dnis_lightning.training.fit_module import FitModule
from dnis_lightning.training.journal import Journal, all_ranks_here
from dnis_lightning.training.search_module import SearchModule

log = logging.getLogger(__name__)


class BestWeights(L.Callback):
    """Lets the journal keep the weights of the best epoch, and stops when `Stopping` says so."""

    def __init__(self, monitor: str, stopping: Stopping, journal: Journal) -> None:
        self.monitor, self.stopping, self.journal = monitor, stopping, journal
        self.start, self.best, self.best_epoch, self.epochs = math.nan, math.nan, 0, 0

    def begin_with(self, recommender: Recommender, value: float) -> None:
        """The weights that a phase starts with, whose metric is known, count as an epoch before the first."""
        self.start = self.best = value
        self.journal.best = self.journal.save(recommender.state_dict())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares this epoch with the best so far."""
        assert isinstance(pl_module, FitModule)
        value = float(trainer.callback_metrics[self.monitor])
        self.epochs += 1
        counts = self.epochs >= self.stopping.least_epochs and math.isfinite(value)
        if counts and (self._cost(value) < self._cost(self.best) or not self.stopping.best):
            self.best, self.best_epoch = value, self.epochs
            self.journal.best = self.journal.save(pl_module.recommender.state_dict())
        trainer.should_stop = self._converged(value, pl_module) or pl_module.arrived

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Waits until the weights are there for all ranks."""
        all_ranks_here()

    def _cost(self, value: float) -> float:
        return cost(self.monitor.removeprefix("select/"), value)

    def _converged(self, value: float, module: FitModule) -> bool:
        stopping = self.stopping
        if not math.isfinite(value):
            log.warning(
                "%s is %s after %d epochs: stopped; a smaller optimizer.lr may help", self.monitor, value, self.epochs
            )
            return True
        stale = self.epochs - self.best_epoch >= stopping.patience
        floor = max(stopping.least_lr, module.least_learning_rate)
        at_the_floor = module.learning_rate <= floor * (1 + 1e-9)  # 1e-3 lowered thrice by 0.1 is 1.0000000000000002e-6
        return self.epochs >= stopping.least_epochs and (stale or at_the_floor or self._far_behind_its_start(value))

    def _far_behind_its_start(self, value: float) -> bool:
        """Whether a phase whose start counts is given up: no epoch was better, and this is far worse."""
        share = self.stopping.give_up
        # a start whose metric is not known is infinitely bad, so none is behind it
        behind = share > 0 and not self.best_epoch and self._cost(value) > worse_by(self._cost(self.start), share)
        if behind:
            told = (self.monitor, value, self.epochs, 100 * share, self.start)
            log.info("%s is %.5f after %d epochs, more than %g %% behind the start, %.5f: given up", *told)
        return behind

    def state_dict(self) -> dict[str, Any]:
        """Best value and epoch so far."""
        return {"start": self.start, "best": self.best, "best_epoch": self.best_epoch, "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them back."""
        self.start = state_dict["start"]
        self.best, self.best_epoch, self.epochs = (state_dict[k] for k in ("best", "best_epoch", "epochs"))


class History(L.Callback):
    """One row an epoch, counted through all phases of a run, and the gates at its end.

    on_row is called with the rows so far, the newest last; it writes metrics.csv and feeds the loggers.
    """

    def __init__(self, phase: str, past: dict[str, Any], on_row: Callable[[list[dict[str, Any]]], None]) -> None:
        self.phase, self.on_row = phase, on_row
        self.rows: list[dict[str, Any]] = list(past.get("rows", []))
        self.gates: list[Tensor] = list(past.get("gates", []))
        self.gate_epochs: list[int] = list(past.get("gate_epochs", []))
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adds the row of this epoch."""
        assert isinstance(pl_module, FitModule)
        seconds = time.perf_counter() - self._started
        epoch = len(self.rows) + 1
        row: dict[str, Any] = {"epoch": epoch, "phase": self.phase, **pl_module.epoch_means()}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("select/")}
        row |= {"lr": pl_module.learning_rate, "seconds": round(seconds, 3)}
        row["rows/s"] = round(_rows(trainer) / seconds)
        self.rows.append(row)
        if isinstance(pl_module, SearchModule):
            self.gates.append(pl_module.selection.gates.detach().to("cpu", copy=True))
            self.gate_epochs.append(epoch)
        if trainer.is_global_zero:
            log.info(_line(row))
            self.on_row(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Everything so far."""
        return {"rows": self.rows, "gates": self.gates, "gate_epochs": self.gate_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self.rows, self.gates, self.gate_epochs = (list(state_dict[k]) for k in ("rows", "gates", "gate_epochs"))


class RunCheckpoint(L.Callback):
    """Writes `last.ckpt` every n steps: Lightning's state, and the run's journal in it.

    Never at the last batch of an epoch, where the validation that belongs to it is still to come.
    """

    def __init__(self, journal: Journal, every_n_steps: int) -> None:
        self.journal, self.every_n_steps = journal, every_n_steps
        self._written_at = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes when it is time; a Ctrl-C that got lost ends training here."""
        stop_if_interrupted()
        if trainer.global_step - self._written_at < self.every_n_steps or batch_idx + 1 >= trainer.num_training_batches:
            return
        self._written_at = trainer.global_step
        if trainer.is_global_zero:
            with whole_file(self.journal.path) as part:
                trainer.save_checkpoint(part)
        else:
            trainer.save_checkpoint(self.journal.path)  # every rank takes part, rank zero writes
        self.journal.written()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the journal."""
        checkpoint["run"] = self.journal.state()

    def state_dict(self) -> dict[str, Any]:
        """The step of the last writing."""
        return {"written_at": self._written_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back, so that a resumed run writes at the same steps."""
        self._written_at = state_dict["written_at"]


class RowsBar(TQDMProgressBar):
    """Lightning's progress bar, counting rows instead of batches."""

    def __init__(self, batch_size: int, phase: str) -> None:
        super().__init__(refresh_rate=10)
        self.batch_size, self.phase = batch_size, phase

    def init_train_tqdm(self) -> Tqdm:
        """The bar of an epoch, in rows/s and with the time left."""
        bar = super().init_train_tqdm()
        bar.unit, bar.unit_scale, bar.leave = " rows", self.batch_size, False
        return bar

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Names the phase."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.phase} epoch {trainer.current_epoch + 1}")


def _rows(trainer: L.Trainer) -> int:
    """The rows that the weights see in an epoch."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return min(
        sum(data.prepared.rows[part] for part in data.weight_parts()),
        int(trainer.num_training_batches) * data.batch_size,
    )


def _line(row: dict[str, Any]) -> str:
    shown = headline([name for name, value in row.items() if isinstance(value, float)])
    figures = ", ".join(f"{name} {row[name]:.5g}" for name in row if name in shown)
    figures += f", {row['rows/s']:,} rows/s"
    return f"{row['phase']}: epoch {row['epoch']}: {figures}"
