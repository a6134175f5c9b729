"""A captioner in a package of somebody else, installed beside this one and named in YAML."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from blip_bootstrap.storage.parquet import parquet_files, read_parquet

PACKAGE = Path(__file__).parents[2] / "fixtures" / "colour_captioner"
ROOT = Path(__file__).parents[3]

YAML = """
download: {urls: [{path: urls.tsv}]}
captioner: {checkpoint: %s}
filter: {checkpoint: %s}
caption:
  own_writer: false
  candidates: 1
  device: cpu
  references: 0
  writers:
  - name: colours
    kind: colours
    options: {words: [picture, thing]}
    prompts: {plain: "What colour is it?"}
    candidates: 2
pretrain: {optimizer: {steps: 0}}
select: {itm_threshold: 0}
ray: {address: none}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package was installed, built by what is in the tests' own environment."""
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(PACKAGE)], check=True, timeout=300)
    return target


def command(site: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT), str(ROOT / "pipelines"), str(ROOT / "training")])
    return subprocess.run(
        [sys.executable, "-m", "blip_bootstrap", *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_the_package_is_a_page() -> None:
    lines = [line for file in sorted(PACKAGE.glob("*.*")) for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 40
    code = [one for one in (PACKAGE / "colour_captioner.py").read_text().splitlines() if one.strip()]
    assert len(code) <= 30


def test_it_conforms(site: Path, tmp_path: Path) -> None:
    ran = command(site, "conformance", "colours", folder=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_it_captions_by_name_from_yaml(
    site: Path, tmp_path: Path, models: tuple[Path, Path], make_images: Callable[..., Path]
) -> None:
    from tests.support.tiny_pipeline import RudeServer, serving

    with serving(RudeServer()) as server:
        lines = "".join(f"{server.url(f'{number}.jpg')}\ta picture {number}\n" for number in range(12))
        (tmp_path / "urls.tsv").write_text("url\tcaption\n" + lines)
        (tmp_path / "run.yaml").write_text(YAML % models)
        private = ["--set", "download.allow_private_addresses=true", "--set", "download.min_image_size=8"]
        run = ["run", "--round", "1", "--config", "run.yaml", "--root", "run", *private]
        ran = command(site, *run, folder=tmp_path)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        captions = pa.concat_tables(
            [read_parquet(part) for part in parquet_files(tmp_path / "run" / "round-01" / "captions")]
        )
        written = [row for row in captions.to_pylist() if row["source"] == "synthetic"]
        assert len(written) == 24
        assert {row["captioner"] for row in written} == {"colours"}
        assert {row["prompt"] for row in written} == {"plain"}
        assert all(row["caption"].split()[0] == "A" and row["raw_caption"].startswith("The image") for row in written)
        assert {row["caption"].split()[-1] for row in written} == {"picture", "thing"}
        again = command(site, *run, folder=tmp_path)
        assert "round-01/captions: current" in again.stderr
    # Another installation lacks it, and says so in a line.
    gone = command(tmp_path, *run, folder=tmp_path)
    assert gone.returncode == 2
    assert "caption.writers.colours: kind: there is no captioner 'colours'; install the package" in gone.stderr
