"""The judges of `caption.judges` in a captioning worker: what they are asked, and what stands in the rows for it."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL.Image import Image

from blip_bootstrap.config import CaptionConfig, JudgeConfig
from blip_bootstrap.errors import BlipBootstrapError, RunFailed
from blip_bootstrap.schemas.closed_lists import NO_SCORES
from blip_pipelines.caption.ahead import one_ahead
from blip_pipelines.caption.answers import KeptAnswers, KeptScores, Told
from blip_pipelines.judges.interface import Pair, Scores
from blip_pipelines.judges.registry import make_judge, score_names, told_of
from blip_pipelines.scoring.picture import Picture
from blip_pipelines.scoring.rows import CaptionRow, Texts
from blip_training.data.decode import decode_image

HOPELESS = 64
"""So many pairs without one score, from the first on, end the run: the judge, the server or its key is wrong."""

OF_THE_PAIR = ("refused", "too_large", "out_of_memory", "over_budget")
"""Reasons that say something of a picture or the budget, and not that the judge does not work."""


Made = tuple[list[Picture], Texts, bool, KeptAnswers]
"""A batch of pictures, the rows of those that were decoded, whether it is its block's last, and what is kept beside."""


class Asked:
    """One judge of `caption.judges`, loaded when it is first asked."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self.judge = make_judge(config.kind, config.options)
        self.names = score_names(config, self.judge.names)
        self.is_waiting = False
        self.num_asked, self.seconds = 0, 0.0
        self._is_loaded = False
        self._at_once: int | None = None
        self._lacking: Counter[str] = Counter()
        self._scored = 0
        self._raised = ""

    def set_scores(
        self, rows: Sequence[CaptionRow], pairs: Sequence[Pair], device: str, dtype: str,
        kept: KeptScores | None = None,
    ) -> None:  # fmt: skip
        """Set the judge's scores of texts beside their pictures, and why those lack that do.

        A server is not asked for what it said before, and what it says now is `kept`.
        """
        known = {at: told for at, row in enumerate(rows) if (told := self._known(row, kept)) is not None}
        todo = [at for at in range(len(rows)) if at not in known]
        if todo and not self._is_loaded:
            self.judge.load(device, dtype)
            self._is_loaded = True
        new = dict(zip(todo, self._found([pairs[at] for at in todo]), strict=True))
        if kept and self._is_server:
            kept.add(self._to_keep([(rows[at], found) for at, found in new.items()]))
        for at, row in enumerate(rows):
            self._set(row, new[at] if at in new else known[at])
        if not self._scored and self._lacking.total() >= HOPELESS:
            why = ", ".join(f"{name} {count}" for name, count in self._lacking.most_common())
            raise RunFailed(
                f"{self._where}: it scored none of its first {self._lacking.total()} texts ({why}){self._raised}; what "
                "was made is kept, run again to go on"
            )

    @property
    def told(self) -> dict[str, object]:
        """What the metadata of captions says of it: two of which it is the same give the same scores."""
        return told_of(self.config, self.judge)

    @property
    def _is_server(self) -> bool:
        return self.judge.varies_with == "server"

    def _place(self, row: CaptionRow) -> str:
        return f"{self.config.name}/{row.source}/{row.candidate}"

    def _known(self, row: CaptionRow, kept: KeptScores | None) -> Mapping[str, float] | None:
        """What is kept of a text, where it is the same text."""
        text, told = kept.of(row.key).get(self._place(row), ("", None)) if kept else ("", None)
        return told if text == row.caption else None

    def _to_keep(self, new: Sequence[tuple[CaptionRow, Mapping[str, float | None]]]) -> dict[str, dict[str, Told]]:
        found: dict[str, dict[str, Told]] = {}
        for row, told in new:
            scores = {name: float(told[name] or 0) for name in self.names if told.get(name) is not None}
            if len(scores) == len(self.names):
                found.setdefault(row.key, {})[self._place(row)] = row.caption, scores
        return found

    @property
    def _where(self) -> str:
        return f"caption.judges: {self.config.name} ({self.config.kind})"

    def _found(self, pairs: Sequence[Pair]) -> list[Mapping[str, float | None]]:
        """As many scores; asked in halves where memory runs out or an error is raised, until a pair is alone."""
        size = min(self._at_once or len(pairs), len(pairs))
        found: list[Mapping[str, float | None]] = []
        while len(found) < len(pairs):
            some = pairs[len(found) : len(found) + size]
            try:
                self.is_waiting, started = self._is_server, time.perf_counter()
                found += self._checked(self.judge.score(some), len(some))
                self.num_asked, self.seconds = self.num_asked + len(some), self.seconds + time.perf_counter() - started
                size = min(self._at_once or len(pairs), len(pairs))
                continue
            except BlipBootstrapError:
                raise
            except (torch.OutOfMemoryError, MemoryError):
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self._at_once, reason = max(1, len(some) // 2), "out_of_memory"
            except Exception as error:  # noqa: BLE001 - a stranger's judge raises whatever a picture makes it raise
                self._raised = f", lastly {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                reason = "judge_failed"
            finally:
                self.is_waiting = False
            if len(some) == 1:
                found.append(Scores.failed(self.judge.names, reason))
            size = max(1, len(some) // 2)
        return found

    def _checked(self, found: Sequence[Mapping[str, float | None]], count: int) -> Sequence[Mapping[str, float | None]]:
        """Raises RunFailed where a judge breaks its contract."""
        if len(found) != count:
            raise RunFailed(f"{self._where} gave {len(found)} scores to {count} texts; its judge is wrong")
        for one in found:
            error = getattr(one, "error", None)
            if error is not None and error not in NO_SCORES:
                raise RunFailed(f"{self._where}: its error {error!r} is none of {', '.join(NO_SCORES)}")
        return found

    def _set(self, row: CaptionRow, found: Mapping[str, float | None]) -> None:
        for name, called in self.names.items():
            score = found.get(name)
            if score is not None and math.isfinite(score):
                row.scores = [*(row.scores or []), (called, float(score))]
                self._scored += 1
            else:
                reason = getattr(found, "error", None) or "not_judged"
                row.scores_lacking = [*(row.scores_lacking or []), (called, reason)]
        reason = getattr(found, "error", None) or "not_judged"
        if all(found.get(name) is None for name in self.names) and reason not in OF_THE_PAIR:
            self._lacking[reason] += 1


class Judges:
    """All judges of `caption.judges`, each loaded once; empty without any."""

    def __init__(self, config: CaptionConfig, device: str) -> None:
        self._device, self._dtype = device, config.dtype
        self.all = [Asked(one) for one in config.judges]

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def wait_elsewhere(self) -> bool:
        """Whether one of them waits for a server, so that the models here can work meanwhile."""
        return any(one.judge.varies_with == "server" for one in self.all)

    @property
    def are_waiting(self) -> bool:
        """Whether a server is being asked now, which has time-outs of its own."""
        return any(one.is_waiting for one in self.all)

    def are_asked_for(self, rules: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether one of these rules names a score of theirs."""
        known = {name for one in self.all for name in one.names.values()}
        return any(known & rule.keys() for rule in rules.values())

    def after(self, made: Iterator[Made]) -> Iterator[Made]:
        """Each batch once its texts are scored; a server is asked while the next one is made."""
        if not self.wait_elsewhere:
            for batch in made:
                self._score(batch)
                yield batch
            return
        with ThreadPoolExecutor(1, thread_name_prefix="judge") as pool:
            begun = ((pool.submit(self._score, one), one) for one in made)
            for waiting, one in one_ahead(begun):
                waiting.result()
                yield one

    def _score(self, batch: Made) -> None:
        pictures, rows, _, kept = batch
        self.score(rows, pictures, kept.scores)

    def score(self, rows: Texts, pictures: Sequence[Picture], kept: KeptScores | None = None) -> None:
        """Set `scores` of every text that is to be read, of rows of the pictures that were decoded.

        A picture is decoded once more, for all judges: what the models take is kept of it, and not itself. A text that
        has been scored is not scored again.
        """
        decoded = (one for one in pictures if one.decoded)
        every = [(row, one) for one, of_image in zip(decoded, rows, strict=True) for row in of_image if row.is_read]
        read = [(row, one) for row, one in every if row.scores is None and row.scores_lacking is None]
        if not read or not self.all:
            return
        images = {one: decode_image(one.jpg, one.key) for one in dict.fromkeys(one for _, one in read)}
        self.ask(self.all, [(row, images[one]) for row, one in read], kept)

    def ask(self, some: Sequence[Asked], texts: Sequence[tuple[CaptionRow, Image]], kept: KeptScores | None) -> None:
        """Set the scores that some of them give to texts beside their pictures."""
        pairs = [(image, row.caption) for row, image in texts]
        for one in some:
            one.set_scores([row for row, _ in texts], pairs, self._device, self._dtype, kept)

    def metadata(self) -> dict[str, str]:
        """What is the same for all scores in a file."""
        return {"judges": json.dumps([one.told for one in self.all], sort_keys=True)} if self.all else {}
