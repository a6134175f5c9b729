"""What is the same for every row of a file of captions, and stands in its metadata."""

from __future__ import annotations

import json

from blip_bootstrap import __version__
from blip_bootstrap.config import CaptionConfig
from blip_pipelines.scoring.models import Models
from blip_pipelines.scoring.sources import Source, captioner_sources, digest_of_model
from blip_training.decoding.sampler import Sampler


def metadata_of(
    config: CaptionConfig, sampler: Sampler, models: Models, captioner: Source | None, filter: Source
) -> dict[str, str]:
    """The models by their digests and the settings by which they wrote and scored."""
    known = {
        **({"captioner": digest_of_model(captioner)} if captioner else {}),
        "filter": digest_of_model(filter),
        "sampler": json.dumps(vars(sampler), sort_keys=True),
        "prompt": config.prompt,
        "candidates": str(config.candidates),
        "seed": str(config.seed),
        "references": str(config.references),
        "lift_references": str(config.lift_references),
        "dtype": config.dtype,
        "version": __version__,
    }
    if config.compile:
        known["compile"] = "vision blocks"
    if any(filter.med.config.text.normalise == "blip" for filter in models.filters):
        known["normalise"] = ", ".join(filter.med.config.text.normalise for filter in models.filters)
    if config.captioners:
        known["captioners"] = json.dumps([digest_of_model(one) for one in captioner_sources(captioner, config)])
    if config.filters:
        known["filters"] = json.dumps([digest_of_model(one) for one in (filter, *config.filters)])
        known["combine"] = config.combine
    if config.spares:
        known["sparing"] = config.model_dump_json(include={"when", "until_passes", "escalate_to", "passes"})
    return known | ({"scorer": digest_of_model(config.scorer)} if config.scorer else {})
