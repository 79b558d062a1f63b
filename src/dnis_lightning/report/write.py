"""Puts a report into its folder, each file whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dnis_lightning.errors import UserError
from dnis_lightning.paths import whole_file
from dnis_lightning.report import layout
from dnis_lightning.report.groups import long_form
from dnis_lightning.report.page import GENERATOR, page
from dnis_lightning.report.points import Picture, pictures
from dnis_lightning.report.settle import Settled
from dnis_lightning.report.tables import Table

PAGE = "report.html"
_OURS = re.compile(r"table_\d+_.+\.(md|csv)|who_pays_\d+_.+\.csv|frontier_.+\.png")
_HELPERS = ["place", "narrower", "width", "base", "base_dim"]  # columns of a summary that say nothing to a reader


def write(folder: Path, settled: Settled, tables: Sequence[Table], skipped: Sequence[str]) -> Path:
    """Write tables, runs, figures and page into a folder, made if absent; returns the page's path.

    Tables and figures of an earlier report that are not written anew are removed.
    Raises UserError when the folder cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: this is a file; --to names the folder that the report is written to")
    try:
        earlier = _of_an_earlier_report(folder)
        texts = {**dict(_tables(tables)), "runs.csv": runs(settled).to_csv(index=False)}
        drawn = _draw(folder, pictures(tables))
        texts[PAGE] = page(tables, drawn, settled.notes, skipped)
        for name, text in texts.items():
            _write_text(folder / name, text)
        for name in earlier - texts.keys() - {path.name for _, path in drawn}:
            (folder / name).unlink(missing_ok=True)
    except OSError as fault:
        raise UserError(f"{folder}: cannot be written to ({fault.strerror}); name another folder with --to") from fault
    return folder / PAGE


def runs(settled: Settled) -> pd.DataFrame:
    """A line for each run and cut, raw, counting or not, with all keys of its configuration."""
    told = [_keys(settled.configs[name]) for name in settled.frame["config"]]
    keys = pd.DataFrame(told, index=settled.frame.index).sort_index(axis=1)
    return pd.concat([settled.frame.drop(columns=["base", "groups"]), keys], axis=1)


def tidy(table: Table) -> pd.DataFrame:
    """A line for each method, model and cut, plain numbers: bytes, seconds; `m_p` and so on for each metric m."""
    plain = table.summary.assign(coo_npz_mib=table.summary["coo_npz_bytes"] / 2**20)
    return plain.drop(columns=[*_HELPERS, "coo_npz_bytes"])


def _keys(config: Mapping[str, str]) -> dict[str, str]:
    """The keys of a configuration that a run's own columns do not have, strings without their quotes."""
    more = {key: value for key, value in config.items() if "." in key and not key.startswith("rows.")}
    return {key: str(json.loads(value)) if value.startswith('"') else value for key, value in more.items()}


def _tables(tables: Sequence[Table]) -> Iterator[tuple[str, str]]:
    reading = "\n\n".join(layout.READING)
    for table in tables:
        name = f"table_{table.number}_{_slug(table.data)}_{_slug(table.task)}"
        yield f"{name}.md", f"{layout.markdown(table)}\n{reading}\n"
        if len(groups := long_form(table)):
            yield f"who_pays_{name.removeprefix('table_')}.csv", groups.drop(columns="place").to_csv(index=False)
        yield f"{name}.csv", tidy(table).to_csv(index=False)


def _draw(folder: Path, drawn: Sequence[Picture]) -> list[tuple[Picture, Path]]:
    if not drawn:
        return []
    from dnis_lightning.report.figures import save  # matplotlib takes longer to load than a typing error deserves
    from dnis_lightning.report.frontier import frontier

    files: dict[Path, Picture] = {}
    for picture in drawn:
        name = f"frontier_{_slug(picture.data)}_{_slug(picture.model)}"
        path = folder / f"{name}.png"
        while path in files:  # the same data and model with other test rows
            path = folder / f"{name}_{len(files) + 1}.png"
        save(frontier(picture.points, picture.metrics, picture.heading), path)
        files[path] = picture
    return [(picture, path) for path, picture in files.items()]


def _of_an_earlier_report(folder: Path) -> set[str]:
    """The tables and figures in a folder whose page is a report's; elsewhere nothing is ours to remove."""
    page_before = folder / PAGE
    if not page_before.is_file() or GENERATOR not in page_before.read_text(encoding="utf-8", errors="replace")[:1000]:
        return set()
    return {path.name for path in folder.iterdir() if _OURS.fullmatch(path.name)}


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _slug(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"
