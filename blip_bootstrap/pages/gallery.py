"""Pictures with their kept and dropped texts, as in the paper's Figure 4."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import duckdb

from blip_bootstrap.questions import query
from blip_bootstrap.sql_text import literal

MAX_TEXTS = 6
BIG_BYTES, BIG_PX, SMALL_PX = 40_000, 320, 160


@dataclass(frozen=True)
class Gallery:
    """A choice of pictures: HAVING picks among the images of a round's pairs, ORDER BY ranks them; both SQL."""

    title: str
    note: str
    having: str
    order_by: str


_RANDOM = "hash(key || $seed)"
GALLERIES = (
    Gallery(
        "Web text dropped, synthetic text kept",
        "Where the loop does its work: the web's text is noise, and the captioner's takes its place.",
        "bool_or(source = 'web' AND NOT kept) AND bool_or(source = 'synthetic' AND kept)",
        _RANDOM,
    ),
    Gallery(
        "Web text kept, synthetic text dropped",
        "The web's text is right; the captioner erred, said the same, or the filter thinks so.",
        "bool_or(source = 'web' AND kept) AND NOT bool_or(source = 'synthetic' AND kept) "
        "AND bool_or(source = 'synthetic')",
        _RANDOM,
    ),
    Gallery(
        "Near the threshold",
        "The texts that a slightly other threshold would move; look here first when choosing one.",
        "count(itm_score) > 0",
        "min(abs(itm_score - $threshold)), key",
    ),
    Gallery(
        "Most surprising",
        "Where the scores of the web's text and of the captioner's lie furthest apart.",
        "bool_or(source = 'web') AND bool_or(source = 'synthetic') AND count(itm_score) > 1",
        "max(itm_score) - min(itm_score) DESC, key",
    ),
    Gallery("Everything dropped", "Pictures that the next model will not see.", "NOT bool_or(kept)", _RANDOM),
    Gallery("Any pictures", "Drawn evenly from all that were downloaded.", "true", _RANDOM),
)


def gallery_html(
    connection: duckdb.DuckDBPyConnection, gallery: Gallery, number: int, limit: int, seed: int, threshold: float
) -> str:
    """One gallery of round `number` as a list of figures; empty where no picture fits."""
    order = gallery.order_by.replace("$seed", f"'{seed}'").replace("$threshold", str(float(threshold)))
    chosen = query(
        connection,
        f"SELECT key FROM pairs WHERE round = {number} GROUP BY key HAVING {gallery.having} "
        f"ORDER BY {order} LIMIT {limit}",
    )
    keys = chosen["key"].to_pylist()
    return figures_html(connection, number, keys) if keys else ""


def figures_html(connection: duckdb.DuckDBPyConnection, number: int, keys: Sequence[str]) -> str:
    """The pictures `keys` with their texts of round `number`, green kept and red dropped, in the order of `keys`."""
    wanted = f"key IN ({', '.join(map(literal, keys))})"
    pictures = query(connection, f"SELECT key, url, jpg FROM images WHERE {wanted}").to_pylist()
    texts = query(
        connection,
        "SELECT key, source, caption, itm_score, kept, reason FROM pairs "
        f"WHERE round = {number} AND {wanted} ORDER BY key, source DESC, candidate",
    ).to_pylist()
    by_key = {picture["key"]: picture for picture in pictures}
    items = [_figure(by_key.get(key, {}), key, [text for text in texts if text["key"] == key]) for key in keys]
    return f'<ul class="gallery">{"".join(items)}</ul>'


def picture_html(jpg: bytes | None, alt: str) -> str:
    """An `img` with the picture inside; large ones are made smaller, tiny ones shown with hard pixels."""
    if not jpg:
        return f'<p class="note">no picture: {escape(alt)}</p>'
    content, width = _shrunk(jpg)
    data = base64.b64encode(content).decode()
    tiny = ' class="small"' if width < SMALL_PX else ""
    return f'<img{tiny} src="data:image/jpeg;base64,{data}" alt="{escape(alt)}">'


def text_html(text: dict[str, Any]) -> str:
    """One text of a picture with its fate in words and colour."""
    fate = "kept" if text["kept"] else "dropped"
    score = "" if text["itm_score"] is None else f" · ITM {text['itm_score']:.3f}"
    reason = "" if text["kept"] else f" · {text['reason']}"
    shown = escape(text["caption"] or "") or "<em>no text</em>"
    return (
        f'<li class="{fate}">{shown}<span class="fate"><b>{fate}</b> · {escape(text["source"])}'
        f"{escape(score + reason)}</span></li>"
    )


def _figure(picture: dict[str, Any], key: str, texts: list[dict[str, Any]]) -> str:
    more = f"<li>and {len(texts) - MAX_TEXTS} more</li>" if len(texts) > MAX_TEXTS else ""
    listed = "".join(text_html(text) for text in texts[:MAX_TEXTS])
    image = picture_html(picture.get("jpg"), f"picture {key}")
    return (
        f'<li><figure>{image}<figcaption><ul class="texts">{listed}{more}</ul>'
        f'<span class="key">{escape(key)}</span></figcaption></figure></li>'
    )


def _shrunk(jpg: bytes) -> tuple[bytes, int]:
    """The picture's bytes, at most BIG_PX wide where they are many, and its width in px."""
    from PIL import Image

    with Image.open(io.BytesIO(jpg)) as image:
        if len(jpg) <= BIG_BYTES:
            return jpg, image.width
        small = image.convert("RGB")
        small.thumbnail((BIG_PX, BIG_PX))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82)
    return out.getvalue(), small.width
