"""The tables of a run: every column with its type, its unit and what it means."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, and what a value means."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table's name, its columns in order, and what one row is."""

    name: str
    row: str
    columns: tuple[Column, ...]
    rows_per_group: int = 10_000
    repeating: tuple[str, ...] | None = None
    """Columns of few different values, which alone get a dictionary; None: all get one. One for columns of many
    different values would take a third of the time of writing."""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema with each column's meaning in its field metadata."""
        return pa.schema([pa.field(c.name, c.type, metadata={"meaning": c.meaning}) for c in self.columns])


STATUSES = ("success", "failed_to_download", "failed_to_resize", "rejected")
"""img2dataset's three, and `rejected`: the row was never fetched (blank or repeated)."""

DEATHS = ("crashed", "hung", "out_of_memory")
"""What a process can die of that works on a row alone; it is then the row's reason."""

ERROR_CLASSES = (
    "blank_url", "duplicate_row", "unsupported_scheme", "private_address", "dns", "proxy", "connection", "timeout",
    "http_4xx", "http_5xx", "too_many_redirects", "disallowed", "too_many_bytes", "not_an_image", "truncated_image",
    "too_many_pixels", "too_many_scans", "decode_timeout", "decoder_died", "too_small", "aspect_ratio", "too_large",
    *DEATHS, "other",
)  # fmt: skip
"""Why a row of `images` has no picture; null where `status` is `success`."""

SOURCES = ("web", "synthetic", "human")
"""Where a caption comes from: the page's alt text, the captioner, a person."""

REASONS = (
    "not_listed", "empty_text", "text_too_long", "not_scored", "below_threshold", "too_short", "too_long",
    "degenerate_text", "duplicate_text", "too_common", "not_selected",
)  # fmt: skip
"""Why a caption did not become a training pair; null where `kept`. The first that applies, in this order: a row that is
in no URL list any more is not judged at all, and the filter's verdict comes before what else speaks against a text."""

NOT_LISTED = REASONS[0]

FLAGS = ("empty", "repetition", "prompt_leak", "cut_at_max_length", "text_too_long", *DEATHS)
"""What may be wrong with a synthetic caption. Web texts have the last ones alone: it was cut when the list was read, or
whoever captioned its picture died of it."""

IMAGES = Table(
    "images",
    "one row per row of the URL lists, failed ones too; written once",
    (
        Column("key", pa.string(), "unique in the run: shard number (5 digits) and row in the shard (5 digits)"),
        Column("uid", pa.string(), "32 hex digits of the sha256 of URL and alt text: the same row in any run"),
        Column("dataset", pa.string(), "the URL list that the row came from"),
        Column("url", pa.string(), "as given in the list"),
        Column("caption", pa.string(), "the web text (alt text) as given; its beginning where cut_from_chars is set"),
        Column(
            "cut_from_chars",
            pa.int64(),
            "characters of a text over download.max_text_chars before the cut; null: not cut",
        ),
        Column("status", pa.string(), "success, failed_to_download, failed_to_resize or rejected"),
        Column("error_class", pa.string(), "closed list of reasons; null where status is success"),
        Column("error_message", pa.string(), "the fetcher's or decoder's own words; null where status is success"),
        Column("width", pa.int32(), "stored width, px"),
        Column("height", pa.int32(), "stored height, px"),
        Column("original_width", pa.int32(), "width before resizing, px"),
        Column("original_height", pa.int32(), "height before resizing, px"),
        Column("exif", pa.string(), "JSON of EXIF tags, or null"),
        Column("sha256", pa.string(), "hex digest of the bytes as fetched"),
        Column("jpg", pa.binary(), "encoded picture as stored (JPEG); null where status is not success"),
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
)

SCORES = (
    Column("logprob_per_token", pa.float32(), "logprob over the number of its tokens, nats; null where logprob is"),
    Column(
        "lift",
        pa.float32(),
        "logprob less the mean log-likelihood of the text on the reference pictures that are most like it, nats: what "
        "seeing the picture adds; null where caption.lift_references is 0",
    ),
    Column(
        "agreement",
        pa.float32(),
        "mean F1 of its words with those of the image's other synthetic texts, 0..1; null where there is none",
    ),
    Column(
        "captioner_itc",
        pa.float32(),
        "cosine of the captioner's own ITC embeddings, -1..1; null where its checkpoint has none",
    ),
    Column(
        "distinctness",
        pa.float32(),
        "share of the reference pictures that fit the text less well than its own picture by the filter's ITC, 0..1; "
        "null where caption.references is 0",
    ),
)
"""Scores of `captions` beside those of the filter, by which a text may be judged; null in captions made before them."""

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
            "web text by the round's own; summed, nats; null for web where caption.web_logprob is off",
        ),
        Column("num_tokens", pa.int16(), "number of word pieces of the text, with the prompt, without special tokens"),
        Column(
            "flags",
            pa.list_(pa.string()),
            "what may be wrong: empty, repetition, prompt_leak, cut_at_max_length; for web: text_too_long, or "
            "crashed, hung, out_of_memory: what a worker died of at the picture; mostly none",
        ),
        Column("seed", pa.int64(), "seed of this candidate's sampling; null for web"),
        Column("captioner", pa.string(), "the model that wrote the text, by name or end of its path; null for web"),
        Column("itm_scores", pa.list_(pa.float32()), "ITM score by each filter, where there are several; else null"),
        Column("itc_scores", pa.list_(pa.float32()), "ITC score by each filter, where there are several; else null"),
        Column("clip_score", pa.float32(), "cosine by caption.scorer, -1..1; null where none is set"),
        *SCORES,
    ),
    repeating=("source", "candidate", "num_tokens", "flags.list.element", "captioner"),
)

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
            "the score by which the rule judged the text where no single column of `captions` holds it, 0..1: the "
            "probability that it fits (learned), or its mean rank among the texts of its source; else null",
        ),
        Column(
            "informativeness",
            pa.float32(),
            "how well the text tells its picture from others, 0..1; null where the rule does not weigh it",
        ),
    ),
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
    "one row per picture that is in two sets at once, by the sha256 of its bytes",
    (
        Column("set", pa.string(), "web or human: the set of the picture that training would use"),
        Column("key", pa.string(), "its key there, as in `images` or `human`"),
        Column("same_as", pa.string(), "held_out or human: the other set that has the picture"),
        Column("same_key", pa.string(), "its key in the other set"),
        Column("left_out", pa.bool_(), "true: training leaves the picture out"),
    ),
    repeating=("set", "same_as", "left_out"),
)

