"""Everything in conf/ composes and passes the check; the check itself."""

from __future__ import annotations

from itertools import cycle, product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from dnis_lightning.blueprint import construct
from dnis_lightning.build import budgets
from dnis_lightning.config import check_config, fingerprint
from dnis_lightning.errors import ConfigError
from dnis_lightning.paths import config_dir
from dnis_lightning.search.trial import SearchMethod
from dnis_lightning.sweep.resolvers import register

TABLE = ["data.path=clicks.csv", "data.label=clicked", "data.task=ctr"]
"""What data=table cannot do without."""


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("[!_]*.yaml"))


ALL = [
    f"{path.parent.relative_to(config_dir())}={path.stem}"
    for path in sorted(config_dir().rglob("[!_]*.yaml"))
    if path.parent != config_dir()
]


def test_no_group_was_forgotten() -> None:
    groups = {option.split("=")[0] for option in ALL}
    assert {"data", "model", "search", "prune", "optimizer", "trainer", "logger", "profile"} <= groups


PLUGINS = {
    "hydra/launcher=local": "hydra_joblib_launcher",
    "hydra/launcher=gpus": "hydra_joblib_launcher",
    "hydra/launcher=slurm": "hydra_submitit_launcher",
    "hydra/launcher=slurm_local": "hydra_submitit_launcher",
    "hydra/launcher=ray_local": "hydra_ray_launcher",
    "hydra/sweeper=tune": "hydra_optuna_sweeper",
}


def test_each_preset_of_hydra_has_its_plugin_named_here() -> None:
    assert {option for option in ALL if option.startswith("hydra/")} == set(PLUGINS)


@pytest.mark.parametrize("option", list(PLUGINS))
def test_every_value_of_a_preset_of_hydra_resolves(option: str) -> None:
    pytest.importorskip(f"hydra_plugins.{PLUGINS[option]}")
    register()
    group, name = option.removeprefix("hydra/").split("=")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=[option], return_hydra_config=True)
    ours = OmegaConf.load(config_dir() / "hydra" / group / f"{name}.yaml")
    whole = OmegaConf.to_container(config.hydra[group], resolve=True, throw_on_missing=False)
    assert (ours.keys() - {"defaults"}) <= whole.keys()


@pytest.mark.parametrize("option", ALL)
def test_every_option_composes_and_is_valid(option: str) -> None:
    if option in PLUGINS:
        pytest.importorskip(f"hydra_plugins.{PLUGINS[option]}")
    overrides = [option, *TABLE] if option == "data=table" else [option]
    check_config(composed(*overrides), overrides)


@pytest.mark.parametrize("profile", options("profile"))
def test_profiles_go_with_everything(profile: str) -> None:
    models = cycle(options("model"))  # each of them several times, but not with everything
    for data, search, model in ((*both, next(models)) for both in product(options("data"), options("search"))):
        given = [f"data={data}", f"model={model}", f"search={search}", f"profile={profile}"]
        settings = check_config(composed(*given, *(TABLE if data == "table" else ())))
        assert settings.profile == profile


def test_the_command_line_overrides_a_profile() -> None:
    config = composed("profile=paper", "search.gates_lr=0.5", "data.split=three_way")
    assert (config.search.gates_lr, config.data.split) == (0.5, "three_way")


def test_a_table_has_a_model_for_any_number_of_fields() -> None:
    assert composed("data=table").model.name == "fm"
    assert composed("model=mlp", "data=table").model.name == "mlp"
    assert composed().model.name == "mf"


