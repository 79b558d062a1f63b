"""Columns of any Arrow type as what a chunk holds; null stands for each value that is not as expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnis_lightning.data.source import PARTS
from dnis_lightning.packed.texts import Texts

Reading = Callable[[pa.ChunkedArray], pa.ChunkedArray]
_LAST = 2**63 - 1
_LARGEST = float(np.finfo(np.float32).max)
_CLICKS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
_PART_NAMES = {name: PARTS.index(name) for name in PARTS} | dict.fromkeys(
    ("valid", "validation", "val", "dev"), PARTS.index("select")
)
PARTS_WANTED = "train, search, select (or valid, validation, val, dev) or test"


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary; views of text, for which Arrow lacks functions, as plain text."""
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    return pc.cast(values, pa.string()) if pa.types.is_string_view(values.type) else values


def clicks(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """0 and 1 (float32), from numbers, truth values or the words for them."""
    if is_text(values.type):
        return _by_word(values, _CLICKS, pa.float32())
    found = numbers(values)
    return pc.if_else(pc.is_in(found, value_set=pa.array([0, 1], pa.float32())), found, pa.scalar(None, pa.float32()))


def parts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers in `PARTS` (uint8), from the names of parts in any case."""
    return _by_word(texts(values), _PART_NAMES, pa.uint8())


def numbers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers that are finite in single precision (float32)."""
    found = floats(values)
    fits = pc.less_equal(pc.abs(found), _LARGEST)  # false for NaN
    return pc.cast(pc.if_else(fits, found, pa.scalar(None, pa.float64())), pa.float32())


def floats(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers in double precision."""
    try:
        return pc.cast(values, pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import pandas as pd  # seldom wanted, and 50 MiB

        series = texts(values).to_pandas()
        return pa.chunked_array([pa.array(pd.to_numeric(series, errors="coerce"), pa.float64(), from_pandas=True)])


def wholes(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers (int64); times and dates are none, though Arrow would count their units."""
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return pa.chunked_array([pa.nulls(len(values), pa.int64())])
    try:
        return pc.cast(values, pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        found = floats(values)
        is_whole = pc.and_(pc.equal(found, pc.round(found)), pc.less(pc.abs(found), 2.0**53))
        return pc.cast(pc.if_else(is_whole, found, pa.scalar(None, pa.float64())), pa.int64())


def microseconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Millionths (int64) of seconds, or of whatever the numbers count."""
    found = pc.round(pc.multiply(floats(values), 1e6))
    fits = pc.less(pc.abs(found), 2.0**63)
    return pc.cast(pc.if_else(fits, found, pa.scalar(None, pa.float64())), pa.int64())


def moments(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Microseconds since 1970 (int64), from timestamps, dates or ISO 8601; without a zone they count as UTC."""
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return _in_microseconds(values)
    import pandas as pd

    found = pd.to_datetime(texts(values).to_pandas(), format="ISO8601", utc=True, errors="coerce")
    array = pa.array(found.dt.tz_localize(None).astype("datetime64[us]"), pa.timestamp("us"), from_pandas=True)
    return pa.chunked_array([pc.cast(array, pa.int64())])


def time_reading(sample: pa.ChunkedArray) -> tuple[Reading, str]:
    """How a column's times are read, by a sample of them; and what is expected in it, for messages."""
    present = without_missing(sample)
    if pa.types.is_timestamp(sample.type) or pa.types.is_date(sample.type):
        return moments, "a time between the years -290000 and 290000"
    numbers_there = len(present) - floats(present).null_count
    if numbers_there and numbers_there >= len(present) - moments(present).null_count:
        if numbers_there == len(present) - wholes(present).null_count:
            return wholes, "a whole number below 2^63, as in most of the first rows"
        return microseconds, "a number below 9.2e12, as in most of the first rows"
    return moments, "a time as 2024-05-31 or 2024-05-31T23:59:00 (ISO 8601)"


def texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text, "" for those that are missing; null for bytes that are no UTF-8."""
    kind = values.type
    if pa.types.is_floating(kind):
        return _without_points(values)
    if pa.types.is_timestamp(kind):  # or the text would depend on the unit
        values = pc.cast(values, pa.timestamp("us", kind.tz), safe=False)
    if is_bytes(kind):
        return _decoded(values)
    found = values if kind == pa.string() else pc.cast(values, pa.string())
    if pa.types.is_timestamp(kind):  # whole seconds as text files have them
        found = pc.replace_substring_regex(found, r"\.000000(Z?)$", r"\1")
    return pc.fill_null(found, "") if found.null_count else found


def lists(values: pa.ChunkedArray, separator: str, missing: Sequence[str]) -> pa.ChunkedArray:
    """Lists of ids, from lists or from text joined by `separator`; without ids that are missing."""
    kind = pa.list_(pa.string())
    return pa.chunked_array([_listed(chunk, separator, missing) for chunk in values.chunks], kind)


def flat(lists: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The values of all lists, and (R,) where each row's end; a row without any has one, which is missing."""
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = lists.flatten()
    ends = np.cumsum(np.maximum(counts, 1))
    if (counts == 0).any():
        at = np.full(ends[-1], len(values))
        filled = np.repeat(counts > 0, np.maximum(counts, 1))
        at[filled] = np.arange(len(values))
        values = pa.concat_arrays([values, pa.nulls(1, values.type)]).take(pa.array(at))
    return values, ends


def content_of(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes (uint8) of some texts of the type string, all together, and (T,) where each ends."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32, count=len(texts) + 1, offset=4 * texts.offset).astype(np.int64)
    content = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return content, ends[1:] - ends[0]


def packed_texts(values: pa.ChunkedArray) -> Texts:
    """Texts of the type string, none of them null, as a packed table takes them."""
    contents, sizes = [np.empty(0, dtype=np.uint8)], [np.empty(0, dtype=np.int64)]
    for chunk in values.chunks:
        content, ends = content_of(chunk)
        contents.append(content)
        sizes.append(np.diff(ends, prepend=0))
    return Texts.joined(np.concatenate(contents), np.concatenate(sizes))


def without_missing(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values that are there: not null, NaN or ""."""
    return values.filter(pc.invert(is_missing(values)))


def is_missing(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each is null, NaN or ""; of lists, null or empty."""
    if is_list(values.type):
        return pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0)
    absent = pc.is_null(values, nan_is_null=pa.types.is_floating(values.type))
    return pc.or_(absent, pc.fill_null(pc.equal(values, ""), False)) if is_text(values.type) else absent


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes, which may or may not be text."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether each value of this type is a list."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_usable(kind: pa.DataType) -> bool:
    """Whether values of this type, or what is in the lists, can be ids."""
    if is_list(kind):
        return not pa.types.is_nested(kind.value_type) and is_usable(kind.value_type)
    try:
        texts(pa.chunked_array([pa.array([], kind)]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return False
    return not pa.types.is_nested(kind)


def _by_word(values: pa.ChunkedArray, known: dict[str, Any], kind: pa.DataType) -> pa.ChunkedArray:
    found = []
    for chunk in texts(values).chunks:
        coded = chunk.dictionary_encode()
        words = pa.array([known.get(word.strip().lower()) for word in coded.dictionary.to_pylist()], kind)
        found.append(words.take(coded.indices))
    return pa.chunked_array(found, kind)


def _without_points(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats as text, but those that are whole as integers, so that the id 7.0 reads 7; NaN as ""."""
    values = pc.cast(values, pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    whole = pc.and_(pc.equal(values, pc.round(values)), pc.less(pc.abs(values), 2.0**63))
    integers = pc.cast(pc.cast(pc.if_else(whole, values, pa.scalar(None, pa.float64())), pa.int64()), pa.string())
    return pc.coalesce(integers, pc.cast(values, pa.string()), "")


def _in_microseconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps or dates in microseconds since 1970 (int64), null where they are too far away."""
    kind = values.type
    unit = "s" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    raw = pc.cast(pc.cast(values, pa.int32()) if pa.types.is_date32(kind) else values, pa.int64())
    if unit == "ns":
        return pc.cast(pc.floor(pc.divide(raw, 1000)), pa.int64())
    factor = {"s": 10**6, "ms": 10**3, "us": 1}[unit] * (86_400 if pa.types.is_date32(kind) else 1)
    near = pc.and_(pc.less_equal(raw, _LAST // factor), pc.greater_equal(raw, -_LAST // factor))
    return pc.multiply(pc.if_else(near, raw, pa.scalar(None, pa.int64())), factor)


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return pc.fill_null(pc.cast(pc.cast(values, pa.binary()), pa.string()), "")
    except pa.ArrowInvalid:
        return pa.chunked_array([[_text_of(value) for value in values.to_pylist()]], pa.string())


def _text_of(value: bytes | None) -> str | None:
    try:
        return "" if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _listed(chunk: pa.Array, separator: str, missing: Sequence[str]) -> pa.ListArray:
    found = chunk if is_list(chunk.type) else pc.split_pattern(chunk, separator)
    flat = texts(pa.chunked_array([found.flatten()])).combine_chunks()
    absent = pc.is_in(flat, value_set=pa.array(["", *missing], pa.string()))
    kept = pc.and_(pc.is_valid(flat), pc.invert(absent)).to_numpy(zero_copy_only=False)
    ends = np.cumsum(pc.fill_null(pc.list_value_length(found), 0).to_numpy(zero_copy_only=False))
    offsets = np.append(0, np.cumsum(kept))[np.append(0, ends)]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat.filter(pa.array(kept)))
