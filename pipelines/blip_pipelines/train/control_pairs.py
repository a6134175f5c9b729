"""The pairs of the control arms of the paper's Table 1, from the captions and pairs of a round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import SelectConfig
from blip_bootstrap.errors import ConfigError
from blip_bootstrap.query.alike import schema_of
from blip_bootstrap.query.verdicts import cut_of, rule_of
from blip_bootstrap.schemas.tables import PAIRS
from blip_bootstrap.select.aside import as_in, reasons_of
from blip_bootstrap.select.pairs import select_by, select_web_pairs
from blip_bootstrap.storage.parquet import parquet_files, read_parquet, write_parquet
from blip_bootstrap.storage.parts import borrow
from blip_bootstrap.stores.store import gone, is_there

NOT_SELECTED = "not_selected"

FIGURES = "metrics.json"
"""Of an arm, written last: one that has it is whole."""


def check_arms(arms: Sequence[str], human: Path | None, truth_pairs: Path | None) -> None:
    """Raise ConfigError, one line for each arm that lacks its input."""
    mistakes = []
    if "human_only" in arms and human is None:
        mistakes.append("controls.arms: human_only needs a human set; give human.path or leave the arm out")
    if "oracle" in arms and truth_pairs is None:
        mistakes.append("controls.arms: oracle needs pairs of true texts, which this run has not; leave the arm out")
    if mistakes:
        raise ConfigError(mistakes)


def write_arm_pairs(out: Path, arm: str, captions: Path, pairs: Path, truth_pairs: Path | None) -> Path | None:
    """The folder of an arm's pairs, aligned with the image files; None for `human_only`, which has no web pairs.

    `filter_only` runs the round's rule, with the cut that it found, on the web texts alone: nothing is left out for a
    synthetic text's sake. Pairs that no rule of ours made (without its record in their metadata) are taken as they are,
    web texts alone. `captioner_only` keeps every web and synthetic text that is not empty, unfiltered; `paper_rule`
    keeps what has an ITM score of .5 or more; `oracle` is `truth_pairs` as given. No arm has texts that were
    set aside when `pairs` were made.
    """
    if arm == "human_only":
        return None
    if arm == "oracle":
        return truth_pairs
    if arm == "paper_rule":
        select_by(out, captions, pairs, SelectConfig())
        return out
    if arm == "filter_only" and _has_rule(pairs):
        select_web_pairs(out, captions, pairs)
        return out
    for file in parquet_files(captions if arm == "captioner_only" else pairs):
        if not (out / file.name).exists():
            rows = read_parquet(file)
            table = _unfiltered(rows, pairs / file.name) if arm == "captioner_only" else _web_only(rows)
            write_parquet(out / file.name, table, PAIRS, {"arm": arm})
    return out


def take_arm(arm: Path, others: Sequence[Path]) -> None:
    """Have the model and figures of the first of `others`, the same arm of other artifacts, that has equal pairs.

    An arm that is trained, or was begun, here goes on here. Links that a killed run left are made whole, or go where no
    arm has these pairs any more: a training would write through them into another artifact.
    """
    links = [one for one in (arm / "model").rglob("*") if one.is_symlink()]
    is_own = any(one.is_file() and not one.is_symlink() for one in (arm / "model").rglob("*"))
    if is_there(arm / FIGURES) or (is_own and not links):
        return
    for other in () if is_own else others:
        if _same_pairs(arm / "pairs", other / "pairs"):
            names = [file.relative_to(other) for file in other.rglob("*") if file.is_file()]
            for name in sorted(names, key=lambda name: (name.name == FIGURES, name)):  # an arm that has these is whole
                if name.parts[0] != "pairs" and not any(part.startswith(".") for part in name.parts):
                    (arm / name).parent.mkdir(parents=True, exist_ok=True)
                    borrow((arm / name).parent, other / name)
            return
    for link in links:
        gone(link)


def _same_pairs(mine: Path, other: Path) -> bool:
    """Whether two arms train on the same pairs, in the same order; `human_only` and `oracle` have none of their own."""
    files, others = parquet_files(mine), parquet_files(other)
    if [one.name for one in files] != [one.name for one in others]:
        return False
    return all(_trained_on(file).equals(_trained_on(one)) for file, one in zip(files, others, strict=True))


def _trained_on(file: Path) -> pa.Table:
    """What decides how a pairs file is trained on: where its kept texts stand, and what each weighs by the rule."""
    weighs = (rule_of(schema_of(file)) or {}).get("weights") == "rule"
    rows = read_parquet(file, ["key", "source", "kept", "caption", *(["rule_score"] if weighs else [])])
    texts = pc.if_else(rows["kept"], rows["caption"], pa.scalar(None, pa.string()))
    return rows.set_column(rows.schema.get_field_index("caption"), "caption", texts).replace_schema_metadata(None)


def _has_rule(pairs: Path) -> bool:
    rule = next((rule_of(schema_of(file)) for file in parquet_files(pairs)), None)
    return rule is not None and cut_of(rule) is not None


def _web_only(pairs: pa.Table) -> pa.Table:
    """The round's pairs without its synthetic texts."""
    kept = pc.and_(pairs["kept"], pc.equal(pairs["source"], "web"))
    reason = pc.if_else(kept, pa.scalar(None, pa.string()), pc.coalesce(pairs["reason"], NOT_SELECTED))
    pairs = pairs.set_column(pairs.schema.get_field_index("kept"), "kept", kept)
    return pairs.set_column(pairs.schema.get_field_index("reason"), "reason", reason)


def _unfiltered(captions: pa.Table, pairs: Path) -> pa.Table:
    """Every text of the round, whatever its score, but those that were set aside when its pairs were made."""
    text = pc.utf8_trim_whitespace(pc.fill_null(captions["caption"], ""))
    is_empty = pc.if_else(pc.equal(pc.utf8_length(text), 0), "empty_text", pa.scalar(None, pa.string()))
    reason = pc.coalesce(reasons_of(as_in(pairs.parent), captions, pairs.name), is_empty.combine_chunks())
    kept = pc.is_null(reason)
    texts = captions.select(["key", "source", "candidate", "caption", "itm_score"])
    texts = texts.append_column("kept", kept).append_column("reason", reason)
    for column in PAIRS.schema:
        if column.name not in texts.column_names:  # no rule judged these texts
            texts = texts.append_column(column, pa.nulls(len(texts), column.type))
    return texts
