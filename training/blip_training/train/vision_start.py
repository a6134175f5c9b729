"""Train a ViT on attribute classes of labelled drawings, without any text, for the image encoder to start from.

It stands in for the ImageNet ViT that BLIP's image encoder starts from (section 4.1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from blip_bootstrap.config import OptimizerConfig, VisionConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.storage.parquet import read_parquet
from blip_training.checkpoint.weight_names import to_theirs, vit_names
from blip_training.data.pixels import decode_pixels
from blip_training.model.vision import NORM_EPS, VisionEncoder
from blip_training.runtime.workers import this_worker
from blip_training.train.log import OnStep
from blip_training.train.run import Run

LOG_EVERY = 50


class Classifier(nn.Module):
    """A ViT with a linear layer on its first state, which gives a logit for each class."""

    def __init__(self, config: VisionConfig, num_classes: int) -> None:
        super().__init__()
        self.vision = VisionEncoder(config)
        self.head = nn.Linear(config.width, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, C] of uint8 pixels [B, 3, H, W]."""
        logits: Tensor = self.head(self.vision(pixels)[:, 0])
        return logits


def train_vision_start(
    out: Path, labelled: Path, config: VisionConfig, steps: int = 800, batch_size: int = 128, lr: float = 1e-3,
    seed: int = 0, on_step: OnStep | None = None,
) -> dict[str, int | float]:  # fmt: skip
    """Train a ViT of `config` on labelled pictures and save it in `out` as a transformers ViTModel folder.

    `labelled` is a Parquet file with columns `jpg` (encoded picture) and `labels` (list<int8>, one 0 or 1 for each
    class). A killed run resumes. Returns the counts, the last loss, and the share (0..1) of labels that the model gets
    right on the last twentieth of the pictures, which it is not trained on. Raises InputError for another format.
    """
    pixels, labels = read_labelled(labelled, config.image_size)
    cut = len(pixels) - max(1, len(pixels) // 20)
    torch.manual_seed(seed)
    worker = this_worker("auto")
    model = Classifier(config.model_copy(update={"start": None}), labels.shape[1]).to(worker.device).train()
    warmup = min(steps // 10, 100)
    optimizer = OptimizerConfig(
        steps=steps, batch_size=batch_size, lr=lr, warmup_steps=warmup, seed=seed, log_every_steps=LOG_EVERY
    )
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out, model, optimizer, worker, on_step=on_step)

    for step in run.count():
        rows = _rows(step, cut, batch_size, seed)
        logits = model(pixels[rows].to(worker.device))  # [B, C]
        run.backward({"classes": F.binary_cross_entropy_with_logits(logits, labels[rows].to(worker.device))})
        run.update()

    right = measure_labels(model, pixels[cut:], labels[cut:], worker.device)
    counts = {"pictures": len(pixels), **run.finish(), "labels_right": right}
    save_vit(out, model.vision)
    return counts


def read_labelled(path: Path, image_size: int) -> tuple[Tensor, Tensor]:
    """uint8 pixels [N, 3, H, W] and labels [N, C] of a labelled Parquet file."""
    table = read_parquet(path)
    missing = {"jpg", "labels"} - set(table.column_names)
    if missing or not table.num_rows:
        raise InputError(f"{path}: needs rows with columns jpg and labels, has {', '.join(table.column_names)}")
    lengths = {len(row) for row in table["labels"].to_pylist()}
    if len(lengths) != 1:
        raise InputError(f"{path}: labels are of different lengths ({sorted(lengths)}); one 0 or 1 for each class")
    labels = torch.from_numpy(np.array(table["labels"].to_pylist(), dtype=np.float32))
    return torch.stack(list(_pixels(table["jpg"], image_size, path))), labels


def _pixels(jpgs: pa.ChunkedArray, image_size: int, path: Path) -> Iterator[Tensor]:
    for row, jpg in enumerate(jpgs):
        yield decode_pixels(jpg.as_py() or b"", image_size, f"{path}: row {row}")


def _rows(step: int, count: int, batch_size: int, seed: int) -> Tensor:
    """The rows of a step's batch; each epoch permutes them anew and leaves out those that fill no batch."""
    epoch, number = divmod(step, max(1, count // batch_size))
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return torch.from_numpy(order[number * batch_size : (number + 1) * batch_size])


@torch.no_grad()
def measure_labels(model: nn.Module, pixels: Tensor, labels: Tensor, device: torch.device) -> float:
    """The share (0..1) of labels whose logit has the right sign."""
    model.eval()
    right = 0
    for start in range(0, len(pixels), 256):
        logits = model(pixels[start : start + 256].to(device)).cpu()
        right += int(((logits > 0) == (labels[start : start + 256] > 0.5)).sum())
    return right / labels.numel()


def save_vit(out: Path, vision: VisionEncoder) -> None:
    """Write the image encoder as a transformers ViTModel folder; config.json, which means that it is whole, last."""
    config = vision.config
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"vision.{name}": weight.detach().cpu() for name, weight in vision.state_dict().items()}
    save_file(to_theirs(weights, vit_names(config.depth)), out / "model.safetensors", {"format": "pt"})
    content = {
        "architectures": ["ViTModel"], "model_type": "vit", "hidden_size": config.width,
        "num_hidden_layers": config.depth, "num_attention_heads": config.heads, "intermediate_size": 4 * config.width,
        "image_size": config.image_size, "patch_size": config.patch_size, "num_channels": 3, "qkv_bias": True,
        "hidden_act": "gelu", "layer_norm_eps": NORM_EPS, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
