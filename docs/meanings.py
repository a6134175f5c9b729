"""What settings, values and tables mean where the code does not say so itself; read by generate.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blip_bootstrap.storage import labels, tables

MEANINGS = {
    "root": "the folder of the run: everything that it makes lies there",
    "human": "pictures with captions that people wrote; needed to fine-tune captioner and filter",
    "held_out": "pictures with captions that the figures of each round's model are measured on",
    "AnnotatedSet.path": "the list of pictures and captions",
    "AnnotatedSet.captions_column": "a list of texts, or one text",
    "AnnotatedSet.rows_per_shard": "pictures in each Parquet file",
    "CaptionConfig.prompt": "what every synthetic caption begins with; it is taken off again before the text is stored",
    "CaptionConfig.device": "auto: a GPU where there is one",
    "CaptionConfig.dtype": "number format of both models; auto: bfloat16 where the device is fast at it",
    "CaptionConfig.seed": "of the sampling; a caption depends on it, on the image and on the candidate's number alone",
    "ControlsConfig.arms": "which comparison models to train beside each round's model; each costs one pre-training",
    "DownloadConfig.urls": "the lists of URLs; see the section on one list below",
    "DownloadConfig.resize_mode": "as in img2dataset; keep_ratio: the short side becomes image_size; pictures are made "
    "smaller, never larger",
    "DownloadConfig.encode_quality": "of the stored JPEG",
    "DownloadConfig.timeout_s": "for one try of one URL, redirects and body included",
    "DownloadConfig.user_agent": "how servers see the fetcher",
    "DownloadConfig.rows_per_shard": "rows in each Parquet file",
    "EvaluateConfig.batch_size": "pictures or texts at a time",
    "EvaluateConfig.device": "auto: a GPU where there is one",
    "EvaluateConfig.dtype": "number format of the model; auto: bfloat16 where the device is fast at it",
    "EvaluateConfig.prompt": "what captions begin with",
    "EvaluateConfig.limit": "use only the first pictures of the held-out set",
    "EvaluateConfig.seed": "of the captions that are drawn",
    "FinetuneConfig.prompt": "what captions begin with, in training and afterwards",
    "FinetuneConfig.label_smoothing": "of the language-modelling loss",
    "FinetuneConfig.augment": "none; crop: random crop and flip; randaugment: two random operations more",
    "ItcConfig.momentum": "share of its old weights that the momentum encoder keeps at each step",
    "ItcConfig.queue_size": "embeddings of earlier batches that serve as further negatives; 0: none",
    "ItcConfig.temperature": "at the start; it is learned",
    "OptimizerConfig.steps": "optimizer steps of the whole training",
    "OptimizerConfig.lr": "learning rate after the warm-up",
    "OptimizerConfig.min_lr": "learning rate at the end",
    "OptimizerConfig.warmup_steps": "steps over which the learning rate rises from 0",
    "OptimizerConfig.schedule": "how the learning rate falls after the warm-up",
    "OptimizerConfig.weight_decay": "AdamW's",
    "OptimizerConfig.clip_norm": "gradients are scaled down to this norm; null: not",
    "OptimizerConfig.seed": "of fresh weights, of the order of the pairs, of dropout and of augmentation",
    "OptimizerConfig.device": "auto: a GPU where there is one",
    "OptimizerConfig.compile": "torch.compile the model",
    "OptimizerConfig.activation_checkpointing": "activations are computed again for gradients: less memory, more time",
    "OptimizerConfig.checkpoint_every_steps": "how often a training is saved; a killed one goes on from there",
    "OptimizerConfig.log_every_steps": "how often losses are written to metrics.jsonl",
    "PretrainConfig.label_smoothing": "of the language-modelling loss",
    "PretrainConfig.augment": "none; crop: random crop and flip; randaugment: two random operations more",
    "RayConfig.object_store_bytes": "shared memory of a local Ray",
    "ReportConfig.seed": "which pictures the galleries show",
    "SamplerConfig.preset": "nucleus: top-p .9; blip-official: what the released code does, top-k 50 and repetition "
    "penalty 1.1 beside it; beam: three beams; greedy: the likeliest token",
    "SamplerConfig.top_p": "draw among the likeliest tokens that together have this probability; 1: off",
    "SamplerConfig.temperature": "under 1: likelier tokens are drawn more often",
    "SamplerConfig.repetition_penalty": "over 1: tokens that the text has already become less likely; 1: off",
    "SamplerConfig.num_beams": "over 1: beam search",
    "SelectConfig.sources": "which texts may become pairs",
    "TextConfig.width": "of the hidden states",
    "TextConfig.depth": "layers",
    "TextConfig.heads": "attention heads of each layer",
    "TextConfig.intermediate": "width of the feed-forward layers",
    "TextConfig.max_positions": "the longest text that the model can have, in tokens",
    "TextConfig.dropout": "of the text layers in training",
    "UrlList.url_column": "the column with the URLs",
    "UrlList.caption_column": "the column with the alt texts",
    "VisionConfig.kind": "a ViT, or the grid of a pre-trained EfficientNet-Lite0 with a few ViT blocks over it",
    "VisionConfig.image_size": "side of the square picture that the model sees, px",
    "VisionConfig.patch_size": "side of a ViT's patch, px",
    "VisionConfig.width": "of the hidden states",
    "VisionConfig.depth": "blocks",
    "VisionConfig.heads": "attention heads of each block",
    "VisionConfig.drop_path": "share of residual branches left out in training (stochastic depth)",
    "VqaConfig.label_smoothing": "of the loss of the answers",
    "VqaConfig.augment": "none; crop: random crop and flip; randaugment: two random operations more",
}
"""Meanings of settings whose field has no description of its own; a description in the code goes first."""

OF_STATUSES = {
    "success": "the row has its picture",
    "failed_to_download": "no bytes came, or none that may be used",
    "failed_to_resize": "bytes came, but they are no usable picture",
    "rejected": "never fetched: blank, repeated, or a line that is no record",
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
    "disallowed": "the answer's `X-Robots-Tag` says `noai` or `noimageai`",
    "too_many_bytes": "the body is larger than `download.max_bytes`",
    "not_an_image": "the bytes are no picture of a format that is read",
    "truncated_image": "the picture ends too early",
    "too_many_pixels": "the picture is larger than `download.max_pixels`",
    "too_many_scans": "a progressive JPEG of more scans than any real picture has",
    "decode_timeout": "the picture took too long to decode",
    "decoder_died": "the process that decoded the picture died of it, mostly for want of memory",
    "too_small": "the short side is under `download.min_image_size`",
    "aspect_ratio": "long side over short side is more than `download.max_aspect_ratio`",
    "too_large": "the picture is larger than img2dataset's resizer takes",
    "other": "anything else; `error_message` says what",
}

OF_SOURCES = {
    "web": "the alt text of the URL list",
    "synthetic": "written by a captioner",
    "human": "written by a person",
}

OF_REASONS = {
    "empty_text": "there is no text",
    "text_too_long": "the alt text was longer than `download.max_text_chars` and was cut when the list was read",
    "not_scored": "it lacks the score that the rule cuts by",
    "below_threshold": "the filter rejects the text: its score is below the rule's cut",
    "too_short": "fewer words than `select.min_tokens`",
    "too_long": "more words than `select.max_tokens`",
    "degenerate_text": "a synthetic text with a flag, where `select.drop_flagged` is on",
    "duplicate_text": "the same image has this text already, letter case apart, and could keep it",
    "not_selected": "the strategy, the sources or the share of synthetic pairs leave it out",
}

OF_FLAGS = {
    "empty": "the captioner wrote nothing",
    "repetition": "words or phrases are repeated",
    "prompt_leak": "the prompt's words stand in the text again",
    "cut_at_max_length": "the text reached `max_tokens` before its end",
    "text_too_long": "a web text that was cut when the list was read",
}

OF_ANSWERS = {
    "yes": "the text fits the picture",
    "no": "it does not fit",
    "unsure": "counts as no answer",
}

CLOSED_LISTS: tuple[tuple[str, str, Sequence[str], Mapping[str, str]], ...] = (
    ("Statuses", "`status` of a picture's row.", tables.STATUSES, OF_STATUSES),
    ("Error classes", "`error_class`: why a row has no picture.", tables.ERROR_CLASSES, OF_ERROR_CLASSES),
    ("Sources", "`source`: where a text comes from.", tables.SOURCES, OF_SOURCES),
    (
        "Reasons",
        "`reason`: why a text is no training pair; the first that applies, in this order.",
        tables.REASONS,
        OF_REASONS,
    ),
    ("Flags", "`flags`: what may be wrong with a text.", tables.FLAGS, OF_FLAGS),
    ("Answers", "`answer` of a spot check: does the text fit the picture?", labels.ANSWERS, OF_ANSWERS),
)

PLACES = {
    "images": "`images/part-*.parquet`",
    "annotated": "`human/part-*.parquet` and `held_out/part-*.parquet`",
    "captions": "`round-NN/captions/part-*.parquet`",
    "pairs": "`round-NN/pairs/part-*.parquet`",
    "same_pictures": "`same_pictures/part-*.parquet`",
    "languages": "`languages/round-NN.parquet`",
    "labels": "`labels/round-NN.parquet`",
    "rounds": "the view `rounds`, made from each round's `metrics.json`",
    "metrics": "the view `metrics`, made from each round's `metrics.json`",
    "runs": "the view `runs`, made from every `MANIFEST.json`",
    "plan": "printed by `blip-bootstrap plan`",
    "shard": "`images/.lists/` while the download is at work",
}
"""Where each table is found; one that is not named here is said to be internal."""
