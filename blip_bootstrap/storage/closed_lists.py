"""The closed lists of a run: statuses, classes of errors, sources, reasons and flags."""

from __future__ import annotations

STATUSES = ("success", "failed_to_download", "failed_to_resize", "rejected")
"""img2dataset's three, and `rejected`: the row was never fetched (blank or repeated)."""

ERROR_CLASSES = (
    "blank_url", "duplicate_row", "unsupported_scheme", "private_address", "dns", "proxy", "connection", "timeout",
    "http_4xx", "http_5xx", "too_many_redirects", "disallowed", "too_many_bytes", "not_an_image", "truncated_image",
    "too_many_pixels", "too_many_scans", "decode_timeout", "decoder_died", "too_small", "aspect_ratio", "too_large",
    "other",
)  # fmt: skip
"""Why a row of `images` has no picture; null where `status` is `success`."""

SOURCES = ("web", "synthetic", "human")
"""Where a caption comes from: the page's alt text, the captioner, a person."""

REASONS = (
    "not_listed", "duplicate_picture", "empty_text", "text_too_long", "not_scored", "below_threshold", "too_short",
    "too_long", "degenerate_text", "duplicate_text", "too_common", "not_selected",
)  # fmt: skip
"""Why a caption did not become a training pair; null where `kept`. The first that applies, in this order: a row that is
in no URL list any more, or whose picture another row has, is not judged at all, and the filter's verdict comes before
what else speaks against a text."""

NOT_LISTED, DUPLICATE_PICTURE = UNJUDGED = REASONS[:2]
"""Reasons of rows that rules do not see: their texts count neither for a cut nor for the noise ratio."""

FLAGS = ("empty", "repetition", "prompt_leak", "cut_at_max_length", "text_too_long")
"""What may be wrong with a synthetic caption. Web texts have the last one alone: it was cut when the list was read."""
