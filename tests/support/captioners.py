"""Captioners for tests: one that answers from its ask alone, one that fails, tiny models of transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import ConfigError
from blip_pipelines.captioners.interface import Answer, Ask, VariesWith

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %} :"
)
LETTERS = [*"abcdefghijklmnopqrstuvwxyz .,:"]
WORDS = ["a", "the", "dog", "cat", "red", "green", "image", "this", "Describe", "what", "yes", "Yes", "no", "No"]


class Sure:
    """Answers what its ask determines; notes each call in the file `calls`, where one is given.

    `fails` maps the last hex digit of an ask's seed to the reason for which it is not answered, unless the file
    `mended` is there. `at_most` asks fit in its memory.
    """

    varies_with: VariesWith = "nothing"

    def __init__(self, options: Mapping[str, Any]) -> None:
        if unknown := sorted(options.keys() - {"word", "fails", "mended", "at_most", "calls", "seen"}):
            raise ConfigError([f"options.{unknown[0]}: there is no such option"])
        self.options = dict(options)
        self.digest = f"sure {options.get('word', 'a picture')}"

    def load(self, device: str, dtype: str) -> None:
        assert device in ("cpu", "cuda")

    def caption(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        if len(asks) > self.options.get("at_most", 10_000):
            raise MemoryError
        if calls := self.options.get("calls"):
            with Path(calls).open("a") as file:
                file.writelines(f"{ask.seed}\n" for ask in asks)
        return [self._answer(ask) for ask in asks]

    def _answer(self, ask: Ask) -> Answer:
        mended = self.options.get("mended")
        fails = {} if mended and Path(mended).exists() else self.options.get("fails", {})
        if reason := fails.get(f"{ask.seed:x}"[-1]):
            return Answer.failed(reason, {"requests": 1})
        told = hashlib.sha256(f"{ask.prompt} {ask.seed} {ask.picture.tobytes().hex()}".encode()).hexdigest()[:8]
        text = f"The image shows {ask.sampler.get('word', self.options.get('word', 'a picture'))} {told}"
        return Answer(text, num_tokens=4, logprob=-2.0, cost={"requests": 1, "prompt_tokens": 7})


class Drifting(Sure):
    """Claims that its texts depend on nothing, and writes where in a batch an ask stands."""

    def caption(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        return [Answer(f"number {number}") for number, _ in enumerate(asks)]


def save_qwen(folder: Path) -> Path:
    """A random Qwen2.5-VL of width 32, its processor, chat template and a tokenizer of letters."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    names = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer = tiny_tokenizer(names, "".join(names[:3]))
    start, image, end, video = (tokenizer.convert_tokens_to_ids(name) for name in names)
    config = Qwen2_5_VLConfig(
        text_config=text_config(tokenizer)
        | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "max_position_embeddings": 512},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32,
            "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    size = {"shortest_edge": 256, "longest_edge": 4096}
    processor = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=size)
    return saved(folder, Qwen2_5_VLForConditionalGeneration(config), tokenizer, processor)


def save_smolvlm(folder: Path) -> Path:
    """A random SmolVLM of width 32."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    names = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<row_1_col_1>"]
    tokenizer = tiny_tokenizer(names, "<image>")
    config = SmolVLMConfig(
        text_config={"model_type": "llama"} | text_config(tokenizer),
        vision_config=vision_config(),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,  # type: ignore[call-arg]
    )
    edge = {"longest_edge": 32}
    processor = SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    model = SmolVLMForConditionalGeneration(config)
    return saved(folder, model, tokenizer, processor, {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"})


def save_blip2(folder: Path) -> Path:
    """A random BLIP-2 of width 32 over an OPT; it has no chat template."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = tiny_tokenizer(["<image>"])
    same = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    ends = {name: value for name, value in text_config(tokenizer).items() if name.endswith("token_id")}
    config = Blip2Config(
        vision_config=vision_config(),
        qformer_config={**same, "intermediate_size": 64, "encoder_hidden_size": 32},
        text_config={
            "model_type": "opt", **same, **ends, "ffn_dim": 64, "word_embed_proj_dim": 32,
            "max_position_embeddings": 256,
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    model = Blip2ForConditionalGeneration(config)
    return saved(folder, model, tokenizer, processor, {"num_query_tokens": 4, "processor_class": "Blip2Processor"})


SAVED = {"qwen": save_qwen, "smolvlm": save_smolvlm, "blip2": save_blip2}


def saved(folder: Path, model: Any, tokenizer: Any, processor: Any, settings: Mapping[str, Any] | None = None) -> Path:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.2)  # larger than at first, so that pictures and prompts make a difference
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    if settings:
        (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def text_config(tokenizer: Any) -> dict[str, Any]:
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, **ends,
    }  # fmt: skip


def vision_config() -> dict[str, Any]:
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip


def tiny_tokenizer(names: Sequence[str], image: str = "") -> Any:
    """A tokenizer of letters and some words; `names` are its special tokens, `image` what stands for a picture."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = dict.fromkeys(["<unk>", "<pad>", "<s>", "</s>", *names, *LETTERS, *WORDS])
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=list(names),
    )  # fmt: skip
    if image:
        found.chat_template = CHAT.replace("IMAGE", image)
    return found
