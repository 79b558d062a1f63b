"""Every option of the group `data` builds its source; bad values are found before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from dnis_lightning.config import check_config
from dnis_lightning.errors import ConfigError
from dnis_lightning.paths import config_dir
from tests.test_config import composed

OPTIONS = sorted(path.stem for path in (config_dir() / "data").glob("[!_]*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_builds_the_source_of_its_name(option: str) -> None:
    told = ["data.path=a.csv", "data.label=y", "data.task=ctr"] if option == "table" else []
    settings = check_config(composed(f"data={option}", *told))
    source: Any = instantiate(settings.data.source)
    assert source.name == settings.data.name == option
    assert source.task == settings.data.task


@pytest.mark.parametrize("version", ["25m", "32m", "latest", "latest-small"])
def test_the_later_movielens_are_versions_of_the_20m_option(version: str) -> None:
    settings = check_config(composed("data=movielens-20m", f"data.version={version}"))
    source: Any = instantiate(settings.data.source)
    assert source.name == f"movielens-{version}"
    assert all(address.endswith(f"/ml-{version}.zip") for address in source.mirrors)


def test_the_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DNIS_DATA", str(tmp_path))
    assert composed("data=criteo").data.source.root == str(tmp_path)


@pytest.mark.parametrize(
    ("option", "override", "message"),
    [
        ("synthetic", "data.rows=0", r"data\.rows: it should be greater than or equal to 1, got 0"),
        ("synthetic", "data.dims=[]", r"data\.dims: it .* at least 1 item"),
        (
            "synthetic",
            "data.field_count=1",
            r"data\.field_count: it should be greater than or equal to 2, got 1",
        ),
        (
            "criteo",
            "data.numeric=log3",
            r"data\.numeric_as: it should be 'scalar', 'raw', 'standard', 'log2' or 'quantile', got 'log3'",
        ),
        ("movielens-1m", "data.split_seed=-1", r"data\.split_seed: it should be greater than or equal to 0, got -1"),
    ],
)
def test_a_bad_value_is_found_before_anything_is_built(option: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(composed(f"data={option}", override))
