"""Kinds of captioners or judges by name: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from blip_bootstrap.config import JudgeConfig, WriterConfig
from blip_bootstrap.errors import ConfigError, InputError
from blip_pipelines.captioners.interface import VARIES_WITH

Made = TypeVar("Made")

Given = TypeVar("Given", WriterConfig, JudgeConfig)


@dataclass(frozen=True)
class Kinds(Generic[Made]):
    """What is registered under one group of entry points, and what each class of it must have.

    `noun` names one of them in messages; `built_in` has their classes as `module:Class`.
    """

    noun: str
    group: str
    built_in: Mapping[str, str]
    needs: tuple[str, ...]

    def known(self) -> dict[str, str]:
        """Each kind with the class that it names, as `module:Class`."""
        return {one.name: one.value for one in entry_points(group=self.group)} | dict(self.built_in)

    def class_of(self, kind: str) -> Any:
        """The class of a kind. Raises ConfigError where nobody has registered it, or it cannot be imported."""
        known = self.known()
        if kind not in known:
            near = get_close_matches(kind, known, n=1)
            meant = f"did you mean {near[0]}?" if near else "install the package that brings it"
            there = ", ".join(sorted(known))
            raise ConfigError([f"kind: there is no {self.noun} {kind!r}; {meant} (there are {there})"])
        try:
            if kind in self.built_in:
                module, _, name = known[kind].partition(":")
                return getattr(import_module(module), name)
            return EntryPoint(kind, known[kind], self.group).load()
        except (ImportError, AttributeError) as error:
            raise ConfigError([f"kind: {kind} ({known[kind]}) cannot be imported: {error}"]) from error

    def make(self, kind: str, options: Mapping[str, Any]) -> Made:
        """One of this kind, not loaded. Raises ConfigError where there is none, or its options are wrong."""
        made = self.class_of(kind)(options)
        lacking = [name for name in self.needs if not hasattr(made, name)]
        if lacking:
            what = f"kind: {kind} ({self.known()[kind]}) is no {self.noun}"
            raise ConfigError([f"{what}: it has no {', '.join(lacking)}"])
        if made.varies_with not in VARIES_WITH:
            told = f"varies_with is one of {', '.join(VARIES_WITH)}, not {made.varies_with!r}"
            raise ConfigError([f"kind: {kind}: {told}"])
        found: Made = made
        return found

    def with_account(self, given: Given, folder: Path) -> Given:
        """What is given, with a folder for the account of what it asks, where its class keeps one (`with_account`)."""
        place = getattr(self.class_of(given.kind), "with_account", None)
        return given.model_copy(update={"options": place(given.options, folder)}) if place else given

    def digest(self, given: Sequence[WriterConfig | JudgeConfig]) -> str:
        """What all of these are, as one digest; of one that is wrong, its options as they are."""
        return hashlib.sha256(json.dumps([self._digest_of(one) for one in given]).encode()).hexdigest()

    def _digest_of(self, given: WriterConfig | JudgeConfig) -> str:
        try:
            made: Any = self.make(given.kind, given.options)
            digest: str = made.digest
        except InputError:  # said by who begins to work with it
            return json.dumps(dict(given.options), sort_keys=True)
        return digest
