"""The tables that a run leaves on disk: every column with its type, unit and meaning, and the one Parquet writer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blip_bootstrap.errors import InputError, writing

MANIFEST = "MANIFEST.json"
"""Lies in the folder of everything that a step has made, written last; it names the files."""


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, and what a value means."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table's name, its columns in order, and what one row is."""

    name: str
    row: str
    columns: tuple[Column, ...]
    rows_per_group: int = 10_000
    repeating: tuple[str, ...] | None = None
    """Columns of few different values, worth a dictionary; None: all. One of others costs a third of the writing."""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema with each column's meaning in its field metadata."""
        return pa.schema([pa.field(c.name, c.type, metadata={"meaning": c.meaning}) for c in self.columns])


STATUSES = ("success", "failed_to_download", "failed_to_resize", "rejected")
"""img2dataset's three, and `rejected`: the row was never fetched (blank or repeated)."""

ERROR_CLASSES = (
    "blank_url", "duplicate_row", "unsupported_scheme", "private_address", "dns", "proxy", "connection", "timeout",
    "http_4xx", "http_5xx", "too_many_redirects", "disallowed", "too_many_bytes", "not_an_image", "truncated_image",
    "too_many_pixels", "too_many_scans", "decode_timeout", "decoder_died", "too_small", "aspect_ratio", "too_large",
    "other",
)  # fmt: skip
"""Why a row of `images` has no picture; null where `status` is `success`."""

SOURCES = ("web", "synthetic", "human")
"""Where a caption comes from: the page's alt text, the captioner, a person."""

REASONS = (
    "empty_text", "text_too_long", "not_scored", "below_threshold", "too_short", "too_long", "degenerate_text",
    "duplicate_text", "not_selected",
)  # fmt: skip
"""Why a caption did not become a training pair; null where `kept`. The first that applies, in this order: what the
filter says of a text comes before what else could be said against it."""

FLAGS = ("empty", "repetition", "prompt_leak", "cut_at_max_length", "text_too_long")
"""What may be wrong with a synthetic caption; of a web text the last one alone: it was cut when the list was read."""

IMAGES = Table(
    "images",
    "one row per row of the URL lists, failed ones too; written once",
    (
        Column("key", pa.string(), "unique in the run: shard number (5 digits) and row in the shard (5 digits)"),
        Column("uid", pa.string(), "32 hex digits of the sha256 of URL and alt text: the same row in any run"),
        Column("dataset", pa.string(), "the URL list that the row came from"),
        Column("url", pa.string(), "as given in the list"),
        Column("caption", pa.string(), "the web text (alt text), as given; its beginning where cut_from_chars is set"),
        Column("cut_from_chars", pa.int64(), "characters of a web text over download.max_text_chars; null: not cut"),
        Column("status", pa.string(), "success, failed_to_download, failed_to_resize or rejected"),
        Column("error_class", pa.string(), "closed list of reasons; null where status is success"),
        Column("error_message", pa.string(), "the fetcher's or decoder's own words; null where status is success"),
        Column("width", pa.int32(), "stored width, px"),
        Column("height", pa.int32(), "stored height, px"),
        Column("original_width", pa.int32(), "width before resizing, px"),
        Column("original_height", pa.int32(), "height before resizing, px"),
        Column("exif", pa.string(), "JSON of EXIF tags, or null"),
        Column("sha256", pa.string(), "hex digest of the bytes as fetched"),
        Column("jpg", pa.binary(), "encoded picture as stored (JPEG); null where status is not success"),
    ),
    rows_per_group=500,  # pictures are large, and captioning reads some hundred rows at a time
)

ANNOTATED = Table(
    "annotated",
    "one row per picture of a human-annotated set, unreadable ones too",
    (
        Column("key", pa.string(), "unique in the set"),
        Column("name", pa.string(), "file name or URL as given in the list"),
        Column("domain", pa.string(), "in, near or out, as in nocaps; null where the set has no domains"),
        Column("captions", pa.list_(pa.string()), "what people wrote about the picture"),
        Column("status", pa.string(), "success, failed_to_download or failed_to_resize"),
        Column("error_class", pa.string(), "closed list of reasons; null where status is success"),
        Column("error_message", pa.string(), "null where status is success"),
        Column("sha256", pa.string(), "hex digest of the file as read; null where status is not success"),
        Column("jpg", pa.binary(), "encoded picture; null where status is not success"),
    ),
)

CAPTIONS = Table(
    "captions",
    "one row per (image, text) of a round: web texts and every synthetic candidate, with their scores",
    (
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic"),
        Column(
            "candidate",
            pa.int16(),
            "0 for web; 0.. for the synthetic candidates, those of one captioner after the other",
        ),
        Column("caption", pa.string(), "the text, whitespace folded"),
        Column("itm_score", pa.float32(), "P(match) by the filter's ITM head, 0..1; null where the text is empty"),
        Column("itc_score", pa.float32(), "cosine of the filter's ITC embeddings, -1..1; null where the text is empty"),
        Column("logprob", pa.float32(), "sum of the captioner's log-probabilities of the tokens, nats; null for web"),
        Column("num_tokens", pa.int16(), "word pieces of the text, prompt included, special tokens not"),
        Column(
            "flags",
            pa.list_(pa.string()),
            "empty, repetition, prompt_leak, cut_at_max_length; web: text_too_long; may be none",
        ),
        Column("seed", pa.int64(), "of this candidate's sampling; null for web"),
        Column("captioner", pa.string(), "the model that wrote it, by its name or the end of its path; null for web"),
        Column("itm_scores", pa.list_(pa.float32()), "of each filter, where several make itm_score; else null"),
        Column("itc_scores", pa.list_(pa.float32()), "of each filter, where several make itc_score; else null"),
        Column("clip_score", pa.float32(), "cosine by the second scorer, -1..1; null where there is none"),
    ),
    repeating=("source", "candidate", "num_tokens", "flags.list.element", "captioner"),
)

