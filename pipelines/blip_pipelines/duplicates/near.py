"""Hashes of 256 bits that differ in few bits, found by bands of 16 bits: the arithmetic, on arrays of numpy alone.

Two hashes that differ in up to 15 bits agree in at least one of 16 bands (pigeonhole), so that only hashes with an
equal band are compared. Of pairs at 31 bits nine in ten share a band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_WORDS, NUM_BANDS, BAND_BITS = 4, 16, 16

HASH_BYTES = 32

PAIRS_AT_ONCE = 1 << 20
"""Candidates that are compared at a time: some 60 MB."""

Words = NDArray[np.uint64]
"""Hashes [N, 4], each as four words of 64 bits."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Pairs of hashes by their places, `left[i]` and `right[i]`, with the number of bits in which they differ."""

    left: Numbers
    right: Numbers
    distance: NDArray[np.int16]


def to_words(hashes: list[bytes]) -> Words:
    """Hashes of 32 bytes each as words [N, 4]."""
    return np.frombuffer(b"".join(hashes), "<u8").reshape(-1, NUM_WORDS)


def band_of(words: Words, band: int) -> NDArray[np.uint16]:
    """The bits of one band of each hash, [N]."""
    word, shift = divmod(band, NUM_BANDS // NUM_WORDS)
    return (words[:, word] >> np.uint64(BAND_BITS * shift)).astype(np.uint16)


def distances(left: Words, right: Words) -> NDArray[np.int16]:
    """The number of bits in which the hashes [N, 4] differ, one by one."""
    found: NDArray[np.int16] = np.bitwise_count(left ^ right).sum(axis=1, dtype=np.int16)
    return found


def pairs_in_band(words: Words, band: int, radius: int) -> Iterator[Pairs]:
    """Pairs among the hashes within `radius` that agree in this band, and in none before it; left is less than right.

    So all bands together give each pair once.
    """
    values = band_of(words, band)
    order = np.argsort(values, kind="stable")
    ends = np.searchsorted(values[order], values[order], side="right")
    after = np.arange(1, len(order) + 1)
    for first, second in _spread(after, ends - after):
        left, right = order[first], order[second]
        yield from _within(words, words, left, right, band, radius)


def pairs_between(words: Words, others: Words, radius: int, flips: bool = True) -> Iterator[Pairs]:
    """Pairs of a hash of `words` and one of `others` within `radius`; some come several times.

    With `flips` the bands may differ in one bit too, which finds every pair up to 31 bits, for 17 times the work.
    """
    masks = [0, *(1 << bit for bit in range(BAND_BITS))] if flips and radius >= NUM_BANDS else [0]
    for band in range(NUM_BANDS):
        values, wanted = band_of(others, band), band_of(words, band)
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        for mask in masks:
            asked = wanted ^ np.uint16(mask)
            starts = np.searchsorted(ordered, asked, side="left")
            for left, second in _spread(starts, np.searchsorted(ordered, asked, side="right") - starts):
                yield from _within(words, others, left, order[second], 0, radius)


def _spread(starts: Numbers, counts: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Each place of `starts` beside each of the `counts` numbers from its start on, some million at a time."""
    ends = np.cumsum(counts)
    at = 0
    while at < len(counts):
        before = ends[at - 1] if at else 0
        upto = max(int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")), at + 1)
        some = counts[at:upto]
        if total := int(some.sum()):
            left = np.repeat(np.arange(at, upto), some)
            within = np.arange(total) - np.repeat(ends[at:upto] - some - before, some)
            yield left, starts[left] + within
        at = upto


def _within(words: Words, others: Words, left: Numbers, right: Numbers, band: int, radius: int) -> Iterator[Pairs]:
    """Those of the pairs that are within the radius and agree in no band before `band`."""
    start = (band // (NUM_BANDS // NUM_WORDS) + 1) % NUM_WORDS  # not the word of the band, of which 16 bits are equal
    differing = np.zeros(len(left), np.uint8)
    for word in (start, *(one for one in range(NUM_WORDS) if one != start)):
        differing = differing + np.bitwise_count(words[left, word] ^ others[right, word])
        near = differing <= radius
        left, right, differing = left[near], right[near], differing[near]
    fresh = np.ones(len(left), np.bool_)
    for before in range(band):
        fresh &= band_of(words[left], before) != band_of(others[right], before)
    if fresh.any():
        yield Pairs(left[fresh], right[fresh], differing[fresh].astype(np.int16))
