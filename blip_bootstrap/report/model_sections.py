"""The sections of a round's page about its model: held-out figures, training, time."""

from __future__ import annotations

from html import escape

from blip_bootstrap.html import charts
from blip_bootstrap.html.elements import charts_html, named, scroll
from blip_bootstrap.report.page_data import PageData
from blip_bootstrap.storage import run_folder

ARMS = {"": "this round", "human_only": "human set only", "filter_only": "filter only",
        "captioner_only": "captioner only", "paper_rule": "paper's rule (ITM .5)",
        "oracle": "oracle (true texts)"}  # fmt: skip

DOMAINS = {"in": "in-domain", "near": "near-domain", "out": "out-of-domain"}

HELD_OUT = {"cider": "CIDEr", "bleu4": "BLEU-4", "tr1": "TR@1", "ir1": "IR@1", "itm_auc": "ITM AUC"}

CURVES = (("loss", ("loss",)), ("ITC, ITM and LM loss", ("itc", "itm", "lm")), ("learning rate", ("lr",)))

TONES = ("web", "synthetic", "human", "kept")


def training(page: PageData) -> str:
    """Losses and learning rate of the round's pre-training, from the model's metrics.jsonl."""
    lines = run_folder.training_lines(run_folder.round_folder(page.root, page.number) / "model")
    if not lines:
        return ""
    drawn = []
    for title, names in CURVES:
        series = {n: [(line["step"], line[n]) for line in lines if line.get(n) is not None] for n in names}
        drawn.append(charts.lines(title, series, TONES))
    return charts_html(drawn)


def held_out(page: PageData) -> str:
    """The held-out figures of the model and its controls, over all pictures and by domain."""
    arms = [arm for arm in ARMS if any(page.figures.get(f"{_prefix(arm)}{name}") is not None for name in HELD_OUT)]
    names = [name for name in HELD_OUT if any(page.figures.get(f"{_prefix(arm)}{name}") is not None for arm in arms)]
    if not names:
        return ""
    columns = [(name, HELD_OUT[name]) for name in names]
    for name in ("cider", "tr1", "ir1"):
        columns += [
            (f"{name}_{domain}", f"{HELD_OUT[name]} {label}")
            for domain, label in DOMAINS.items()
            if page.figures.get(f"{name}_{domain}") is not None
        ]
    best = {key: max(_figure(page, arm, key) for arm in arms) for key, _ in columns}
    head = "".join(f'<th scope="col" class="num">{escape(ARMS[arm])}</th>' for arm in arms)
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(_cell(page, arm, key, best[key]) for arm in arms)}</tr>'
        for key, label in columns
    )
    table = f"<table>{named('held-out figures')}<thead><tr><td></td>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return scroll(table, "held-out figures") + _domain_bars(page)


def seconds(page: PageData) -> str:
    """The time that each step took."""
    rows = sorted(page.figures.get("seconds", {}).items(), key=lambda item: -item[1])
    return (
        charts.bars([(name, s, f"{s:,.1f} s", "other") for name, s in rows], "seconds of each step, longest first")
        if rows
        else ""
    )


def _domain_bars(page: PageData) -> str:
    drawn = []
    for name in ("cider", "tr1"):
        rows = [
            (label, value, _shown(name, value), "human")
            for domain, label in DOMAINS.items()
            if (value := page.figures.get(f"{name}_{domain}")) is not None
        ]
        drawn += [charts.bars(rows, f"{HELD_OUT[name]} of this round by domain")] if rows else []
    return charts_html(drawn)


def _prefix(arm: str) -> str:
    return f"{arm}_" if arm else ""


def _figure(page: PageData, arm: str, key: str) -> float:
    value = page.figures.get(f"{_prefix(arm)}{key}")
    return -1.0 if value is None else float(value)


def _cell(page: PageData, arm: str, key: str, best: float) -> str:
    value = _figure(page, arm, key)
    marked = " best" if value == best else ""
    return f'<td class="num{marked}">{"" if value < 0 else _shown(key, value)}</td>'


def _shown(key: str, value: float) -> str:
    """A figure as text: recall in percent."""
    return format(value, ".1%" if key.startswith(("tr1", "ir1")) else ".3f")