PAIRS = Table(
    "pairs",
    "one row per row of `captions` (round 0: per web text): what training uses, and why not the rest",
    (
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic"),
        Column("candidate", pa.int16(), "as in `captions`"),
        Column("caption", pa.string(), "the text"),
        Column("itm_score", pa.float32(), "as in `captions`; null in round 0"),
        Column("kept", pa.bool_(), "true: it is a training pair of this round"),
        Column("reason", pa.string(), "closed list, the first that applies; null where kept"),
        Column(
            "rejected",
            pa.bool_(),
            "the filter's verdict, kept or not: the score is below the rule's cut; null where there is none. The noise "
            "ratio is the share of true ones",
        ),
    ),
    repeating=("source", "candidate", "kept", "reason"),
)

SAME_PICTURES = Table(
    "same_pictures",
    "one row per picture that is in two sets at once, by the sha256 of its bytes",
    (
        Column("set", pa.string(), "web or human: the set that it would be trained on from"),
        Column("key", pa.string(), "its key there, as in `images` or `human`"),
        Column("same_as", pa.string(), "held_out or human: the set that it is also in"),
        Column("same_key", pa.string(), "its key in that set"),
        Column("left_out", pa.bool_(), "true: it is not trained on"),
    ),
    repeating=("set", "same_as", "left_out"),
)

LANGUAGES = Table(
    "languages",
    "one row per text whose language was identified, by `audit languages`",
    (
        Column("round", pa.int16(), "the round whose texts they are"),
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic"),
        Column("candidate", pa.int16(), "as in `captions`"),
        Column("caption", pa.string(), "the text that was looked at"),
        Column("language", pa.string(), "the most likely one, ISO 639 (two or three letters)"),
        Column("confidence", pa.float32(), "how likely, 0..1; low where a text is short or names things only"),
    ),
)

TABLES = {table.name: table for table in (IMAGES, ANNOTATED, CAPTIONS, PAIRS)}


def write_parquet(path: Path, data: pa.Table, table: Table, metadata: Mapping[str, str] | None = None) -> None:
    """Write one Parquet file with the declared schema; it is either whole under `path` or not there.

    The column order and types are `table`'s even where `data` is empty or a column is all null.
    `metadata` goes to the file's key-value metadata, so that a lone file still says where it is from.
    Raises ValueError where `data` lacks a column, has one more, or a value does not fit the type.
    """
    missing = set(table.schema.names) ^ set(data.schema.names)
    if missing:
        raise ValueError(f"{table.name}: columns {sorted(missing)} are not those of the schema")
    schema = table.schema.with_metadata({"table": table.name, **(metadata or {})})
    staged = staged_beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, dictionary = data.select(schema.names).cast(schema), True if table.repeating is None else [*table.repeating]
    settings = {"row_group_size": table.rows_per_group, "use_dictionary": dictionary}
    pq.write_table(rows, staged.absolute(), compression="zstd", **settings)  # absolute: see open_parquet
    staged.replace(path)


def staged_beside(path: Path) -> Path:
    """A hidden name beside `path`, to write to and rename; never twice the same, also on hosts that share the folder.

    Ray does a block again where a node is lost to it, and the lost one may still be writing; pids repeat among hosts.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def rows_to_table(rows: list[dict[str, object]], table: Table) -> pa.Table:
    """Rows as dicts to an Arrow table of the declared schema; also for an empty list."""
    return pa.Table.from_pylist(rows, schema=table.schema)


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file on this machine, whatever it is called.

    By a relative name pyarrow would take `~` for the home folder, and `word:` for the scheme of a URI.
    """
    return pq.ParquetFile(path.absolute())


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file as Arrow. Raises InputError, naming the file, where it is damaged or half-written."""
    try:
        return open_parquet(path).read(columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from error


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a table's folder, in order: those that its MANIFEST names, and no other.

    A copy that somebody made of a part file would count its rows twice. Without a MANIFEST, as where a step is at
    work, they are all but staged and hidden ones. Raises InputError where one that is named is not there.
    """
    named = named_files(folder)
    if named is None:
        return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    for name in named:
        if not (folder / name).is_file():
            raise InputError(missing_part(f"{folder / name}"))
    return [folder / name for name in named]


def named_files(folder: Path) -> list[str] | None:
    """The names of a folder's Parquet files in its MANIFEST, sorted; None where there is none.

    Raises InputError where the MANIFEST is damaged.
    """
    path = folder / MANIFEST
    try:
        names = [str(entry["name"]) for entry in json.loads(path.read_text(encoding="utf-8"))["files"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it to make its folder anew") from error
    return sorted(name for name in names if name.endswith(".parquet") and "/" not in name)


def missing_part(where: str) -> str:
    """What to say of a file that a MANIFEST names and that is not there."""
    return f"{where}: its MANIFEST names it, and it is not there; put it back, or run the round again to make it anew"


def check_writable(path: Path) -> None:
    """Raise InputError where a file cannot be written at `path`, before the work that it is to hold."""
    staged = staged_beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.touch()
        staged.unlink()
