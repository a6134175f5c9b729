"""The closed lists of a run: statuses, classes of errors, sources, reasons and flags."""

from __future__ import annotations

WITHDRAWN = "withdrawn"

STATUSES = ("success", "failed_to_download", "failed_to_resize", "rejected", WITHDRAWN)
"""img2dataset's three, `rejected`: the row was never fetched (blank or repeated), and `withdrawn`: it is forgotten, and
its key is all that is left."""

DEATHS = ("crashed", "hung", "out_of_memory")
"""What a process can die of that works on a row alone; it is then the row's reason."""

ERROR_CLASSES = (
    "blank_url", "duplicate_row", "unsupported_scheme", "private_address", "dns", "proxy", "connection", "timeout",
    "http_4xx", "http_5xx", "too_many_redirects", "robots_txt", "disallowed", "host_rests", "too_many_bytes",
    "wrong_digest", "not_an_image", "truncated_image",
    "too_many_pixels", "too_many_scans", "decode_timeout", "decoder_died", "too_small", "aspect_ratio", "too_large",
    *DEATHS, "other",
)  # fmt: skip
"""Why a row of `images` has no picture; null where `status` is `success`."""

SOURCES = ("web", "synthetic", "human")
"""Where a caption comes from: the page's alt text, the captioner, a person."""

NOT_LISTED, DUPLICATE_PICTURE = "not_listed", "duplicate_picture"

TEXT_RULES = (
    "boilerplate", "file_name", "text_length", "repeated_words", "language", "contact_details", "few_letters",
)  # fmt: skip
"""The rules that can be run over web texts before any model; each is the reason of what it drops."""

SET_ASIDE = (NOT_LISTED, DUPLICATE_PICTURE, *TEXT_RULES)
"""Reasons of texts that the filter's rule does not see: they have no verdict, and count in no noise ratio."""

REASONS = (
    *SET_ASIDE, "empty_text", "text_too_long", "not_scored", "below_threshold", "too_short", "too_long",
    "degenerate_text", "duplicate_text", "too_common", "not_selected",
)  # fmt: skip
"""Why a caption did not become a training pair; null where `kept`. The first that applies, in this order: what is set
aside is not judged at all, and the filter's verdict comes before what else speaks against a text."""

NO_ANSWERS = (
    "rate_limited", "timeout", "server_error", "no_connection", "bad_answer", "bad_request", "refused", "too_large",
    "over_budget",
)  # fmt: skip
"""Why a captioner wrote no text: the server said that it is asked too often, did not answer in time, failed, or was not
reached; its answer could not be read, or it could not read the request; it would not write about this picture, or not
take it; the run's budget is spent.
"""

NO_SCORES = (*NO_ANSWERS, "out_of_memory", "judge_failed", "not_judged")
"""Why a judge gave no score of a text: a server's reasons; there was no memory for the picture alone; the judge raised
an error at it; or it gave none without a reason."""

FLAGS = ("empty", "repetition", "prompt_leak", "cut_at_max_length", "text_too_long", *DEATHS, *NO_ANSWERS)
"""What may be wrong with a synthetic caption. Web texts have the last ones alone: it was cut when the list was read, or
whoever captioned its picture died of it."""
