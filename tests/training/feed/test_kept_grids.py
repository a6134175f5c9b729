"""Grids that trainings keep for each other."""

from __future__ import annotations

from pathlib import Path

import torch

from blip_training.feed.batches import open_training_data
from blip_training.feed.feed import Feed
from blip_training.feed.kept_grids import KeptGrids


def test_a_grid_is_found_by_its_pictures_bytes_and_a_torn_file_is_not(tmp_path: Path) -> None:
    kept, grid = KeptGrids(tmp_path, "kind", (4, 6)), torch.randn(4, 6).half()
    assert kept.get(b"picture") is None
    kept.put(b"picture", grid)
    found = kept.get(b"picture")
    assert found is not None
    assert torch.equal(found, grid)
    assert kept.get(b"another") is None
    assert KeptGrids(tmp_path, "another kind", (4, 6)).get(b"picture") is None
    (file,) = (tmp_path / "kind").rglob("*.f16")
    file.write_bytes(file.read_bytes()[:-12])
    assert kept.get(b"picture") is None
    KeptGrids(Path("/dev/null"), "kind", (4, 6)).put(b"picture", grid)  # a disk without room


def test_a_second_training_computes_no_grid_and_gets_equal_ones(world: Path, tmp_path: Path) -> None:
    computed: list[int] = []

    def stem(pixels: torch.Tensor) -> torch.Tensor:
        computed.append(len(pixels))
        return pixels.float().flatten(2).mean(2)[:, None].expand(-1, 4, 3) / 3

    def images(kept: KeptGrids | None) -> list[torch.Tensor]:
        feed = Feed(batch_size=16, image_size=32, seed=0, stem=stem, kept_grids=kept)
        data = open_training_data(world / "images", world / "pairs", world / "human", feed)
        return [batch.images for step in range(4) for batch in data.micro_batches(step)]

    first = images(KeptGrids(tmp_path, "kind", (4, 3)))
    assert sum(computed) > 30
    computed.clear()
    second = images(KeptGrids(tmp_path, "kind", (4, 3)))
    assert not computed
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert all(torch.equal(*pair) for pair in zip(first, images(None), strict=True))
