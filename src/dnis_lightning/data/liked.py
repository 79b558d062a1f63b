"""A source without the rows whose label is too small: who had what, of ratings of all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dnis_lightning.data.source import Chunk, Field, RawForm, Source
from dnis_lightning.errors import DataError
from dnis_lightning.quantities import TaskName


class Liked:
    """The rows of a source whose label is at least `least`."""

    def __init__(self, source: Source, least: float) -> None:
        self.source, self.least = source, least
        self.name: str = source.name
        self.task: TaskName = source.task
        self.raw_form: RawForm = getattr(source, "raw_form", RawForm())

    @property
    def fields(self) -> tuple[Field, ...]:
        """See `Source`."""
        return self.source.fields

    @property
    def user_field(self) -> str | None:
        """See `Source`."""
        return self.source.user_field

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**self.source.identity(), "least_label": self.least}

    def chunks(self) -> Iterator[Chunk]:
        """See `Source`. Raises DataError where no row is left."""
        left = 0
        for chunk in self.source.chunks():
            liked = chunk.label >= self.least
            left += int(liked.sum())
            yield chunk.only(liked)
        if not left:
            raise DataError(
                f"data.least_label={self.least:g}: no row of {self.name} has such a label; take a smaller one"
            )
