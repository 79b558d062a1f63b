"""The configuration as a value: its groups, their keys, and what each may be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dnis_lightning.quantities import (
    Count,
    Finite,
    NonNegative,
    NumericForm,
    Positive,
    Seed,
    SplitName,
    TaskName,
    TopkLoss,
    Whole,
)

Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
"""A part of a folder's name."""

Node = dict[str, Any]
"""A constructor call: `_target_` and its arguments."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)  # "no" is no false, 2.0 no whole number


class DataSettings(_Group):
    """Group `data`."""

    name: Name
    task: TaskName
    cache: str
    batch_size: Count
    split: SplitName
    split_seed: Seed
    min_count: Count
    min_counts: dict[str, Count] | None
    numeric_as: NumericForm
    bins: Annotated[int, Field(ge=2)]
    pooling: Literal["mean", "sum"]
    max_values: Annotated[int, Field(ge=1, lt=2**16)]
    least_label: Finite | None
    negatives: Count
    negatives_power: NonNegative
    loss: TopkLoss
    positive_weight: Positive
    top: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1)]
    candidates: str | None
    source: Node


class ModelSettings(_Group):
    """Group `model`."""

    name: Name
    first_order: bool
    global_bias: Literal["mean", "zero", "none"]
    init: Positive | Literal["xavier"]
    l2: NonNegative
    l2_bias: NonNegative
    l2_power: NonNegative
    l2_per_std: bool
    l2_net: NonNegative
    interaction: Node


class SearchSettings(_Group):
    """Group `search`."""

    name: Name
    base_dim: Annotated[int, Field(ge=0, le=8192)]  # principal axes take K·K doubles
    blocks: Count
    blocking: Literal["equal", "decades", "mass"] | Annotated[list[int], Field(min_length=1)]
    blocks_per: Literal["table", "field"]
    against_biases: bool
    rates: list[Annotated[float, Field(ge=1, allow_inf_nan=False)]]
    budget: str | list[str] | None
    trial: Whole | None
    method: Node


class PruneSettings(_Group):
    """Group `prune`."""

    by: Literal["elements", "gates", "prefix", "best"]
    frequency_power: Annotated[float, Field(ge=0, le=2)]
    schedule: Literal["one_shot", "iterative", "gradual", "learned", "nis_single", "nis_multi"]
    thresholds: list[NonNegative]
    finetune_epochs: Whole
    rounds: Count
    round_epochs: Count
    gradual_epochs: Count
    learned_epochs: Count
    learned_start: Finite
    learned_lr: Positive
    learned_decay: NonNegative
    learned_per: Literal["table", "dimension", "feature", "element"]
    nis_parts: Count
    nis_cost_weight: NonNegative
    nis_lr: Positive
    nis_samples: Annotated[int, Field(ge=2)]
    nis_warm_up: Whole
    nis_epochs: Count


class OptimizerSettings(_Group):
    """Group `optimizer`."""

    lr: Literal["auto"] | Positive
    clip_norm: Positive | None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    plateau_patience: Whole | None
    plateau_floor: Annotated[float, Field(ge=0, lt=1)]
    by_row: bool
    node: Node


class TrainerSettings(_Group):
    """Group `trainer`."""

    accelerator: Literal["cpu", "gpu"]
    devices: Count
    strategy: Literal["auto", "ddp"]
    precision: Literal["32-true", "bf16-mixed", "64-true"]
    max_epochs: Count
    patience: Count
    compile: bool
    checkpoint_every_n_steps: Count
    progress: Literal["auto"] | bool
    threads: Count | None


class ShipSettings(_Group):
    """How the tables of a run are packed."""

    layout: Literal["auto", "dense", "prefix", "blocks", "bitmap", "csr"]
    dtype: Literal["auto", "fp32", "fp16", "bf16", "int8"]
    tolerance: NonNegative


class LoggerSettings(_Group):
    """Group `logger`."""

    node: Node | None


class SweepSettings(_Group):
    """What launchers and sweepers read."""

    jobs: Count | None
    trials: Count
    minimise: str
    partition: str | None
    minutes: Count
    cpus: Count | None
    gpus: Whole | None
    memory: Count | None
    requeue: Whole


class Settings(_Group):
    """The whole configuration, checked; what is not here reaches its reader through a node."""

    seed: Seed
    start_from: str | None
    resume: str | None
    output_dir: str
    profile: str
    data: DataSettings
    model: ModelSettings
    search: SearchSettings
    prune: PruneSettings
    optimizer: OptimizerSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    ship: ShipSettings
    sweep: SweepSettings
