"""One image's story: where it is from, its texts in each round with scores and reasons, and what decided on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import yaml
from rich.markup import escape as escape_markup

from blip_bootstrap.errors import InputError
from blip_bootstrap.html.elements import details, document, section, table_html
from blip_bootstrap.html.gallery import DECIDED, picture_html, text_html
from blip_bootstrap.query.formats import PipedConsole, shown, write_file
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.sql_text import literal
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas.keys import is_key, part_of
from blip_bootstrap.storage import run_folder
from blip_bootstrap.storage.run_folder import round_name

_TEXTS = f"""
SELECT p.round, p.source, p.candidate, p.caption, p.kept, p.reason, p.itm_score, c.itc_score, c.logprob, c.num_tokens,
    c.flags, c.seed::VARCHAR AS seed, c.captioner, c.clip_score, c.itm_scores, c.itc_scores,
    c.scores, c.scores_lacking, c.prompt, c.raw_caption, c.cost_requests, c.cost_prompt_tokens,
    c.cost_completion_tokens, c.cost_seconds, p.rule_score, {DECIDED}
FROM (SELECT * FROM pairs WHERE key = {{key}}) p
LEFT JOIN (SELECT * FROM captions WHERE key = {{key}}) c USING (round, source, candidate)
LEFT JOIN cuts k ON k.round = p.round AND k.source = p.source
ORDER BY p.round, p.source DESC, p.candidate
"""


@dataclass(frozen=True)
class Story:
    """One image's row of `images`, its texts in all rounds, and the models and settings that decided on them.

    `others` are keys of at most five more rows with the same uid, sha256 or URL, such as rejected duplicates.
    """

    image: Mapping[str, Any]
    others: list[str]
    texts: pa.Table
    deciders: Sequence[Mapping[str, Any]]


def why(root: Path, name: str) -> Story:
    """The story of the image `name` (its key, uid, sha256 or URL) in the run under `root`.

    A key names the part that it is in: no other file of images or texts is opened. Raises InputError where no image has
    that name.
    """
    part = part_of(name) if is_key(name) else None
    with connect(root, with_figures=False, part=part) as connection:
        key, *others = _keys(connection, root, name)
        (image,) = query(connection, f"SELECT * FROM images WHERE key = {literal(key)}").to_pylist()
        texts = query(connection, _TEXTS.format(key=literal(key)))
    return Story(image, others, texts, _deciders(root))


def print_why(root: Path, name: str, page: Path | None = None) -> Path | None:
    """Print the story of an image on standard output; with `page`, also write it there as HTML, with the picture."""
    story = why(root, name)
    console = PipedConsole(highlight=False, soft_wrap=True)
    for field, value in _told(story).items():
        console.print(f"[bold]{field}[/bold]  {escape_markup(shown(value))}")
    for row in story.texts.to_pylist():
        console.print(_line(row))
    for row in story.deciders:
        told = "".join(f"\n  {name}: {value}" for name, value in row.items() if value and name != "round")
        console.print(f"[bold]round {row['round']} decided by[/bold]{escape_markup(told)}")
    if page:
        write_file(page, story_html(story).encode())
    return page


def story_html(story: Story) -> str:
    """The story as one HTML document that needs no other file."""
    rows = story.texts.to_pylist()
    picture = (
        f'<ul class="gallery wide"><li><figure>{picture_html(story.image["jpg"], "the picture")}</figure></li></ul>'
    )
    facts = [{"what": name, "value": shown(value)} for name, value in _told(story).items()]
    rounds = sorted({row["round"] for row in rows})
    texts = "".join(
        f'<h3>Round {number}</h3><div class="gallery wide"><figure><ul class="texts">'
        f"{''.join(text_html(row) for row in rows if row['round'] == number)}</ul></figure></div>"
        for number in rounds
    )
    filled = [{name: value for name, value in row.items() if any(one[name] for one in rows)} for row in rows]
    sections = [
        ("picture", "The picture", str(story.image["url"] or ""), picture + table_html(facts, "facts")),
        (
            "texts",
            "Its texts",
            "The round's model was trained on the green texts and not on the red ones.",
            texts + table_html(filled, "texts"),
        ),
        (
            "deciders",
            "What decided",
            "Models by their digests, settings as the MANIFESTs record them.",
            "".join(map(_decider_html, story.deciders)),
        ),
    ]
    title = f"Image {story.image['key']}"
    nav = [(anchor, heading) for anchor, heading, _, _ in sections]
    body = "".join(section(*one) for one in sections)
    return document(title, "Where it is from, which texts it has, and why they were kept or dropped.", nav, body, "")


def _decider_html(row: Mapping[str, Any]) -> str:
    """The models and settings of one round as YAML, under its number."""
    settings = {name: json.loads(row[name]) for name in ("captions", "rule") if row[name]}
    told = yaml.safe_dump({"models": row["models"].split("; ")} | settings, sort_keys=False, allow_unicode=True)
    return details(f"Round {row['round']}", f"<pre>{escape(told)}</pre>", is_open=True)


def _line(row: Mapping[str, Any]) -> str:
    """One text as a line for the terminal."""
    fate = "[green]kept[/green]   " if row["kept"] else "[red]dropped[/red]"
    scores = ("itm_score", "itc_score", "clip_score", "logprob", "itm_scores", "itc_scores")
    figures = [f"{name} {_figures(row[name])}" for name in scores if row[name] is not None]
    figures += [f"{name} {score:.3f}" for name, score in row["scores"] or []]
    figures += [f"{name} none ({reason})" for name, reason in row["scores_lacking"] or []]
    if row["cut_by"] and row["decided"] is not None:
        figures.append(f"cut by {row['cut_by']} {row['decided']:.3f} at {row['cut']:.3f}")
    writer = row["captioner"] and "/".join(filter(None, (row["captioner"], row["prompt"])))
    told = "  ".join([*figures, *filter(None, (writer, _cost(row), row["reason"])), *(row["flags"] or [])])
    told += f"  answered {shown(row['raw_caption'])}" if row["raw_caption"] else ""
    text = escape_markup(shown(row["caption"] or ""))
    return f"round {row['round']}  {fate}  {row['source']:9}  {text}  [dim]{escape_markup(told)}[/dim]"


def _cost(row: Mapping[str, Any]) -> str:
    """What a text cost, as far as its captioner tells."""
    units = ("requests", "prompt_tokens", "completion_tokens", "seconds")
    told = [(name.replace("_", " "), row[f"cost_{name}"]) for name in units]
    known = ", ".join(f"{value:.3g} {name}" for name, value in told if value is not None)
    return f"cost {known}" if known else ""


def _figures(value: float | list[float]) -> str:
    return " ".join(f"{one:.3f}" for one in (value if isinstance(value, list) else [value]))


def _keys(connection: duckdb.DuckDBPyConnection, root: Path, name: str) -> list[str]:
    """The keys of the first six images with that key, uid, sha256 or URL, downloaded ones first."""
    said = literal(name)
    # The key first and alone: its part is the only file, and row groups are ordered by it, so that only one is read.
    for where in (f"key = {said}", f"uid = {said} OR sha256 = {said} OR url = {said}"):
        sql = f"SELECT key FROM images WHERE {where} ORDER BY status <> 'success', key LIMIT 6"
        if name and (found := query(connection, sql)["key"].to_pylist()):
            return [str(key) for key in found]
    raise InputError(f"{root}: no image has the key, uid, sha256 or URL {name!r}")


def _told(story: Story) -> dict[str, Any]:
    told = {name: value for name, value in story.image.items() if value is not None and name != "jpg"}
    return told | ({"same name": story.others} if story.others else {})


def _deciders(root: Path) -> list[dict[str, Any]]:
    """The captioner, filter, sampler and selection rule of each round, from the MANIFESTs."""
    made = {str(manifest["name"]): manifest for manifest in run_folder.manifests(root)}
    rows = []
    for number in run_folder.round_numbers(root):
        captions, pairs = (made.get(f"{round_name(number)}/{name}", {}) for name in ("captions", "pairs"))
        inputs = captions.get("recipe", {}).get("inputs", {})
        rows.append(
            {
                "round": number,
                "models": "; ".join(f"{name} {digest[:12]}" for name, digest in inputs.items() if name != "images"),
                "captions": json.dumps(captions.get("settings", {})) if captions else "",
                "rule": json.dumps(pairs.get("settings", {})) if pairs else "",
            }
        )
    return rows
