"""The models and tokenizers that a configuration names, looked at or opened before hours of work for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub.constants import is_offline_mode

from blip_bootstrap import __version__
from blip_bootstrap.config import Config, JudgeConfig, WriterConfig
from blip_bootstrap.errors import BlipBootstrapError
from blip_bootstrap.loop.commits import note_commits, recall_commits
from blip_bootstrap.progress import Say
from blip_bootstrap.storage.files import write_whole
from blip_training.evaluate.glance import looks_right
from blip_training.runtime.sources import is_here, resolve_source

Needs = Literal["decode", "write", "match", "score", "read", "tokenizer", "start"]
"""What a model is opened for; `read`: it is fetched, and opened by who asks it, with transformers' own classes."""

NEEDS_OF: Mapping[str, Needs] = {
    "blip": "write", "transformers": "read", "vllm": "read", "dual_encoder": "score", "vqa_score": "read",
    "blip_itm": "match", "blip_itc": "match",
}  # fmt: skip
"""What the checkpoint of each built-in kind of captioner and judge is needed for; packages look after theirs."""

STAMP = ".given.sha256"
"""Its file under the root says which models were found right; they are not opened again until a file changes."""


@dataclass(frozen=True)
class Given:
    """A folder, file or hub name in the configuration (at the setting `where`), and what the round needs it for."""

    where: str
    source: str
    needs: Needs
    revision: str | None = None


def given_models(config: Config, number: int) -> Iterator[Given]:
    """The models and tokenizers that round `number` will load."""
    if number > 0:
        caption = config.caption
        if config.needs_captioner:
            yield from _each("captioner.checkpoint", config.captioner.checkpoint, "decode")
        yield from _each("filter.checkpoint", config.filter.checkpoint, "match")
        for i, source in enumerate(caption.captioners):
            yield Given(f"caption.captioners.{i}", source, "decode")
        for i, source in enumerate(caption.filters):
            yield Given(f"caption.filters.{i}", source, "match")
        yield from _each("caption.scorer", caption.scorer, "score")
        yield from _plugged_in("caption.writers", caption.writers)
        yield from _plugged_in("caption.judges", caption.judges)
    if config.pretrain.optimizer.steps > 0:
        model = config.pretrain.model
        yield Given("pretrain.model.text.tokenizer", model.text.tokenizer, "tokenizer")
        yield from _each("pretrain.model.text.start", model.text.start, "start")
        yield from _each("pretrain.model.vision.start", model.vision.start, "start")


def _each(where: str, source: str | None, needs: Needs) -> Iterator[Given]:
    if source:
        yield Given(where, source, needs)


def _plugged_in(where: str, some: Sequence[WriterConfig | JudgeConfig]) -> Iterator[Given]:
    """The checkpoints that captioners and judges of built-in kinds load; what is wrong as an option is said by them."""
    for one in some:
        needs, source, revision = (NEEDS_OF.get(one.kind), one.options.get("checkpoint"), one.options.get("revision"))
        if needs and isinstance(source, str):
            with suppress(OSError, RuntimeError):  # `~` of nobody
                named = str(Path(source).expanduser()) if source.startswith("~") else source
                yield Given(f"{where}.{one.name}", named, needs, revision if isinstance(revision, str) else None)


def check_given(config: Config, number: int) -> list[str]:
    """What is wrong with the given models, one line for each mistake; models on the hub are fetched.

    Each is opened as its step will open it: are its weights whole and of the shapes that its configuration names, does
    its tokenizer fit, can it do what the step asks, and does the prompt leave room for a caption? Nothing is opened
    where the same files were found right before.
    """
    recall_commits(config.root)
    known = _read_stamp(config.root)
    found = list(given_models(config, number))
    with suppress(BlipBootstrapError):  # of one that is gone, which is then said by its setting
        if known and known == stamp_of(config, found):
            return []
    return _mistakes(config, found)


def seem_right(config: Config, number: int) -> bool:
    """Whether the given models are on this machine, and nothing is wrong that shows without opening them.

    Then the download may begin, and `check_given` opens them once the images are there: torch takes seconds to load.
    False, too, where prompts are not the usual ones, for which there must be room.
    """
    recall_commits(config.root)
    usual = Config()
    prompts = [(one.caption.prompt, one.caption.sampler, one.captioner.prompt, one.evaluate.prompt,
                one.evaluate.sampler) for one in (config, usual)]  # fmt: skip
    return prompts[0] == prompts[1] and all(map(_looks_right, given_models(config, number)))


def _looks_right(one: Given) -> bool:
    if one.needs == "read":  # of a hub name with a revision nothing is known without the hub's client
        return is_here(one.source) and (not one.revision or Path(one.source).exists())
    return looks_right(one.source, "decode" if one.needs == "write" else one.needs)


def look_into_given(config: Config, number: int, say: Say) -> list[str]:
    """What is wrong with the given models that are on this machine, one line for each mistake; nothing is fetched.

    `say` gets a line for each hub name that is not on this machine. One that could not be fetched either, since
    HF_HUB_OFFLINE is set, is a mistake.
    """
    here, mistakes = [], []
    for one in given_models(config, number):
        if is_here(one.source):
            here.append(one)
        elif is_offline_mode():
            mistakes.append(
                f"{one.where}: {one.source} is not on this machine, and HF_HUB_OFFLINE keeps it from the hub"
            )
        else:
            say(f"{one.where}: {one.source} is not on this machine; `run` will fetch it and look into it")
    return mistakes + _mistakes(config, here)


def _mistakes(config: Config, found: list[Given]) -> list[str]:
    from blip_training.evaluate.opening import Opened  # loads torch

    opened, mistakes = Opened(config), []
    for one in found:
        try:
            if one.needs == "read":
                resolve_source(one.source, one.revision)
            else:
                opened.open(one.source, one.needs)
        except BlipBootstrapError as error:
            mistakes.append(f"{one.where}: {' '.join(str(error).split())}")
    return mistakes + opened.prompt_mistakes()


def note_given(config: Config, number: int) -> None:
    """Remember under the root that `check_given` found nothing wrong, and the commits of what is of the hub."""
    note_commits(config.root)
    stamp = stamp_of(config, list(given_models(config, number)))
    if stamp != _read_stamp(config.root):
        write_whole(config.root / STAMP, stamp)


def _read_stamp(root: Path) -> str:
    try:
        return (root / STAMP).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def stamp_of(config: Config, found: list[Given]) -> str:
    """A digest of the settings that the check depends on, and of the files' sizes and dates."""
    settings = config.model_dump(
        mode="json", include={"caption", "captioner", "pretrain", "evaluate", "human", "held_out"}
    )
    files = [[one.where, one.source, one.needs, _files(resolve_source(one.source, one.revision))]
             for one in found]  # fmt: skip
    return hashlib.sha256(json.dumps([__version__, settings, files], sort_keys=True).encode()).hexdigest()


def _files(path: Path) -> list[list[object]]:
    beside = [*path.parent.glob("vocab.txt"), *path.parent.glob("*.json")]  # of a .pth or vocab.txt, its tokenizer
    files = [path, *sorted(beside)] if path.is_file() else sorted(path.rglob("*"))
    known = ((file, file.stat()) for file in files if file.is_file())
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in known]
