"""Converts BLIP models in transformers' format, and the original .pth, to MED and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.blip_config import DECODER, ENCODER, LM
from blip_training.checkpoint.weight_names import (
    HEADS,
    NOT_NEEDED,
    as_floats,
    head_names,
    lm_head_names,
    name_some,
    text_names,
    to_ours,
    to_theirs,
    vision_names,
)
from blip_training.model.med import DECODE, EMBED, MATCH, Med
from blip_training.model.vision import CLIP_MEAN, CLIP_STD, NORM_EPS, resize_positions
from blip_training.model.vqa import READINGS, Vqa

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from blip_bootstrap.config import ModelConfig
    from blip_training.checkpoint.weight_names import Names
    from blip_training.data.tokenizer import Tokenizer


CAPTIONER_CLASS, FILTER_CLASS = "BlipForConditionalGeneration", "BlipForImageTextRetrieval"

VQA_CLASS = "BlipForQuestionAnswering"


def med_from_blip(weights: dict[str, Tensor], config: ModelConfig, num_tokens: int, source: Path) -> Med:
    """A MED with a BLIP's weights by transformers' names; its `capabilities` are what the weights are trained for.

    Weights that the file lacks stay as in a fresh model. An encoder and a decoder without any head are a Vqa. Raises
    CheckpointError naming keys that are missing or left over.
    """
    has_decoder = any(name.startswith("text_decoder.") for name in weights)
    has_encoder = any(name.startswith(ENCODER) for name in weights)
    weights, tied = settle_output(weights)
    text = config.text.model_copy(update={"tied_output": tied})
    config = config.model_copy(update={"text": text})
    heads = [head for head, (name,) in HEADS.items() if f"{name}.weight" in weights]
    if has_decoder and has_encoder and not heads:
        return _vqa_from_blip(weights, config, num_tokens, source)
    if has_decoder and has_encoder and not _shares(weights, config):
        config = config.model_copy(update={"share": "none"})
    names: Names = vision_names(config.vision.depth)
    theirs = {name for group in names.values() for name in group}
    tables = [head_names(heads)]
    if has_decoder:
        tables += [text_names(config, "causal", DECODER), lm_head_names(LM, tied)]
    if has_encoder:
        tables += [text_names(config, "bidirectional", ENCODER)]
    if "temperature" in weights:
        tables += [{"temperature": ("temperature",)}]
    for table in tables:
        names |= table
        theirs |= {name for group in table.values() for name in group}
    _check_names(weights, theirs, source)
    med = Med(config, num_tokens)
    _fill(med, weights, names, source)
    projections = [head for head in heads if head != "itm_head"]
    if len(projections) == 1:
        # The ITC score would compare it with a random one.
        (held,) = HEADS[projections[0]]
        raise CheckpointError(f"{source}: damaged: of vision_proj and text_proj it holds only {held}")
    holds = {DECODE: has_decoder, EMBED: has_encoder and bool(projections), MATCH: has_encoder and "itm_head" in heads}
    med.capabilities = frozenset(what for what, held in holds.items() if held)
    return med


def _vqa_from_blip(weights: dict[str, Tensor], config: ModelConfig, num_tokens: int, source: Path) -> Vqa:
    vqa = Vqa(config, num_tokens)
    names = vqa_names(vqa.config)
    _check_names(weights, {name for group in names.values() for name in group}, source)
    _fill(vqa, weights, names, source)
    return vqa


def settle_output(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The weights with one output bias and matrix, and whether the output layer is tied to the word embeddings.

    It is not tied if the file's `decoder.weight` differs from the word embeddings, as in fine-tunes by transformers 4;
    transformers 5 then computes with it, and with `decoder.bias` in place of `bias`. A tied matrix may be in the file
    under either name.
    """
    weights = dict(weights)
    words, output = f"{DECODER}embeddings.word_embeddings.weight", f"{LM}decoder.weight"
    if (bias := weights.pop(f"{LM}decoder.bias", None)) is not None:
        weights[f"{LM}bias"] = bias
    if output in weights:
        weights.setdefault(words, weights[output])
        if _equal(weights[output], weights[words]):
            del weights[output]
    return weights, output not in weights


