"""The tables that steps write: every column with its type, its unit and what it means."""

from __future__ import annotations

import pyarrow as pa

from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.schemas.text_columns import JUDGED, SCORES, SPARED, WRITTEN

ATTEMPT = pa.struct(
    [
        pa.field("time", pa.timestamp("ms")),
        pa.field("status", pa.string()),
        pa.field("error_class", pa.string()),
        pa.field("http_status", pa.int16()),
    ]
)
"""One try at a row: when it ended (UTC), how, and the status of the server's answer, null where there was none."""

IMAGES = Table(
    "images",
    "one row per row of the URL lists, failed ones too; one that was withdrawn has its key and status alone",
    (
        Column("key", pa.string(), "unique in the run: number of the part (5 digits or more) and row in it (5 digits)"),
        Column("uid", pa.string(), "32 hex digits of the sha256 of URL and alt text: the same row in any run"),
        Column("dataset", pa.string(), "the URL list that the row came from"),
        Column(
            "url",
            pa.string(),
            "as given in the list; of a picture that was there without one, a name made of dataset, file and key",
        ),
        Column("caption", pa.string(), "the web text (alt text) as given; its beginning where cut_from_chars is set"),
        Column(
            "cut_from_chars",
            pa.int64(),
            "characters of a text over download.max_text_chars before the cut; null: not cut",
        ),
        Column(
            "same_as",
            pa.string(),
            "key of an earlier row with the same URL, whose picture and status this row has; null: it was fetched",
        ),
        Column("status", pa.string(), "success, failed_to_download, failed_to_resize, rejected or withdrawn"),
        Column("error_class", pa.string(), "closed list of reasons; null where status is success"),
        Column("error_message", pa.string(), "the fetcher's or decoder's own words; null where status is success"),
        Column("width", pa.int32(), "stored width, px"),
        Column("height", pa.int32(), "stored height, px"),
        Column("original_width", pa.int32(), "width before resizing, px"),
        Column("original_height", pa.int32(), "height before resizing, px"),
        Column("exif", pa.string(), "JSON of EXIF tags, or null"),
        Column("sha256", pa.string(), "hex digest of the bytes as fetched"),
        Column("size_bytes", pa.int64(), "how many bytes were fetched; null in older files, and where nothing was"),
        Column(
            "attempts",
            pa.list_(ATTEMPT),
            "every try at the row, those of earlier runs first: time (UTC), status, error_class and http_status; null "
            "in older files and where nothing was tried",
            dated=True,
        ),
        Column(
            "robots_txt",
            pa.string(),
            "what the host's robots.txt says of the URL: allowed, disallowed, none (there is no such file) or "
            "unreachable; null where nobody asked",
        ),
        Column("x_robots_tag", pa.string(), "the answer's X-Robots-Tag headers; null where it had none"),
        Column(
            "tdm_reservation",
            pa.string(),
            "the reservation of text and data mining, with its source (header or tdmrep.json) and policy: 1 is "
            "reserved, 0 is not; null where there is none",
        ),
        Column(
            "content_usage",
            pa.string(),
            "what Content-Usage says of the URL, with its source (header or robots.txt); null where there is none",
        ),
        Column("said_at", pa.timestamp("ms"), "when the host said so last (UTC); null where nobody asked", dated=True),
        Column("jpg", pa.binary(), "encoded picture as stored (JPEG); null where status is not success"),
        Column(
            "source_key",
            pa.string(),
            "the key that a picture of download.pictures had where it was; null for one that was fetched",
        ),
        Column(
            "extra", pa.string(), "JSON object of what else the list or the picture's record said; null where nothing"
        ),
        Column(
            "origin",
            pa.string(),
            "JSON of where a picture of download.pictures lay: its file and the place in it; null for one that was "
            "fetched",
        ),
    ),
    rows_per_group=500,  # pictures are large, and captioning reads some hundred rows at a time
)

ANNOTATED = Table(
    "annotated",
    "one row per picture of a human-annotated set, unreadable ones too",
    (
        Column("key", pa.string(), "unique in the set"),
        Column("name", pa.string(), "file name or URL as given in the list"),
        Column("domain", pa.string(), "in, near or out, as in nocaps; null where the set has no domains"),
        Column("captions", pa.list_(pa.string()), "what people wrote about the picture"),
        Column("status", pa.string(), "success, failed_to_download or failed_to_resize"),
        Column("error_class", pa.string(), "closed list of reasons; null where status is success"),
        Column("error_message", pa.string(), "the decoder's own words; null where status is success"),
        Column("sha256", pa.string(), "hex digest of the file as read; null where status is not success"),
        Column("jpg", pa.binary(), "encoded picture; null where status is not success"),
    ),
    rows_per_group=500,  # as for `images`
)

