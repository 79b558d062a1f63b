"""Downloads that resume, try mirrors in turn and check what came."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import requests
from tqdm import tqdm

from dnis_lightning.errors import DataError
from dnis_lightning.paths import alone_in

_CHUNK_BYTES = 1 << 16
_TIMEOUT = (10, 60)
"""Seconds to connect, and to wait for the next bytes."""


def fetch(name: str, mirrors: Sequence[str], checksum: str | None, to: Path) -> Path:
    """Download a file to `to` and return that path; an interrupted download goes on where it stopped.

    mirrors: addresses, tried in turn. checksum: "md5:…" or another algorithm of hashlib; None = not checked.
    Raises DataError when no mirror has it: one sentence that says what was tried and where to put it by hand.
    """
    part, faults = to.with_name(to.name + ".part"), []
    try:
        with alone_in(to.parent):
            for address in mirrors:
                if to.exists():  # another process got it while this one waited
                    return to
                try:
                    _download(name, address, part, checksum)
                    part.replace(to)
                    return to
                except requests.RequestException as fault:
                    faults.append(f"{address}: {_short(fault)}")
    except OSError as fault:
        raise DataError(f"{part}: cannot be written ({fault.strerror}); choose another data.root=") from fault
    tried = "; ".join(faults) or "no address is known"
    raise DataError(f"{name} is neither at {to} nor could it be downloaded ({tried}); put the file there by hand")


class _WrongContentError(requests.RequestException):
    """What came is not what was promised."""


def _download(name: str, address: str, part: Path, checksum: str | None) -> None:
    """Fill `part` from one address, from where it ends if the server can, and check it."""
    there = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        too_long = there and answer.status_code == requests.codes.requested_range_not_satisfiable
        if not too_long:
            answer.raise_for_status()
            _write(name, answer, part, there if answer.status_code == requests.codes.partial_content else 0)
    wrong = "it is shorter than what is there" if too_long else _wrong(part, checksum)
    if wrong:
        part.unlink()
        if not there:
            raise _WrongContentError(wrong)
        _download(name, address, part, checksum)  # what was there may have been the beginning of another file


def _write(name: str, answer: requests.Response, part: Path, there: int) -> None:
    length = answer.headers.get("Content-Length")
    total = None if length is None else there + int(length)
    bar = tqdm(desc=f"downloading {name}", total=total, initial=there, unit="B", unit_scale=True, disable=None)
    with bar, part.open("ab" if there else "wb") as file:
        for data in answer.iter_content(_CHUNK_BYTES):
            file.write(data)
            bar.update(len(data))
    size = part.stat().st_size
    if total is not None and size < total:
        raise requests.ConnectionError(f"the connection broke after {size} of {total} bytes")


def _wrong(path: Path, checksum: str | None) -> str:
    """What is wrong with a file, or nothing."""
    if checksum is None:
        return ""
    algorithm, _, expected = checksum.rpartition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm or "md5").hexdigest()
    return "" if found == expected.lower() else f"its checksum is {found}, expected {expected}"


def _short(fault: requests.RequestException) -> str:
    """One line of what may be a long chain of causes."""
    if isinstance(fault, requests.HTTPError) and fault.response is not None:
        return f"HTTP {fault.response.status_code}"
    if isinstance(fault, requests.Timeout):
        return "no answer in time"
    text = str(fault)
    return "no connection" if "Max retries" in text or not text else text.splitlines()[0][:120]
