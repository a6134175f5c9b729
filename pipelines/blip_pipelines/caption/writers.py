"""The captioners of `caption.writers` in a captioning worker: what they are asked, and the rows of what they answer."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from blip_bootstrap.config import CaptionConfig, WriterConfig
from blip_bootstrap.errors import RunFailed
from blip_bootstrap.schemas.closed_lists import DEATHS, FLAGS, NO_ANSWERS
from blip_pipelines.caption.answers import KeptAnswers, OfPicture, name_of
from blip_pipelines.captioners.clean import VERSION, cleaned
from blip_pipelines.captioners.interface import Answer, Ask
from blip_pipelines.captioners.prompts import Wanted, digest_of_prompt, seed_of_ask, wanted_of
from blip_pipelines.captioners.registry import made_by
from blip_pipelines.scoring.picture import Picture
from blip_pipelines.scoring.rows import CaptionRow
from blip_training.data.decode import decode_image

ERRORS = (*NO_ANSWERS, *DEATHS)

COSTS = ("requests", "prompt_tokens", "completion_tokens", "seconds")

HOPELESS = 64
"""So many asks in a row without one answer, from the first on, end the run: the server or its key is wrong."""

PASSING = ("refused", "too_large", "over_budget", "out_of_memory")
"""Reasons that say something of the picture or the budget, and not that nobody is there."""


class Writer:
    """One captioner of `caption.writers`, loaded when it is first asked. `first` is the number of its first text."""

    def __init__(self, config: WriterConfig, first: int, seed: int) -> None:
        self.config, self.first, self.seed = config, first, seed
        self.captioner = made_by(config)
        self.wanted = list(wanted_of(config))
        self.is_waiting = False
        self.num_asked, self.seconds = 0, 0.0
        self._is_loaded = False
        self._at_once: int | None = None
        self._failed: Counter[str] = Counter()
        self._answered = 0

    def answer(
        self, pictures: Sequence[Picture], kept: KeptAnswers, device: str, dtype: str, texts: range | None = None
    ) -> dict[str, OfPicture]:
        """What the writer answers about pictures of which it has not been kept already, by key.

        `texts` are places among what is wanted of each picture; None: all.
        """
        some = [self.wanted[place] for place in self._places(texts)]
        todo = [(picture, wanted) for picture in pictures for wanted in some if self._lacks(picture, wanted, kept)]
        if not todo:
            return {}
        if not self._is_loaded:
            self.captioner.load(device, dtype)
            self._is_loaded = True
        images = {picture.key: decode_image(picture.jpg, picture.key) for picture, _ in todo}
        asks = [self._ask(picture, wanted, images) for picture, wanted in todo]
        found: dict[str, OfPicture] = {}
        for (picture, wanted), answer in zip(todo, self._answers(asks), strict=True):
            name = self._name(wanted)
            before = kept.of(picture.key).get(name)
            found.setdefault(picture.key, {})[name] = _with_cost_of(before, answer) if before else answer
        self._note([one for answers in found.values() for one in answers.values()])
        return found

    def rows(self, picture: Picture, kept: KeptAnswers, texts: range | None = None) -> Iterator[CaptionRow]:
        """The rows of what was answered about a picture, in the order of their numbers."""
        answers = kept.of(picture.key)
        for place in self._places(texts):
            wanted = self.wanted[place]
            answer = answers[self._name(wanted)]
            text = cleaned(answer.text, self.config.clean)
            row = CaptionRow(picture.key, "synthetic", self.first + place, text, num_tokens=0)
            row.captioner, row.prompt, row.prompt_digest = self.config.name, wanted.prompt, wanted.digest
            row.seed = self._seed(picture, wanted)
            row.raw_caption = answer.text if answer.text != text else None
            row.flags = [answer.error] if answer.error else [*answer.flags]
            if not text and not answer.error and "empty" not in row.flags:
                row.flags.append("empty")
            row.logprob = answer.logprob
            if answer.logprob is not None and answer.num_tokens:
                row.logprob_per_token = answer.logprob / answer.num_tokens
            for name in COSTS:
                setattr(row, f"cost_{name}", answer.cost.get(name))
            if row.cost_completion_tokens is None and answer.num_tokens is not None:
                row.cost_completion_tokens = answer.num_tokens
            yield row

    def has_some(self, picture: Picture, kept: KeptAnswers, texts: range) -> bool:
        """Whether one of these texts about a picture was answered before."""
        return any(self._name(self.wanted[place]) in kept.of(picture.key) for place in texts)

    def _places(self, texts: range | None) -> range:
        return range(len(self.wanted)) if texts is None else texts

    def _name(self, wanted: Wanted) -> str:
        return name_of(self.config.name, wanted.prompt, wanted.candidate)

    def _lacks(self, picture: Picture, wanted: Wanted, kept: KeptAnswers) -> bool:
        known = kept.of(picture.key).get(self._name(wanted))
        return known is None or known.error is not None

    def _seed(self, picture: Picture, wanted: Wanted) -> int:
        return seed_of_ask(self.seed, picture.uid, wanted.candidate, wanted.prompt)

    def _ask(self, picture: Picture, wanted: Wanted, images: Mapping[str, object]) -> Ask:
        prompt = wanted.filled(picture.texts[0] if picture.texts else "")
        return Ask(images[picture.key], picture.jpg, prompt, self._seed(picture, wanted), wanted.config.sampler)  # type: ignore[arg-type]

    def _answers(self, asks: Sequence[Ask]) -> list[Answer]:
        """As many answers; asked in halves where memory runs out, and so from then on."""
        size = min(self._at_once or len(asks), len(asks))
        found: list[Answer] = []
        while len(found) < len(asks):
            some = asks[len(found) : len(found) + size]
            try:
                self.is_waiting, started = self.captioner.varies_with == "server", time.perf_counter()
                found += self._checked(self.captioner.caption(some), some)
                self.num_asked, self.seconds = self.num_asked + len(some), self.seconds + time.perf_counter() - started
            except (torch.OutOfMemoryError, MemoryError):
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if len(some) == 1:
                    found.append(Answer.failed("out_of_memory"))
                self._at_once = size = max(1, len(some) // 2)
            finally:
                self.is_waiting = False
        return found

    def _checked(self, answers: Sequence[Answer], asks: Sequence[Ask]) -> Sequence[Answer]:
        """Raises RunFailed where a captioner breaks its contract."""
        where = f"caption.writers: {self.config.name} ({self.config.kind})"
        if len(answers) != len(asks):
            raise RunFailed(f"{where} gave {len(answers)} answers to {len(asks)} asks; its captioner is wrong")
        for answer in answers:
            if answer.error is not None and answer.error not in ERRORS:
                raise RunFailed(f"{where}: its error {answer.error!r} is none of {', '.join(ERRORS)}")
            if unknown := [flag for flag in answer.flags if flag not in FLAGS]:
                raise RunFailed(f"{where}: its flag {unknown[0]!r} is none of {', '.join(FLAGS)}")
        return answers

    def _note(self, answers: Sequence[Answer]) -> None:
        """Count what was answered. Raises RunFailed where nothing was, from the first ask on."""
        self._answered += sum(one.error is None for one in answers)
        self._failed.update(one.error for one in answers if one.error and one.error not in PASSING)
        if not self._answered and self._failed.total() >= HOPELESS:
            why = ", ".join(f"{name} {count}" for name, count in self._failed.most_common())
            raise RunFailed(
                f"caption.writers: {self.config.name} ({self.config.kind}): none of its first {self._failed.total()} "
                f"asks was answered ({why}); what was made is kept, run again to go on"
            )


class Writers:
    """All captioners of `caption.writers`, each loaded once; empty without any."""

    def __init__(self, config: CaptionConfig, num_before: int, device: str) -> None:
        self._device, self._dtype = device, config.dtype
        self.all: list[Writer] = []
        for one in config.writers:
            writer = Writer(one, num_before, config.seed)
            self.all.append(writer)
            num_before += len(writer.wanted)

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def wait_elsewhere(self) -> bool:
        """Whether one of them waits for a server, so that the models here can work meanwhile."""
        return any(one.captioner.varies_with == "server" for one in self.all)

    @property
    def are_waiting(self) -> bool:
        """Whether a server is being asked now, which has time-outs of its own."""
        return any(one.is_waiting for one in self.all)

    def write(self, pictures: Sequence[Picture], kept: KeptAnswers) -> None:
        """Have each picture that could be decoded, and is no copy, described; its rows are in `written`."""
        own = [picture for picture in pictures if picture.decoded and not picture.first]
        for writer in self.all:
            kept.add(writer.answer(own, kept, self._device, self._dtype))
        for picture in own:
            picture.written = [row for writer in self.all for row in writer.rows(picture, kept)]

    def write_some(self, writer: Writer, texts: range, pictures: Sequence[Picture], kept: KeptAnswers) -> None:
        """Have one of them write some of its texts about these pictures; the rows are in `written`, and no others."""
        kept.add(writer.answer(pictures, kept, self._device, self._dtype, texts))
        for picture in pictures:
            picture.written = [*writer.rows(picture, kept, texts)]

    def metadata(self) -> dict[str, str]:
        """What is the same for all of their rows in a file."""
        return {"writers": json.dumps([_told(one) for one in self.all], sort_keys=True)} if self.all else {}


def _told(writer: Writer) -> dict[str, object]:
    config = writer.config
    prompts = {name: {"text": one.text, "sampler": dict(one.sampler), "digest": digest_of_prompt(one),
                      "candidates": config.candidates_of(name)} for name, one in config.prompts.items()}  # fmt: skip
    rule = f"default, version {VERSION}" if config.clean == "default" else config.clean
    return {
        "name": config.name, "kind": config.kind, "digest": writer.captioner.digest,
        "varies_with": writer.captioner.varies_with, "prompts": prompts, "clean": rule,
    }  # fmt: skip


def _with_cost_of(before: Answer, answer: Answer) -> Answer:
    """An answer whose cost has that of the tries before it, too."""
    both = Counter(dict(before.cost)) + Counter(dict(answer.cost))
    return replace(answer, cost={name: float(value) for name, value in both.items()})
