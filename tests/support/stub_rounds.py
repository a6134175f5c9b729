"""Rounds of steps that copy texts: the loop's own bookkeeping in milliseconds, without models, Ray or a web."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.config import Config, load_config
from blip_bootstrap.loop import rounds

STEPS = (
    "download_images", "ingest_annotated", "find_same_pictures", "take_web_pairs", "finetune_captioner",
    "finetune_filter", "caption_and_score", "check_filter", "select_pairs", "pretrain", "evaluate",
)  # fmt: skip


class StubRounds:
    """Runs rounds under `folder/run` from a list and a human set; `made` and `pages` have what the last call made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.root = folder, folder / "run"
        self.made: list[str] = []
        self.said: list[str] = []
        self.pages: list[int] = []
        self.web_is_gone = False
        (folder / "web.tsv").write_text("url\tcaption\nu\tc\n")
        (folder / "human.jsonl").write_text("{}")
        for name in STEPS:
            monkeypatch.setattr(rounds, name, self._step(name))
        monkeypatch.setattr(rounds, "resolve_dtypes", lambda config, say: config)
        monkeypatch.setattr(rounds, "note_given", lambda config, number: None)
        monkeypatch.setattr(rounds, "check_given", lambda config, number: [])
        monkeypatch.setattr(rounds, "write_overview", lambda root, run: root / "report.html")
        monkeypatch.setattr(rounds, "_write_pages", self._page)

    def _page(self, config: Config, number: int, run: object, say: object) -> Path:
        self.pages.append(number)
        (config.root / f"round-{number:02d}" / "report.html").touch()
        (config.root / f"round-{number:02d}" / "metrics.json").write_text(json.dumps({"round": number}))
        return config.root / f"round-{number:02d}"

    def _step(self, name: str) -> Callable[..., dict[str, int]]:
        def step(out: Path, *inputs: Path | str | None, config: Any = None) -> dict[str, int]:
            self.made.append(name)
            failed = name == "download_images" and self.web_is_gone
            paths = [Path(one) for one in inputs if one]
            told = [(one / "text").read_text() if one.is_dir() else one.read_text() for one in paths if one.exists()]
            settings = getattr(config, "itm_threshold", "")
            (out / ".work").mkdir(exist_ok=True)
            (out / "text").write_text("".join(["<", name, str(settings), *told, ">"]))
            return {"rows": 1, "kept": 1, "failed_to_download" if failed else "success": 1}

        step.__name__ = name
        return step

    def config(self, *settings: str) -> Config:
        lists = [f"download.urls=[{{path: {self.folder / 'web.tsv'}}}]", f"human.path={self.folder / 'human.jsonl'}"]
        given = [*lists, "filter_check.pictures=0"]
        return load_config(None, [*given, *settings], root=self.root)

    def run(self, number: int, *settings: str, remake: tuple[int, ...] = (), retry: str | None = None) -> list[str]:
        """Run rounds; what was said. `made` has this call's steps."""
        self.made.clear()
        self.said.clear()
        self.pages.clear()
        rounds.run_rounds(self.config(*settings), number, self.said.append, remake, retry)
        return list(self.said)

    def text(self, place: str) -> str:
        return (self.root / place / "text").read_text()


def all_bytes(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of the artifacts with its time and bytes."""
    files = [one for one in (root / "artifacts").rglob("*") if one.is_file()]
    return {one.relative_to(root).as_posix(): (one.stat().st_mtime_ns, one.read_bytes()) for one in files}


def as_before(root: Path) -> None:
    """Put the run into the layout before: the artifacts themselves at the places, no record."""
    for link in [one for pattern in ("*", "round-*/*") for one in root.glob(pattern) if one.is_symlink()]:
        folder = link.resolve()
        link.unlink()
        folder.rename(link)
    for record in [root / "shared.json", *root.glob("round-*/round.json")]:
        record.unlink()
    for folder in sorted((root / "artifacts").glob("*")):
        folder.rmdir()
    (root / "artifacts").rmdir()


def current(said: list[str]) -> bool:
    """Whether a run has said of all that it is current."""
    return all(line.endswith(": current") for line in said if not line.startswith("overview"))
