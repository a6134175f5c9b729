"""What the sections of a page share: the round they are about, tables, rows of charts, whole documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from blip_bootstrap.query.formats import shown


def table_html(rows: Sequence[Mapping[str, Any]], label: str) -> str:
    """Rows of an audit as an HTML table that `label` names; empty for no rows."""
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
    """Charts side by side where the page is wide; empty where none has anything to show."""
    inside = "".join(drawn)
    return f'<div class="charts">{inside}</div>' if inside else ""


def named(label: str) -> str:
    """A table's caption for those who hear the page; to the eye the heading above says it."""
    return f'<caption class="heard">{escape(label)}</caption>'


def scroll(table: str, label: str) -> str:
    """A wide table that scrolls by itself, also by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def section(anchor: str, title: str, note: str, content: str) -> str:
    """A section of a page under its heading."""
    return (
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(title)}</h2>'
        f'<p class="note">{escape(note)}</p>{content}</section>'
    )


def document(title: str, lead: str, nav: Sequence[tuple[str, str]], body: str, footer: str) -> str:
    """A whole HTML document without any other file; `nav` holds (anchor, text), `body` is HTML, the rest plain text."""
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
