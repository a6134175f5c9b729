"""The private names of other libraries that training uses: each is where it was, and computes what it is used for.

One test for each row of "Private APIs in use" in docs/architecture.md. Where one fails after a library's update, its
message names the module to change.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blip_training

USED = {
    "_dynamo", "_linear_pointwise", "_is_mkldnn_bf16_supported", "_foreach_lerp_", "_apply",
    "_conv_stem", "_conv_head", "_swish", "_blocks",
}  # fmt: skip


def find(owner: Any, name: str, module: str) -> Any:
    """The private `name` of a library; where it is gone, the test says which of our modules stood on it."""
    if not hasattr(owner, name):
        pytest.fail(f"torch {torch.__version__}: {name} of {owner} is gone; change blip_training/{module}")
    return getattr(owner, name)


def test_no_other_private_name_is_used() -> None:
    found = set()
    for file in Path(blip_training.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                found |= set() if own else {node.attr}
    assert found - {"_exit"} == USED, "list it in docs/architecture.md, and hold it by a test here"


@pytest.mark.parametrize("gelu", [False, True])
def test_mkldnn_linear_pointwise_is_a_product_with_bias_and_gelu(gelu: bool) -> None:
    product = find(torch.ops.mkldnn, "_linear_pointwise", "model/onednn.py")
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 24), torch.randn(32, 24), torch.randn(32)
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    try:
        found = product(x, weight, bias, after, [], algorithm)
    except (RuntimeError, TypeError) as error:
        pytest.fail(f"torch {torch.__version__} calls it otherwise ({error}); change blip_training/model/onednn.py")
    exact = F.linear(x.double(), weight.double(), bias.double())
    expected = (F.gelu(exact) if gelu else exact).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_mkldnn_says_whether_the_processor_multiplies_bfloat16() -> None:
    supported = find(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", "model/onednn.py")()
    assert isinstance(supported, bool), f"torch {torch.__version__} answers {supported!r}, not a bool"


def test_foreach_lerp_moves_every_tensor_in_place() -> None:
    lerp = find(torch, "_foreach_lerp_", "objective/momentum.py")
    slow, fast = [torch.zeros(3), torch.ones(2, 2)], [torch.ones(3), torch.full((2, 2), 3.0)]
    same = list(slow)
    lerp(slow, fast, 0.25)
    assert all(one is other for one, other in zip(slow, same, strict=True)), "it no longer works in place"
    torch.testing.assert_close(slow, [torch.full((3,), 0.25), torch.full((2, 2), 1.5)])


def test_dynamo_can_be_told_to_leave_blocks_whole_under_ddp() -> None:
    config = find(torch, "_dynamo", "runtime/gradients.py").config
    assert hasattr(config, "optimize_ddp"), f"torch {torch.__version__} has renamed it; change runtime/gradients.py"


def test_module_apply_is_what_moves_a_module() -> None:
    """LiteStem overrides it to take its frozen network along, which is no submodule."""
    find(nn.Module, "_apply", "model/efficientnet.py")
    calls: list[bool] = []

    class Watched(nn.Linear):
        def _apply(self, fn: Any, recurse: bool = True) -> Watched:
            calls.append(recurse)
            return super()._apply(fn, recurse)

    for move in (lambda m: m.to(torch.float64), lambda m: m.half(), lambda m: m.cpu()):
        calls.clear()
        move(nn.Sequential(Watched(1, 1)))
        assert calls == [True], f"torch {torch.__version__} moves modules otherwise; change model/efficientnet.py"


def test_efficientnet_lite_has_the_layers_that_are_taken_out_of_it() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    net: Any = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    for name in ("_conv_stem", "_bn0", "_swish", "_blocks", "_conv_head", "_bn1"):
        find(net, name, "model/efficientnet.py")
    for name in ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"):
        find(net._blocks[1], name, "model/efficientnet.py")
    assert not any(isinstance(part, nn.BatchNorm2d) for part in (net._swish, net._conv_stem))


def test_avif_has_a_number_of_threads() -> None:
    """Not private by its name, but in no documentation: a decoding child sets it to 1."""
    from PIL import AvifImagePlugin

    assert hasattr(AvifImagePlugin, "DEFAULT_MAX_THREADS"), "PIL has renamed it; change data/picture_processes.py"