def test_kinds_of_columns_are_given_one_by_one_or_together() -> None:
    for kinds in ("data.kinds={age: numeric}", "+data.kinds.age=numeric"):
        overrides = ["data=table", *TABLE, kinds]
        assert check_config(composed(*overrides), overrides).data.source["kinds"] == {"age": "numeric"}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["data=table"],
            "\n  data.label: no value; write data.label=...\n  data.path: no value; write data.path=...\n",
        ),
        (["data=table", *TABLE, "data.fields=user"], "data.fields: it should be a valid list, got 'user'"),
        (["data=table", *TABLE, "data.bad_rows=drop"], "data.bad_rows: it should be 'error' or 'skip', got 'drop'"),
        (["search.fit_fresh=no"], "search.fit_fresh: it should be a valid boolean, got 'no'"),
        (
            ["model=mlp", "model.hidden=deep"],
            "hidden: it should be 'paper' or 'authors' or should be a valid list, got 'deep'",
        ),
        (["data=movielens-1m", "data.negatives=2"], "data.negatives: nothing reads it with data.task=rating; it is of"),
        (
            ["data=movielens-1m", "data.task=topk", "data.loss=bpr", "data.positive_weight=2"],
            "nothing reads it with data.l",
        ),
        (["data=movielens-1m", "data.task=topk", "data.top=[]"], "data.top: it should have at least 1 item"),
        (["data.task=topk"], "data.task: it should be 'rating' or 'ctr', got 'topk'"),
        (["model=mlp", "model.hidden=[8,0]"], "model.hidden: it should be"),
        (["model=mlp", "model.dropout=1.0"], "model.dropout: it should be less than 1, got 1.0"),
        (["model=xdeepfm", "model.cin_layers=[]"], "model.cin_layers: it should"),
        (["model=dcn", "model.rank=0"], "model.rank: it should be greater than or equal to 1, got 0"),
        (["data.rows=6e3"], "data.rows: it should be a valid integer, got 6000.0"),
        (["trainer.max_epochs=2.0"], "trainer.max_epochs: it should be a valid integer, got 2.0"),
        (["optimizer.plateau_factor=1"], "optimizer.plateau_factor: it should be less than 1, got 1"),
        (
            ["data=movielens-1m", "data.task=topk", "data.candidates=given.csv"],
            "data.candidates: its positives are the test rows of data.split=leave_one_out, not of three_way",
        ),
        (
            ["data=table", "data.path=log.csv", "data.task=topk", "data.label=null", "data.least_label=3"],
            "data.least_label: with data.label=null no row has a label",
        ),
        (["search.budget=10"], "search.budget: '10'; it should read like cr:20, 10%, 25MiB, bytes:10% or loss:0.5%"),
        (["search.budget=cr:0.5"], "search.budget: 'cr:0.5'; it should read like"),
        (["search.blocking=[]"], "search.blocking: it should be"),
        (["data.name=a/b"], "data.name: it should match pattern"),
        (["data=movielens-20m", "data.version=10m"], "data.version: it should be '100k', '1m', '20m'"),
        (["search.rates=[3]", "search.budget=cr:20"], "search.rates: search.budget is set and takes its place"),
        (["search.blocks=3", "search.blocking=[5,-1]"], "search.blocks: the sizes in search.blocking give the number"),
        (["model.first_order=false", "model.l2_bias=0.1"], "model.l2_bias: there are no first-order terms"),
        (["contender=uniform_8", "search.base_dim=16"], "search.base_dim: contender=uniform_8 has a width of its own"),
        (["search.give_up=0.1", "search.start_counts=false"], "search.give_up: nothing reads it with"),
        (["search.base_dim=10000"], "search.base_dim: it should be less than or equal to 8192"),
        (["contender=random_6", "search.base_dim=16"], "search.base_dim: contender=random_6 has a width of its own"),
        (["search=grid", "prune.schedule=gradual"], "prune.schedule: nothing is cut; say to what, as search.rates=[2]"),
        (
            ["optimizer.plateau_floor=0.1", "optimizer.plateau_patience=null"],
            "optimizer.plateau_floor: nothing reads it with optimizer.plateau_patience=null",
        ),
        (["model.l2_power=-1"], "model.l2_power: it should be"),
        (["search=none", "prune=best"], "prune: nothing is cut; say to what, as search.rates=[2]"),
        (["prune.rounds=3"], "prune.rounds: nothing reads it with prune.schedule=one_shot; it is of iterative"),
        (["search=pep", "prune.finetune_epochs=3"], "prune.finetune_epochs: nothing reads it with prune.schedule=lea"),
        (["search=mde", "search.temperatures=[]"], "search.temperatures: it should have at least 1 item"),
        (["~search.rates"], "search.rates: no value; write search.rates=..."),
        (["data.mean=nan"], "data.mean: it should be a finite number"),
    ],
)
def test_a_wrong_value_is_named(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_config(composed(*overrides), overrides)
    assert says in str(raised.value)


@pytest.mark.parametrize("given", ["10", "[10,20%]", "[[10%]]"])
def test_a_wrong_budget_is_one_sentence(given: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_config(composed(f"search.budget={given}"), [])
    assert len(str(raised.value).splitlines()) == 2, raised.value


TABLE = ("data=table", "data.path=log.csv", "data.label=stars", "data.task=rating")


@pytest.mark.parametrize(
    ("override", "is_read"),
    [
        ("+data.l2_of_task.ratin.l2=3", False),
        ("data.l2_of_task.ctr.l2=3", False),
        ("data.l2_of_task.rating.l2=3", True),
        ("data.l2_of_task.rating={l2:3,l2_bias:0.1}", True),
        ("data.l2_of_task={rating:{l2:3}}", True),
        ("+data.l2_of.mf=3", True),
        ("+data.l2_of.fm=3", False),
        ("data.default_budget=[5%]", False),
    ],
)
def test_of_keys_that_are_chosen_from_only_the_chosen_one_is_read(override: str, is_read: bool) -> None:
    given = [*TABLE, "model=mf", override]
    if is_read:
        check_config(composed(*given), given)
        return
    with pytest.raises(ConfigError, match="nothing reads this key"):
        check_config(composed(*given), given)


def test_equal_budgets_are_cut_once_by_their_first_name() -> None:
    settings = check_config(
        composed(
            "search=dnis",
            "search.budget=[10%,25MiB,10.0%,cr:10,0.025GiB,25.0MiB,bytes:10%,cr:10.0000000000001]",
            "prune.thresholds=[0.1,0.10000000000001]",
        ),
        [],
    )
    assert [one.name for one in budgets(settings)] == ["10%", "25MiB", "0.025GiB", "bytes:10%", "eps:0.1"]


def test_contenders_may_be_given_budgets_that_some_of_them_do_not_read() -> None:
    given = ["contender=uniform_2", "data.default_budget=[5%]"]
    check_config(composed(*given), given)


PAPER = {
    "data.split": "paper",
    "data.batch_size": 4096,
    "optimizer.lr": 0.001,
    "optimizer.node.catch_up": True,
    "search.base_dim": 64,
    "search.gates_lr": 0.01,
    "search.gates_lr_per": "step",
    "search.gates_optimizer": "adam",
    "search.penalty": 0.0,
    "search.epsilon": 1e-7,
    "search.search_plateau": True,
    "search.start_counts": False,
    "search.search_patience": 5,
    "optimizer.plateau_patience": None,
    "optimizer.plateau_floor": 0.0,
    "model.l2_bias": 0.0,
    "search.warm_start": 0,
    "search.tables_only": False,
    "search.epoch": "longest",
    "search.fit_epochs": 0,
    "prune.finetune_epochs": 0,
    "model.reduce": "sum",
    "model.l2": 0.0,
}
AUTHORS = PAPER | {
    "data.split": "authors",
    "search.gates_optimizer": "sgd",
    "search.penalty": 1e-5,
    "search.penalty_stage": "raw",
    "search.epsilon": 1e-8,
    "search.warm_start": 20,
    "search.tables_only": True,
    "search.epoch": "shortest",
    "search.least_lr": 1e-6,
    "search.search_patience": 1000,
    "optimizer.plateau_patience": 1,
    "optimizer.plateau_factor": 0.1,
    "model.reduce": "mean",
    "model.init": "xavier",
}


@pytest.mark.parametrize(("profile", "expected"), [("paper", PAPER), ("authors", AUTHORS)])
def test_profiles_have_the_settings_of_their_source(profile: str, expected: dict[str, object]) -> None:
    config = composed(f"profile={profile}", "data=movielens-20m", "model=mf")
    assert {key: OmegaConf.select(config, key) for key in expected} == expected


@pytest.mark.parametrize("profile", options("profile"))
def test_towers_are_those_of_the_profiles_source(profile: str) -> None:
    node = composed(f"profile={profile}", "model=mlp").model.interaction
    hidden = "authors" if profile == "authors" else "paper"
    assert (node.hidden, node.dropout, node.batch_norm) == (hidden, 0.0, False)


@pytest.mark.parametrize(
    ("data", "blocks", "authors"),
    [("movielens-1m", 10, "equal"), ("movielens-20m", 10, "equal"), ("criteo", 6, "decades")],
)
def test_blocks_are_those_of_the_paper_and_of_the_authors(data: str, blocks: int, authors: str) -> None:
    search = check_config(composed(f"data={data}", "model=fm", "profile=authors")).search
    assert (search.blocks, search.blocking) == (blocks, authors)


def test_the_authors_left_out_rare_films_of_the_20m_alone() -> None:
    kept = {data: composed(f"data={data}", "profile=authors").data.min_ratings for data in options("data")}
    assert kept.pop("movielens-20m") == 5
    assert set(kept.values()) == {1}


def test_the_fingerprint_is_of_what_is_computed() -> None:
    same = [
        (),
        ("logger=wandb",),
        ("data.cache=there",),
        ("output_dir=elsewhere",),
        ("trainer.threads=1",),
        ("resume=auto",),
        ("data.root=elsewhere",),
        ("data.default_l2=3", "model.l2=0.01"),
    ]
    assert len({fingerprint(composed(*overrides), "data") for overrides in same}) == 1
    assert fingerprint(composed("seed=1"), "data") != fingerprint(composed(), "data")
    assert fingerprint(composed("data.default_l2=3"), "data") != fingerprint(composed(), "data")
    assert fingerprint(composed("search.xi=0.1"), "data") != fingerprint(composed(), "data")
    assert fingerprint(composed(), "other data") != fingerprint(composed(), "data")


def test_a_users_folder_adds_options_and_is_checked_like_ours(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(
        "defaults: [_common, _self_]\nname: mine\n"
        "method:\n  _target_: dnis_lightning.search.none.Uniform\n  patiense: 3\n"
    )
    with pytest.raises(ConfigError) as raised:
        check_config(composed("search=mine", f"hydra.searchpath=[file://{tmp_path}]"))
    message = str(raised.value)
    assert "search.method.patiense: Uniform takes no such argument, only max_epochs, patience" in message
    assert "search.method.max_epochs: Uniform needs it" in message


TABLES = {
    "table2": ("movielens-20m", {"mf", "mlp", "neumf"}, 10, [2, 2.5]),
    "table3": ("criteo", {"fm", "wide_deep", "deepfm"}, 6, [20, 30]),
}


@pytest.mark.parametrize("table", list(TABLES))
def test_the_papers_tables_have_its_settings(table: str) -> None:
    data, models, blocks, rates = TABLES[table]
    sweep = swept(table)
    assert set(sweep["model"].split(",")) == models
    assert set(sweep["search"].split(",")) == {"grid", "random", "mde", "dnis"}
    for model, search in product(sorted(models), sweep["search"].split(",")):
        config = composed(f"experiment={table}", f"model={model}", f"search={search}")
        settings = check_config(config)
        assert (settings.data.name, settings.profile, settings.data.split) == (data, "paper", "paper")
        assert (settings.search.base_dim, settings.search.blocks, settings.data.batch_size) == (64, blocks, 4096)
        assert settings.search.rates == (rates if search == "dnis" else [])
        assert settings.optimizer.lr == 1e-3
        assert settings.optimizer.node["_target_"] == "dnis_lightning.training.lazy_adam.LazyAdam"
    gates = check_config(composed(f"experiment={table}", "search=dnis")).search.method
    assert (gates["gates_lr"], gates["gates_optimizer"], gates["gates_lr_per"]) == (1e-2, "adam", "step")
    methods = [
        build_method(composed(f"experiment={table}", f"search={search}")) for search in ("grid", "random", "mde")
    ]
    assert [method.trial_count for method in methods] == [16, 16, 16]
    assert list(methods[0].widths) == list(range(4, 65, 4))


@pytest.mark.parametrize("table", ["table2-small", "table3-small"])
def test_the_small_tables_keep_models_widths_blocks_rates_and_batches(table: str) -> None:
    big, small = swept(table.removesuffix("-small")), swept(table)
    assert small["model"] == big["model"]
    assert set(big["search"].split(",")) | {"magnitude"} == set(small["search"].split(","))
    whole, part = composed(f"experiment={table.removesuffix('-small')}"), composed(f"experiment={table}")
    for key in ("search.base_dim", "search.blocks", "search.rates", "data.batch_size", "data.task"):
        assert OmegaConf.select(part, key) == OmegaConf.select(whole, key)


@pytest.mark.parametrize("small", ["", "-small"])
def test_table_4_holds_the_search_against_nis_at_the_same_widths_and_budgets(small: str) -> None:
    sweep = swept(f"table4{small}")
    assert set(sweep["search"].split(",")) == {"nis_se", "nis_me", "dnis"}
    assert len(sweep["search.base_dim"].split(",")) > 1
    for search in sweep["search"].split(","):
        settings = check_config(composed(f"experiment=table4{small}", f"search={search}"))
        assert (settings.data.task, settings.data.split, settings.model.name) == ("topk", "leave_one_out", "neumf")
        assert settings.profile == ("default" if small else "paper")
        assert settings.search.rates == [2, 4]


def test_a_frontier_has_every_method_at_every_size_and_trains_them_alike() -> None:
    assert swept("frontier") == {"contender": "glob(*)", "seed": "0,1,2"}
    given = ("experiment=frontier", "data=movielens-100k", "model=mf")
    found = {name: check_config(composed(*given, f"contender={name}")) for name in options("contender")}
    narrow = {name: one.search.base_dim for name, one in found.items() if one.search.base_dim != 64}
    assert narrow == {
        **{f"uniform_{width}": width for width in (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)},
        **{f"random_{width}": width for width in (2, 6, 12, 25)},
    }
    widest = {name: max(one.search.method["base_dims"]) * 64 for name, one in found.items() if one.search.name == "mde"}
    assert widest == {f"mde_{width}": width for width in (2, 4, 8, 16, 32, 64)}
    cuts = {(one.search.name, one.prune.by, one.prune.schedule) for one in found.values() if one.search.budget}
    magnitude = {("none", "elements", schedule) for schedule in ("one_shot", "iterative", "gradual")}
    turned = {("none", "prefix", "one_shot"), ("none", "best", "one_shot"), ("dnis", "best", "one_shot")}
    assert cuts == {*magnitude, *turned, ("pep", "elements", "learned")}
    assert {tuple(one.search.budget) for one in found.values() if one.search.budget} == {tuple(SHARES)}
    assert {one.search.name for one in found.values()} == {"none", "mde", "random", "pep", "dnis"}
    told = [one.model_dump(exclude={"search": True, "prune": {"by", "schedule"}}) for one in found.values()]
    assert all(one == told[0] for one in told)


SHARES = ("bytes:50%", "bytes:20%", "bytes:10%", "bytes:5%", "bytes:2%")


@pytest.mark.parametrize("profile", options("profile"))
def test_nis_is_the_same_in_all_profiles(profile: str) -> None:
    config = composed("search=nis_me", f"profile={profile}")
    assert (config.prune.schedule, config.prune.nis_warm_up, config.prune.nis_epochs) == ("nis_multi", 3, 10)
    assert (config.search.blocks, config.search.blocks_per) == (5, "field")


def swept(experiment: str) -> dict[str, str]:
    """What an experiment sweeps over."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True)
    return OmegaConf.to_container(config.hydra.sweeper.params)


def build_method(config: DictConfig) -> SearchMethod:
    return construct(check_config(config).search.method)


def test_l2_is_that_of_the_model_where_one_was_tuned(tmp_path: Path) -> None:
    told = {model: composed("data=movielens-1m", f"model={model}").model.l2 for model in ("mf", "mlp", "neumf", "fm")}
    config = composed("data=movielens-1m")
    assert told == {"mf": config.data.default_l2, "fm": config.data.default_l2, **config.data.l2_of}
    assert composed("data=movielens-1m", "model=mlp", "profile=paper").model.l2 == 0
    assert composed("data=movielens-1m", "model=mlp", "model.l2=0.5").model.l2 == 0.5
    given = ["data=movielens-1m", "model=mlp", "data.l2_of.mlp=0.25"]
    assert check_config(composed(*given), given).model.l2 == 0.25


@pytest.mark.parametrize(
    ("task", "model", "l2", "l2_bias", "power"),
    [
        ("rating", "fm", 1.35, 0.3, 0.5),
        ("rating", "neumf", 0.09, 0.3, 0.5),
        ("rating", "mlp", 90, 0.3, 0.5),
        ("ctr", "fm", 100, 10, 1),
        ("ctr", "neumf", 100, 10, 1),
        ("topk", "neumf", 0, 0, 0),
    ],
)
def test_a_table_of_ones_own_has_an_l2_to_start_from(
    task: str, model: str, l2: float, l2_bias: float, power: float
) -> None:
    given = ["data=table", "data.path=a.csv", "data.label=b", f"data.task={task}", f"model={model}"]
    told = composed(*given).model
    assert (told.l2, told.l2_bias, told.l2_power, told.l2_per_std) == (l2, l2_bias, power, task == "rating")


def test_network_pruning_is_iterative_but_for_the_authors() -> None:
    schedules = {p: composed("search=magnitude", f"profile={p}").prune.schedule for p in options("profile")}
    assert schedules == {"default": "iterative", "paper": "iterative", "authors": "one_shot"}
    assert composed("search=pep", "profile=authors").prune.schedule == "learned"
    projected = {p: composed("search=mde", f"profile={p}").search.method.projected for p in options("profile")}
    assert projected == {"default": True, "paper": True, "authors": False}
