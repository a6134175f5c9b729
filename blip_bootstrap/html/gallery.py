"""Pictures with their kept and dropped texts, as in the paper's Figure 4."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import duckdb
from PIL import Image

from blip_bootstrap.query.questions import query
from blip_bootstrap.query.sql_text import literal
from blip_bootstrap.query.verdicts import SCORE_COLUMNS

NAMES = {"itm": "ITM", "itc": "ITC", "clip": "CLIP", "rule": "rule"}
"""How pages write the scores of `select.score`; the others as they are there."""

DECIDED = (
    "k.score AS cut_by, k.cut, CASE k.score WHEN 'rule' THEN p.rule_score "
    + " ".join(f"WHEN '{name}' THEN c.{column}" for name, column in SCORE_COLUMNS.items())
    + " END AS decided"
)
"""SQL of the score by which the rule cuts, its cut, and the text's: of p, `pairs`, c, `captions`, and k, `cuts`."""

MAX_TEXTS = 6

MAX_CHARS = 500
"""Characters of a text that are shown: an alt text can be as long as a book."""

AMONG = 200_000
"""Galleries are chosen among so many pictures, drawn evenly where a round has more."""

BIG_BYTES, BIG_PX, SMALL_PX = 40_000, 320, 160
"""A picture of more bytes is put into the page BIG_PX wide; one that is less wide than SMALL_PX is shown unblurred."""


@dataclass(frozen=True)
class Gallery:
    """A gallery: the pictures for which `fits` is true, lowest `rank` first; both are SQL over `_OF_IMAGE`."""

    title: str
    note: str
    fits: str
    rank: str


_OF_IMAGE = """
    SELECT key, bool_or(source = 'web') AS web, bool_or(source = 'web' AND kept) AS web_kept,
        bool_or(source = 'synthetic') AS synthetic, bool_or(source = 'synthetic' AND kept) AS synthetic_kept,
        bool_or(source = 'web' AND NOT kept) AS web_dropped, count(itm_score) AS scored,
        min({near}) AS from_threshold, max(itm_score) - min(itm_score) AS apart
    FROM pairs WHERE round = {number} AND hash(key) % {every} = 0 GROUP BY key
"""
"""One row for each image of a round, or of an even sample of its images, with what galleries ask of its texts."""

_RANDOM = "hash(key || '{seed}')"

GALLERIES = (
    Gallery(
        "Web text dropped, synthetic text kept",
        "What the loop is for: the web text is noise, and a caption takes its place.",
        "web_dropped AND synthetic_kept",
        _RANDOM,
    ),
    Gallery(
        "Web text kept, synthetic text dropped",
        "The web text passed; the caption was wrong or a duplicate, or the filter took it for wrong.",
        "web_kept AND synthetic AND NOT synthetic_kept",
        _RANDOM,
    ),
    Gallery(
        "Near the threshold",
        "Texts that a slightly different threshold would keep or drop; look here first when you choose one.",
        "from_threshold IS NOT NULL",
        "from_threshold",
    ),
    Gallery(
        "Most surprising",
        "The scores of the web text and of the captions differ most.",
        "web AND synthetic AND scored > 1",
        "-apart",
    ),
    Gallery(
        "Everything dropped",
        "No text of these pictures was kept, so the next model will not see them.",
        "NOT (web_kept OR synthetic_kept)",
        _RANDOM,
    ),
    Gallery("Any pictures", "Drawn at random from all downloaded pictures.", "true", _RANDOM),
)


def galleries_html(
    connection: duckdb.DuckDBPyConnection, number: int, limit: int, seed: int, threshold: float | None
) -> list[tuple[Gallery, str]]:
    """The galleries of round `number` that have pictures, each as a list of at most `limit` figures.

    `threshold` is the one on the ITM score; None where the selection cut by another score. Texts are near the cuts of
    the rule's own score then; of a score that `captions` alone holds none is near.
    """
    if not limit:
        return []
    # One query for all galleries: at ten million images, reading images and texts is what takes the time. They are
    # chosen among AMONG pictures, since a row for each picture of such a round would fill the memory.
    keys = _choose(connection, number, limit, seed, threshold)
    found = _read(connection, number, sorted({key for some in keys for key in some}))
    return [(gallery, _figures(some, *found)) for gallery, some in zip(GALLERIES, keys, strict=True) if some]


def figures_html(connection: duckdb.DuckDBPyConnection, number: int, keys: Sequence[str]) -> str:
    """The pictures `keys` with their texts of round `number`, green kept and red dropped, in the order of `keys`."""
    return _figures(keys, *_read(connection, number, keys))


def _choose(
    connection: duckdb.DuckDBPyConnection, number: int, limit: int, seed: int, threshold: float | None
) -> list[list[str]]:
    """The keys of each gallery's pictures, in order."""
    chosen = ", ".join(
        f"min({{'rank': {gallery.rank.format(seed=seed)}, 'key': key}}, {limit}) FILTER ({gallery.fits})"
        for gallery in GALLERIES
    )
    near = _from_cut(connection, number) if threshold is None else f"abs(itm_score - {float(threshold)})"
    of_image = _OF_IMAGE.format(number=number, near=near, every=_every(connection, number))
    (row,) = query(connection, f"SELECT {chosen} FROM ({of_image})").to_pylist()
    return [[picture["key"] for picture in some or []] for some in row.values()]


