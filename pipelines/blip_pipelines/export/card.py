"""The dataset card of a Hugging Face folder, made from what the run has counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES, REASONS, STATUSES
from blip_pipelines.export.place import Place
from blip_pipelines.export.source import Ledger

CARD = "README.md"

OPT_OUTS = ("disallowed", "robots_txt", "withdrawn")
"""Classes and statuses of pictures that are not here since somebody asked for it."""

WORDS_OF_HOSTS = ("x_robots_tag", "tdm_reservation", "content_usage")
"""Columns of `images` with what hosts said about such use of a picture."""

RESERVED = "with_"
"""Begins the count of the pictures here that have such a word."""

OBEYED = ("honour_noai", "honour_noindex", "robots", "tdm_reservation", "content_usage")
"""Settings of the download that say whether such words were obeyed."""

_SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7))


def write_card(place: Place, ledger: Ledger, told: Mapping[str, Any]) -> None:
    """Write `README.md`: counts by reason, sources, opt-outs, settings and digests of the round."""
    sections = (_beginning(ledger, told), _texts(ledger, told), _sources(told), _opt_outs(ledger, told), _made(ledger))
    place.write(CARD, "\n".join([_front(ledger, told), *sections]).encode())


def _front(ledger: Ledger, told: Mapping[str, Any]) -> str:
    num = told["counts"]["pictures"]
    front = {
        "pretty_name": f"{ledger.run}, round {ledger.round}",
        "task_categories": ["image-to-text", "text-to-image"],
        "size_categories": [next((name for name, most in _SIZES if num < most), "n>10M")],
        "tags": ["image-text pairs", "BLIP", "CapFilt", "blip-bootstrap"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


def _beginning(ledger: Ledger, told: Mapping[str, Any]) -> str:
    counts = told["counts"]
    return f"""# {ledger.run}, round {ledger.round}

{counts["pictures"]:,} pictures with {counts["texts"]:,} texts, made by blip-bootstrap, an open implementation of BLIP's
CapFilt (Li et al. 2022, section 3.3). Pictures and web texts belong to their owners; this card grants no right to them.

`text` is {told["txt"]}.
`captions` has all texts of the picture that are here, each with its source, its scores and `weight`, its share of the
epochs of a training.
"""


def _texts(ledger: Ledger, told: Mapping[str, Any]) -> str:
    pairs, images = ledger.pairs, ledger.counts("images")
    kept = [(f"kept, {name[5:]}", pairs[name]) for name in sorted(pairs) if name in ("kept_web", "kept_synthetic")]
    dropped = [(f"dropped, {reason}", pairs[f"dropped_{reason}"]) for reason in REASONS if f"dropped_{reason}" in pairs]
    pictures = [(name, images[name]) for name in (*STATUSES, *ERROR_CLASSES) if images.get(name)]
    judged = _table(("texts", "count"), [("judged", pairs.get("rows", 0)), *kept, *dropped])
    fetched = _table(("rows of the lists", "count"), [("all", images.get("rows", 0)), *pictures])
    num = told["counts"].get("left_out")
    aside = f"\nNot here: {num:,} kept texts of pictures that the held-out or the human set has, too.\n" if num else ""
    return f"## Counts\n\nOf the round, by what became of them:\n\n{judged}\n\n{fetched}\n{aside}"


def _sources(told: Mapping[str, Any]) -> str:
    return f"## Sources\n\n{_table(('list', 'pictures here'), sorted(told['datasets'].items()))}\n"


def _opt_outs(ledger: Ledger, told: Mapping[str, Any]) -> str:
    images = ledger.counts("images")
    settings = ledger.manifests.get("images", {}).get("settings", {})
    found = [(name, images.get(name, 0)) for name in OPT_OUTS if images.get(name) or name == "disallowed"]
    asked = _table(("setting", "value"), [(name, settings[name]) for name in OBEYED if name in settings])
    counts = told["counts"]
    said = [(name, counts[f"{RESERVED}{name}"]) for name in WORDS_OF_HOSTS if f"{RESERVED}{name}" in counts]
    table = _table(("asked by", "pictures left out"), found)
    here = f"{_table(('pictures here whose host said', 'count'), said)}\n\n" if said else ""
    return f"## Opt-outs\n\n{table}\n\n{here}Obeyed were, by the settings of the download:\n\n{asked}\n"


def _made(ledger: Ledger) -> str:
    rows = [
        (name, one.get("recipe", {}).get("step", ""), str(one.get("digest", ""))[:16], str(one.get("content", ""))[:16],
         one.get("version", ""), one.get("made", ""))
        for name, one in sorted(ledger.manifests.items())
    ]  # fmt: skip
    inputs = [
        (name, one, str(digest)[:16])
        for name, made in sorted(ledger.manifests.items())
        for one, digest in made.get("recipe", {}).get("inputs", {}).items()
    ]
    settings = {
        name: _without_folders(one["settings"]) for name, one in ledger.manifests.items() if one.get("settings")
    }
    text = yaml.safe_dump(settings, sort_keys=True, allow_unicode=True)
    head = ("artifact", "step", "recipe", "content", "version", "made")
    made_from = _table(("artifact", "made from", "content"), inputs)
    return f"## How it was made\n\n{_table(head, rows)}\n\n{made_from}\n\nSettings:\n\n```yaml\n{text}```\n"


def _without_folders(value: Any) -> Any:
    """Settings without the folders of the machine, which are nobody's business: a path is its last name."""
    if isinstance(value, Mapping):
        return {name: _without_folders(one) for name, one in value.items() if name != "contact"}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return PurePath(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([_cell(one) for one in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
