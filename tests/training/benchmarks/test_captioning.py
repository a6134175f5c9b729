"""Captioning: equal to what transformers writes and pycocoevalcap counts; METEOR and SPICE by Java; domains."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from blip_bootstrap.config import Config
from blip_bootstrap.errors import CheckpointError, InputError, RunFailed
from blip_training.benchmarks import captioning, work
from blip_training.benchmarks.evaluate_on import evaluate_on, measure
from blip_training.benchmarks.spice import spice
from blip_training.checkpoint.store import save_captioner, save_filter, save_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.decoding.generate import generate
from blip_training.evaluate.caption_metrics import score_captions
from tests.support.benchmark_files import picture, some_texts, write_coco, write_json
from tests.support.tiny_med import WORDS, normalised_of, original_weights, read_by, tiny


def config(**changes: Any) -> Config:
    settings = {"tasks": ["captioning"], "device": "cpu", "batch_size": 4, "meteor": False}
    return Config.model_validate({"benchmark": settings | changes})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A captioner as a transformers folder and a .pth file, and the same model in this package's format."""
    folder = tmp_path_factory.mktemp("models")
    med = tiny(tokenizer)
    with torch.no_grad():  # peaked enough that pictures get different captions, which end
        med.text.lm_head.transform.weight.mul_(3)
        for layer in med.text.each_layer():
            layer.cross_attention.of("causal").output.weight.mul_(5)
        med.text.lm_head.bias[tokenizer.sep_id] += 0.5
    save_captioner(folder / "captioner", med, tokenizer)
    save_filter(folder / "filter", med, tokenizer)
    save_med(folder / "own", med, tokenizer)
    tokenizer.save(folder / "pth")
    weights = original_weights(med, folder / "parts", tokenizer)
    kept = {k: w for k, w in weights.items() if k.startswith(("visual_encoder.", "text_decoder."))}
    torch.save({"model": kept}, folder / "pth" / "model_base_caption.pth")
    return folder


def captions_of_transformers(
    folder: Path, tokenizer: Tokenizer, pixels: torch.Tensor, penalty: float = 1.0, prompt: tuple[str, ...] = ()
) -> list[str]:
    from transformers import BlipForConditionalGeneration

    theirs = read_by(BlipForConditionalGeneration, folder / "captioner")
    start = [tokenizer.dec_id, *tokenizer.piece_ids(" ".join(prompt))]
    given = torch.tensor([[*start, tokenizer.sep_id]])  # whose last token transformers takes off
    written = []
    with torch.no_grad():
        for own in normalised_of(tiny(tokenizer), pixels).split(1):
            row = theirs.generate(
                pixel_values=own, input_ids=given, num_beams=3, min_length=5, max_length=20, do_sample=False,
                repetition_penalty=penalty,
            )[0].tolist()  # fmt: skip
            written.append(tokenizer.decode(row[len(start) :]))
    return written


def plain_figures(captions: list[str], references: list[list[str]]) -> dict[str, float]:
    """By pycocoevalcap; texts of words without marks are tokens already."""
    given = {str(i): [text] for i, text in enumerate(captions)}
    wanted = dict(zip(given, references, strict=True))
    bleu, _ = Bleu(4).compute_score(wanted, given, verbose=0)
    figures = {f"bleu{n + 1}": float(score) for n, score in enumerate(bleu)}
    figures["cider"], figures["rouge_l"] = (float(one().compute_score(wanted, given)[0]) for one in (Cider, Rouge))
    return figures


