from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dnis_lightning.data.download import fetch
from dnis_lightning.data.movielens import MovieLens
from dnis_lightning.errors import DataError

from .conftest import write_movielens

CONTENT = bytes(range(256)) * 2000
CHECKSUM = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT: /whole; /ranges (resumable); /cuts (breaks off half-way); /wrong (other bytes); else 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.content = CONTENT

    def __call__(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = bytes(len(CONTENT)) if self.path == "/wrong" else self.server.content
        if self.path == "/absent":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path in ("/ranges", "/cuts") else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = (start + len(content)) // 2 if self.path == "/cuts" else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "new" / "data.zip"


def test_a_file_comes_whole_and_nothing_else_is_left(server: Server, to: Path) -> None:
    assert fetch("data", [server("whole")], CHECKSUM, to) == to
    assert to.read_bytes() == CONTENT
    assert list(to.parent.iterdir()) == [to]


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, to: Path) -> None:
    with pytest.raises(DataError, match=r"the connection broke|IncompleteRead|Connection broken"):
        fetch("data", [server("cuts")], CHECKSUM, to)
    part = to.with_name("data.zip.part")
    there = part.stat().st_size
    assert 0 < there < len(CONTENT)
    assert not to.exists()
    fetch("data", [server("ranges")], CHECKSUM, to)
    assert server.asked[-1] == ("/ranges", f"bytes={there}-")
    assert to.read_bytes() == CONTENT
    assert not part.exists()


def test_the_next_mirror_goes_on_where_the_first_broke_off(server: Server, to: Path) -> None:
    fetch("data", [server("cuts"), server("ranges")], CHECKSUM, to)
    assert to.read_bytes() == CONTENT
    assert server.asked[-1][1] is not None


def test_a_server_that_cannot_resume_sends_the_whole_file_again(server: Server, to: Path) -> None:
    fetch("data", [server("cuts"), server("whole")], CHECKSUM, to)
    assert to.read_bytes() == CONTENT


@pytest.mark.parametrize("there", [bytes(1000), bytes(len(CONTENT)), bytes(len(CONTENT) + 5)])
def test_what_lies_there_of_another_file_is_replaced(there: bytes, server: Server, to: Path) -> None:
    to.parent.mkdir()
    to.with_name("data.zip.part").write_bytes(there)
    fetch("data", [server("ranges")], CHECKSUM, to)
    assert to.read_bytes() == CONTENT


def test_a_wrong_checksum_leads_to_the_next_mirror(server: Server, to: Path) -> None:
    fetch("data", [server("wrong"), server("absent"), server("whole")], CHECKSUM, to)
    assert to.read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/wrong", "/absent", "/whole"]


def test_a_wrong_checksum_everywhere_is_named_and_leaves_nothing(server: Server, to: Path) -> None:
    with pytest.raises(
        DataError, match=r"/wrong: its checksum is \w{32}, expected \w{32}\); put the file there by hand"
    ):
        fetch("data", [server("wrong")], CHECKSUM, to)
    assert list(to.parent.iterdir()) == []


def test_an_absent_file_and_a_dead_server_are_named(server: Server, to: Path) -> None:
    dead = "http://127.0.0.1:9/data.zip"
    message = rf"data is neither at {to} nor could it be downloaded \(.*/absent: HTTP 404; {dead}: no connection\)"
    with pytest.raises(DataError, match=message):
        fetch("data", [server("absent"), dead], CHECKSUM, to)


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .* data\.root="):
        fetch("data", [server("whole")], None, tmp_path / "file" / "data.zip")


def test_movielens_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    server.content = write_movielens(tmp_path / "origin", "1m", zipped=True).read_bytes()
    source = MovieLens(
        "1m", str(tmp_path / "root"), [server("whole")], "md5:" + hashlib.md5(server.content).hexdigest()
    )
    assert sum(len(chunk.label) for chunk in source.chunks()) == 36
    source.identity()
    assert len(server.asked) == 1