def _from_cut(connection: duckdb.DuckDBPyConnection, number: int) -> str:
    """SQL: how far a text is from the cut of its source, where the rule has a score of its own."""
    cuts = query(connection, f"SELECT source, cut FROM cuts WHERE round = {number} AND score = 'rule'").to_pylist()
    cases = " ".join(f"WHEN {literal(one['source'])} THEN abs(rule_score - {one['cut']!r}::DOUBLE)" for one in cuts)
    return f"CASE source {cases} END" if cases else "NULL::DOUBLE"


def _every(connection: duckdb.DuckDBPyConnection, number: int) -> int:
    """Every how manieth picture galleries are chosen among: each picture has one web text, so these are counted."""
    asked = f"SELECT count(*) FILTER (source = 'web') AS pictures FROM pairs WHERE round = {number}"
    (row,) = query(connection, asked).to_pylist()
    pictures = int(row["pictures"])
    return max(1, math.ceil(pictures / AMONG))


def _read(
    connection: duckdb.DuckDBPyConnection, number: int, keys: Sequence[str]
) -> tuple[dict[str, bytes | None], dict[str, list[dict[str, Any]]]]:
    """The pictures `keys` and their texts in round `number`, the web's first, with the scores that decided."""
    if not keys:
        return {}, {}
    wanted = f"key IN ({', '.join(map(literal, keys))})"
    pictures = query(connection, f"SELECT key, jpg FROM images WHERE {wanted}").to_pylist()
    rows = query(
        connection,
        f"SELECT p.key, p.source, p.caption[:{MAX_CHARS + 1}] AS caption, p.itm_score, p.rule_score, kept, reason, "
        f"{DECIDED} FROM (SELECT * FROM pairs WHERE round = {number} AND {wanted}) p "
        f"LEFT JOIN (SELECT * FROM captions WHERE round = {number} AND {wanted}) c USING (key, source, candidate) "
        "LEFT JOIN cuts k ON k.round = p.round AND k.source = p.source ORDER BY key, source DESC, candidate",
    ).to_pylist()
    texts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        texts.setdefault(row["key"], []).append(row)
    return {picture["key"]: picture["jpg"] for picture in pictures}, texts


def picture_html(jpg: bytes | None, alt: str) -> str:
    """An `img` element that holds the picture; large ones are made smaller, tiny ones are shown unblurred."""
    if not jpg:
        return f'<p class="note">no picture: {escape(alt)}</p>'
    try:
        content, width = _shrunk(jpg)
    except Exception:  # noqa: BLE001 - Pillow raises whatever a damaged picture makes it raise
        return f'<p class="note">a picture that cannot be read: {escape(alt)}</p>'
    data = base64.b64encode(content).decode()
    tiny = ' class="small"' if width < SMALL_PX else ""
    return f'<img{tiny} src="data:image/jpeg;base64,{data}" alt="{escape(alt)}">'


def text_html(text: dict[str, Any]) -> str:
    """One text of a picture; words and colour say whether it was kept or dropped, and by which score and cut."""
    fate = "kept" if text["kept"] else "dropped"
    score = "".join(f" · {one}" for one in _scores(text))
    reason = "" if text["kept"] else f" · {text['reason']}"
    said = text["caption"] or ""
    shown = escape(said if len(said) <= MAX_CHARS else f"{said[:MAX_CHARS]}…") or "<em>no text</em>"
    return (
        f'<li class="{fate}">{shown}<span class="fate"><b>{fate}</b> · {escape(text["source"])}'
        f"{escape(score + reason)}</span></li>"
    )


def _scores(text: dict[str, Any]) -> list[str]:
    """The text's score by which the rule cuts, with the cut, then those of ITM and of the rule."""
    by, told = text["cut_by"], []
    if by and text["decided"] is not None and text["cut"] is not None:
        told.append(f"{NAMES.get(by, by)} {text['decided']:.3f} (cut {text['cut']:.3f})")
    for name, score in (("itm", text["itm_score"]), ("rule", text["rule_score"])):
        if score is not None and not (told and name == by):
            told.append(f"{NAMES[name]} {score:.3f}")
    return told


def _figures(keys: Sequence[str], pictures: dict[str, bytes | None], texts: dict[str, list[dict[str, Any]]]) -> str:
    items = (_figure(pictures.get(key), key, texts.get(key, [])) for key in keys)
    return f'<ul class="gallery">{"".join(items)}</ul>'


def _figure(jpg: bytes | None, key: str, texts: list[dict[str, Any]]) -> str:
    more = f"<li>and {len(texts) - MAX_TEXTS} more</li>" if len(texts) > MAX_TEXTS else ""
    listed = "".join(text_html(text) for text in texts[:MAX_TEXTS])
    image = picture_html(jpg, f"picture {key}")
    return (
        f'<li><figure>{image}<figcaption><ul class="texts">{listed}{more}</ul>'
        f'<span class="key">{escape(key)}</span></figcaption></figure></li>'
    )


def _shrunk(jpg: bytes) -> tuple[bytes, int]:
    """The picture's bytes and its width in px; one of more than BIG_BYTES is made at most BIG_PX wide."""
    with Image.open(io.BytesIO(jpg)) as image:
        if len(jpg) <= BIG_BYTES:
            return jpg, image.width
        small = image.convert("RGB")
        small.thumbnail((BIG_PX, BIG_PX))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82)
    return out.getvalue(), small.width
