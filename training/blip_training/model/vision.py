"""The image encoder: a ViT, on its own patches or on the grid of an EfficientNet-Lite0 (sections 3.1 and 4.1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from blip_training.model.attention import attend
from blip_training.model.efficientnet import LITE_CHANNELS, LITE_STRIDE, LiteStem, LiteTop, lite_parts
from blip_training.model.onednn import Linear, over_patches

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

    from blip_bootstrap.config import VisionConfig


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

NORM_EPS = 1e-6


class PatchStem(nn.Module):
    """One convolution that turns each patch of pixels into a vector."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        mean, std = torch.tensor(CLIP_MEAN) * 255, torch.tensor(CLIP_STD) * 255
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(3, 1, 1), persistent=False)

    def normalise(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalise pixels of 0..255 by CLIP's mean and deviation; float pixels are taken as normalised already."""
        if pixels.is_floating_point():
            return pixels
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (pixels.to(mean.dtype) - mean) / std

    def forward(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
        """Vectors of the patches, row by row from the top left corner."""
        grid: Tensor = self.patches(self.normalise(pixels))
        return grid.flatten(2).transpose(1, 2)


class VisionBlock(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.heads, self.drop_path = heads, drop_path
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.qkv = Linear(width, 3 * width)
        self.project = Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b p d"], first_alone: bool = False) -> Float[Tensor, "b q d"]:
        """Attention and feed-forward, each added to its input; of all states, or of the first, which sees all."""
        attended = self._attend(self.norm1(x), first_alone)
        x = (x[:, :1] if first_alone else x) + self._drop(attended)
        return x + self._drop(over_patches(self.fc2, over_patches(self.fc1, self.norm2(x), gelu=True)))

    def _attend(self, x: Tensor, first_alone: bool = False) -> Tensor:
        b, p, d = x.shape
        q, k, v = over_patches(self.qkv, x).view(b, p, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(q[:, :, :1] if first_alone else q, k, v)
        return over_patches(self.project, attended.transpose(1, 2).reshape(b, -1, d))

    def _drop(self, branch: Tensor) -> Tensor:
        """DropPath: leave out the branch of whole rows, in training."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.drop_path
        return branch * keep / (1 - self.drop_path)


class VisionEncoder(nn.Module):
    """The image encoder: one state for the whole image, the first, and one for each patch (section 3.1).

    `stem` turns pixels into a grid of vectors, `from_grid` that into states. With `has_frozen_stem` the grid that
    `still_grid` gives can be computed once and kept.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.has_frozen_stem = config.kind == "efficientnet-lite0"
        self.stem: nn.Module
        self.project: nn.Module
        top: nn.Module | None = None
        if self.has_frozen_stem:
            frozen, top = lite_parts(config.trained_blocks)
            self.stem, self.project = LiteStem(frozen), nn.Linear(LITE_CHANNELS, config.width)
        else:
            self.stem, self.project = PatchStem(config.width, config.patch_size), nn.Identity()
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + self.num_patches, config.width))
        drops = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(VisionBlock(config.width, config.heads, drop) for drop in drops)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.checkpointing = False
        self._initialise()
        self.top = LiteTop(top) if top is not None else None

    @property
    def num_patches(self) -> int:
        """The number of vectors of the grid at the configured image size."""
        stride = LITE_STRIDE if self.has_frozen_stem else self.config.patch_size
        return math.ceil(self.config.image_size / stride) ** 2

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    @torch.no_grad()
    def still_grid(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """The grid as far as nothing is trained: after the stem and, if the top is fixed, after the top."""
        grid = self.stem(pixels)
        is_trained = self.top is not None and any(weight.requires_grad for weight in self.top.parameters())
        return grid if is_trained else self._to_the_top(grid)

    def _to_the_top(self, grid: Float[Tensor, "b p c"]) -> Float[Tensor, "b q 1280"]:
        """The grid after the top, the last blocks; unchanged if it has passed them already."""
        grid = grid.to(self.positions.dtype)
        last: Tensor = grid if self.top is None or grid.shape[2] == LITE_CHANNELS else self.top(grid)
        return last

    def from_grid(self, grid: Float[Tensor, "b p c"], first_alone: bool = False) -> Float[Tensor, "b s d"]:
        """States of the class token and of each patch, after the last norm, from a grid of `stem` or `still_grid`.

        With `first_alone` the last block computes the class token's state alone, as ITC needs it: [B, 1, D].
        """
        x = self.project(self._drop_channels(self._to_the_top(grid)) if self.has_frozen_stem else grid)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1) + self.positions
        for number, block in enumerate(self.blocks, 1):
            recompute, alone = self.checkpointing and self.training, first_alone and number == len(self.blocks)
            x = checkpoint(block, x, alone, use_reentrant=False) if recompute else block(x, alone)
        states: Tensor = self.norm(x)
        return states

    def _drop_channels(self, grid: Float[Tensor, "b p c"]) -> Float[Tensor, "b p c"]:
        """Drop whole channels of a picture in training: dropout of single values would average out over the patches."""
        return F.dropout1d(grid.transpose(1, 2), self.config.grid_dropout, self.training).transpose(1, 2)

    def forward(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b s d"]:
        """States of pixels at the configured image size."""
        return self.from_grid(self.stem(pixels))


def resize_positions(positions: Float[Tensor, "1 p d"], num_patches: int) -> Float[Tensor, "1 q d"]:
    """Position embeddings for another image size: those of the patches interpolated bicubically, as BLIP does."""
    if positions.shape[1] == 1 + num_patches:
        return positions
    old, new, width = math.isqrt(positions.shape[1] - 1), math.isqrt(num_patches), positions.shape[2]
    grid = positions[:, 1:].reshape(1, old, old, width).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), size=(new, new), mode="bicubic", align_corners=False).to(positions.dtype)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
