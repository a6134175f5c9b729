"""The section about a rule with scores of its own: what it weighs, how well it judges, and what it expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blip_bootstrap.html import charts
from blip_bootstrap.html.elements import charts_html, note_html, table_html
from blip_bootstrap.report.page_data import PageData
from blip_bootstrap.storage.run_folder import read_json, round_folder


def rule(page: PageData) -> str:
    """The rule of a round's pairs, for each source; an empty string where it has no scores of its own."""
    return rule_html(read_json(round_folder(page.root, page.number) / "pairs" / "rule.json") or {})


def rule_html(record: Mapping[str, Any]) -> str:
    """The section from a rule's record, as `select_pairs` writes it."""
    sources: Mapping[str, Mapping[str, Any]] = record.get("sources", {})
    if not sources:
        return ""
    notes = "".join(note_html(_note(source, one)) for source, one in sources.items())
    learned = {source: one for source, one in sources.items() if one["kind"] == "learned"}
    drawn = [_weights(source, one) for source, one in learned.items()]
    drawn += [_calibration(source, one) for source, one in learned.items()]
    return notes + charts_html(drawn) + _expected(record) + _labels(record)


def _note(source: str, one: Mapping[str, Any]) -> str:
    """What the rule of a source is, in a sentence."""
    if one["kind"] == "ranks":
        lacks = f"; no text has {', '.join(one['left_out'])}" if one["left_out"] else ""
        return (
            f"{source}: the mean of a text's ranks by {', '.join(one['scores'])}, without labels, uncalibrated{lacks}."
        )
    if one["kind"] == "sql":
        return f"{source}: {one['sql']}, the score of a text as it is."
    return (
        f"{source}: learned from {one['yes'] + one['no']} answers about {one['fitted_on']} texts ({one['yes']} yes, "
        f"{one['no']} no). AUC {one['auc']:.3f} ({one['auc_low']:.3f} to {one['auc_high']:.3f}), cross-validated; "
        f"penalty {one['penalty']:g}."
    )


def _weights(source: str, one: Mapping[str, Any]) -> str:
    """What a standard deviation of each feature adds to the log-odds."""
    rows = sorted(one["features"], key=lambda feature: -abs(feature["weight"]))
    tones = [(row["name"], abs(row["weight"]), f"{row['weight']:+.2f}", source) for row in rows]
    return charts.bars(tones, f"{source}: what a standard deviation adds to the log-odds that a text fits")


def _calibration(source: str, one: Mapping[str, Any]) -> str:
    """Answered beside predicted shares, each with its interval."""
    rows = [
        (f"predicted {part['predicted']:.2f}", part["share"], part["low"], part["high"], source)
        for part in one["calibration"]
    ]
    return charts.ranges(rows, f"{source}: share answered yes of texts with about this probability, out of fold")


def _expected(record: Mapping[str, Any]) -> str:
    """Cuts, and the noise and recall that are expected, in percent."""
    cuts, expected = record.get("cuts", {}), record.get("expected", {})
    rows = []
    for source, cut in cuts.items():
        found = expected.get(source, {})
        rows.append({"source": source, "cut": cut, **{name: _interval(found, name) for name in ("noise", "recall")}})
    return table_html(rows, "Cut, expected noise and recall")


def _interval(found: Mapping[str, float], name: str) -> str | None:
    if name not in found:
        return None
    return f"{found[name]:.1%} ({found[f'{name}_low']:.1%} to {found[f'{name}_high']:.1%})"


def _labels(record: Mapping[str, Any]) -> str:
    """The files of labels, with the numbers of answers that were used and left out."""
    rows = [
        {
            "labels": one["file"],
            "rounds": ", ".join(map(str, one["rounds"])),
            "captioners": ", ".join(one["captioners"]),
            "used": one["used"],
            "left out": one["left_out"],
            "sha256": one["digest"][:16],
        }
        for one in record.get("labels", [])
    ]
    return table_html(rows, "Labels of the rule")
