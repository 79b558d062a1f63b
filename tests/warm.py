"""Modules run as `python -m` would, in a process forked from one that has the libraries loaded already.

Loading them takes longer than what most tests have the command do. Started as a program, this is that process: it reads
requests from standard input, one JSON object a line, and answers each with the number and the exit code of the process.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_ROOT = Path(__file__).resolve().parents[1]
_servers: list[subprocess.Popen[str]] = []


def run_module(
    name: str, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """`python -m name arguments…`, run to its end, with its output as text.

    Raises TimeoutExpired as `subprocess.run` does. What is read from `env` while libraries load has no effect.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        files = {"out": _path(out), "told": _path(told)}
        request = {"module": name, "arguments": list(arguments), "cwd": str(cwd), "env": dict(env), **files}
        try:
            code = _answered(request, timeout)
        except BaseException:
            for server in _servers:  # the next answer would be that of this request
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
            _servers.clear()
            raise
        out.seek(0)
        told.seek(0)
        return subprocess.CompletedProcess([name, *arguments], code, out.read(), told.read())


def _path(file: IO[str]) -> str:
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _answered(request: dict[str, Any], timeout: float) -> int:
    if not _servers:
        _servers.append(_started())
    (server,) = _servers
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired(request["module"], timeout)
    return int(server.stdout.readline())


def _started() -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "DNIS", "HYDRA"))}
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "THP_MEM_ALLOC_ENABLE": "1"}  # as the command has it
    return subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        cwd=_ROOT,
        env=kept | alone,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _serve() -> dict[str, Any] | None:
    """Fork for each request; in the process that is to do it, the request is returned, and here None at the end."""
    while line := sys.stdin.readline():
        assert _threads() <= {"jemalloc_bg_thd"}, "a process with threads that do not mind it cannot be forked"
        process = os.fork()
        if not process:
            return json.loads(line)
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

    if (asked := _serve()) is not None:
        _do(asked)