LANGUAGES = Table(
    "languages",
    "one row per text whose language was identified, by `audit languages`",
    (
        Column("round", pa.int16(), "the round whose texts they are"),
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic"),
        Column("candidate", pa.int16(), "as in `captions`"),
        Column("caption", pa.string(), "the text whose language it is"),
        Column("language", pa.string(), "the most likely one, ISO 639 (two or three letters)"),
        Column(
            "confidence",
            pa.float32(),
            "probability of the language, 0..1; low for short texts and for names",
        ),
    ),
)

TABLES = {table.name: table for table in (IMAGES, ANNOTATED, CAPTIONS, PAIRS)}

LABELS = Table(
    "labels",
    "one row per text of a spot check; written by `audit sample`, answered by `audit label`",
    (
        Column("round", pa.int16(), "the round whose pairs were sampled"),
        Column("key", pa.string(), "the image, as in `images`"),
        Column("source", pa.string(), "web or synthetic; human: made by `audit calibrate`"),
        Column("candidate", pa.int16(), "as in `captions`"),
        Column("caption", pa.string(), "the text"),
        Column("itm_score", pa.float32(), "as in `captions`; null where it was not scored"),
        Column("kept", pa.bool_(), "whether it was a training pair of the round when sampled"),
        Column(
            "stratum_rows",
            pa.int64(),
            "texts of the round that are of its source and kept or dropped as it is",
        ),
        Column("answer", pa.string(), "does the text fit the picture: yes, no, unsure; null: not asked yet"),
        Column("captioner", pa.string(), "as in `captions`: who wrote the text; null for web"),
        Column("num_tokens", pa.int16(), "as in `captions`"),
        Column("itc_score", pa.float32(), "as in `captions`"),
        Column("logprob", pa.float32(), "as in `captions`"),
        Column("clip_score", pa.float32(), "as in `captions`"),
        *SCORES,
    ),
)

ROUND = Column("round", pa.int16(), "number of the round, from its folder's name")

LISTED = Column(
    "listed",
    pa.bool_(),
    "whether the row is in a URL list of the run; false: it was in one once. A row that was fetched again is here once",
)
"""A column of the view `images` that its files do not have."""

_SHARES = tuple(
    Column(f"{name}_{source}{end}", pa.float64(), f"{which}{meaning.format(source)}, 0..1")
    for name, meaning in (
        ("noise_ratio", "the share of the scored {} texts that the filter rejects"),
        ("dropped_share", "the share of all {} texts that were not kept, for whatever reason"),
    )
    for source in ("web", "synthetic")
    for end, which in (
        ("", ""),
        ("_low", "lower end of the 95 % interval of "),
        ("_high", "upper end of the 95 % interval of "),
    )
)

