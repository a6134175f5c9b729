"""What a table is: its columns, each with type, unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, and what a value means.

    `dated`: it has times, in which two runs differ that are alike in all else; what is made of the table reads it not.
    """

    name: str
    type: pa.DataType
    meaning: str
    dated: bool = False


@dataclass(frozen=True)
class Table:
    """A table's name, its columns in order, and what one row is."""

    name: str
    row: str
    columns: tuple[Column, ...]
    rows_per_group: int = 10_000
    repeating: tuple[str, ...] | None = None
    """Columns of few different values, which alone get a dictionary; None: all get one. One for columns of many
    different values would take a third of the time of writing."""

    @property
    def dated(self) -> list[str]:
        """The names of the columns with times."""
        return [column.name for column in self.columns if column.dated]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema with each column's meaning in its field metadata."""
        return pa.schema([pa.field(c.name, c.type, metadata={"meaning": c.meaning}) for c in self.columns])

    @property
    def empty(self) -> pa.Table:
        """No rows of the declared schema. Not by pyarrow's `empty_table`, which imports pandas: .2 s of a command."""
        return pa.Table.from_arrays([pa.nulls(0, column.type) for column in self.columns], schema=self.schema)
