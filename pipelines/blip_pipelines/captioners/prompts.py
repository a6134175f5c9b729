"""Prompts: their names, digests and fields, and the seeds of what is asked by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from blip_bootstrap.config import PromptConfig, WriterConfig


@dataclass(frozen=True)
class Wanted:
    """One text that a writer is to write about every picture: by which prompt, and the how manieth by it."""

    prompt: str
    candidate: int
    config: PromptConfig
    digest: str

    def filled(self, alt_text: str) -> str:
        """The prompt about a picture with this web text."""
        return self.config.text.format(alt_text=alt_text)


def digest_of_prompt(prompt: PromptConfig) -> str:
    """16 hex digits of a prompt's text, its fields not filled in, and its sampler."""
    known: dict[str, Any] = {"text": prompt.text, "sampler": dict(prompt.sampler)}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def wanted_of(writer: WriterConfig) -> Iterator[Wanted]:
    """What a writer writes about every picture, prompt after prompt in the order of their names.

    By name, since recipes do not hold the order in which they were written down.
    """
    for name in sorted(writer.prompts):
        prompt = writer.prompts[name]
        digest = digest_of_prompt(prompt)
        yield from (Wanted(name, number, prompt, digest) for number in range(writer.candidates_of(name)))


def seed_of_ask(seed: int, uid: str, candidate: int, prompt: str) -> int:
    """The seed of one text, 63 bits: of the run's seed, the picture's uid, the candidate and the prompt's name alone.

    So the first K texts by a prompt are the same whether K or more are wanted.
    """
    digest = hashlib.blake2b(f"{seed}/{uid}/{candidate}/{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
