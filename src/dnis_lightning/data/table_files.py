"""The files of a table: found, opened as what they are, and held against each other and the keys."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from dnis_lightning.data.roles import Roles, near
from dnis_lightning.data.table_parquet import ParquetTable
from dnis_lightning.data.table_text import TextOptions, TextTable
from dnis_lightning.data.text import TextFile
from dnis_lightning.errors import ConfigError, DataError
from dnis_lightning.paths import expand

TableFile = TextTable | ParquetTable
_TABS = ("\\t", "tab")
_ARCHIVES = (".zip", ".tar", ".tgz")


def open_files(given: Sequence[str], options: TextOptions, roles: Roles) -> list[TableFile]:
    """The files that paths and patterns name, in the order of their names.

    Raises DataError when there are none, or their columns are not those that the keys name.
    """
    files = [_opened(TextFile(path), options) for path in sorted({path for one in given for path in _matching(one)})]
    if not files:
        raise DataError("data.path=[]: no file is named; name one or more")
    if len({type(file) for file in files}) > 1:
        raise DataError(f"data.path={','.join(given)}: some of these are Parquet and some are text; take one kind")
    _check_columns(files[0], roles)
    for file in files[1:]:
        _check_same(files[0], file)
    return files


def open_file(
    path: str,
    separator: str | None = None,
    columns: Sequence[str] | None = None,
    missing: Sequence[str] = (),
    quoted: bool | None = None,
) -> TableFile:
    """One file, text or Parquet, outside a run; `text_options` has the arguments.

    Raises DataError when it cannot be read, ConfigError for what goes with no such file.
    """
    return _opened(TextFile(expand(path)), text_options(separator, columns, quoted, missing))


def text_options(
    separator: str | None, columns: Sequence[str] | None, quoted: bool | None, missing: Sequence[str]
) -> TextOptions:
    """How text files are read; raises ConfigError for what cannot be."""
    if separator in _TABS:
        separator = "\t"
    if separator is not None and (not separator or any(c in separator for c in '\r\n"')):
        raise ConfigError(f"data.separator={separator!r}: expected one character or more, no line end or quote")
    if quoted and separator is not None and len(separator.encode()) > 1:
        raise ConfigError(
            f"data.quoted: with data.separator={separator} of several bytes quotes are not read; leave it out"
        )
    names = None if columns is None else tuple(columns)
    if names is not None and (twice := sorted({name for name in names if names.count(name) > 1})):
        raise ConfigError(f"data.columns: {twice[0]!r} stands there twice; columns need names of their own")
    return TextOptions(separator, names, quoted, tuple(dict.fromkeys(("", *missing))))


def _matching(given: str) -> list[Path]:
    """The files that a path or a pattern names."""
    path = expand(given)
    if path.is_dir():
        raise DataError(f"data.path={given}: a folder; name its files, as '{given.rstrip('/')}/*.csv'")
    if path.name.endswith(_ARCHIVES) or ".tar." in path.name:
        raise DataError(f"data.path={given}: an archive; unpack it and name the files that were in it")
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = [Path(one) for one in glob.glob(str(path), recursive=True) if Path(one).is_file()]
    if not found:
        raise DataError(f"data.path={given}: no file matches this pattern; is the folder right, and is it in quotes?")
    return found


def _opened(file: TextFile, options: TextOptions) -> TableFile:
    if not ParquetTable.is_one(file):
        return TextTable(file, options)
    for key, value in (("columns", options.columns), ("separator", options.separator)):
        if value is not None:
            raise ConfigError(f"data.{key}: {file.path} is a Parquet file, which has its own; leave it out")
    return ParquetTable(file)


def _check_columns(file: TableFile, roles: Roles) -> None:
    names = file.names
    for column, key in roles.keys.items():
        if column not in names:
            there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            headless = "" if isinstance(file, ParquetTable) else "; a file without a header needs data.columns"
            raise DataError(
                f"{key}: {file.file.path} has no column {column!r}, it has {there}{near(column, names) or headless}"
            )


def _check_same(one: TableFile, other: TableFile) -> None:
    absent = sorted(set(one.names) - set(other.names))
    more = sorted(set(other.names) - set(one.names))
    if absent or more:
        lacks = f"it lacks {', '.join(absent[:5])}" if absent else ""
        has = f"it has {', '.join(more[:5])} besides" if more else ""
        differs = " and ".join(filter(None, [lacks, has]))
        raise DataError(
            f"{other.file.path}: its columns are not those of {one.file.path}: {differs}; all have to be alike"
        )
    if unlike := sorted(one.lists ^ other.lists):
        raise DataError(
            f"{other.file.path}: {unlike[0]!r} is a list column either here or in {one.file.path}; all have to be alike"
        )
