"""The built wheel, put into another folder, runs there without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.command import TINY, dnis, result_of

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, as pip would lay it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_package_and_options_and_no_data(installed: Path) -> None:
    packed = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    for path in (CHECKOUT / "conf").rglob("*.yaml"):
        assert f"dnis_lightning/conf/{path.relative_to(CHECKOUT / 'conf')}" in packed
    own = {name for name in packed if not name.startswith("dnis_lightning/")}
    assert all(".dist-info/" in name for name in own)


def test_it_runs_in_another_folder(installed: Path, tmp_path: Path) -> None:
    where = [sys.executable, "-c", "from dnis_lightning.paths import config_dir; print(config_dir())"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    told = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == str(installed / "dnis_lightning" / "conf"), "the wheel's, not the checkout's"
    _, result = result_of(dnis(tmp_path, *TINY, "search=none", PYTHONPATH=str(installed)))
    assert result["search"] == "none"


def test_it_sweeps_and_takes_a_users_options(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "wide.yaml").write_text("defaults: [fm, _self_]\nname: wide\n")
    arguments = ("-m", "--config-dir", "mine", *TINY, "search=none", "model=wide,mf", "trainer.max_epochs=1")
    done = dnis(tmp_path, *arguments, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/*/*/result.json"))) == 2


def test_the_console_script_is_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("dnis-lightning")
    done = subprocess.run(
        [str(script), "--cfg", "job", "model=fm"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "gates_lr" in done.stdout
