"""The table that is printed at the end of a run: a column for each round, a row for each figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from blip_bootstrap.audit.shortfalls import shortfalls
from blip_bootstrap.query import json_tables
from blip_bootstrap.storage import run_folder
from blip_bootstrap.stores.store import shown

FIGURES = (
    ("URLs", "urls", ",d"), ("downloaded", "downloaded", ",d"), ("failed", "failed_by_reason", "counts"),
    ("web captions", "web_captions", ",d"), ("synthetic captions", "synthetic_captions", ",d"),
    ("captions spared", "cost_spared", ",d"),
    ("kept web", "web_kept", ",d"), ("kept synthetic", "synthetic_kept", ",d"),
    ("noise ratio web", "noise_ratio_web", ".1%"), ("noise ratio synthetic", "noise_ratio_synthetic", ".1%"),
    ("dropped web", "dropped_share_web", ".1%"), ("dropped synthetic", "dropped_share_synthetic", ".1%"),
    ("AUC of the rule's score, web", "rule_auc_web", ".3f"),
    ("AUC of the rule's score, synthetic", "rule_auc_synthetic", ".3f"),
    ("true of the kept", "caption_truth", ".1%"), ("CIDEr", "cider", ".3f"), ("BLEU-4", "bleu4", ".3f"),
    ("TR@1", "tr1", ".1%"), ("IR@1", "ir1", ".1%"), ("ITM AUC", "itm_auc", ".3f"),
    ("human only: CIDEr", "human_only_cider", ".3f"), ("human only: TR@1", "human_only_tr1", ".1%"),
    ("filter only: CIDEr", "filter_only_cider", ".3f"), ("filter only: TR@1", "filter_only_tr1", ".1%"),
    ("captioner only: CIDEr", "captioner_only_cider", ".3f"), ("captioner only: TR@1", "captioner_only_tr1", ".1%"),
    ("paper's rule: CIDEr", "paper_rule_cider", ".3f"), ("paper's rule: TR@1", "paper_rule_tr1", ".1%"),
    ("oracle: CIDEr", "oracle_cider", ".3f"), ("oracle: TR@1", "oracle_tr1", ".1%"),
    ("seconds", "seconds", "counts"),
)  # fmt: skip
"""Label, key in metrics.json and format: Python's, or `counts` for a line `name value` for each of several."""


def print_summary(root: Path) -> None:
    """Print the figures of each round of the run under `root` that has any, and the alarms about failed inputs."""
    read = {
        run_folder.round_folder(root, n).name: json_tables.read_figures(root, n) for n in run_folder.round_numbers(root)
    }
    rounds = {name: figures for name, figures in read.items() if figures is not None}
    table = Table(title=shown(str(root)), header_style="bold", title_justify="left")
    table.add_column("")
    old = run_folder.out_of_date(root)
    for name in rounds:
        table.add_column(f"{name}\nout of date" if run_folder.round_of(name) in old else name, justify="right")
    for label, key, form in FIGURES:
        cells = [_cell(metrics.get(key), form) for metrics in rounds.values()]
        if any(cells):
            table.add_row(label, *cells)
    Console().print(table)
    numbers = [run_folder.round_of(name) or 0 for name in rounds]
    lines = (f"alarm: {alarm}: {message}" for number in numbers for alarm, message in shortfalls(root, number))
    for line in dict.fromkeys(lines):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    if form == "counts":
        return "\n".join(f"{name} {_number(one)}" for name, one in value.items() if one)
    return format(value, form)


def _number(value: float) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
