"""Raw ids → rows of a field."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnis_lightning.packed import ids as packed_ids
from dnis_lightning.packed.fields import FieldIds, PackedField
from dnis_lightning.packed.ids import FORMS, Ids, pack_ids
from dnis_lightning.packed.numbers import Binned, Scaled
from dnis_lightning.packed.texts import Texts

STRANGERS = ["nobody", "08", "-0", "+7", "99999999999999999999", "1e3", " 7", "00", "-", "7 ", "é", "\x00"]


def again(made: Ids) -> Ids:
    return FORMS[made.form].read(made.tensors())


@pytest.mark.parametrize(
    ("ids", "form"),
    [
        (["7", "3", "-2", "0"], "range"),
        ([str(n) for n in np.random.default_rng(0).permutation(3000)], "range"),
        (["7", str(10**17), str(-(10**17)), "12"], "numbers"),
        (["-1", str(2**40)], "numbers"),
        (["7", "07", "x", "ä", "one of more than eight bytes", "one"], "texts"),
        (["1" * 19], "texts"),
        (["1.0", "2"], "texts"),
        ([], "texts"),
    ],
)
def test_every_id_has_its_row_and_nothing_else_has(ids: list[str], form: str) -> None:
    made = pack_ids(Texts.of(ids))
    assert made.form == form
    for one in (made, again(made)):
        assert one.rows(Texts.of(ids[::-1])).tolist() == list(range(len(ids), 0, -1))
        assert not one.rows(Texts.of([text for text in STRANGERS if text not in ids])).any()
        assert one.texts().decoded() == ids


@given(st.lists(st.text(min_size=1, max_size=30), unique=True, max_size=60), st.text(min_size=1))
def test_any_texts(ids: list[str], other: str) -> None:
    made = again(pack_ids(Texts.of(ids)))
    assert made.rows(Texts.of([*ids, other])).tolist() == [
        *range(1, len(ids) + 1),
        ids.index(other) + 1 if other in ids else 0,
    ]


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), unique=True, min_size=1, max_size=60), st.integers())
def test_any_whole_numbers(ids: list[int], other: int) -> None:
    made = again(pack_ids(Texts.of([str(one) for one in ids])))
    assert made.form != "texts"
    wanted = [*range(1, len(ids) + 1), ids.index(other) + 1 if other in ids else 0]
    assert made.rows(Texts.of([str(one) for one in (*ids, other)])).tolist() == wanted
    assert made.rows_of_numbers(np.array(ids)).tolist() == wanted[:-1]
    assert not made.rows_of_numbers(np.array([2**62, -(2**62)])).any()


def test_ids_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts of one length share one here; a few ids that are not there, too."""
    monkeypatch.setattr(packed_ids, "_upper", lambda texts: texts.sizes.astype(np.uint32))
    ids = ["a", "b", "c", "dd", "ee", "fffff"]
    made = again(pack_ids(Texts.of(ids)))
    assert made.rows(Texts.of(["c", "zz", "ee", "a", "ggggg", "hhh", "fffff"])).tolist() == [3, 0, 5, 1, 0, 0, 6]


def test_ids_take_few_bytes() -> None:
    texts = [f"{number:08x}" for number in np.random.default_rng(0).integers(2**32, size=50_000)]
    size = sum(array.nbytes for array in pack_ids(Texts.of(list(dict.fromkeys(texts)))).tensors().values())
    assert size < 50_000 * (8 + 4 + 2 + 1.5), "the text, a hash, a row, where the text starts"


def test_missing_has_its_row_or_that_of_all_others() -> None:
    made = FieldIds.of(Texts.of(["5", "", "9"]))
    assert made.ids.form == "range", "what is missing makes no texts of numbers"
    assert made.rows(Texts.of(["9", "5", "", "6"])).tolist() == [3, 1, 2, 0]
    assert made.rows_of_numbers(np.array([9, 5, 6])).tolist() == [3, 1, 0]
    assert made.names() == ["5", "", "9"]
    assert FieldIds.of(Texts.of(["5"])).rows(Texts.of([""])).tolist() == [0]


def test_a_field_takes_ids_of_many_types() -> None:
    field = PackedField("user", "categorical", 100, 104, ids=FieldIds.of(Texts.of(["5", "", "9"])))
    assert field.features(["5", None, b"9", 9, "x", ""]).tolist() == [101, 102, 103, 103, 100, 102]
    assert field.features([9, 5]).tolist() == [103, 101]
    assert field.features(np.array([9, 6], dtype=np.uint16)).tolist() == [103, 100]
    assert field.features(np.array(["9", ""])).tolist() == [103, 102]
    assert not len(field.features([]))
    for wrong in (9.0, True):
        with pytest.raises(TypeError, match="ids are text or whole numbers"):
            field.features([wrong])  # type: ignore[list-item]


@pytest.mark.parametrize("others", [["-7", "3"], ["-7", str(10**15)]])
def test_numbers_beyond_64_bits_are_nobody_else(others: list[str]) -> None:
    large = str(2**64 - 7)
    for ids in (others, [*others, large]):
        field = PackedField("user", "categorical", 0, len(ids) + 1, ids=FieldIds.of(Texts.of(ids)))
        wanted = [ids.index(large) + 1 if large in ids else 0]
        assert field.features([2**64 - 7]).tolist() == wanted
        assert field.features(np.array([2**64 - 7], dtype=np.uint64)).tolist() == wanted
        assert field.features([large]).tolist() == wanted


def test_a_field_of_texts_takes_numbers() -> None:
    field = PackedField("user", "categorical", 0, 4, ids=FieldIds.of(Texts.of(["x", "7"])))
    assert field.features([7, 8]).tolist() == [2, 0]


def test_a_numeric_field_gives_rows_and_what_multiplies_them() -> None:
    scaled = PackedField("price", "numeric", 10, 12, numbers=Scaled(True, 0.0, 4.0))
    rows, values = scaled.of_numbers(np.array([np.e - 1, np.nan], dtype=np.float32))
    assert rows.tolist() == [11, 10]
    assert values == pytest.approx([0.25, 1])
    binned = PackedField("age", "numeric", 20, 24, numbers=Binned(np.array([1.0, 2.0])))
    assert binned.features([0, 1, 5, None, ""]).tolist() == [21, 22, 23, 20, 20]
