"""Caption metrics against pycocoevalcap's own figures; retrieval and AUC against loops; evaluation as a whole."""

from __future__ import annotations

import json
import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from blip_bootstrap.config import EvaluateConfig, SamplerConfig
from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.checkpoint.store import load_med
from blip_training.data.held_out import HeldOut, read_held_out
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import resolve_sampler
from blip_training.evaluate import evaluate
from blip_training.evaluate.caption_metrics import ptb_words, score_captions
from blip_training.evaluate.evaluate import evaluate_model, measure_captions
from blip_training.evaluate.likelihood import Likelihoods, text_gains
from blip_training.evaluate.matching import Judge, Matcher, embed_pictures, text_similarities
from blip_training.evaluate.retrieval import area_under_curve, best_ranks, recalls
from blip_training.objective.losses import token_costs
from blip_training.objective.micro_batches import encode_texts
from blip_training.train.finetune import finetune_captioner_model
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import finetune_config, pretrain_config

CONFIG = EvaluateConfig(sampler=SamplerConfig(preset="greedy"), device="cpu", batch_size=7)
CONSENSUS = {
    "sampler": SamplerConfig(preset="beam", num_beams=4), "consensus_samples": 6, "consensus_itc_weight": 1.0
}  # fmt: skip


@pytest.fixture(scope="module")
def model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    pretrain_model(out, world / "images", world / "pairs", world / "human", pretrain_config(world, steps=40, lr=4e-3))
    return out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog, isn't it?", "a man 's dog is n't it"),
        ("He can't; she cannot -- they're 'out'...", "he ca n't she can not they 're out"),
        ("A T-shirt (red) & 1,000 balls at 3.5 m.", "a t-shirt -lrb- red -rrb- & 1,000 balls at 3.5 m"),
        ("a dog  runs.\n", "a dog runs"),
        ("", ""),
    ],
)
def test_words_are_the_penn_treebanks_without_punctuation(text: str, words: str) -> None:
    assert " ".join(ptb_words(text)) == words


def test_words_and_scores_are_those_of_pycocoevalcap(real_data: Path) -> None:
    golden = json.loads((real_data / "caption_metrics_golden.json").read_text())
    for key, texts in golden["refs_raw"].items():
        assert [" ".join(ptb_words(text)) for text in texts] == golden["refs_tokenized"][key]
    scores = score_captions(golden["hyp_raw"], golden["refs_raw"])
    found, expected = scores.over(list(golden["hyp_raw"])), golden["overall"]
    assert found["cider"] == pytest.approx(expected["CIDEr"], abs=1e-9)
    assert found["bleu4"] == pytest.approx(expected["Bleu_4"], abs=1e-9)
    assert found["rouge_l"] == pytest.approx(expected["ROUGE_L"], abs=1e-9)
    one = next(iter(golden["per_image"]))
    assert scores.cider[one] == pytest.approx(golden["per_image"][one]["CIDEr"], abs=1e-9)


def test_captions_without_references_are_refused() -> None:
    with pytest.raises(InputError, match="key b: the held-out set has no caption"):
        score_captions({"a": "x", "b": "y"}, {"a": ["x"], "b": []})
    with pytest.raises(InputError, match="no captions to score"):
        score_captions({}, {})


def test_ranks_count_the_wrong_candidates_that_are_not_below() -> None:
    torch.manual_seed(0)
    scores = torch.randint(0, 6, (20, 9)).float()
    right = torch.rand(20, 9) < 0.3
    right[:, 0] = True
    for row, rank in enumerate(best_ranks(scores, right).tolist()):
        best = max(float(scores[row, c]) for c in range(9) if right[row, c])
        assert rank == sum(not right[row, c] and float(scores[row, c]) >= best for c in range(9))


def test_a_model_that_scores_everything_alike_finds_nothing() -> None:
    ranks = best_ranks(torch.zeros(30, 30), torch.eye(30, dtype=torch.bool))
    assert recalls(ranks, "tr") == {"tr1": 0.0, "tr5": 0.0, "tr10": 0.0}
    assert area_under_curve([0.5] * 9, [0.5] * 9) == 0.5


def test_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = random.Random(0)
    right, wrong = ([rng.randrange(8) / 8 for _ in range(n)] for n in (13, 17))
    pairs = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    assert area_under_curve(right, wrong) == pytest.approx(sum(pairs) / len(pairs))


