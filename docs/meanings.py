"""What the values of closed lists mean, and where tables are found; read by generate.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blip_bootstrap.schemas import closed_lists
from blip_bootstrap.storage import labels

OF_STATUSES = {
    "success": "the row has its picture",
    "failed_to_download": "no bytes came, or none that may be used",
    "failed_to_resize": "bytes came, but they are no usable picture",
    "rejected": "never fetched: blank, repeated, or a line that is no record",
    "withdrawn": "forgotten by `blip-bootstrap forget`, or listed again since: its key is all that is left",
}

OF_DEATHS = {
    "crashed": "the process that worked on this row alone was ended by a signal, twice, as by a fault in a library",
    "hung": "the process that worked on this row alone was not done after `ray.row_timeout_s`, twice",
    "out_of_memory": "the process that worked on this row alone took more memory than it may have, twice",
}

OF_ERROR_CLASSES = {
    "blank_url": "the row has no URL",
    "duplicate_row": "an earlier row has the same URL and the same text",
    "unsupported_scheme": "not an http or https URL",
    "private_address": "the host is a loopback, private or otherwise not public address",
    "dns": "the host's name has no address",
    "proxy": "the proxy of the environment does not answer, or refuses",
    "connection": "no connection, or it broke",
    "timeout": "no whole answer within `download.timeout_s`",
    "http_4xx": "the server says that there is no such page, or that it may not be had",
    "http_5xx": "the server failed",
    "too_many_redirects": "more than five redirects",
    "robots_txt": "the host's robots.txt disallows it, or could not be had for now (HTTP 5xx)",
    "disallowed": "the host forbids the use: `X-Robots-Tag`, `TDM-Reservation`, tdmrep.json or `Content-Usage`",
    "host_rests": "not asked: the host failed too often in a row, or asked to wait too long; `--retry` asks it",
    "too_many_bytes": "the body is larger than `download.max_bytes`",
    "wrong_digest": "the bytes are others than the list says by its sha256 or md5",
    "not_an_image": "the bytes are no picture of a format that is read",
    "truncated_image": "the picture ends too early",
    "too_many_pixels": "the picture is larger than `download.max_pixels`",
    "too_many_scans": "a progressive JPEG of more scans than any real picture has",
    "decode_timeout": "the picture took too long to decode",
    "decoder_died": "the process that decoded the picture died of it, mostly for want of memory",
    "too_small": "the short side is under `download.min_image_size`",
    "aspect_ratio": "long side over short side is more than `download.max_aspect_ratio`",
    "too_large": "the picture is larger than img2dataset's resizer takes",
    **OF_DEATHS,
    "other": "anything else; `error_message` says what",
}

OF_SOURCES = {
    "web": "the alt text of the URL list",
    "synthetic": "written by a captioner",
    "human": "written by a person",
}

OF_REASONS = {
    "not_listed": "its row is in no URL list of the run any more, or was fetched again with success twice",
    "duplicate_picture": "another picture of the run, an earlier one, is the same or nearly the same",
    "boilerplate": "text rule: what a template writes about any picture, as `click to enlarge`, and nothing else",
    "file_name": "text rule: the name of a file, an address, or a number",
    "text_length": "text rule: fewer words than text_rules.min_words, or more than text_rules.max_words",
    "repeated_words": "text rule: more of its words repeat earlier ones than text_rules.max_repeated_share",
    "language": "text rule: py3langid is sure of a language that is not in text_rules.languages",
    "contact_details": "text rule: it has an e-mail address or a phone number",
    "few_letters": "text rule: fewer of its characters are letters than text_rules.min_letters_share",
    "empty_text": "there is no text",
    "text_too_long": "the alt text was longer than `download.max_text_chars` and was cut when the list was read",
    "not_scored": "it lacks the score that the rule cuts by",
    "below_threshold": "the filter rejects the text: its score is below the rule's cut",
    "too_short": "fewer words than `select.min_tokens`",
    "too_long": "more words than `select.max_tokens`",
    "degenerate_text": "a synthetic text with a flag, where `select.drop_flagged` is on",
    "duplicate_text": "the same image has this text already, letter case apart, and could keep it",
    "too_common": "so many texts of its source say the same that `select.variety` leaves this one out",
    "not_selected": "the strategy, the sources or the share of synthetic pairs leave it out",
}

OF_NO_ANSWERS = {
    "rate_limited": "a captioner's server said that it is asked too often, as often as it was asked",
    "timeout": "it did not answer in time",
    "server_error": "it failed",
    "no_connection": "it was not reached",
    "bad_answer": "its answer could not be read, or had no text",
    "bad_request": "it said that the request is wrong: a prompt, a setting, or a picture that it cannot read",
    "refused": "it would not write about this picture",
    "too_large": "it takes no picture or prompt of this size",
    "over_budget": "the run's budget of requests or tokens was spent",
}

OF_FLAGS = {
    "empty": "the captioner wrote nothing",
    "repetition": "words or phrases are repeated",
    "prompt_leak": "the prompt's words stand in the text again",
    "cut_at_max_length": "the text reached `max_tokens` before its end",
    "text_too_long": "a web text that was cut when the list was read",
    **OF_DEATHS,
    **OF_NO_ANSWERS,
}

OF_ANSWERS = {
    "yes": "the text fits the picture",
    "no": "it does not fit",
    "unsure": "counts as no answer",
}

OF_NO_SCORES = {
    **OF_NO_ANSWERS,
    "out_of_memory": "there was no memory for the picture and text alone",
    "judge_failed": "the judge raised an error at the picture and text alone",
    "not_judged": "the judge gave no score, and no reason",
}

CLOSED_LISTS: tuple[tuple[str, str, Sequence[str], Mapping[str, str]], ...] = (
    ("Statuses", "`status` of a picture's row.", closed_lists.STATUSES, OF_STATUSES),
    ("Error classes", "`error_class`: why a row has no picture.", closed_lists.ERROR_CLASSES, OF_ERROR_CLASSES),
    ("Sources", "`source`: where a text comes from.", closed_lists.SOURCES, OF_SOURCES),
    (
        "Reasons",
        "`reason`: why a text is no training pair; the first that applies, in this order.",
        closed_lists.REASONS,
        OF_REASONS,
    ),
    ("Flags", "`flags`: what may be wrong with a text.", closed_lists.FLAGS, OF_FLAGS),
    ("Scores that lack", "`scores_lacking`: why a judge gave no score.", closed_lists.NO_SCORES, OF_NO_SCORES),
    ("Answers", "`answer` of a spot check: does the text fit the picture?", labels.ANSWERS, OF_ANSWERS),
)

PLACES = {
    "images": "`images/part-*.parquet`",
    "picture_groups": "`groups/part-*.parquet`",
    "picture_hashes": "`hashes/part-*.parquet`, and `human_hashes` and `held_out_hashes`, with `duplicates.near` alone",
    "annotated": "`human/part-*.parquet` and `held_out/part-*.parquet`",
    "captions": "`round-NN/captions/part-*.parquet`",
    "filter_check": "`round-NN/filter_check/part-*.parquet`",
    "pairs": "`round-NN/pairs/part-*.parquet`",
    "same_pictures": "`same_pictures/human.parquet` (the human set's) and `same_pictures/part-*.parquet` (the web's)",
    "languages": "`languages/round-NN.parquet`",
    "labels": "`labels/round-NN.parquet`",
    "cuts": "the view `cuts`, made from each round's manifest of `pairs`",
    "rounds": "the view `rounds`, made from each round's `metrics.json`",
    "metrics": "the view `metrics`, made from each round's `metrics.json`",
    "runs": "the view `runs`, made from every `MANIFEST.json`",
    "evaluated": "`captions.parquet` beside `metrics.json`, in the folders of an evaluation",
    "plan": "printed by `blip-bootstrap plan`",
    "shard": "`images/rows/part-*.parquet`, one file for each part, from which the part can be fetched again alone",
}
"""Where each table is found; one that is not named here is said to be internal."""
