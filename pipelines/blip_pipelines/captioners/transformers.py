"""Any model of transformers that writes texts about pictures, by its own processor and chat template."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from blip_bootstrap.errors import CheckpointError, ConfigError
from blip_bootstrap.settings.section import Count, Fraction, NonNegative
from blip_pipelines.captioners.interface import Answer, Ask, VariesWith
from blip_pipelines.captioners.options import Options, checked, digest_of, digest_of_weights, source_of
from blip_pipelines.captioners.processors import load_processor
from blip_pipelines.captioners.seeded import SeededTokens
from blip_training.decoding.sampler import Sampler
from blip_training.runtime.sources import resolve_source

SPEED = ("batch_size",)
"""Options that decide how fast texts come; batches change the last digits, which `varies_with` says."""


class TransformersOptions(Options):
    """What the kind `transformers` takes."""

    checkpoint: str
    revision: str | None = None
    system: str | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    top_p: Fraction = 0.9
    top_k: NonNegative = 0
    min_tokens: NonNegative = 0
    max_tokens: Count = 60
    batch_size: Count = 16
    one_by_one: bool = False
    chat_template: bool = True


class TransformersCaptioner:
    """A captioner by `AutoModelForImageTextToText`.

    Options: `checkpoint` (a folder or hub name) and `revision`; `temperature` (0: always the likeliest token), `top_p`,
    `top_k` (0: off), `min_tokens`, `max_tokens` of an answer; `system`, a text before the prompt; `chat_template`,
    false where the prompt is to be given as it is; `batch_size`, asks at a time; `one_by_one`, each ask alone, so that
    not even a last digit depends on the others. Each text is drawn by its ask's own seed. Raises ConfigError.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = checked(TransformersOptions, options)
        self._source = source_of(self.options.checkpoint)
        if self.options.min_tokens > self.options.max_tokens:
            raise ConfigError([f"options.min_tokens: {self.options.min_tokens} is more than options.max_tokens"])
        self._given = dict(options)

    @property
    def varies_with(self) -> VariesWith:
        """Rows are padded to a batch's longest prompt, which changes last digits, unless each is alone."""
        return "device" if self.options.one_by_one else "batch"

    @cached_property
    def digest(self) -> str:
        """Of the weights, and of all options but those of speed."""
        own = self.options.model_dump(mode="json", exclude={"checkpoint", "revision", *SPEED})
        return digest_of("transformers", digest_of_weights(self._source, self.options.revision), own)

    def load(self, device: str, dtype: str) -> None:
        """Load model and processor. Raises CheckpointError where they cannot be used."""
        self._device = torch.device(device)
        folder = str(resolve_source(self._source, self.options.revision))  # at the commit that the run began with
        self._model = _load_model(folder, self._device, dtype)
        self._processor = load_processor(folder)
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"  # answers then begin at one place in all rows
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def caption(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """As many answers as asks; those whose prompts have other samplers are not mixed in a batch."""
        found: list[Answer | None] = [None] * len(asks)
        for places, options in self._batches(asks):
            started = time.perf_counter()
            written = self._write([asks[at] for at in places], options)
            seconds = (time.perf_counter() - started) / len(places)
            for at, answer in zip(places, written, strict=True):
                found[at] = Answer(**{**vars(answer), "cost": {**answer.cost, "seconds": seconds}})
        return [answer for answer in found if answer is not None]

    def _batches(self, asks: Sequence[Ask]) -> Iterator[tuple[list[int], TransformersOptions]]:
        size = 1 if self.options.one_by_one else self.options.batch_size
        samplers = sorted({str(sorted(ask.sampler.items())) for ask in asks})
        for sampler in samplers:
            same = [at for at, ask in enumerate(asks) if str(sorted(ask.sampler.items())) == sampler]
            options = checked(TransformersOptions, {**self._given, **asks[same[0]].sampler})
            yield from ((same[at : at + size], options) for at in range(0, len(same), size))

    def _write(self, asks: Sequence[Ask], options: TransformersOptions) -> list[Answer]:
        """Answers to asks with one sampler; one that the processor or model does not take costs itself alone."""
        taken = list(range(len(asks)))
        given = self._taken(asks, options)
        if given is None:
            taken = [at for at in taken if self._taken([asks[at]], options)]
            given = self._inputs([asks[at] for at in taken]) if taken else None
        written = self._generated([asks[at] for at in taken], given, options) if given else []
        found = [Answer.failed("too_large") for _ in asks]
        for at, answer in zip(taken, written, strict=True):
            found[at] = answer
        return found

    def _taken(self, asks: Sequence[Ask], options: TransformersOptions) -> dict[str, Tensor] | None:
        """The inputs of asks; None where the processor refuses one (too narrow a picture), or one is too long."""
        try:
            given = self._inputs(asks)
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            return None
        room = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        longest = given["input_ids"].shape[1] + options.max_tokens
        return None if room and longest > room else given

    @torch.inference_mode()
    def _generated(
        self, asks: Sequence[Ask], given: Mapping[str, Tensor], options: TransformersOptions
    ) -> list[Answer]:
        ends = _end_ids(self._model, self._tokenizer)
        draws = SeededTokens([ask.seed for ask in asks], _sampler_of(options), ends)
        config = self._generation_config(options, ends)
        from transformers import LogitsProcessorList  # start-up: seconds, where texts are written alone

        self._model.generate(**given, generation_config=config, logits_processor=LogitsProcessorList([draws]))
        lengths = given["attention_mask"].sum(1).tolist()
        return [self._answer(draws, row, lengths[row]) for row in range(len(asks))]

    def _answer(self, draws: SeededTokens, row: int, num_prompt: int) -> Answer:
        ids, ended = draws.tokens(row)
        text = self._tokenizer.decode(ids, skip_special_tokens=True).strip()
        flags = () if ended else ("cut_at_max_length",)
        cost = {"requests": 1.0, "prompt_tokens": float(num_prompt), "completion_tokens": float(len(ids))}
        return Answer(text, len(ids), draws.logprob(row), flags, cost=cost)

    def _inputs(self, asks: Sequence[Ask]) -> dict[str, Tensor]:
        """What the model reads: pictures and prompts, padded on the left to the longest."""
        pictures = [[ask.picture] for ask in asks]
        given = self._processor(
            images=pictures if self._templated else [ask.picture for ask in asks],
            text=[self._worded(ask.prompt) for ask in asks],
            padding=True,
            return_tensors="pt",
        )
        dtype = self._model.dtype
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else None)
            for name, value in tensors.items()
        }

    @property
    def _templated(self) -> bool:
        return self.options.chat_template and bool(getattr(self._processor, "chat_template", None))

    def _worded(self, prompt: str) -> str:
        """The prompt as the model was trained to read it, the picture before the text."""
        if not self._templated:
            return prompt
        messages: list[dict[str, Any]] = []
        if self.options.system:
            messages.append({"role": "system", "content": [{"type": "text", "text": self.options.system}]})
        messages.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]})
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _generation_config(self, options: TransformersOptions, ends: list[int]) -> Any:
        import transformers  # start-up: as above

        made: Any = transformers.GenerationConfig
        penalty = getattr(self._model.generation_config, "repetition_penalty", None)
        return made(
            do_sample=False,  # the likeliest token, which `SeededTokens` makes the drawn one
            num_beams=1,
            min_new_tokens=options.min_tokens or None,
            max_new_tokens=options.max_tokens,
            repetition_penalty=penalty,
            eos_token_id=ends or None,
            pad_token_id=self._tokenizer.pad_token_id,
            bos_token_id=self._model.generation_config.bos_token_id,
            decoder_start_token_id=getattr(self._model.generation_config, "decoder_start_token_id", None),
        )


def _sampler_of(options: TransformersOptions) -> Sampler:
    sample = options.temperature > 0 and options.top_k != 1
    return Sampler(sample, 1, options.top_p, options.top_k, options.temperature or 1.0, 1.0, 0, options.max_tokens)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, by the checkpoint's generation settings or else its tokenizer."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [int(ends)]


def _load_model(source: str, device: torch.device, dtype: str) -> Any:
    from transformers import AutoModelForImageTextToText  # start-up: seconds, where texts are written alone
    from transformers.utils import logging  # start-up: as above

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        wanted = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        kind: Any = AutoModelForImageTextToText
        model, loading = kind.from_pretrained(source, dtype=wanted, output_loading_info=True)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{source}: no captioner of transformers ({' '.join(str(error).split())[:300]})"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{source}: damaged, or no captioner: {len(missing)} weights lack, as {missing[0]}")
    return model.to(device).eval()
