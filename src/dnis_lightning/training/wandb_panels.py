"""What a run shows on Weights & Biases beside its scalars: gates, dimensions and figures.

wandb is imported where it is used: loading it takes a second, which runs without it do not pay.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dnis_lightning.measures import larger_is_better
from dnis_lightning.training.callbacks import History

EPOCH = "epoch"
PREFIXES = ("select", "train", "search", "gates")
MOST_CURVES = 50


class WandbPanels(L.Callback):
    """Draws the gates on W&B after every epoch, against the epochs of the whole run.

    Does nothing unless the trainer has a `WandbLogger` and this is rank zero. The module's `gates` are α (L, K) or
    None, blocks by descending frequency; its `measured` are the names of its metrics on select.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tells W&B which axis the curves have, and which of their values counts."""
        logger = _wandb_logger(trainer)
        if logger is not None:
            define_metrics(logger, getattr(pl_module, "measured", ()))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the gates as a heat map, a histogram, and a mean for each block."""
        logger, gates = _wandb_logger(trainer), getattr(pl_module, "gates", None)
        if logger is None or gates is None or not gates.numel():
            return
        logger.experiment.log({EPOCH: _epoch(trainer), **gate_panels(gates)})


def define_metrics(logger: WandbLogger, measured: Sequence[str]) -> None:
    """Every curve against the epoch; the summary of a select metric, `measured`, is its best value, not its last."""
    run = logger.experiment
    run.define_metric(EPOCH, hidden=True)
    # in place of WandbLogger's own trainer/global_step, which starts anew in every phase
    run.define_metric("*", step_metric=EPOCH, overwrite=True)
    for prefix in PREFIXES:
        run.define_metric(f"{prefix}/*", step_metric=EPOCH)
    for name in measured:
        best = "max" if larger_is_better(name) else "min"
        run.define_metric(f"select/{name}", step_metric=EPOCH, summary=best)


def gate_panels(gates: Tensor) -> dict[str, Any]:
    """What W&B shows of gates (L, K): `gates/heatmap`, `gates/histogram`, and `gates/mean_block_<l>`, l from 1."""
    import wandb

    values = gates.detach().float().cpu().numpy()
    means = {f"gates/mean_block_{block + 1}": float(values[block].mean()) for block in _spread(len(values))}
    counts = np.histogram(values, bins=50, range=(0.0, 1.0))
    return {
        "gates/heatmap": wandb.Image(heatmap(values), caption="each row a block, its gates sorted"),
        "gates/histogram": wandb.Histogram(np_histogram=counts),
        **means,
    }


def heatmap(gates: np.ndarray) -> np.ndarray:
    """Gates (L, K), sorted in each block, as a picture (height, width, 3) of bytes."""
    blocks, dims = gates.shape
    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    extent = (0.5, dims + 0.5, blocks + 0.5, 0.5)
    picture = axes.imshow(
        -np.sort(-gates, axis=1), vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=extent
    )
    axes.set(xlabel="dimensions, the largest gate first", ylabel="block (1 = most frequent)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.colorbar(picture, label="gate α")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def log_dims(logger: Any, dims: np.ndarray, name: str) -> None:
    """Log how many of the features keep how many dimensions, as `dims/<name>`; nothing unless `logger` is W&B's.

    dims: (N,) whole numbers. name: of the budget.
    """
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    highest = int(dims.max(initial=0))
    step = -(-(highest + 1) // 256)  # W&B takes 512 bins at most
    counts = np.histogram(dims, bins=np.arange(-0.5, highest + step, step))
    logger.experiment.log({f"dims/{_plain(name)}": wandb.Histogram(np_histogram=counts)})


def log_result(logger: Any, result: Mapping[str, Any]) -> None:
    """Put what `result.json` says of metrics and sizes into the run's summary, where runs are compared.

    Nothing unless `logger` is W&B's. Names such as `unpruned/test/mse` and `cr-2/bytes`.
    """
    if not isinstance(logger, WandbLogger):
        return
    parts = {"unpruned": result["unpruned"]} | {_plain(cut["budget"]): cut for cut in result["pruned"]}
    for part, told in parts.items():
        figures = {**told["metrics"], "kept": told["kept"], "bytes": told["bytes"]}
        logger.experiment.summary.update({f"{part}/{name}": value for name, value in figures.items()})


def log_figures(logger: Any, folder: Path) -> None:
    """Log the PNGs of a folder as `figures/<name>`; nothing unless `logger` is W&B's."""
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    figures = {f"figures/{_plain(path.stem)}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    if figures:
        logger.experiment.log(figures)


def finish(logger: Any) -> None:
    """End the W&B run, as failed while an exception is under way; nothing unless `logger` is W&B's and has a run.

    Without it the next run of this process would write into the same W&B run.
    """
    if not isinstance(logger, WandbLogger):
        return
    import wandb

    if wandb.run is not None:  # asking the logger would begin one
        wandb.finish(exit_code=int(sys.exc_info()[0] is not None))


def _wandb_logger(trainer: L.Trainer) -> WandbLogger | None:
    loggers = trainer.loggers if trainer.is_global_zero else []
    return next((logger for logger in loggers if isinstance(logger, WandbLogger)), None)


def _epoch(trainer: L.Trainer) -> int:
    """The epoch just over, from 1: counted through all phases where a `History` does, else in this fit alone."""
    histories = [callback for callback in trainer.callbacks if isinstance(callback, History)]  # type: ignore[attr-defined]
    return len(histories[0].rows) if histories else trainer.current_epoch + 1


def _spread(blocks: int) -> list[int]:
    """All blocks, or as many as make sensible panels, evenly spread from the first to the last."""
    return sorted({round(block) for block in np.linspace(0, blocks - 1, min(blocks, MOST_CURVES))})


def _plain(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")
