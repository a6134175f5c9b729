"""What the record of a picture says: its texts, URL, uid and key, and the rest; as rows of the table `brought`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blip_bootstrap.reading.known_names import (
    CAPTIONS_NAMES,
    DIGEST_NAME,
    UID_NAME,
    URL_NAMES,
    digest_of,
    extra_of,
    find_name,
    uid_of,
)
from blip_bootstrap.schemas.cells import NotTextError, text_of
from blip_pipelines.bring.origin import Origin

TEXT_OF_CAPTION = ("caption", "text", "raw")
"""Where a caption that is a mapping has its text: ours and COCO's, LAION's, Karpathy's."""

URLS = (*URL_NAMES, "coco_url", "flickr_url")

RESIZED = ("original_width", "original_height")
"""In img2dataset's records, and ours: a sha256 beside them is that of the bytes as fetched, not as resized."""

_URL = re.compile(r"\w+://\S+")

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A picture that was found: its key, what is said of it, and where it lies; `mistake`: why it has no picture.

    `texts` are those that stand beside it in files of their own.
    """

    key: str
    origin: Origin | None
    record: Mapping[str, Any]
    texts: Sequence[str] = ()
    mistake: str | None = None


def rows_of(found: Found, name: str, caption_column: str | None) -> Iterator[Row]:
    """The rows of a picture, one for each of its texts, the web's first; one without text where it has none.

    `name` is that of its entry and source, with which a picture without a URL gets one; that of a picture in a file of
    its own is the file's, whichever list names it. The first row has the uid that is given. Its URL makes the further
    rows those of the same picture.
    """
    record, mistake = found.record, found.mistake
    try:
        column = caption_column or _caption_column(record, bool(found.texts))
        texts = texts_of(record.get(column)) if column else []
    except NotTextError as error:
        column, texts, mistake = caption_column, [], f"{name}: {found.key}: {error} where a text was expected"
    texts = texts or [(text, {}) for text in found.texts] or [("", {})]
    texts.sort(key=lambda one: one[1].get("source", "web") != "web")
    uid_name, url_name = find_name([*record], [UID_NAME]), find_name([*record], URLS)
    uid, url = uid_of(record.get(uid_name or "")), _plain(str(record.get(url_name or "") or "")).strip()
    used = {column, *_same_texts(record, texts), "captions", "extra"}
    used |= {uid_name} if uid else set()
    used |= {url_name} if _URL.fullmatch(url) else set()
    for at, (text, fields) in enumerate(texts):
        about = (
            {**_carried(record), **{k: v for k, v in record.items() if k not in used}, **fields} if not at else fields
        )
        yield {
            "url": url if _URL.fullmatch(url) else _plain(_own_url(found, name)),
            "caption": text,
            "uid": None if at else uid,
            "source_key": _plain(found.key),
            "extra": extra_of(about, ()),
            "origin": _told(found).to_json() if found.origin else None,
            "mistake": mistake and _plain(mistake),
        }


def _plain(text: str) -> str:
    """A text that Arrow takes: file names of other encodings have bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _own_url(found: Found, name: str) -> str:
    if found.origin and found.origin.at is found.origin.row is None:
        return f"{found.origin.entry}/{found.origin.file}"
    return f"{name}/{found.key}"


def texts_of(cell: object) -> list[tuple[str, Mapping[str, Any]]]:
    """The texts in a cell, one or a list of them, with what is said of each; blank ones are left out.

    Raises NotTextError for what is neither a text nor a mapping with one.
    """
    found = list[tuple[str, Mapping[str, Any]]]()
    for one in cell if isinstance(cell, list | tuple) else [cell]:
        if isinstance(one, Mapping):
            name = next((name for name in TEXT_OF_CAPTION if name in one), None)
            fields = {key: value for key, value in one.items() if key != name}
            found.append((text_of(one.get(name)) if name else text_of(dict(one)), fields))
        else:
            found.append((text_of(one), {}))
    return [(text, fields) for text, fields in found if text.strip()]


def _caption_column(record: Mapping[str, Any], has_texts: bool) -> str | None:
    """Where the texts stand: a list of several before one; a title or description only where there is no text else."""
    names = [*record]
    lists = find_name(names, ("captions",))
    if lists and record[lists]:
        return lists
    known = CAPTIONS_NAMES[: -2 if has_texts else None]
    return next((one for one in (find_name(names, [name]) for name in known) if one and record[one]), None)


def _same_texts(record: Mapping[str, Any], texts: Sequence[tuple[str, Any]]) -> set[str]:
    """The columns that repeat one of the texts."""
    known = {text for text, _ in texts}
    return {name for name in ("caption", "text") if isinstance(record.get(name), str) and record[name] in known}


def _carried(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an export of ours carries of an earlier list in its own column `extra`."""
    try:
        found = json.loads(record.get("extra") or "{}") if isinstance(record.get("extra"), str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _told(found: Found) -> Origin:
    """The origin with the digest that the record gives."""
    assert found.origin is not None
    name = find_name([*found.record], [DIGEST_NAME])
    digest = digest_of(found.record.get(name)) if name else None
    if digest is None:
        return found.origin
    return replace(found.origin, sha256=digest, checked=not any(one in found.record for one in RESIZED))
