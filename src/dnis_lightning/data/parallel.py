"""Work on up to 8 cores of this process, by threads: for what lets go of Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
_MOST = 8
"""Threads, so that memory stays bounded on machines of many cores."""


def cores() -> int:
    """How many threads are worth starting."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, _MOST)


def ordered_map(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`map` on several threads, in order, only a few items ahead of what is taken.

    What goes wrong is raised in its place, after the results that precede it.
    """
    ahead = cores()
    waiting: deque[Future[B]] = deque()
    fault: Exception | None = None
    upcoming = iter(items)
    pool = ThreadPoolExecutor(ahead)
    try:
        while True:
            try:
                waiting.append(pool.submit(function, next(upcoming)))
            except StopIteration:
                break
            except Exception as found:
                fault = found
                break
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if fault is not None:
            raise fault
    finally:
        pool.shutdown(cancel_futures=True)
