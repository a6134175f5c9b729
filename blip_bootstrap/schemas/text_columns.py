"""Columns of `captions` that are known of some texts alone: further scores, and what plugged-in models tell."""

from __future__ import annotations

import pyarrow as pa

from blip_bootstrap.schemas.schema import Column

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

WRITTEN = (
    Column("prompt", pa.string(), "name of the prompt of caption.writers that the text answers; null for others"),
    Column("prompt_digest", pa.string(), "16 hex digits of that prompt's text and sampler; null for others"),
    Column(
        "raw_caption", pa.string(), "the answer as the model gave it, where the cleaning rule changed it; else null"
    ),
    Column("cost_requests", pa.float32(), "requests that the text took; null where its captioner does not count them"),
    Column("cost_prompt_tokens", pa.float32(), "tokens that its captioner read for it; null where it does not count"),
    Column("cost_completion_tokens", pa.float32(), "tokens that its captioner wrote; null where it does not count"),
    Column("cost_seconds", pa.float32(), "seconds that the text took, its share of a batch's; null where not measured"),
)
"""What is known of texts by captioners that are plugged in (caption.writers); null for all others."""

JUDGED = (
    Column(
        "scores",
        pa.map_(pa.string(), pa.float64()),
        "scores by caption.judges, by name, as `scores['siglip2']`; null where no judge gave one",
    ),
    Column(
        "scores_lacking",
        pa.map_(pa.string(), pa.string()),
        "of caption.judges that gave the text no score: why, by the score's name, from a closed list; mostly null",
    ),
)
"""What judges that are plugged in (caption.judges) say of texts."""

SPARED = (
    Column(
        "spared",
        pa.int16(),
        "of a web text: how many texts of its picture were not drawn, since one passed before (caption.passes); null "
        "for others, and where all are drawn",
    ),
)
"""What captioning did without (caption.when, until_passes, escalate_to)."""
