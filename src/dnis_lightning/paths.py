"""Where things lie on disk, and how they are written so that a kill leaves nothing half-made."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_RANDOM = 8
"""Characters that `tempfile` ends names with."""
_PACKAGE = Path(__file__).resolve().parent


def config_dir() -> Path:
    """The folder of Hydra options: packed into an installed wheel, else the checkout's own."""
    packed = _PACKAGE / "conf"
    return packed if packed.is_dir() else _PACKAGE.parents[1] / "conf"


def expand(path: str | os.PathLike[str]) -> Path:
    """An absolute path, with `~` and environment variables filled in."""
    return Path(os.path.expandvars(os.path.expanduser(path))).absolute()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, renamed to it on success and removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        os.chmod(part, 0o666 & ~_umask())  # mkstemp gives 0600, which would shut out everybody else
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; what is no finite number becomes null, as JSON has no other."""
    with whole_file(path) as part:
        text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The same with None in place of numbers that are not finite, however deep."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def leftovers(path: Path) -> list[Path]:
    """What killed processes have left that were writing `path` by `whole_file` or `whole_folder`."""
    return list(path.parent.glob(f".{path.name}.{'?' * _RANDOM}"))


def remove_leftovers(folder: Path) -> None:
    """Remove all that killed processes have left of writing files and folders in a folder, however deep."""
    for stale in sorted(folder.rglob(f".?*.{'?' * _RANDOM}"), reverse=True):
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, *, anew: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to it on success and removed on failure.

    If another process made `path` in the meantime, its folder stays and ours is dropped; with `anew`, that is a
    FileExistsError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield part
        os.chmod(part, 0o777 & ~_umask())
        if not path.exists():
            part.rename(path)
        elif anew:
            raise FileExistsError(errno.EEXIST, "it has been made meanwhile", str(path))
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, made if absent: one process at a time. It is on the folder and leaves no file."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks; renaming still keeps sets whole
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