def _shares(weights: dict[str, Tensor], config: ModelConfig) -> bool:
    """Whether encoder and decoder have equal weights wherever a MED shares one, so that they are one text stack."""
    encoder, decoder = (text_names(config, *one) for one in zip(READINGS, (ENCODER, DECODER), strict=True))
    pairs = (
        (weights.get(mine), weights.get(yours))
        for ours in encoder.keys() & decoder.keys()
        for mine, yours in zip(encoder[ours], decoder[ours], strict=True)
    )
    # Missing ones are reported by name later.
    return all(mine is None or yours is None or _equal(mine, yours) for mine, yours in pairs)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether tensors are equal; without values (on the meta device) by their shapes alone."""
    return one.shape == other.shape and (one.is_meta or torch.equal(one, other))


def _check_names(weights: dict[str, Tensor], wanted: set[str], source: Path) -> None:
    missing = sorted(wanted - weights.keys())
    left_over = sorted(name for name in weights.keys() - wanted if not NOT_NEEDED.search(name))
    say = [f"{name_some(names)} {what}" for what, names in (("missing", missing), ("left over", left_over)) if names]
    if say:
        raise CheckpointError(f"{source}: damaged, or not a BLIP: {'; '.join(say)}")


def _fill(med: Med, weights: dict[str, Tensor], names: Names, source: Path) -> None:
    state = med.state_dict()
    given = as_floats(to_ours(weights, names), source)
    if given["vision.positions"].dim() == 3:
        given["vision.positions"] = resize_positions(given["vision.positions"], med.vision.num_patches)
    wrong = sorted(name for name, weight in given.items() if weight.shape != state[name].shape)
    if wrong:
        raise CheckpointError(f"{source}: {name_some(wrong)} of another shape than the configuration says")
    med.load_state_dict(state | given)


def vqa_names(config: ModelConfig) -> Names:
    """Weight names of BlipForQuestionAnswering, for a configuration that shares nothing."""
    names = vision_names(config.vision.depth) | lm_head_names(LM, config.text.tied_output)
    for reading, root in zip(READINGS, (ENCODER, DECODER), strict=True):
        names |= text_names(config, reading, root)
    return names


def captioner_weights(med: Med) -> dict[str, Tensor]:
    """The weights of a BlipForConditionalGeneration, by transformers' names."""
    names = vision_names(med.config.vision.depth) | text_names(med.config, "causal", DECODER)
    return _with_output_bias(to_theirs(med.state_dict(), names | lm_head_names(LM, med.config.text.tied_output)))


def filter_weights(med: Med) -> dict[str, Tensor]:
    """The weights of a BlipForImageTextRetrieval, by transformers' names."""
    names = vision_names(med.config.vision.depth) | text_names(med.config, "bidirectional", ENCODER)
    return to_theirs(med.state_dict(), names | head_names(HEADS))


def vqa_weights(vqa: Vqa) -> dict[str, Tensor]:
    """The weights of a BlipForQuestionAnswering, by transformers' names."""
    return _with_output_bias(to_theirs(vqa.state_dict(), vqa_names(vqa.config)))


def _with_output_bias(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the second name that transformers has for the output bias of a layer that is not tied."""
    if f"{LM}decoder.weight" in weights:
        weights[f"{LM}decoder.bias"] = weights[f"{LM}bias"].clone()
    return weights


def transformers_config(med: Med, tokenizer: Tokenizer, architecture: str) -> dict[str, Any]:
    """The config.json by which transformers computes what `med` does: heads, epsilons and ids are not its defaults."""
    vision, text = med.config.vision, med.config.text
    dropout = {"hidden_dropout_prob": text.dropout, "attention_probs_dropout_prob": text.dropout}
    return {
        "architectures": [architecture],
        "model_type": "blip",
        "image_text_hidden_size": med.config.embed_dim,
        "projection_dim": med.config.embed_dim,
        "tie_word_embeddings": text.tied_output,
        "dtype": "float32",
        "vision_config": {
            "model_type": "blip_vision_model", "hidden_size": vision.width, "intermediate_size": 4 * vision.width,
            "num_hidden_layers": vision.depth, "num_attention_heads": vision.heads, "image_size": vision.image_size,
            "patch_size": vision.patch_size, "layer_norm_eps": NORM_EPS, "hidden_act": "gelu",
        },
        "text_config": {
            "model_type": "blip_text_model", "vocab_size": med.num_tokens, "hidden_size": text.width,
            "encoder_hidden_size": vision.width, "intermediate_size": text.intermediate,
            "num_hidden_layers": text.depth, "num_attention_heads": text.heads, "layer_norm_eps": 1e-12,
            "max_position_embeddings": text.max_positions, "hidden_act": "gelu", "is_decoder": True,
            "tie_word_embeddings": text.tied_output, "bos_token_id": tokenizer.dec_id, "eos_token_id": tokenizer.sep_id,
            "sep_token_id": tokenizer.sep_id, "pad_token_id": tokenizer.pad_id, **dropout,
        },
    }  # fmt: skip


def image_processor_config(image_size: int) -> dict[str, Any]:
    """The preprocessor_config.json of transformers' BlipProcessor."""
    return {
        "processor_class": "BlipProcessor", "image_processor_type": "BlipImageProcessor",
        "do_resize": True, "size": {"height": image_size, "width": image_size}, "resample": 3, "do_convert_rgb": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD),
    }  # fmt: skip
