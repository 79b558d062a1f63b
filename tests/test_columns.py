"""Tables of text."""

from __future__ import annotations

from dnis_lightning.columns import aligned


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    lines = list(aligned(("name", "of"), [("a", "1,000"), ("longer", "2")]))
    assert lines == ["name       of", "a       1,000", "longer      2"]
    assert list(aligned(("name", "of"), [("a", "1")], left=(1,))) == ["name  of", "   a  1"]
