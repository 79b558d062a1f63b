"""Modules run as `python -m` would, in a process forked from one that has the libraries loaded already.

Loading them takes longer than what most tests have the command do. Started as a program, this is that process: it reads
requests from standard input, a JSON object in a line, and answers each with the number of the process; when there is an
empty line, with its exit code.
"""

from __future__ import annotations

import gc
import json
import os
import re
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_ROOT = Path(__file__).resolve().parents[1]
_servers: list[subprocess.Popen[str]] = []


def run_module(
    name: str,
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    kill_when: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """`python -m name arguments…`, run to its end, with its output as text.

    kill_when: SIGKILL it soon after this pattern is in what it says on standard error.
    Raises TimeoutExpired as `subprocess.run` does. What is read from `env` while libraries load has no effect.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        files = {"out": _path(out), "told": _path(told)}
        request = {"module": name, "arguments": list(arguments), "cwd": str(cwd), "env": dict(env), **files}
        try:
            if not _servers:
                _servers.append(_started(env))
            process = int(_said(json.dumps(request), timeout))
            if kill_when is not None:
                _await(kill_when, told, process, timeout)
                os.kill(process, signal.SIGKILL)
            code = int(_said("", timeout))
        except BaseException as fault:
            if isinstance(fault, subprocess.TimeoutExpired):
                fault.add_note(_text(told))
            for server in _servers:  # the next answer would be that of this request
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
            _servers.clear()
            raise
        return subprocess.CompletedProcess([name, *arguments], code, _text(out), _text(told))


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _path(file: IO[str]) -> str:
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _said(line: str, timeout: float) -> str:
    """What the server answers: to a request the number of a process, to an empty line its exit code."""
    (server,) = _servers
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(line + "\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired("python -m", timeout)
    return server.stdout.readline()


def _await(pattern: str, told: IO[str], process: int, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not re.search(pattern, os.pread(told.fileno(), 1 << 20, 0).decode(errors="replace")):
        ended = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        assert not ended, f"it ended before it said {pattern}"
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired("python -m", timeout)
        time.sleep(0.01)
    time.sleep(0.03)  # into what comes after it


def _started(env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        cwd=_ROOT,
        env={**env, "THP_MEM_ALLOC_ENABLE": "1"},  # as the command sets it before libraries load
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _serve() -> dict[str, Any] | None:
    """Fork for each request; in the process that is to do it, the request is returned, and here None at the end."""
    while line := sys.stdin.readline().strip():
        assert _threads() <= {"jemalloc_bg_thd"}, "a process with threads that do not mind it cannot be forked"
        process = os.fork()
        if not process:
            return json.loads(line)
        print(process, flush=True)
        sys.stdin.readline()
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def _threads() -> set[str]:
    """The names of the threads besides this one; jemalloc's own ends and starts as it should when a process forks."""
    tasks = Path("/proc/self/task")
    return {(one / "comm").read_text().strip() for one in tasks.iterdir() if one.name != str(os.getpid())}


def _do(request: dict[str, Any]) -> None:
    """Be the process that was asked for."""
    for number, place in enumerate((os.devnull, request["out"], request["told"])):
        file = os.open(place, os.O_RDWR | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["cwd"]
    sys.argv[1:] = request["arguments"]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import dnis_lightning.command
    import dnis_lightning.report.write
    import dnis_lightning.run  # noqa: F401

    gc.freeze()
    if (asked := _serve()) is not None:
        _do(asked)