CAPTIONS = Table(
    "captions",
    "one row per (image, text) of a round: web texts and every synthetic candidate, with their scores",
    (
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic"),
        Column(
            "candidate",
            pa.int16(),
            "0 for web; 0.. for the synthetic candidates, those of one captioner after the other",
        ),
        Column("caption", pa.string(), "the text, whitespace folded"),
        Column("itm_score", pa.float32(), "P(match) by the filter's ITM head, 0..1; null where the text is empty"),
        Column("itc_score", pa.float32(), "cosine of the filter's ITC embeddings, -1..1; null where the text is empty"),
        Column(
            "logprob",
            pa.float32(),
            "log-likelihood of the tokens after the prompt, and of the end, by the captioner that wrote the text, of a "
            "web text by the round's own; summed, nats; null for web where caption.web_logprob is off, and where a "
            "captioner does not tell it",
        ),
        Column("num_tokens", pa.int16(), "number of word pieces of the text, with the prompt, without special tokens"),
        Column(
            "flags",
            pa.list_(pa.string()),
            "what may be wrong: empty, repetition, prompt_leak, cut_at_max_length; for web: text_too_long, or "
            "crashed, hung, out_of_memory: what a worker died of at the picture; of caption.writers: why there is no "
            "text; mostly none",
        ),
        Column("seed", pa.int64(), "seed of this candidate's sampling; null for web"),
        Column("captioner", pa.string(), "the model that wrote the text, by name or end of its path; null for web"),
        Column("itm_scores", pa.list_(pa.float32()), "ITM score by each filter, where there are several; else null"),
        Column("itc_scores", pa.list_(pa.float32()), "ITC score by each filter, where there are several; else null"),
        Column("clip_score", pa.float32(), "cosine by caption.scorer, -1..1; null where none is set"),
        *SCORES,
        *WRITTEN,
        *JUDGED,
        *SPARED,
    ),
    repeating=(
        "source", "candidate", "num_tokens", "flags.list.element", "captioner", "prompt", "prompt_digest", "spared",
        "scores.key_value.key", "scores_lacking.key_value.key", "scores_lacking.key_value.value",
    ),
)  # fmt: skip

PAIRS = Table(
    "pairs",
    "one row per row of `captions` (round 0: per web text): what training uses, and why not the rest",
    (
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic"),
        Column("candidate", pa.int16(), "as in `captions`"),
        Column("caption", pa.string(), "the text"),
        Column("itm_score", pa.float32(), "as in `captions`; null in round 0"),
        Column("kept", pa.bool_(), "true: it is a training pair of this round"),
        Column("reason", pa.string(), "why it is no pair, from a closed list, the first that applies; null where kept"),
        Column(
            "rejected",
            pa.bool_(),
            "the filter's verdict, whether kept or not: true where the score is below the rule's cut; null where there "
            "is no score, or the reason is not_listed. The noise ratio is the share of true ones",
        ),
        Column(
            "rule_score",
            pa.float32(),
            "the score by which the rule judged the text where no single column of `captions` holds it: the "
            "probability that it fits (learned), or its mean rank among the texts of its source, both 0..1; the value "
            "of select.score_sql, or of a score of caption.judges; else null",
        ),
        Column(
            "informativeness",
            pa.float32(),
            "how well the text tells its picture from others, 0..1; null where the rule does not weigh it",
        ),
    ),
    rows_per_group=2_000,  # training reads the texts of one row group of `images` at a time
    repeating=("source", "candidate", "kept", "reason"),
)

