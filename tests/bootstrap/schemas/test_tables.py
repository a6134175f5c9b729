from __future__ import annotations

from blip_bootstrap.schemas.tables import TABLES


def test_every_column_has_a_meaning() -> None:
    for table in TABLES.values():
        assert all(column.meaning for column in table.columns)
