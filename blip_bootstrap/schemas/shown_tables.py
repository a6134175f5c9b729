"""Tables about a run that are no output of a step: answers, languages, views over figures and MANIFESTs, plans."""

from __future__ import annotations

import pyarrow as pa

from blip_bootstrap.schemas.schema import Column, Table
from blip_bootstrap.schemas.text_columns import SCORES

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

DOMAINS = Table(
    "domains",
    "one row per registered domain that pictures are from",
    (
        Column("place", pa.int64(), "1 for the domain with the most bytes"),
        Column("domain", pa.string(), "by the Public Suffix List; a host without one as it is; null: no URL"),
        Column("urls", pa.int64(), "rows of the lists"),
        Column("pictures", pa.int64(), "rows with a picture"),
        Column("size_bytes", pa.int64(), "bytes of these as they were fetched; null in runs of earlier versions"),
        Column("pictures_share", pa.float64(), "share of all pictures, 0..1"),
        Column("bytes_share", pa.float64(), "share of all bytes, 0..1"),
        Column("in_top_tenth", pa.bool_(), "whether it is among the tenth of all domains with the most bytes"),
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
        Column(
            "num_rows",
            pa.int64(),
            "number of rows of its Parquet files, not of those in folders",
        ),
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

RESULTS_FILE = "results.parquet"
"""Under the root of experiments."""

RESULTS = Table(
    "results",
    "one row per figure of an arm and seed, where the root is that of experiments",
    (
        Column("experiment", pa.string(), "the experiment's name"),
        Column("arm", pa.string(), "the arm"),
        Column("seed", pa.int64(), "the seed, by which the data are drawn and the models trained"),
        Column("round", pa.int16(), "the round whose model, or control, it is"),
        Column("split", pa.string(), "held_out or validation: the pictures that it was measured on"),
        Column("metric", pa.string(), "the figure, as metrics.json of a round and an evaluation name it"),
        Column("value", pa.float64(), "shares are 0..1, times are seconds"),
        Column("steps", pa.int64(), "optimizer steps of the model"),
        Column("pictures", pa.int64(), "pictures that it saw in training: steps times batch"),
        Column("seconds", pa.float64(), "what all took that the arm rests on, what it shares with others included"),
        Column("model", pa.string(), "digest of the model's files; a control's name behind that of its round's"),
    ),
)
