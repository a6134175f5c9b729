"""The pictures of a human set that a filter is trained on, with all their captions: what hard texts are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from blip_training.data.pixels import decode_pixels
from blip_training.data.word_kinds import WordKinds, words_of
from blip_training.feed.row_groups import row_groups_of
from blip_training.feed.shards import Shard

BATCH_SIZE = 64

KEPT_TEXTS = 1 << 16
"""A picture's captions are compared with hundreds of texts in turn."""


@dataclass(frozen=True)
class HumanPictures:
    """The pictures of some files of a human set; captions are held in memory, pictures are not."""

    shards: Sequence[Shard]

    @cached_property
    def captions(self) -> dict[int, list[str]]:
        """The captions of each picture, by image id."""
        found: dict[int, list[str]] = {}
        for shard in self.shards:
            for image_id, texts in shard.captions().items():
                found.setdefault(image_id, []).extend(texts)
        return found

    @cached_property
    def kinds(self) -> WordKinds:
        """The kinds of words of the captions."""
        return WordKinds(self.captions.values())

    @cached_property
    def said(self) -> Callable[[str], frozenset[str]]:
        """`said(text)`: the words of a text that say what is in a picture; those of the last texts are kept."""
        tells = self.kinds.tells
        return lru_cache(KEPT_TEXTS)(lambda text: frozenset(word for word in words_of(text) if tells(word)))

    def contradicts(self, text: str, image_id: int) -> bool:
        """Whether a text says something that no caption of the picture says, and each says another of its kind instead.

        Of a picture whose captions say "a red ball", "a blue ball" does and "a large ball" does not: it may be true.
        """
        said, of_captions = self.said(text), [self.said(caption) for caption in self.captions[image_id]]
        new = said.difference(*of_captions)
        instead = [{other for word in own - said for other in self.kinds.others(word)} for own in of_captions]
        return all(new & others for others in instead)

    def pixels(self, image_size: int, rank: int = 0, world: int = 1) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of image ids and uint8 pixels [B, 3, image_size, image_size]; every `world`-th picture from `rank`.

        Raises InputError where a picture cannot be decoded.
        """
        ids: list[int] = []
        rows: list[Tensor] = []
        for image_id, encoded, where in self._encoded(rank, world):
            ids.append(image_id)
            rows.append(decode_pixels(encoded, image_size, where))
            if len(rows) == BATCH_SIZE:
                yield ids, torch.stack(rows)
                ids, rows = [], []
        if rows:
            yield ids, torch.stack(rows)

    def _encoded(self, rank: int, world: int) -> Iterator[tuple[int, bytes, str]]:
        seen: set[int] = set()
        for group in (group for shard in self.shards for group in row_groups_of(shard)):
            for image_id, key, jpg in zip(group.ids, group.keys, group.pictures, strict=True):
                if image_id in seen:  # the same picture under another key
                    continue
                if len(seen) % world == rank:
                    yield image_id, bytes(jpg.as_py()), f"{group.shard.images}: key {key}"
                seen.add(image_id)
