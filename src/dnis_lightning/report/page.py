"""The report as one file of HTML: no scripts, nothing loaded from elsewhere; figures are inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from dnis_lightning import __version__
from dnis_lightning.report import layout
from dnis_lightning.report.groups import group_tables
from dnis_lightning.report.layout import Cell, Grid
from dnis_lightning.report.points import Picture
from dnis_lightning.report.side import SideTable, side_tables
from dnis_lightning.report.tables import Table

GENERATOR = '<meta name="generator" content="dnis_lightning.report">'
_TITLE = "Embedding sizes: methods compared"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #5c5c66; --page: #fff; --line: #d9d9de; --head: #f2f2f5;
  --link: #0058a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ec; --soft: #a8a8b3; --page: #17171a; --line: #3a3a42;
  --head: #222227; --link: #7ab8f0; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto;
  max-width: 76rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
a { color: var(--link); } p, ul { max-width: 60rem; } .soft, figcaption { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; } thead th { background: var(--head); font-weight: 600; }
thead tr:first-child .model { text-align: center; } .first { border-left: 1px solid var(--line); }
tbody th, thead th.method { text-align: left; font-weight: 500; position: sticky; left: 0; background: var(--page);
  z-index: 1; white-space: normal; min-width: 15rem; } thead th.method { background: var(--head); }
tbody tr:hover > * { background: var(--head); } u { text-underline-offset: .2em; } b { font-weight: 700; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
@media (max-width: 40rem) { tbody th, thead th.method { min-width: 7rem; max-width: 9rem; font-size: .8rem; } }
@page { size: landscape; margin: 1cm; }
@media print { .wide { overflow: visible; border: 0; } table { font-size: .7rem; } tbody th { position: static; } }
"""


def page(
    tables: Sequence[Table],
    pictures: Sequence[tuple[Picture, Path]],
    notes: Sequence[str],
    skipped: Sequence[str],
) -> str:
    """The whole page.

    pictures: each with its PNG, which is put inside. notes: on which runs count. skipped: on files passed over.
    """
    body = [
        f"<h1>{_TITLE}</h1>",
        f'<p class="soft">{escape(_summary(tables))}</p>',
        *_contents(tables, pictures, bool(skipped)),
        *(line for table in tables for line in _table(table)),
        *(line for number, (picture, path) in enumerate(pictures, 1) for line in _picture(number, picture, path)),
        *_paragraphs("reading", "How to read the tables", layout.READING),
        *_list("runs", "Which runs count", [*notes, _COUNTING]),
        *(_list("skipped", "Passed over", skipped) if skipped else ()),
    ]
    return "\n".join([*_head(), "<body>", *body, "</body>", "</html>", ""])


_COUNTING = "All runs that were read are in runs.csv, beside this page: what identifies them, and whether they count."


def _head() -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"{GENERATOR}\n<title>{_TITLE}</title>\n<style>{_STYLE}</style>\n</head>"


def _summary(tables: Sequence[Table]) -> str:
    runs = len({path for table in tables for path in table.runs["path"]})
    data = ", ".join(dict.fromkeys(table.data for table in tables))
    return f"What {runs} run{'s' * (runs != 1)} found on {data}. Made by dnis-lightning {__version__}."


def _contents(tables: Sequence[Table], pictures: Sequence[tuple[Picture, Path]], skipped: bool) -> Iterator[str]:
    entries = {f"table-{table.number}": layout.heading(table) for table in tables}
    entries |= {f"figure-{number}": _named(number, picture) for number, (picture, _) in enumerate(pictures, 1)}
    entries |= {"reading": "How to read the tables", "runs": "Which runs count"}
    entries |= {"skipped": "Passed over"} if skipped else {}
    yield '<nav aria-label="contents"><ul>'
    yield from (f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in entries.items())
    yield "</ul></nav>"


