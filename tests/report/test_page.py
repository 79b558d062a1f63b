"""The page stands alone, is well formed, and shows text from files as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dnis_lightning.report.collect import collect
from dnis_lightning.report.settle import settle
from dnis_lightning.report.tables import make_tables
from dnis_lightning.report.write import write
from tests.report.runs import make_run, part, rating

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags balance, and gathers what a browser would load, link and show."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        self.open += [tag] * (tag not in VOID)
        self.tags.add(tag)
        self.loads += [given[key] for key in ("src", "srcset", "data", "poster", "action") if key in given]
        self.links += [given["href"]] if "href" in given else []
        self.anchors += [given["id"]] if "id" in given else []
        assert not [key for key in given if key.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(folder: Path, to: Path) -> str:
    collected = collect([folder])
    settled = settle(collected.runs)
    return write(to, settled, make_tables(settled), collected.skipped).read_text(encoding="utf-8")


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", rating(0.5), pruned=[part(rating(0.6), 500, budget="cr:2")])
    html = page(tmp_path / "runs", tmp_path / "report")
    reader = read(html)
    assert reader.loads
    assert all(one.startswith("data:image/png;base64,") for one in reader.loads)
    assert not reader.tags & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"https?://|url\(|@import", html)


def test_the_contents_lead_to_everything(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", rating(0.5))
    make_run(tmp_path / "runs", rating(0.5), data="movielens-20m")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "result.json").write_text("{")
    reader = read(page(tmp_path / "runs", tmp_path / "report"))
    assert {f"#{anchor}" for anchor in reader.anchors} == set(reader.links)
    assert {"table-1", "table-2", "figure-1", "figure-2", "reading", "runs", "skipped"} == set(reader.anchors)
    assert len(reader.anchors) == len(set(reader.anchors))


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>&\"x"
    for value in ("a", evil):
        config = {"data.path": value}
        make_run(tmp_path / "runs", rating(0.5), data=evil, model=evil, search=evil, config=config)
    reader = read(page(tmp_path / "runs", tmp_path / "report"))
    assert "script" not in reader.tags
    assert evil in reader.text
    names = [path.name for path in (tmp_path / "report").iterdir()]
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names), names


def test_tables_have_as_many_cells_as_heads(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", rating(0.5), model="mf")
    make_run(tmp_path / "runs", rating(0.5), model="mlp", search="none")
    html = page(tmp_path / "runs", tmp_path / "report")
    # Method, and for each of two models Runs, Params, Entries, Time, its ratio and MSE: no test, no .npz
    assert html.count('scope="col"') == 1 + 2 * 6
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", html)
    assert [row.count("<td") for row in rows] == [12, 12]


def test_a_report_over_an_older_one_leaves_none_of_its_tables(tmp_path: Path) -> None:
    runs, to = tmp_path / "runs", tmp_path / "report"
    make_run(runs, rating(0.5), data="b")
    page(runs, to)
    (to / "table_of_mine.md").write_text("stays")
    make_run(runs, rating(0.5), data="a")
    page(runs, to)
    tables = sorted(path.name for path in to.glob("table*.md"))
    assert tables == ["table_1_a_rating.md", "table_2_b_rating.md", "table_of_mine.md"]


def test_files_of_somebody_else_stay(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", rating(0.5))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "table_9_x_rating.md").write_text("not a report's")
    page(tmp_path / "runs", tmp_path / "report")
    assert (tmp_path / "report" / "table_9_x_rating.md").read_text() == "not a report's"
