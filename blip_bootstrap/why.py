"""Everything about one image: where it is from, every text in every round with scores and verdict, models, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.markup import escape as escape_markup

from blip_bootstrap import records
from blip_bootstrap.errors import InputError
from blip_bootstrap.pages.gallery import picture_html, text_html
from blip_bootstrap.pages.parts import document, section, table_html
from blip_bootstrap.printing import shown
from blip_bootstrap.questions import query
from blip_bootstrap.sql_text import literal
from blip_bootstrap.views import connect

_TEXTS = """
SELECT p.round, p.source, p.candidate, p.caption, p.kept, p.reason, p.itm_score, c.itc_score, c.logprob, c.num_tokens,
    c.flags, c.seed
FROM (SELECT * FROM pairs WHERE key = {key}) p
LEFT JOIN (SELECT * FROM captions WHERE key = {key}) c USING (round, source, candidate)
ORDER BY p.round, p.source DESC, p.candidate
"""


@dataclass(frozen=True)
class Story:
    """One image's row of `images`, its texts over all rounds, and for each round what decided about them."""

    image: Mapping[str, Any]
    texts: pa.Table
    deciders: pa.Table


def why(root: Path, name: str) -> Story:
    """All that the run under `root` knows of the image `name`: its key, uid, sha256 or URL.

    Raises InputError where no image has that name.
    """
    with connect(root) as connection:
        image = _find(connection, root, name)
        texts = query(connection, _TEXTS.format(key=literal(image["key"])))
    return Story(image, texts, _deciders(root))


def print_why(root: Path, name: str, page: Path | None = None) -> Path | None:
    """Print the story of an image on standard output; with `page`, write it there as HTML with its picture, too."""
    story = why(root, name)
    console = Console(highlight=False, soft_wrap=True)
    for field, value in _told(story.image).items():
        console.print(f"[bold]{field}[/bold]  {escape_markup(shown(value))}")
    for row in story.texts.to_pylist():
        console.print(_line(row))
    for row in story.deciders.to_pylist():
        told = "".join(f"\n  {name}: {value}" for name, value in row.items() if value and name != "round")
        console.print(f"[bold]round {row['round']} decided by[/bold]{escape_markup(told)}")
    if page:
        page.write_text(story_html(story), encoding="utf-8")
    return page


def story_html(story: Story) -> str:
    """The story as one HTML document without any other file."""
    rows = story.texts.to_pylist()
    picture = (
        f'<ul class="gallery wide"><li><figure>{picture_html(story.image["jpg"], "the picture")}</figure></li></ul>'
    )
    facts = [{"what": name, "value": shown(value)} for name, value in _told(story.image).items()]
    rounds = sorted({row["round"] for row in rows})
    texts = "".join(
        f'<h3>Round {number}</h3><div class="gallery wide"><figure><ul class="texts">'
        f"{''.join(text_html(row) for row in rows if row['round'] == number)}</ul></figure></div>"
        for number in rounds
    )
    parts = [
        ("picture", "The picture", str(story.image["url"] or ""), picture + table_html(facts, "facts")),
        (
            "texts",
            "Its texts",
            "Green texts trained the round's model; red did not.",
            texts + table_html(rows, "texts"),
        ),
        (
            "deciders",
            "What decided",
            "Models by digest, settings as recorded.",
            table_html(story.deciders.to_pylist(), "what decided"),
        ),
    ]
    title = f"Image {story.image['key']}"
    nav = [(anchor, heading) for anchor, heading, _, _ in parts]
    body = "".join(section(*part) for part in parts)
    return document(title, "Where it is from, what was said of it, and why.", nav, body, "")


def _line(row: Mapping[str, Any]) -> str:
    """One text for the terminal: fate, source, scores, the words."""
    fate = "[green]kept[/green]   " if row["kept"] else "[red]dropped[/red]"
    figures = [f"{name} {row[name]:.3f}" for name in ("itm_score", "itc_score", "logprob") if row[name] is not None]
    told = "  ".join([*figures, *([row["reason"]] if row["reason"] else []), *(row["flags"] or [])])
    return f"round {row['round']}  {fate}  {row['source']:9}  {escape_markup(row['caption'] or '')}  [dim]{told}[/dim]"


def _find(connection: duckdb.DuckDBPyConnection, root: Path, name: str) -> dict[str, Any]:
    said = literal(name)
    # The key first and alone: row groups are ordered by it, so that only one is read.
    for where in (f"key = {said}", f"uid = {said} OR sha256 = {said} OR url = {said}"):
        found: list[dict[str, Any]] = query(connection, f"SELECT * FROM images WHERE {where} LIMIT 1").to_pylist()
        if found:
            return found[0]
    raise InputError(f"{root}: no image has the key, uid, sha256 or URL {name}")


def _told(image: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in image.items() if value is not None and name != "jpg"}


def _deciders(root: Path) -> pa.Table:
    """For each round: captioner, filter, sampler and rule, from the manifests."""
    made = {str(manifest["name"]): manifest for manifest in records.manifests(root)}
    rows = []
    for number in records.round_numbers(root):
        captions, pairs = (made.get(f"round-{number:02d}/{name}", {}) for name in ("captions", "pairs"))
        inputs = captions.get("recipe", {}).get("inputs", {})
        rows.append(
            {
                "round": number,
                "models": "; ".join(f"{name} {digest[:12]}" for name, digest in inputs.items() if name != "images"),
                "captions": json.dumps(captions.get("settings", {})) if captions else "",
                "rule": json.dumps(pairs.get("settings", {})) if pairs else "",
            }
        )
    schema = pa.schema([("round", pa.int16()), *((name, pa.string()) for name in ("models", "captions", "rule"))])
    return pa.Table.from_pylist(rows, schema=schema)
