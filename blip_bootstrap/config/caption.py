"""Captioning and scoring (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from blip_bootstrap.config.judges import JudgeConfig
from blip_bootstrap.config.passing import ITM_RULE, rules_of
from blip_bootstrap.config.writers import WriterConfig
from blip_bootstrap.settings.marks import Later, Speed
from blip_bootstrap.settings.section import (
    Count,
    Device,
    Dtype,
    Fraction,
    ModelName,
    NonNegative,
    Normalise,
    Positive,
    Section,
    Seed,
)

MIN_TOKENS, MAX_TOKENS = 5, 20
"""Shortest and longest text of every preset."""


class SamplerConfig(Section):
    """How the captioner writes. `preset` sets all of it; a setting that is given beside it wins."""

    preset: Literal["blip-official", "nucleus", "beam", "greedy"] = Field(
        "nucleus",
        description="nucleus: top-p .9; blip-official: as the released code does, which has top-k 50 and repetition "
        "penalty 1.1 as well; beam: three beams; greedy: always the likeliest token",
    )
    top_p: Fraction | None = Field(
        None, description="draw among the likeliest tokens that together have this probability; 1: off"
    )
    top_k: NonNegative | None = Field(None, description="draw among this many of the likeliest tokens; 0: off")
    temperature: Positive | None = Field(None, description="under 1: likelier tokens are drawn more often")
    repetition_penalty: Positive | None = Field(
        None, description="over 1: tokens that the text already has become less likely; 1: off"
    )
    num_beams: Count | None = Field(None, description="over 1: beam search with this many beams")
    min_tokens: NonNegative | None = Field(
        None,
        description="shortest text in tokens, counted as transformers counts: the prompt, the token before it and the "
        "one that ends the text included",
    )
    max_tokens: Count | None = Field(
        None, description="longest text in tokens, counted as for min_tokens; a text that reaches it is cut there"
    )

    @model_validator(mode="after")
    def _is_in_order(self) -> SamplerConfig:
        least = MIN_TOKENS if self.min_tokens is None else self.min_tokens
        most = MAX_TOKENS if self.max_tokens is None else self.max_tokens
        if least > most:
            raise ValueError(
                f"min_tokens {least} is more than max_tokens {most}; set both (the presets have {MIN_TOKENS} and "
                f"{MAX_TOKENS})"
            )
        return self


class CaptionConfig(Section):
    """Synthetic captions, and the scores of all texts (section 3.3)."""

    sampler: SamplerConfig = SamplerConfig()
    candidates: Count = Field(1, description="synthetic captions that each captioner writes about an image")
    captioners: tuple[ModelName, ...] = Field(
        (), description="captioners beside the round's own, each a folder, a .pth file or a hub name"
    )
    own_writer: Annotated[bool, Later()] = Field(
        True,
        description="false: the round's own captioner writes nothing and is not made; caption.writers alone write, and "
        "logprob and lift, which are its scores, are null",
    )
    writers: Annotated[tuple[WriterConfig, ...], Later()] = Field(
        (), description="captioners beside the round's own, of any kind, each with its name, options and prompts"
    )
    when: Annotated[Literal["always", "web_fails"], Later()] = Field(
        "always", description="web_fails: captions are written of those pictures alone whose web text does not pass"
    )
    until_passes: Annotated[bool, Later()] = Field(
        False,
        description="true: texts of a picture are drawn one after the other until one passes; those that are not drawn "
        "have no rows",
    )
    escalate_to: Annotated[str | None, Later()] = Field(
        None,
        description="the name of one of caption.writers, a dearer one: it is asked last, about those pictures alone of "
        "which no text passes",
    )
    passes: Annotated[Mapping[str, Mapping[str, float]], Later(), BeforeValidator(rules_of)] = Field(
        ITM_RULE,
        description="which texts pass, for the three settings before: the least score by each of these names, as "
        "{web: {itm: 0.5}, synthetic: {itm: 0.5, logprob: -8}}, or one rule for both; a flagged text does not",
    )
    filters: tuple[ModelName, ...] = Field(
        (), description="filters beside the round's own, each a folder, a .pth file or a hub name"
    )
    combine: Literal["mean", "min"] = Field(
        "mean", description="how the scores of several filters become one: their mean, or the least of them"
    )
    scorer: ModelName | None = Field(
        None,
        description="a CLIP, SigLIP or other dual encoder that gives clip_score: a folder or hub name; null: no "
        "clip_score",
    )
    judges: Annotated[tuple[JudgeConfig, ...], Later()] = Field(
        (), description="judges beside the filter, of any kind, each with its name and options; see `scores`"
    )
    web_logprob: Annotated[bool, Later()] = Field(
        True, description="score web texts, too, by their log-likelihood under the round's own captioner"
    )
    references: Annotated[NonNegative, Later()] = Field(
        64,
        description="reference pictures, the first readable ones of the images, for distinctness and lift; 0: neither",
    )
    lift_references: Annotated[NonNegative, Later()] = Field(
        4, description="how many of the references, those most like the text by ITC, lift compares with; 0: no lift"
    )
    prompt: str = Field(
        "a picture of",
        description="what every synthetic caption begins with; it is taken off again before the text is stored",
    )
    normalise: Normalise = Field(
        "auto",
        description="how a text is changed before the filter reads it; none: not at all; blip: lower case, without "
        "most punctuation, cut after 30 words; auto: as the filter was trained, and blip for a given BLIP checkpoint "
        "whose tokenizer writes in lower case",
    )
    batch_size: Annotated[NonNegative, Speed()] = Field(
        0,
        description="images at a time; 0: 64 on a CPU, 256 on a GPU, where texts are spared 256 and 512; halved where "
        "memory runs out",
    )
    device: Annotated[Device, Speed()] = Field("auto", description="auto: a GPU where there is one")
    dtype: Dtype = Field(
        "float32", description="number format of the models; auto: bfloat16 where the device is fast at it"
    )
    compile: bool = Field(
        False, description="compile the blocks of the image encoder by torch.compile; writing captions is not compiled"
    )
    num_actors: Annotated[NonNegative, Speed()] = Field(
        0, description="Ray actors; 0: as many as the CPUs or GPUs of the cluster carry"
    )
    cpus_per_actor: Annotated[Positive, Speed()] = Field(
        1.0,
        description="CPUs of an actor: on a CPU, torch's threads; beside a GPU, the processes that decode pictures, at "
        "least 2 and at most 8, more than are set here where cores are idle",
    )
    gpus_per_actor: Annotated[float, Field(ge=0), Speed()] = Field(
        0.0, description="GPUs of an actor; 0: one, where there are GPUs; 0.25: four actors share each GPU"
    )
    seed: Seed = Field(
        0, description="seed of the sampling; a caption depends on it, on the image and on the candidate's number alone"
    )

    @property
    def spares(self) -> bool:
        """Whether some texts may not be drawn, since another one passes."""
        return self.when != "always" or self.until_passes or self.escalate_to is not None

    def with_all(self) -> CaptionConfig:
        """The same settings, by which every text is drawn."""
        return self.model_copy(update={"when": "always", "until_passes": False, "escalate_to": None})

    @model_validator(mode="after")
    def _has_writers(self) -> CaptionConfig:
        names = [one.name for one in self.writers]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"writers: two of them are called {twice}; give each a name of its own")
        judges = [one.name for one in self.judges]
        if twice := next((name for name in judges if judges.count(name) > 1), None):
            raise ValueError(f"judges: two of them are called {twice}; give each a name of its own")
        if not (self.own_writer or self.writers or self.captioners):
            raise ValueError("own_writer is false and there are no writers; nobody would write captions")
        if self.escalate_to is not None and self.escalate_to not in names:
            known = ", ".join(names) or "there are none"
            raise ValueError(f"escalate_to: {self.escalate_to} is none of caption.writers ({known})")
        return self
