"""Converts samples of 16 bits, 32 bits and floating point to the eight bits that pictures have here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TOP_16_BITS, TOP_12_BITS = 65_535, 4_095

ROWS_AT_ONCE = 256
"""Rows that are converted at a time: in float64 they take eight times the memory of the picture."""


def to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Samples of any type as 0..255.

    16 bits are divided by 65,535, or by 4,095 where none is above it (12 bits of a camera or scanner). Whole numbers
    and fractions of 0..255 stay as they are; fractions of 0..1 are multiplied by 255; others are stretched from their
    least to their greatest. NaN and minus infinity are black, infinity is white.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _from_16_bits(values)
    low, high = _range(values)
    if low >= 0 and high <= 1 and values.dtype.kind == "f":
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    return _stretch(values, low, high)


def array_to_rgb(samples: NDArray[Any]) -> Image.Image:
    """RGB from samples [H, W] or [H, W, C] with OpenCV's channels (grey; BGR; BGR and alpha); transparency on white."""
    if samples.ndim == 2 or samples.shape[2] == 1:
        return Image.fromarray(to_8_bits(samples.reshape(samples.shape[:2]))).convert("RGB")
    rgb = Image.fromarray(np.ascontiguousarray(to_8_bits(samples[..., :3])[..., ::-1]))
    if samples.shape[2] == 3:
        return rgb
    rgb.putalpha(Image.fromarray(to_8_bits(np.ascontiguousarray(samples[..., 3]))))
    return on_white(rgb)


def on_white(image: Image.Image) -> Image.Image:
    """RGB from a picture with transparency, laid on white."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _from_16_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    top = TOP_12_BITS if int(values.max()) <= TOP_12_BITS else TOP_16_BITS
    shades: NDArray[np.uint8] = np.rint(np.arange(TOP_16_BITS + 1) * (255 / top)).clip(0, 255).astype(np.uint8)
    found: NDArray[np.uint8] = shades[values]
    return found


def _range(values: NDArray[Any]) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 0 if there is none."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    low, high = np.min(values, where=finite, initial=np.inf), np.max(values, where=finite, initial=-np.inf)
    return (float(low), float(high)) if low <= high else (0.0, 0.0)


def _stretch(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map values from low..high to 0..255."""
    shades = np.empty(values.shape, np.uint8)
    scale = 255 / (high - low) if high > low else 0.0
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = values[start : start + ROWS_AT_ONCE].astype(np.float64)
        rows = np.nan_to_num(rows, nan=low, neginf=low, posinf=high)
        shades[start : start + ROWS_AT_ONCE] = np.rint((rows - low) * scale).clip(0, 255)
    return shades
