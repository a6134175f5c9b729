"""What GPUs can do: products in bfloat16 a second, without sparsity, as their makers say."""

from __future__ import annotations

PEAKS = {
    "B200": 2250e12,
    "B100": 1750e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "MI325X": 1307e12,
    "MI300X": 1307e12,
    "MI250X": 192e12,  # each of its two halves is a device
}
"""Operations a second of dense products in bfloat16 with sums in float32, by what a device's name has in it."""


def peak_of(name: str) -> float | None:
    """The peak of the GPU of this name, as its driver gives it; None if it is not known.

    >>> peak_of("NVIDIA H100 80GB HBM3")
    989000000000000.0
    >>> peak_of("NVIDIA A10G") == peak_of("NVIDIA A10")
    False
    """
    words = name.replace("-", " ").upper().split()
    found = [kind for kind in PEAKS if _has(words, kind.upper().split())]
    return PEAKS[max(found, key=len)] if found else None


def _has(words: list[str], kind: list[str]) -> bool:
    """Whether all words of a kind are words of the name."""
    return all(one in words for one in kind)
