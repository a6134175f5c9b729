"""The columns of a list that a user gives, and what is said of one that is missing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blip_bootstrap.errors import InputError

_ALIKE = {
    "url": ("url", "image_url", "img_url", "image_link", "link", "src", "uri"),
    "caption": ("text", "txt", "alt", "alt_text", "alttext", "caption", "captions", "title", "description"),
    "captions": ("captions", "caption", "sentences", "texts", "text"),
    "image": ("image", "file_name", "filename", "image_path", "filepath", "path", "file"),
}
"""Names that lists have for what we call url, caption, captions and image."""


@dataclass(frozen=True)
class Header:
    """The columns of a list: their names, repeated ones too, and in `kinds` what those hold that are not text."""

    path: Path
    names: Sequence[str]
    kinds: Mapping[str, str] = field(default_factory=dict)

    def require(self, wanted: Mapping[str, str]) -> None:
        """Raise InputError where a wanted column is missing or there twice; the message guesses the one that is meant.

        `wanted` maps the setting that names a column to the name; where no setting does, a name to itself.
        """
        missing = {setting: name for setting, name in wanted.items() if name not in self.names}
        if missing:
            likely = {setting: one for setting, name in missing.items() if (one := self._likely(name))}
            known = ", ".join(_shown(name) for name in self.names[:30]) or "none"
            more = f" and {len(self.names) - 30} more" if len(self.names) > 30 else ""
            to_set = ", ".join(f"{s}: {_shown(name)}" for s, name in likely.items() if s != wanted[s])
            what_to_do = f"Set {to_set}" if to_set else f"Name it {next(iter(likely), None)}"
            hint = f"; did you mean {_shown(next(iter(likely.values())))}? {what_to_do}" if likely else ""
            if any("://" in name for name in self.names):
                hint = "; the first line has to name the columns"
            raise InputError(
                f"{self.path}: no column {next(iter(missing.values()))!r}; its columns are: {known}{more}{hint}"
            )
        for name in wanted.values():
            if list(self.names).count(name) > 1:
                raise InputError(f"{self.path}: the column {name!r} is there twice; rename or leave out one of them")

    def require_text(self, setting: str, name: str, right: str) -> None:
        """Raise InputError where the column `name` holds no text; `right` says what to do about it."""
        if name in self.kinds:
            kind = self.kinds[name]
            raise InputError(f"{self.path}: {setting} {name!r} holds {kind}, texts were expected; {right}")

    def _likely(self, wanted: str) -> str | None:
        by_lower = {name.lower().strip(): name for name in reversed(self.names)}
        for name in (wanted.lower(), *_ALIKE.get(wanted, ())):
            if name in by_lower:
                return by_lower[name]
        close = difflib.get_close_matches(wanted.lower(), list(by_lower), n=1, cutoff=0.5)
        return by_lower[close[0]] if close else None


Check = Callable[[Header], Sequence[str]]


def _shown(name: str) -> str:
    """A column's name for a message: unprintable characters replaced, in quotes where YAML needs them."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in name[:60])
    return f'"{shown}"' if shown != shown.strip() else shown
