"""The step that groups pictures: those of the same bytes, of the same URL and text, and those that look alike."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import DuplicatesConfig, RayConfig
from blip_bootstrap.progress import Progress
from blip_bootstrap.schemas.keys import ROWS_PER_PART, number_of
from blip_bootstrap.schemas.tables import PICTURE_GROUPS
from blip_bootstrap.storage.parquet import open_parquet, parquet_files, read_parquet, write_parquet
from blip_bootstrap.storage.parts import is_left_out, read_left_out
from blip_pipelines.duplicates.stars import find_near
from blip_pipelines.lists.pool import scratch

COLUMNS = ["key", "same_as", "status", "sha256", "url", "caption"]

_HOST = r"regexp_extract(url, '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*') AS host"

_LOW = "if(contains(host, '@'), host, lower(host))"  # names and passwords may differ by case

_BARE = f"""CASE
    WHEN starts_with({_LOW}, 'http://') AND ends_with(host, ':80') THEN substr({_LOW}, 1, length(host) - 3)
    WHEN starts_with({_LOW}, 'https://') AND ends_with(host, ':443') THEN substr({_LOW}, 1, length(host) - 4)
    ELSE {_LOW}
END"""

_PATH = "split_part(substr(url, length(host) + 1), '#', 1)"

NORMALISED_URL = f"({_BARE} || if(host <> '' AND {_PATH} = '', '/', {_PATH}))"
"""SQL of a URL as two are compared: scheme and host in lower case, without the scheme's own port and a fragment, and
with a path. Nothing else: another order of parameters, a trailing slash or `www.` may give another picture."""


def group_pictures(
    out: Path, images: Path, hashes: Path | None = None, *, config: DuplicatesConfig, ray: RayConfig
) -> dict[str, int]:
    """Write of each row of `images` to which groups its picture belongs, a file of `picture_groups` for each file.

    Groups are stars around their first rows by key: a row belongs to the first row that it equals, and its group to the
    least first row within `near_radius` that is no member itself. So no chain of small steps joins pictures that do not
    look alike, and rows that are added later, whose keys are greater, change no group of those before. Rows that are
    not listed any more are in no group. `hashes` is what `near` needs. Returns the numbers of pictures, of groups of
    several, and of the pictures in these that are not trained on (`exact_duplicates`, `near_duplicates`, `duplicates`).
    """
    files = parquet_files(images)
    with scratch(out) as db, Progress("group", len(files), "files") as bar:
        _load(db, images, files)
        _link_equal(db, config.exact)
        db.execute("CREATE TABLE near (id BIGINT, first BIGINT, distance SMALLINT)")
        if config.near and hashes:
            find_near(db, out, hashes, config, ray)
        _place(db)
        for file in files:
            write_parquet(out / file.name, _of_file(db, file, config), PICTURE_GROUPS)
            bar.advance(1)
        return _counts(db)


def _load(db: duckdb.DuckDBPyConnection, images: Path, files: list[Path]) -> None:
    """The table `pictures`: of each listed row with a picture its number, its first's, and digests of what it is."""
    db.execute("CREATE TABLE rows (id BIGINT, root BIGINT, bytes UHUGEINT, said UHUGEINT)")
    left_out = read_left_out(images)
    for file in files:
        rows = read_parquet(file, [name for name in COLUMNS if name in open_parquet(file).schema_arrow.names])
        if "same_as" not in rows.column_names:
            rows = rows.append_column("same_as", pa.nulls(len(rows), pa.string()))
        listed = pa.array(~is_left_out(rows["key"], left_out.get(file.name, {})))
        db.register("loaded", rows.filter(pc.and_(listed, pc.equal(rows["status"], "success"))))
        db.execute(
            "INSERT INTO rows SELECT key::BIGINT, coalesce(same_as, key)::BIGINT, md5_number(coalesce(sha256, key)), "
            f"md5_number({NORMALISED_URL} || chr(10) || coalesce(caption, '')) FROM (SELECT *, {_HOST} FROM loaded)"
        )
        db.unregister("loaded")
    db.execute(
        "CREATE TABLE pictures AS SELECT id, unit, bytes, said FROM rows "
        "JOIN (SELECT root, min(id) AS unit FROM rows GROUP BY root) USING (root)"
    )
    db.execute("DROP TABLE rows")


def _link_equal(db: duckdb.DuckDBPyConnection, wanted: bool) -> None:
    """The table `links`: of each row that equals an earlier one, but for those with its own URL, the first."""
    db.execute("CREATE TABLE links (id BIGINT, first BIGINT)")
    if not wanted:
        return
    same = [
        f"SELECT unit, first FROM pictures JOIN (SELECT {what}, min(unit) AS first FROM pictures GROUP BY {what} "
        f"HAVING min(unit) < max(unit)) USING ({what})"
        for what in ("bytes", "said")
    ]
    db.execute(
        f"INSERT INTO links SELECT unit, min(first) FROM ({' UNION ALL '.join(same)}) WHERE first < unit GROUP BY unit"
    )
    # The first by one digest may have a first by the other.
    while db.execute("SELECT 1 FROM links a JOIN links b ON a.first = b.id LIMIT 1").fetchone():
        db.execute("UPDATE links SET first = b.first FROM links b WHERE links.first = b.id")


def _place(db: duckdb.DuckDBPyConnection) -> None:
    """The table `placed`: each picture with the first of its exact and of its near group."""
    db.execute(
        "CREATE TABLE placed AS SELECT p.id, p.unit, coalesce(l.first, p.unit) AS exact, "
        "coalesce(n.first, l.first, p.unit) AS first, n.distance FROM pictures p LEFT JOIN links l ON l.id = p.unit "
        "LEFT JOIN near n ON n.id = coalesce(l.first, p.unit) ORDER BY p.id"
    )


def _of_file(db: duckdb.DuckDBPyConnection, file: Path, config: DuplicatesConfig) -> pa.Table:
    """The groups of the rows of one file of images, in their order."""
    keys = read_parquet(file, ["key"])
    first = number_of(file.name) * ROWS_PER_PART
    exact = _key("exact") if config.exact else "NULL::VARCHAR"
    near = (_key("first"), "if(first IS NULL, NULL, coalesce(distance, 0))") if config.near else ("NULL", "NULL")
    db.register("keys", keys.append_column("position", pa.array(range(len(keys)))))
    found = db.sql(
        f"SELECT key, {exact} AS exact_group, {near[0]} AS near_group, {near[1]} AS near_distance, "
        f"if(first <> unit, {_key('first')}, NULL) AS duplicate_of FROM keys LEFT JOIN "
        "(SELECT * FROM placed WHERE id BETWEEN ? AND ?) p ON p.id = keys.key::BIGINT ORDER BY position",
        params=[first, first + ROWS_PER_PART - 1],
    ).to_arrow_table()
    db.unregister("keys")
    return found.cast(PICTURE_GROUPS.schema)


def _key(column: str) -> str:
    """SQL of the key that a number stands for."""
    return f"printf('%010d', {column})"


def _counts(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    row = db.execute(
        "SELECT count(*), count(DISTINCT exact) FILTER (exact <> unit), count(*) FILTER (exact <> unit), "
        "count(DISTINCT first) FILTER (first <> exact), count(*) FILTER (first <> exact), "
        "count(*) FILTER (first <> unit) FROM placed"
    ).fetchone()
    names = ("pictures", "exact_groups", "exact_duplicates", "near_groups", "near_duplicates", "duplicates")
    return dict(zip(names, map(int, row or ()), strict=True))
