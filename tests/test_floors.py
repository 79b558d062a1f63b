"""The plan of the house: imports go down, heavy libraries stay upstairs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dnis_lightning

PACKAGE = Path(dnis_lightning.__file__).parent
FLOORS = (
    {"paths", "batch", "quantities", "errors", "keys", "memory", "measures", "columns"},
    {"lookup", "ranking", "packed", "reword"},
    {"data", "facts", "blocks", "scheme", "folder", "arguments", "outcomes"},
    {"embedding", "interaction", "tasks", "groups"},
    {"recommender"},
    {"search", "judge"},
    {"training", "compression", "caveats"},
    {"settings", "report", "shipping", "evaluation", "plain_files"},
    {"config"},
    {"blueprint"},
    {"earlier"},
    {"build", "result", "spread", "serving", "final_look", "biases"},
    {"trials", "cutting", "checks", "scoring", "onnx_file"},
    {"run", "exporting"},
    {"launch"},
    {"sweep"},
    {"command", "describe"},
    {"__main__", "export", "predict", "recommend"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py" and "conf" not in path.parts)


def place(path: Path) -> str:
    """The file or folder of the plan that a source file belongs to; commands of folders are on the top floor, too."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "__main__" if parts[-1] == "__main__" else parts[0]


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever in it, but for type checkers alone."""
    tree = ast.parse(path.read_text())
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports, as dotted names below the package."""
    names = {name.removeprefix("dnis_lightning.") for name in imported(path) if name.startswith("dnis_lightning.")}
    return {name for name in names if (PACKAGE / f"{name.replace('.', '/')}.py").exists()}


def test_every_file_has_its_floor() -> None:
    assert {place(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = place(path)
    for module in own_modules(path):
        there = module.split(".")[0]
        assert there == here or FLOOR[there] < FLOOR[here], f"{here} imports {module}, which is not below it"


def test_nothing_imports_in_a_circle() -> None:
    below = {str(p.relative_to(PACKAGE).with_suffix("")).replace("/", "."): own_modules(p) for p in FILES}
    done: set[str] = set()
    while ready := {name for name, needed in below.items() if name not in done and needed <= done}:
        done |= ready
    assert not set(below) - done


@pytest.mark.parametrize(
    ("libraries", "lowest"),
    [
        ({"lightning", "wandb"}, "training"),
        ({"hydra", "omegaconf"}, "config"),
        ({"torch.nn"}, "embedding"),
    ],
    ids=["lightning", "hydra", "torch.nn"],
)
def test_heavy_libraries_stay_upstairs(libraries: set[str], lowest: str) -> None:
    for path in FILES:
        if FLOOR[place(path)] < FLOOR[lowest]:
            for name in imported(path):
                assert not any(name == one or name.startswith(f"{one}.") for one in libraries), f"{path}: {name}"


def test_only_the_top_sees_a_dictconfig() -> None:
    seeing = {place(path) for path in FILES if "DictConfig" in path.read_text()}
    assert seeing <= {"config", "launch", "sweep", "command", "describe"}


def test_there_is_no_drawer_for_everything() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "helpers", "common", "misc"}]


def test_the_package_itself_loads_nothing_heavy() -> None:
    script = "import sys, dnis_lightning; print([m for m in ('torch', 'pandas', 'numpy', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