def _table(table: Table) -> Iterator[str]:
    plan = layout.grid(table)
    yield f'<section id="table-{table.number}">\n<h2>{escape(layout.heading(table))}</h2>'
    yield f'<p>{escape(layout.caption(table))} <a href="#reading">How&nbsp;to&nbsp;read&nbsp;it</a></p>'
    yield '<div class="wide" tabindex="0"><table>'
    yield from _heads(plan)
    yield "<tbody>"
    for label, cells in plan.rows:
        name = escape(label).replace(" = ", "&nbsp;=&nbsp;")
        yield f'<tr><th scope="row">{name}</th>{"".join(_cells(cells, len(plan.columns)))}</tr>'
    yield "</tbody></table></div>"
    yield from (f'<p class="soft">{escape(note)}</p>' for note in layout.footnotes(table))
    yield from (line for one in (*side_tables(table), *group_tables(table)) for line in _side(one))
    yield "</section>"


def _side(table: SideTable) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    yield f'<h3>{escape(table.heading)}</h3>\n<div class="wide" tabindex="0"><table>'
    yield f'<thead><tr><th class="method" scope="col">Method</th>{heads}</tr></thead>\n<tbody>'
    for label, cells in table.rows:
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f'<tr><th scope="row">{escape(label)}</th>{values}</tr>'
    yield "</tbody></table></div>"


def _heads(plan: Grid) -> Iterator[str]:
    """Models over their columns, as in the paper."""
    width = len(plan.columns)
    models = (
        f'<th class="first model" scope="colgroup" colspan="{width}">{escape(model)}</th>' for model in plan.models
    )
    columns = "".join(f'<th{_edge(place)} scope="col">{escape(name)}</th>' for place, name in enumerate(plan.columns))
    yield f'<thead><tr><th class="method" scope="col" rowspan="2">Method</th>{"".join(models)}</tr>'
    yield f"<tr>{columns * len(plan.models)}</tr></thead>"


def _cells(cells: Sequence[Cell], width: int) -> Iterator[str]:
    tags: Mapping[str, str] = {"best": "b", "second": "u"}
    for place, cell in enumerate(cells):
        text, tag = escape(cell.text), tags.get(cell.mark)
        yield f"<td{_edge(place % width)}>{f'<{tag}>{text}</{tag}>' if tag else text}{escape(cell.tail)}</td>"


def _edge(place: int) -> str:
    return "" if place else ' class="first"'


def _named(number: int, picture: Picture) -> str:
    return f"Figure {number}. {picture.heading}"


def _picture(number: int, picture: Picture, path: Path) -> Iterator[str]:
    inside = base64.b64encode(path.read_bytes()).decode("ascii")
    of = " and ".join(filter(None, (", ".join(map(str, picture.numbers[:-1])), str(picture.numbers[-1]))))
    yield f'<section id="figure-{number}">\n<h2>{escape(_named(number, picture))}</h2>\n<figure>'
    yield f'<img alt="{escape(picture.heading)}" src="data:image/png;base64,{inside}">'
    yield (
        f"<figcaption>The rows of table{'s' * (len(picture.numbers) > 1)} {of}: means over seeds, bars ± standard "
        "deviation. Lines join the cuts of one model, or the widths of one method. The grey steps run through the "
        "points that none as small or smaller beats; these are named.</figcaption>\n</figure>\n</section>"
    )


def _paragraphs(anchor: str, heading: str, texts: Sequence[str]) -> Iterator[str]:
    yield f'<section id="{anchor}">\n<h2>{escape(heading)}</h2>'
    yield from (f"<p>{escape(text)}</p>" for text in texts)
    yield "</section>"


def _list(anchor: str, heading: str, texts: Sequence[str]) -> Iterator[str]:
    yield f'<section id="{anchor}">\n<h2>{escape(heading)}</h2>\n<ul>'
    yield from (f"<li>{escape(text)}</li>" for text in texts)
    yield "</ul>\n</section>"