FILTER_CHECK = Table(
    "filter_check",
    "one row per text of a picture with human captions, by which the round's scores are measured",
    (
        Column("key", pa.string(), "the picture, as in the set that it is from"),
        Column("name", pa.string(), "its file name in that set"),
        Column(
            "kind",
            pa.string(),
            "human: one of its human captions; other: a web text of another image, taken for wrong; synthetic: written "
            "by the round's captioner",
        ),
        Column(
            "fits",
            pa.bool_(),
            "whether it counts as right: human ones do, others do not, synthetic ones where they agree with the human "
            "captions of the picture as well as these with each other; null where that cannot be told",
        ),
        Column(
            "human_agreement",
            pa.float32(),
            "mean F1 of its words and pairs of words, by their rarity, with the picture's (other) human captions, "
            "0..1; null where there is none",
        ),
        *(column for column in CAPTIONS.columns if column.name != "key"),
    ),
    repeating=("kind", "source", "candidate", "num_tokens", "flags.list.element", "captioner"),
)

SAME_PICTURES = Table(
    "same_pictures",
    "one row per picture that is in two sets at once, by the sha256 of its bytes or by its looks",
    (
        Column("set", pa.string(), "web or human: the set of the picture that training would use"),
        Column("key", pa.string(), "its key there, as in `images` or `human`"),
        Column("same_as", pa.string(), "held_out or human: the other set that has the picture"),
        Column("same_key", pa.string(), "its key in the other set"),
        Column(
            "distance",
            pa.int16(),
            "bits of 256 in which the hashes of the two pictures differ; null where their bytes are the same",
        ),
        Column("left_out", pa.bool_(), "true: training leaves the picture out"),
    ),
    repeating=("set", "same_as", "left_out"),
)

PICTURE_GROUPS = Table(
    "picture_groups",
    "one row per row of `images`, in its order: which pictures are the same, or look alike",
    (
        Column("key", pa.string(), "the image, as in `images`"),
        Column(
            "exact_group",
            pa.string(),
            "key of the first row with the same bytes, or the same URL and text; its own where it is the first; null "
            "where there is no picture, its row is not listed any more, or duplicates.exact is off",
        ),
        Column(
            "near_group",
            pa.string(),
            "key of the first picture of those that look like it; its own where it is the first; null as above, or "
            "where duplicates.near is off",
        ),
        Column(
            "near_distance",
            pa.int16(),
            "bits of 256 in which its hash differs from that of the first of its near group, 0..31; null without one",
        ),
        Column(
            "duplicate_of",
            pa.string(),
            "key of the picture that is trained on in its place; null: it is trained on itself. A row that names its "
            "first in `images.same_as` is no duplicate of that",
        ),
    ),
)

PICTURE_HASHES = Table(
    "picture_hashes",
    "one row per row of a table of pictures, in its order: what its picture looks like",
    (
        Column("key", pa.string(), "the picture, as in that table"),
        Column("pdq", pa.binary(), "PDQ hash of the stored picture, 32 bytes; null where there is none"),
        Column("quality", pa.int16(), "PDQ's quality of the hash, 0..100: how much structure the picture has"),
    ),
)

TEXT_CHECKS = Table(
    "text_checks",
    "one row per row of `images`, in its order: what the text rules say about its web text",
    (
        Column("key", pa.string(), "the image, as in `images`"),
        Column("reason", pa.string(), "the first rule that speaks against the text; null where none does"),
        Column("language", pa.string(), "the most likely language, ISO 639; null where no rule asked for it"),
        Column("language_probability", pa.float32(), "how likely it is, 0..1; low for names and short texts"),
    ),
    repeating=("reason", "language"),
)

TABLES = {table.name: table for table in (IMAGES, ANNOTATED, CAPTIONS, PAIRS)}

_NAMES = (
    "key", "uid", "dataset", "url", "caption", "cut_from_chars", "same_as", "status", "error_class",
    "error_message", "attempts", "source_key", "extra", "origin",
)  # fmt: skip

SHARD = Table(
    "shard",
    "one row of the URL lists before it is fetched; only a rejected row has a status",
    tuple(column for column in IMAGES.columns if column.name in _NAMES),
    repeating=("dataset", "status", "error_class", "error_message"),
)

EVALUATED = Table(
    "evaluated",
    "one row per held-out picture: the caption that was written about it, beside those of people",
    (
        Column("key", pa.string(), "the picture, as in `held_out`"),
        Column("name", pa.string(), "its file name in the annotated set"),
        Column("domain", pa.string(), "its domain in the annotated set; null where that has none"),
        Column("caption", pa.string(), "what the model wrote"),
        Column("references", pa.list_(pa.string()), "what people wrote"),
        Column("cider", pa.float32(), "CIDEr of the caption against the references, 0..10"),
    ),
)
