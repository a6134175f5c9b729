"""Elements of a page: tables, rows of charts, sections, whole documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from blip_bootstrap.query.formats import shown


def table_html(rows: Sequence[Mapping[str, Any]], label: str) -> str:
    """Rows of an audit as an HTML table called `label`; an empty string where there are no rows."""
    if not rows:
        return ""
    numeric = {k for k in rows[0] if all(isinstance(row[k], int | float) or row[k] is None for row in rows)}
    head = "".join(f'<th scope="col"{_num(k in numeric)}>{escape(k)}</th>' for k in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td{_num(k in numeric)}>{escape(shown(v))}</td>' for k, v in row.items())}</tr>"
        for row in rows
    )
    return scroll(f"<table>{named(label)}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", label)


def charts_html(drawn: Iterable[str]) -> str:
    """Charts side by side where the page is wide enough; an empty string where there are none."""
    inside = "".join(drawn)
    return f'<div class="charts">{inside}</div>' if inside else ""


def named(label: str) -> str:
    """A table's caption for screen readers; others read it in the heading above the table."""
    return f'<caption class="heard">{escape(label)}</caption>'


def scroll(table: str, label: str) -> str:
    """A frame in which a wide table can be scrolled, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def section(anchor: str, title: str, note: str, content: str) -> str:
    """A section of a page under its heading."""
    return (
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(title)}</h2>'
        f"{note_html(note)}{content}</section>"
    )


def details(title: str, content: str, is_open: bool = False) -> str:
    """Content under a title that shows and hides it."""
    return (
        f"<details{' open' if is_open else ''}><summary><strong>{escape(title)}</strong></summary>{content}</details>"
    )


def note_html(note: str) -> str:
    """A sentence about what follows; `names in backticks` are set as code."""
    marked = re.sub("`([^`]*)`", r"<code>\1</code>", escape(note))
    return f'<p class="note">{marked}</p>'


def document(title: str, lead: str, nav: Sequence[tuple[str, str]], body: str, footer: str) -> str:
    """A whole HTML document that needs no other file; `nav` holds (anchor, text), `body` is HTML."""
    return _asset("page.html").substitute(
        title=escape(title),
        lead=escape(lead),
        style=_asset("style.css").template,
        nav="".join(f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in nav),
        body=body,
        footer=escape(footer),
    )


def _asset(name: str) -> Template:
    return Template(files("blip_bootstrap.html").joinpath(name).read_text(encoding="utf-8"))


def _num(numeric: bool) -> str:
    return ' class="num"' if numeric else ""
