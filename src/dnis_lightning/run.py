"""Runs a search from data to result."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dnis_lightning import build, caveats, result
from dnis_lightning.biases import biases_alone
from dnis_lightning.blueprint import construct, load_best, pruned_model, save_pruned
from dnis_lightning.cutting import WARM_START, Cutter, Uncut
from dnis_lightning.data.packing import how_raw_rows_are_read, pack_fields
from dnis_lightning.data.prepare import Prepared
from dnis_lightning.data.queries import Queries
from dnis_lightning.facts import CutFacts, TableFacts
from dnis_lightning.final_look import FinalLook
from dnis_lightning.folder import RunFolder, is_rank_zero
from dnis_lightning.judge import Judge
from dnis_lightning.packed import PackedEmbedding, PackedTable
from dnis_lightning.recommender import Recommender, tables_of
from dnis_lightning.scheme import Scheme
from dnis_lightning.search.importance import IMPORTANCE, Importance, Sensitivity
from dnis_lightning.search.trial import Trial
from dnis_lightning.settings import Settings
from dnis_lightning.shipping import as_shipped, write_embedding
from dnis_lightning.tasks import Objective, Task
from dnis_lightning.training.journal import Journal, all_ranks_here
from dnis_lightning.training.phases import PhaseRunner, TrainerOptions
from dnis_lightning.training.wandb_panels import WandbPanels, log_dims, log_figures, log_result
from dnis_lightning.trials import Trials

log = logging.getLogger(__name__)


@dataclass
class Run:
    """One job: its settings, data and folder, and the steps from the first trial to `result.json`.

    trial_jobs: finished jobs of search.trial, by the number of the trial, which need not be trained again.
    """

    settings: Settings
    prepared: Prepared
    folder: RunFolder
    logger: Any = False
    prepare_seconds: float = 0.0
    command: str = ""
    trial_jobs: Mapping[int, RunFolder] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.objective = build.make_objective(self.settings, self.prepared)
        self.feedback = build.make_feedback(self.settings, self.prepared)
        log.info("L2 %g on rows, %g on first-order terms, %s", *_l2_told(self.objective, self.settings))
        self.learning_rate = build.learning_rate(self.settings, self.prepared)
        log.info("learning rate %g at first", self.learning_rate)
        self.evaluation = build.make_evaluation(self.settings, self.prepared, self.task, self.feedback)
        self.judge = Judge(lambda model: self.evaluation.metrics(model, "select"), self.task.monitor)
        self.blueprint = build.make_blueprint(self.settings, self.prepared, self.task)
        self.journal = Journal.open(self.folder.checkpoint)
        self.pruning = build.pruning(self.settings)
        self.chosen: Trial  # the best, once the trials are over
        self.blocks = build.blocks_of(self.settings, self.prepared)
        self.importance = self._new_importance()
        self.shipping = build.shipping(self.settings, self.blocks.block_of)
        self.phases = PhaseRunner(
            self.prepared,
            self.objective,
            build.weight_step(self.settings, self.learning_rate),
            _trainer_options(self.settings),
            self.journal,
            batch_size=self.settings.data.batch_size,
            seed=self.settings.seed,
            on_row=self._on_row,
            callbacks=lambda: [WandbPanels()],
            logger=self.logger,
            feedback=self.feedback,
            blocks=self.blocks,
        )

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.objective.task

    def go(self) -> dict[str, Any]:
        """All steps; returns what `result.json` holds."""
        trials = self._trials()
        unpruned, whole = self._unpruned()
        before_search = self._before_search()
        if before_search is None:
            self.journal.let_go()
        cutter = self._cutter(whole, before_search)
        cuts = [cutter.cut(budget) for budget in build.budgets(self.settings)]
        model = self._best_model()
        dims = {cut["budget"]: Scheme.load(self.folder.scheme(cut["budget"]))[0].dims_per_feature for cut in cuts}
        who_pays = self._test(unpruned, cuts, model)
        biases = self._biases()
        diagnostics = self._diagnostics()
        doubts = [] if diagnostics is None else diagnostics["warnings"]
        told = self._result(model, unpruned, cuts, trials) | {
            "who_pays": who_pays,
            "biases": biases,
            "diagnostics": diagnostics,
            "warnings": [*doubts, *self._caveats(biases, unpruned, cuts, whole)],
            "recovery": result.recovery_of(self.settings, self.prepared, dims),
        }
        if is_rank_zero():
            self._write(told, model, dims)
        return told

    # the steps

    def _trials(self) -> list[dict[str, Any]]:
        """The facts of the method's trials, or of that of search.trial; the blueprint is the best one's then."""
        trials = Trials(
            self.blueprint,
            self.phases,
            self.folder,
            seed=self.settings.seed,
            only=self.settings.search.trial,
            jobs=self.trial_jobs,
            earlier=build.earlier(self.settings, self.prepared),
            judge=self.judge,
        )
        self.chosen, told = trials.run(construct(self.settings.search.method))
        self.blueprint = self.blueprint.of(self.chosen)
        if is_rank_zero():
            self.blueprint.save(self.folder.path / "recommender.json", task=self.task.name)
        return told

    def _best_model(self) -> Recommender:
        all_ranks_here()
        return self._read_best()

    def _read_best(self) -> Recommender:
        """The same where other ranks need not come along."""
        return self._of_chosen(load_best(self.folder)["recommender"])

    def _of_chosen(self, weights: dict[str, torch.Tensor]) -> Recommender:
        """The best trial's model with these weights."""
        model = self.blueprint.build(gated=self.chosen.gated)
        model.load_weights(weights)
        return model

    def _unpruned(self) -> tuple[TableFacts, int]:
        """Size and select metrics of the best trial's model; the scheme of a table of mixed widths is on disk then.

        And N·K, by which compression is counted; twice that for a model with two tables.
        """
        model = self._best_model()
        whole = self.blueprint.space.features * self.settings.search.base_dim * tables_of(model.interaction)
        scheme = model.scheme()
        if self.blueprint.block_dims is not None and is_rank_zero():
            save_pruned(self.folder, "unpruned", scheme, model)
        packed, metrics = self.shipping.choose(
            scheme,
            self.judge.evaluate(model),
            lambda other: self.judge.evaluate(self._with_values(other)),
            self.judge.cost,
        )
        first_order, interaction = result.other_sizes(model)
        facts: TableFacts = {
            **result.scheme_size(scheme, whole, packed),
            "first_order": first_order,
            "interaction": interaction,
            "metrics": metrics,
        }
        return facts, whole

    def _with_values(self, scheme: Scheme) -> Recommender:
        """The best trial's model with a table of these values, gates merged in."""
        model = self._best_model()
        model.keep(torch.from_numpy(scheme.dense()), None)
        return model

    def _cutter(self, whole: int, before_search: Uncut | None) -> Cutter:
        return Cutter(
            self.pruning,
            self.shipping,
            self.phases,
            self.folder,
            whole=whole,
            blocks=self.blocks,
            uncut=Uncut("trained", self._best_model, self.importance),
            initial=lambda: build.trial_model(self.blueprint, self.settings.seed),
            judge=self.judge,
            before_search=before_search,
        )

    def _before_search(self) -> Uncut | None:
        """The best trial's model before its search, if that has moved gates, and other ways to cut are wanted."""
        kept, phases = self.journal.kept, [f"{self.chosen.name}/{phase.name}" for phase in self.chosen.phases]
        found = [kept[phase] for phase in phases if phase in kept] if self.pruning.rival else []
        gates = self._best_model().gates if found else None
        if gates is None or bool((gates == 1).all()):
            return None
        return Uncut(WARM_START, lambda: self._of_chosen(self.journal.load(found[-1])), self._new_importance())

    def _biases(self) -> dict[str, Any] | None:
        """What the model is worth without a table; None where it has no first-order terms, or nothing else."""
        search, only = self.settings.search, self.settings.search.trial is not None
        if only or not (search.against_biases and search.base_dim and self.blueprint.first_order) or self.feedback:
            return None
        power = self.settings.model.l2_power
        return biases_alone(self.evaluation, self.blueprint.space, self.blueprint.bias, self.objective, power)

    def _caveats(
        self, biases: dict[str, Any] | None, unpruned: TableFacts, cuts: list[CutFacts], whole: int
    ) -> list[str]:
        """What the numbers are to be read with, told here, too."""
        metric, budgets = self.task.monitor, build.budgets(self.settings)
        last = self.chosen.phases[-1]
        plain = last.plateau and not last.searches  # one before a search need not have come to its end
        rows = self.journal.history.get("rows", []) if plain else []
        found = [
            *caveats.unfinished(rows, f"{self.chosen.name}/{last.name}", metric),
            *caveats.no_better_than_biases(unpruned, cuts, biases, metric, self.settings.model.l2),
            *caveats.beyond_their_loss(cuts),
            *caveats.beyond_their_size(cuts, budgets, whole),
            *caveats.beaten_by_smaller(cuts, metric, self.shipping.tolerance),
        ]
        for caveat in found:
            log.warning("%s", caveat)
        return found

    def _test(self, unpruned: TableFacts, cuts: list[CutFacts], model: Recommender) -> dict[str, Any] | None:
        """Adds test metrics to `unpruned` and `cuts`, after every choice is made; returns who pays.

        It is the one look at the test rows; a job of a single trial takes none.
        """
        if self.settings.search.trial is not None:
            return None
        all_ranks_here()
        look = FinalLook(self.evaluation, build.groups_of_test(self.prepared, self.evaluation, self.blocks))
        shipped = model if unpruned["dtype"] == "fp32" else self._with_values(self._shipped(model.scheme(), unpruned))
        look.at_unpruned(unpruned, shipped)
        for cut in cuts:
            scheme, rest = Scheme.load(self.folder.scheme(cut["budget"]))
            look.at_cut(cut, pruned_model(self.blueprint, self._shipped(scheme, cut), rest))
        return look.who_pays()

    # what they share

    def _new_importance(self) -> Importance:
        expected = torch.tensor(self.prepared.vocabulary.expected, dtype=torch.float32)
        return Importance(expected, Sensitivity(self.evaluation.inputs))

    def _packed(self, scheme: Scheme, facts: TableFacts) -> PackedTable:
        return scheme.packed(self.blocks.block_of, facts["dtype"], facts["layout"])

    def _shipped(self, scheme: Scheme, facts: TableFacts) -> Scheme:
        return scheme if facts["dtype"] == "fp32" else as_shipped(scheme, self._packed(scheme, facts))

    def _queries(self) -> dict[str, dict[str, int]] | None:
        if self.feedback is None:
            return None
        return {part: Queries(self.feedback.interactions, part).told for part in ("select", "test")}

    def _diagnostics(self) -> dict[str, Any] | None:
        """Whether the search of the best trial is to be trusted; None where no gates were moved."""
        searches = [f"{self.chosen.name}/{phase.name}" for phase in self.chosen.phases if phase.searches]
        return self.journal.done[searches[-1]].get("diagnostics") if searches else None

    def _on_row(self, rows: list[dict[str, Any]]) -> None:
        self.folder.write_rows("metrics.csv", rows)
        if self.logger:
            self.logger.log_metrics({name: value for name, value in rows[-1].items() if not isinstance(value, str)})

    def _result(
        self, model: Recommender, unpruned: TableFacts, cuts: list[CutFacts], trials: list[dict[str, Any]]
    ) -> dict[str, Any]:
        total = self.journal.seconds() + self.prepare_seconds
        return {
            **result.identity(self.settings, self.prepared, self.blueprint, self._queries()),
            "learning_rate": self.learning_rate,
            "chosen_trial": self.chosen.name,
            "unpruned": unpruned,
            "pruned": cuts,
            "gates_per_block": None if model.gates is None else [round(float(g), 6) for g in model.gates.mean(1)],
            "trials": trials,
            **result.costs(self.journal.done, prepare=self.prepare_seconds, total=total),
            "environment": result.environment(self.settings),
            "command": self.command,
        }

    def _write(self, told: dict[str, Any], model: Recommender, dims: dict[str, np.ndarray]) -> None:
        from dnis_lightning.report.pictures import draw, draw_tests  # pandas takes 50 MiB, which training need not have

        uncut = {"unpruned": model.scheme().dims_per_feature}
        self.folder.write_rows("dims.csv", result.dims_rows(self.prepared, self.blueprint, dims or uncut))
        draw(
            self.folder.figures,
            self.journal.history,
            self.task.monitor,
            told["trials"],
            model.gates,
            (uncut if self.blueprint.block_dims else {}) | dims,
            self.prepared.vocabulary.frequency,
            model.table.kept().shape[1],
            told["diagnostics"],
        )
        draw_tests(self.folder.figures, told)
        self.importance.save(self.folder.path / IMPORTANCE, self._read_best())
        self._pack(told, model)
        for name, counts in dims.items():
            log_dims(self.logger, counts, name)
        log_figures(self.logger, self.folder.figures)
        log_result(self.logger, told)
        log.info("%s", result.summary(told))
        self.folder.write_json("result.json", told)

    def _pack(self, told: Mapping[str, Any], model: Recommender) -> None:
        """Writes the tables as they are shipped: all cuts, or the whole table where there are none."""
        fields, reading = pack_fields(self.prepared), how_raw_rows_are_read(self.prepared)
        of_run = {name: told[name] for name in ("data", "model", "search", "task", "seed")}
        for facts in told["pruned"] or [{"budget": "unpruned", **told["unpruned"]}]:
            name = facts["budget"]
            scheme = Scheme.load(self.folder.scheme(name))[0] if told["pruned"] else model.scheme()
            more = {**reading, "run": {**of_run, "budget": name}}
            write_embedding(self.folder.embedding(name), PackedEmbedding(self._packed(scheme, facts), fields), more)


def _l2_told(objective: Objective, settings: Settings) -> tuple[float, float, str]:
    power = settings.model.l2_power
    return objective.l2, objective.l2_bias, f"÷ frequency^{power:g}" if power else "at each occurrence"


def _trainer_options(settings: Settings) -> TrainerOptions:
    trainer = settings.trainer
    progress = sys.stderr.isatty() if trainer.progress == "auto" else bool(trainer.progress)
    return TrainerOptions(
        trainer.accelerator,
        trainer.devices,
        trainer.strategy,
        trainer.precision,
        trainer.compile,
        trainer.checkpoint_every_n_steps,
        progress,
    )
