"""Downloads with a progress bar, a checksum, several mirrors, and resumption."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from dnis_lightning.errors import DataError

_BLOCK = 2**18


def fetch(target: Path, mirrors: Sequence[str], md5: str | None, or_else: str = "") -> Path:
    """Download a file from the first mirror that gives it whole; returns `target`.

    What has come so far lies beside it as `.part`; the next call goes on from there if the server can, else starts over.
    Raises DataError when no mirror gives it, saying where to put the file by hand; or_else ends that sentence.
    """
    faults = []
    for url in mirrors:
        try:
            return _fetch_from(url, target, md5)
        except (OSError, HTTPException, _WrongChecksum) as fault:
            faults.append(f"{url}: {_reason(fault)}")
    tried = "; ".join(faults) or "no mirror is known"
    raise DataError(
        f"{target} is not there and cannot be downloaded ({tried}); put the file there by hand {or_else}".rstrip()
    )


class _WrongChecksum(Exception):
    pass


def _fetch_from(url: str, target: Path, md5: str | None) -> Path:
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    _receive(url, part)
    found = _md5_of(part)
    if md5 is not None and found != md5:
        part.unlink()
        raise _WrongChecksum(f"checksum {found} instead of {md5}")
    os.replace(part, target)
    return target


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    try:
        response = _ask(url, have)
    except urllib.error.HTTPError as fault:
        if fault.code != 416:  # the part is not a beginning of this file
            raise
        part.unlink()
        response, have = _ask(url, 0), 0
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        whole = None if length is None else have + int(length)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=whole, initial=have, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if whole is not None and part.stat().st_size < whole:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {whole} bytes")


def _ask(url: str, have: int) -> HTTPResponse:
    headers = {"User-Agent": "dnis-lightning"} | ({"Range": f"bytes={have}-"} if have else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30)


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _reason(fault: Exception) -> str:
    reason = getattr(fault, "reason", None)
    return str(reason or fault) or type(fault).__name__