ROUNDS = Table(
    "rounds",
    "one row per round that has a metrics.json: its main figures, null where a round has none",
    (
        ROUND,
        Column("urls", pa.int64(), "rows of the URL lists"),
        Column("downloaded", pa.int64(), "rows with a picture"),
        Column("web_captions", pa.int64(), "web texts of downloaded pictures"),
        Column("synthetic_captions", pa.int64(), "texts that the captioner wrote"),
        Column("web_kept", pa.int64(), "web texts that became pairs"),
        Column("synthetic_kept", pa.int64(), "synthetic texts that became pairs"),
        *_SHARES,
        Column("caption_truth", pa.float64(), "share of true texts among the kept ones whose truth is known, 0..1"),
        Column("cider", pa.float64(), "CIDEr of the round's model on the held-out set"),
        Column("bleu4", pa.float64(), "BLEU-4 of the round's model on the held-out set, 0..1"),
        Column("tr1", pa.float64(), "image-to-text R@1 on the held-out set, 0..1"),
        Column("ir1", pa.float64(), "text-to-image R@1 on the held-out set, 0..1"),
        Column("itm_auc", pa.float64(), "area under the ROC curve of the ITM score on the held-out set, 0..1"),
        Column("human_only_cider", pa.float64(), "CIDEr of the control trained on the human set alone"),
        Column("human_only_tr1", pa.float64(), "image-to-text R@1 of that control, 0..1"),
        Column("filter_auc_web", pa.float64(), "area under the ROC curve of the ITM score against the truth, 0..1"),
        Column("out_of_date", pa.string(), "why the round does not fit what it was made from any more; null: it does"),
    ),
)

CUTS = Table(
    "cuts",
    "one row per round and source whose texts the rule cuts by a score",
    (
        ROUND,
        Column("source", pa.string(), "web or synthetic"),
        Column("score", pa.string(), "the score, as select.score names it; rule: the rule's own, as in `pairs`"),
        Column("cut", pa.float64(), "a text that scores less is rejected; null where the record has no cut"),
        Column(
            "auc",
            pa.float64(),
            "area under the ROC curve of a learned rule, cross-validated on its answers, 0..1; null for other rules",
        ),
        Column("auc_low", pa.float64(), "lower end of its 95 % interval"),
        Column("auc_high", pa.float64(), "upper end of its 95 % interval"),
    ),
)

METRICS = Table(
    "metrics",
    "one row per figure of a round's metrics.json",
    (
        ROUND,
        Column("name", pa.string(), "the figure, nested ones dotted: `cider`, `seconds.captions`"),
        Column("value", pa.float64(), "shares are 0..1, times are seconds"),
    ),
)

RUNS = Table(
    "runs",
    "one row per thing that a step has made: its MANIFEST",
    (
        Column("round", pa.int16(), "number of the round; null for images, human and held_out"),
        Column("name", pa.string(), "what was made: `images`, `round-01/captions`"),
        Column("step", pa.string(), "the function that made it"),
        Column("digest", pa.string(), "sha256 of the step's name, settings and inputs"),
        Column("content", pa.string(), "sha256 of what was made"),
        Column("made", pa.string(), "when it was finished: UTC, ISO 8601"),
        Column("seconds", pa.float64(), "how long it took, in its last run"),
        Column("version", pa.string(), "version of blip-bootstrap that made it"),
        Column("num_rows", pa.int64(), "number of rows of its Parquet files"),
        Column("size_bytes", pa.int64(), "size of all its files"),
        Column("counts", pa.string(), "JSON: what the step counted"),
        Column("settings", pa.string(), "JSON: its section of the configuration, resolved"),
        Column("inputs", pa.string(), "JSON: the digest of each input"),
    ),
)

PLAN = Table(
    "plan",
    "one row per step of a round over N images",
    (
        Column("step", pa.string(), "as in a round, in order; start is Ray's own"),
        Column("rows", pa.int64(), "rows that it writes"),
        Column("size_bytes", pa.int64(), "what it leaves on disk"),
        Column("seconds", pa.float64(), "from its start to its end"),
        Column("device_hours", pa.float64(), "hours times workers times devices of each worker"),
        Column("device", pa.string(), "the device of these hours: CPU or GPU"),
        Column("memory_bytes", pa.int64(), "memory of all its processes at their peak"),
        Column(
            "bound_by",
            pa.string(),
            "its bottleneck: network, CPU decode, CPU, model, disk, or start (its fixed part)",
        ),
    ),
)

_NAMES = ("key", "uid", "dataset", "url", "caption", "cut_from_chars", "status", "error_class", "error_message")

SHARD = Table(
    "shard",
    "one row of the URL lists before it is fetched; only a rejected row has a status",
    tuple(column for column in IMAGES.columns if column.name in _NAMES),
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