def test_true_captions_score_high_and_domains_are_told_apart(world: Path) -> None:
    data = read_held_out(world / "held_out")
    written = {p.key: p.captions[0] if p.domain == "in" else "a thing" for p in data.pictures}
    metrics = measure_captions(data, written)
    assert metrics["cider_in"] > 3 > metrics["cider_near"]
    assert metrics["cider"] == pytest.approx((metrics["cider_in"] + metrics["cider_near"]) / 2)
    assert metrics["rouge_l_in"] == pytest.approx(1.0)


def test_all_figures_are_there_overall_and_by_domain(world: Path, model: Path, tmp_path: Path) -> None:
    evaluation = evaluate_model(model, world / "held_out", CONFIG)
    keys = ["cider", "bleu4", "rouge_l", "tr1", "tr5", "tr10", "ir1", "ir5", "ir10", "itm_auc"]
    assert set(evaluation.metrics) == {f"{key}{suffix}" for key in keys for suffix in ("", "_in", "_near")}
    assert all(0 <= evaluation.metrics[key] <= 1 for key in keys[1:])
    evaluation.save(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == evaluation.metrics
    rows = pq.read_table(tmp_path / "captions.parquet").to_pylist()
    assert [row["name"] for row in rows] == [f"{i}.jpg" for i in range(16)]
    assert sum(row["cider"] for row in rows) / 16 == pytest.approx(evaluation.metrics["cider"], rel=1e-5)


def test_the_batch_size_changes_no_figure(world: Path, model: Path) -> None:
    one, other = (
        evaluate_model(model, world / "held_out", CONFIG.model_copy(update={"batch_size": size, "rerank_top_k": 3}))
        for size in (7, 64)
    )
    assert one.metrics == pytest.approx(other.metrics, abs=1e-6)
    assert [row.caption for row in one.captions] == [row.caption for row in other.captions]


@torch.inference_mode()
def test_re_ranking_orders_the_first_by_itm_logit_and_similarity(world: Path, model: Path) -> None:
    med, tokenizer = load_med(model)
    data = read_held_out(world / "held_out")
    matcher = Matcher(med, tokenizer, data, CONFIG.model_copy(update={"rerank_top_k": 4}))
    scores = matcher.similarities()
    states = torch.cat([med.encode_image(pixels) for _, pixels in data.pixels(32, 5)])
    ids, mask = encode_texts(med, tokenizer, data.texts)
    for by_image in (True, False):
        table = scores if by_image else scores.T
        ranked = matcher.rerank(scores)[0 if by_image else 1]
        for row in range(len(table)):
            first = table[row].topk(4).indices.tolist()
            wanted = {}
            for other in first:
                image, text = (row, other) if by_image else (other, row)
                logits = med.match(states[image : image + 1], ids[text : text + 1], mask[text : text + 1])
                wanted[other] = float(logits[0, 1] + table[row, other])
            order = ranked[row].topk(4).indices.tolist()
            assert sorted(order) == sorted(first)
            values = [wanted[other] for other in order]
            assert all(a >= b - 1e-5 for a, b in pairwise(values))


def plain_gain(model: Path, config: EvaluateConfig, folders: tuple[Path, Path], image: int, text: str) -> float:
    """Log p(text | picture) less its mean over the references that are most similar to the text, one by one."""
    med, tokenizer = load_med(model)
    data, references = (read_held_out(folder) for folder in folders)

    def states_of(data: HeldOut) -> torch.Tensor:
        return torch.cat([med.encode_image(pixels) for _, pixels in data.pixels(32, 64)])

    def logprob(states: torch.Tensor) -> float:
        ids, mask = encode_texts(med, tokenizer, [text])
        scores = med.decode(states, ids, mask)[0, :-1].log_softmax(-1)
        return float(scores.gather(1, ids[0, 1:, None]).sum())

    others = states_of(references)
    similar = (med.embed_image(others) @ med.embed_text(*encode_texts(med, tokenizer, [text])).T)[:, 0]
    near = similar.topk(config.lm_references).indices.tolist()
    expected = sum(logprob(others[i : i + 1]) for i in near) / len(near)
    return logprob(states_of(data)[image : image + 1]) - expected


@torch.inference_mode()
def test_re_ranking_by_the_decoder_adds_what_a_picture_tells_of_a_text(world: Path, model: Path) -> None:
    med, tokenizer = load_med(model)
    config = CONFIG.model_copy(update={"rerank_top_k": 3, "rerank_by": "lm", "lm_references": 2, "lm_weight": 0.05})
    data, references = read_held_out(world / "held_out"), read_held_out(world / "human", 10)
    matcher = Matcher(med, tokenizer, data, config, Judge(med, tokenizer, "", references))
    scores = matcher.similarities()
    by_image, by_text = matcher.rerank(scores)
    for table, plain in ((by_image, scores), (by_text, scores.T)):
        changed = (table != plain).sum(1)
        assert bool((changed == 3).all())
        assert all(bool((table[row].topk(3).indices.sort().values == plain[row].topk(3).indices.sort().values).all())
                   for row in range(len(table)))  # fmt: skip


@torch.inference_mode()
def test_the_decoders_gains_are_those_of_single_pairs(world: Path, model: Path) -> None:
    med, tokenizer = load_med(model)
    config = CONFIG.model_copy(update={"lm_references": 2, "batch_size": 5})
    data, references = read_held_out(world / "held_out"), read_held_out(world / "human")
    likelihoods = Likelihoods(med, tokenizer, data.texts, "", config.batch_size)
    similar = torch.cat([med.embed_image(med.encode_image(p)) for _, p in references.pixels(32, 64)])
    similar = similar @ med.embed_text(*encode_texts(med, tokenizer, data.texts)).T
    wanted = torch.zeros(len(data.pictures), len(data.texts), dtype=torch.bool)
    wanted[0, 3] = wanted[2, 3] = wanted[2, 5] = True
    gains = text_gains(likelihoods, data, wanted, references, similar, config.lm_references)
    assert gains.count_nonzero() == 3
    for image, text in wanted.nonzero().tolist():
        plain = plain_gain(model, config, (world / "held_out", world / "human"), image, data.texts[text])
        assert float(gains[image, text]) == pytest.approx(plain, abs=1e-3)


@torch.inference_mode()
def test_a_prompts_tokens_do_not_count(world: Path, model: Path) -> None:
    med, tokenizer = load_med(model)
    data = read_held_out(world / "held_out", 1)
    text, states = data.texts[0], med.encode_image(next(data.pixels(32, 1))[1])
    ids, mask = encode_texts(med, tokenizer, [f"a picture of {text}"])
    costs = token_costs(med, med.decode_states(states, ids, mask), ids, mask)
    found = Likelihoods(med, tokenizer, [text], "a picture of", 4).of_pairs(data, torch.ones(1, 1).bool())
    torch.testing.assert_close(found[0, 0], -costs[0, len(tokenizer.piece_ids("a picture of")) :].sum())


def test_re_ranking_by_the_decoder_wants_references(world: Path, model: Path) -> None:
    config = CONFIG.model_copy(update={"rerank_top_k": 3, "rerank_by": "lm", "limit": 5})
    with pytest.raises(InputError, match="rerank_by lm needs a human-annotated set"):
        evaluate_model(model, world / "held_out", config)
    found = evaluate_model(model, world / "held_out", config, references=world / "human").metrics
    plain = evaluate_model(model, world / "held_out", config.model_copy(update={"rerank_top_k": 0})).metrics
    assert [found[key] for key in ("tr5", "ir5")] == [plain[key] for key in ("tr5", "ir5")]  # the same first three


def test_a_captioner_writes_in_place_of_the_model_and_is_given_the_prompt(
    world: Path, model: Path, tmp_path: Path
) -> None:
    finetune_captioner_model(tmp_path, model, world / "human", finetune_config(steps=30, lr=4e-3))
    alone, helped = (evaluate_model(model, world / "held_out", CONFIG, captioner) for captioner in (None, tmp_path))
    assert alone.metrics["tr1"] == helped.metrics["tr1"]
    assert alone.metrics["cider"] != helped.metrics["cider"]


@torch.inference_mode()
def test_similarities_are_those_of_the_pictures_own_texts(world: Path, model: Path) -> None:
    med, tokenizer = load_med(model)
    data = read_held_out(world / "held_out")
    texts = {p.key: [f"a thing {i}" for i in range(1 + at % 2)] for at, p in enumerate(data.pictures)}
    found = text_similarities(med, tokenizer, data, CONFIG, texts)
    states = torch.cat([med.encode_image(pixels) for _, pixels in data.pixels(32, 5)])
    for at, picture in enumerate(data.pictures):
        own = texts[picture.key]
        expected = med.cosines(states[at : at + 1], *encode_texts(med, tokenizer, own))
        assert found[picture.key] == pytest.approx(expected.tolist(), abs=1e-5)


@torch.inference_mode()
def test_mirrored_pictures_are_seen_from_both_sides(world: Path, model: Path) -> None:
    med, _ = load_med(model)
    _, pixels = next(read_held_out(world / "held_out").pixels(32, 5))
    both, one = (embed_pictures(med, med.encode_image(pixels), pixels, mirrored) for mirrored in (True, False))
    other = pixels.flip(-1)
    torch.testing.assert_close(both, embed_pictures(med, med.encode_image(other), other, True))
    torch.testing.assert_close(both.norm(dim=1), torch.ones(5))
    assert not torch.allclose(both, one, atol=1e-4)
    assert torch.equal(one, med.embed_image(med.encode_image(pixels)))


def test_half_of_the_drawn_captions_are_of_the_mirror_image(
    world: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    med, tokenizer = load_med(model)
    data = read_held_out(world / "held_out", 4)
    calls: list[tuple[torch.Tensor, list[int]]] = []

    def spy(*given: Any) -> Any:
        calls.append((given[2], [len(seeds) for seeds in given[-1]]))
        return generate(*given)

    monkeypatch.setattr(evaluate, "generate", spy)
    config = CONFIG.model_copy(update=CONSENSUS | {"consensus_samples": 5, "mirrored": True})
    with torch.inference_mode():
        written = evaluate.write_captions(med, tokenizer, data, "", config)
        ((_, pixels),) = data.pixels(32, 4)
        straight, turned = med.encode_image(pixels), med.encode_image(pixels.flip(-1))
    assert set(written) == {picture.key for picture in data.pictures}
    assert [counts for _, counts in calls] == [[4] * 4, [3] * 4, [2] * 4]
    for (states, _), expected in zip(calls, (straight, straight, turned), strict=True):
        assert torch.equal(states, expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_consensus_takes_one_of_the_beams_whatever_the_batch(world: Path, model: Path, mirrored: bool) -> None:
    config = CONFIG.model_copy(update=CONSENSUS | {"mirrored": mirrored})
    med, tokenizer = load_med(model)
    data = read_held_out(world / "held_out")
    one, other = (
        evaluate_model(model, world / "held_out", config.model_copy(update={"batch_size": size})) for size in (3, 64)
    )
    assert [row.caption for row in one.captions] == [row.caption for row in other.captions]
    sampler = resolve_sampler(config.sampler)
    for (_, pixels), picture, row in zip(data.pixels(32, 1), data.pictures, one.captions, strict=True):
        beams = generate(med, tokenizer, med.encode_image(pixels), "", sampler, [[0] * 4])[0]
        assert row.key == picture.key
        assert row.caption in [beam.text for beam in beams]


def test_a_captioner_alone_has_captions_alone(world: Path, model: Path, tmp_path: Path) -> None:
    finetune_captioner_model(tmp_path, model, world / "human", finetune_config(steps=1))
    metrics = evaluate_model(tmp_path, world / "held_out", CONFIG.model_copy(update={"limit": 5})).metrics
    assert {"cider", "bleu4", "rouge_l"} <= set(metrics)
    assert "tr1" not in metrics


def test_limit_takes_the_first_pictures_and_broken_ones_are_left_out(world: Path) -> None:
    assert [p.key for p in read_held_out(world / "held_out", 3).pictures] == [f"{i:010d}" for i in range(3)]
    assert len(read_held_out(world / "held_out").pictures) == 16


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no readable picture with a caption"):
        read_held_out(tmp_path)


def test_a_damaged_model_is_refused(world: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        evaluate_model(tmp_path / "model", world / "held_out", CONFIG)


def test_meteor_needs_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="needs java"):
        score_captions({"a": "a dog"}, {"a": ["a dog"]}).meteor()