@pytest.mark.parametrize("kind", ["captioner", "pth/model_base_caption.pth"])
def test_figures_are_those_of_transformers_captions(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, kind: str
) -> None:
    references, pixels = write_coco(tmp_path)
    captions = captions_of_transformers(folder, tokenizer, pixels, prompt=("a", "picture", "of"))
    assert len(set(captions)) > 4
    found = measure(folder / kind, "coco", tmp_path, config(), tmp_path / "out")
    rows = [json.loads(line) for line in Path(found["path"]).with_name("captioning.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == captions
    assert found["figures"] == pytest.approx(plain_figures(captions, references))
    assert found["figures"]["bleu1"] > 0


def test_a_pre_trained_model_is_given_no_prompt(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    references, pixels = write_coco(tmp_path)
    captions = captions_of_transformers(folder, tokenizer, pixels)
    assert evaluate_on(folder / "own", "coco", tmp_path, config()) == pytest.approx(plain_figures(captions, references))


def test_nocaps_has_domains_and_a_repetition_penalty(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts, domains = some_texts(18), ("in-domain", "near-domain", "out-domain")
    pixels = torch.stack([picture(tmp_path / "val" / f"{i}.png", i) for i in range(6)])
    images = [{"id": i, "file_name": f"{i}.png", "domain": domains[i % 3]} for i in range(6)]
    annotations = [{"image_id": i % 6, "caption": text} for i, text in enumerate(texts)]
    write_json(tmp_path / "nocaps_val_4500_captions.json", {"images": images, "annotations": annotations})
    captions = captions_of_transformers(folder, tokenizer, pixels, penalty=1.1, prompt=("a", "picture", "of"))
    references = [texts[i::6] for i in range(6)]
    expected = plain_figures(captions, references)
    for at, domain in enumerate(("in", "near", "out")):
        own = plain_figures(captions[at::3], references[at::3])
        expected |= {f"{name}_{domain}": value for name, value in own.items()}
    assert evaluate_on(folder / "captioner", "nocaps", tmp_path, config()) == pytest.approx(expected)


def test_killed_between_blocks_it_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path)
    whole = measure(folder / "captioner", "coco", tmp_path, config(), tmp_path / "whole")
    monkeypatch.setattr(work, "BLOCK", 4)
    calls: list[int] = []

    def counted(*given: Any) -> Any:
        calls.append(len(given[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*given)

    monkeypatch.setattr(captioning, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(folder / "captioner", "coco", tmp_path, config(), tmp_path / "out")
    again = measure(folder / "captioner", "coco", tmp_path, config(), tmp_path / "out")
    assert calls == [4, 4, 4, 1]  # the first four pictures were not written about again
    assert again["figures"] == whole["figures"]


def test_all_figures_are_those_of_pycocoevalcap(real_data: Path) -> None:
    golden = json.loads((real_data / "caption_metrics_golden.json").read_text())
    scores = score_captions(golden["hyp_raw"], golden["refs_raw"])
    expected = golden["overall"]
    found = scores.bleu()
    assert [found[f"bleu{n}"] for n in range(1, 5)] == pytest.approx([expected[f"Bleu_{n}"] for n in range(1, 5)])
    over = scores.over(list(golden["hyp_raw"]))
    assert (over["cider"], over["rouge_l"]) == pytest.approx((expected["CIDEr"], expected["ROUGE_L"]))


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_meteor_is_that_of_pycocoevalcap(real_data: Path) -> None:
    golden = json.loads((real_data / "caption_metrics_golden.json").read_text())
    scores = score_captions(golden["hyp_raw"], golden["refs_raw"])
    assert scores.meteor() == pytest.approx(golden["overall"]["METEOR"], abs=1e-6)


def test_meteor_that_is_asked_for_needs_java(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path, 2)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"benchmark\.meteor needs java"):
        evaluate_on(folder / "captioner", "coco", tmp_path, config(meteor=True))
    with pytest.raises(InputError, match=r"benchmark\.spice_jar needs java"):
        evaluate_on(folder / "captioner", "coco", tmp_path, config(spice_jar=str(tmp_path / "spice-1.0.jar")))
    assert "meteor" not in evaluate_on(folder / "captioner", "coco", tmp_path, config(meteor=None))


STAND_IN = """#!{python}
import json, sys
rows = json.load(open(sys.argv[4]))
def f(row): return float("nan") if not row["refs"] else len(row["test"].split()) / 10
out = [dict(image_id=r["image_id"], scores=dict(All=dict(f=f(r)))) for r in rows]
json.dump(out, open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""
"""Stands for java and SPICE: takes their arguments, and scores by the number of words."""


def test_spice_is_the_mean_of_what_its_program_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar, java = tmp_path / "spice-1.0.jar", tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(STAND_IN.format(python=sys.executable))
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    captions, references = {"a": "one two", "b": "one", "c": "x"}, {"a": ["y"], "b": ["y"], "c": []}
    with pytest.raises(InputError, match=r"spice-1\.0\.jar: no such file"):
        spice(jar, captions, references)
    jar.touch()
    assert spice(jar, captions, references) == pytest.approx((0.2 + 0.1 + 0) / 3)
    java.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no models')\n")
    with pytest.raises(RunFailed, match=r"SPICE failed \(no models\)"):
        spice(jar, captions, references)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"benchmark\.spice_jar needs java"):
        spice(jar, captions, references)


def test_a_filter_cannot_write_captions(folder: Path, tmp_path: Path) -> None:
    write_coco(tmp_path, 2)
    with pytest.raises(CheckpointError, match="cannot do captioning; it holds weights for embed, match only"):
        evaluate_on(folder / "filter", "coco", tmp_path, config())
    row = {"image": "val2014/COCO_val2014_000000000000.png", "img_id": 1, "caption": ["w1"]}
    write_json(tmp_path / "nocaps_val.json", [row])
    with pytest.raises(InputError, match=r"benchmark\.tasks: nocaps has no retrieval, only captioning"):
        evaluate_on(folder / "filter", "nocaps", tmp_path, config(tasks=["retrieval"]))
