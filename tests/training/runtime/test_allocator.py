"""Memory that is freed is used again, not given back to the kernel and cleared anew."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

BLOCKS = """
import resource, torch
from blip_training.runtime.allocator import keep_freed_memory
{call}
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(48 * 2**18) for _ in range(48)]  # 48 MB each, more than glibc ever keeps by default; 2.3 GB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min([faults() for _ in range(4)][1:]))
"""


def page_faults(call: str) -> int:
    """The least of three times that all blocks are filled, after a first time."""
    said = subprocess.run(
        [sys.executable, "-c", BLOCKS.format(call=call)], check=True, capture_output=True, text=True, timeout=120
    )
    return int(said.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_blocks_are_kept_from_one_use_to_the_next() -> None:
    assert page_faults("") > 48 * 48 * 2**20 // 2**16  # by the largest pages that kernels hand out singly
    assert page_faults("keep_freed_memory()") < 100


def test_another_c_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from blip_training.runtime import allocator

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    allocator.keep_freed_memory()
