"""Image and pairs files of many small row groups, for tests of the feed; pictures are bytes that nobody decodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blip_bootstrap.schemas.tables import ANNOTATED, IMAGES, PAIRS
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet

ROWS_PER_GROUP = 5


def write_groups(root: Path, num_files: int = 8, rows_per_file: int = 50, num_lists: int = 4, texts: int = 2) -> Path:
    """images/ and pairs/: lists in the order of files; of each picture `texts` texts, but every seventh has none.

    The first text of a picture is a web text, the others are synthetic.
    """
    images_of, pairs_of = replace(IMAGES, rows_per_group=ROWS_PER_GROUP), replace(PAIRS, rows_per_group=8)
    for part in range(num_files):
        keys = [f"{part:05d}{row:05d}" for row in range(rows_per_file)]
        name = f"part-{part:05d}.parquet"
        source = f"list-{part * num_lists // num_files}"
        images: list[dict[str, object]] = [
            {"key": key, "status": "success", "dataset": source, "jpg": key.encode() * 20} for key in keys
        ]
        pairs: list[dict[str, object]] = [
            {"key": key, "source": "synthetic" if at else "web", "candidate": max(0, at - 1), "caption": f"{key} {at}",
             "kept": row % 7 > 0}
            for row, key in enumerate(keys) for at in range(texts)
        ]  # fmt: skip
        write_parquet(root / "images" / name, rows_to_table(images, images_of), images_of)
        write_parquet(root / "pairs" / name, rows_to_table(pairs, pairs_of), pairs_of)
    return root


def write_human(folder: Path, count: int) -> Path:
    """A human set of so many pictures with two captions each, in one row group."""
    rows: list[dict[str, object]] = [
        {"key": f"{at:05d}", "captions": [f"h{at} a", f"h{at} b"], "status": "success", "jpg": b"%d" % at}
        for at in range(count)
    ]
    write_parquet(folder / "part-00000.parquet", rows_to_table(rows, ANNOTATED), ANNOTATED)
    return folder
