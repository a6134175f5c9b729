"""A step cut into micro-batches is one batch: the same losses, gradients and queue; what each micro-batch weighs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blip_bootstrap.config import ItcConfig, ItmConfig
from blip_training.data.tokenizer import Tokenizer
from blip_training.model.med import Med
from blip_training.objective.contrast import Contrast, StepFeatures
from blip_training.objective.losses import lm_loss
from blip_training.objective.micro_batches import MicroBatch, micro_batches_of, shares_of, warn_of_cut_texts
from blip_training.runtime.workers import Worker
from blip_training.train.feed import in_equal_parts
from tests.support.drawn import model_config
from tests.support.tiny_batch import TEXTS, cut, whole_batch

CPU = Worker(torch.device("cpu"))


@pytest.fixture(scope="module")
def tokenizer(world: Path) -> Tokenizer:
    return Tokenizer.load(str(world / "vocab.txt"))


def new_med(world: Path, tokenizer: Tokenizer) -> Med:
    torch.manual_seed(0)
    return Med(model_config(world), tokenizer.num_tokens)


def itc_of_steps(
    world: Path, tokenizer: Tokenizer, count: int
) -> tuple[list[float], list[torch.Tensor], list[list[float]]]:
    """ITC losses of three steps in `count` micro-batches, the last step's gradients, and the queue after each."""
    med = new_med(world, tokenizer)
    contrast = Contrast(med, ItcConfig(queue_size=12, momentum=0.9), ItmConfig(), CPU)
    losses, queues = [], []
    for seed in range(3):
        med.zero_grad()
        batches = micro_batches_of(med, tokenizer, cut(whole_batch(seed), count), CPU)
        features = contrast.features(batches)
        found = [contrast.itc(features, one, med.encode_image(one.images), 0.4).loss for one in batches]
        mean = torch.stack(found).mean()
        mean.backward()
        losses.append(mean.item())
        contrast.update(features)
        queues.append([*contrast.queue.get_buffer("images").flatten().tolist()])
        assert contrast.queue.filled == min(12, 8 * (seed + 1))
    return losses, [p.grad for p in med.parameters() if p.grad is not None], queues


@pytest.mark.parametrize("count", [2, 4, 8])
def test_itc_and_the_queue_are_those_of_one_batch(world: Path, tokenizer: Tokenizer, count: int) -> None:
    whole, gradients, queues = itc_of_steps(world, tokenizer, 1)
    losses, cut_gradients, cut_queues = itc_of_steps(world, tokenizer, count)
    assert losses == pytest.approx(whole, rel=1e-5)
    # Sums in another order: up to 2.2e-6 apart in float32, 7e-15 where the same is computed in float64.
    torch.testing.assert_close(cut_gradients, gradients, rtol=1e-3, atol=5e-6)
    for found, expected in zip(cut_queues, queues, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)


def lm_of(world: Path, tokenizer: Tokenizer, count: int, prompt: str) -> float:
    med = new_med(world, tokenizer)
    batches = micro_batches_of(med, tokenizer, cut(whole_batch(), count), CPU, prompt)
    num_prompt = len(tokenizer.piece_ids(prompt))
    losses = [lm_loss(med, med.encode_image(p.images), p.ids, p.mask, num_prompt) * p.lm_share for p in batches]
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("prompt", ["", "a picture of"])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_lm_is_the_mean_over_all_tokens_of_the_step(world: Path, tokenizer: Tokenizer, count: int, prompt: str) -> None:
    whole = lm_of(world, tokenizer, 1, prompt)
    assert lm_of(world, tokenizer, count, prompt) == pytest.approx(whole, rel=1e-6)


def test_texts_of_unequal_length_weigh_unequally(world: Path, tokenizer: Tokenizer) -> None:
    batches = micro_batches_of(new_med(world, tokenizer), tokenizer, cut(whole_batch(), 8), CPU)
    targets = [len(tokenizer.piece_ids(text)) + 1 for text in TEXTS]
    shares = [8 * count / sum(targets) for count in targets]
    assert [one.lm_share.item() for one in batches] == pytest.approx(shares)
    assert [one.number for one in batches] == list(range(8))


def test_a_micro_batch_weighs_by_the_pairs_that_itm_judges(world: Path, tokenizer: Tokenizer) -> None:
    """Of eight rows in two halves the first is of one image: four matches and no negative; the second has all three."""
    med = new_med(world, tokenizer)
    contrast = Contrast(med, ItcConfig(queue_size=0), ItmConfig(mask_duplicate_texts=False), CPU)
    batches = micro_batches_of(med, tokenizer, cut(whole_batch(ids=[1, 1, 1, 1, 2, 3, 4, 5]), 2), CPU)
    features = contrast.features(batches)
    weighed = [itm_of(contrast, features, one, med) for one in batches]
    for batch, found, share in zip(batches, weighed, (4 / 8, 12 / 8), strict=True):
        alone = replace(batch, number=0, lm_share=torch.ones(()))
        assert found == pytest.approx(share * itm_of(contrast, contrast.features([alone]), alone, med), rel=1e-5)


def itm_of(contrast: Contrast, features: StepFeatures, batch: MicroBatch, med: Med) -> float:
    states = med.encode_image(batch.images)
    itc = contrast.itc(features, batch, states, 0.0)
    return contrast.itm(features, batch, states, itc, torch.Generator().manual_seed(0)).item()


@pytest.mark.parametrize("count", [1, 4, 6, 8])
def test_a_stem_sees_equal_parts_and_gives_a_grid_for_each_picture(count: int) -> None:
    seen: list[int] = []

    def stem(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pixels.flatten(1)[:, :2] + 1

    pixels = torch.arange(count * 12, dtype=torch.uint8).view(count, 3, 2, 2)
    assert torch.equal(in_equal_parts(stem, pixels, 4), pixels.flatten(1)[:, :2] + 1)
    assert seen == [4] * ((count + 3) // 4)


def test_shares_are_one_on_average_and_equal_counts_weigh_one() -> None:
    assert shares_of([torch.tensor(3), torch.tensor(1)], CPU).tolist() == [1.5, 0.5]
    assert shares_of([torch.tensor(7)], CPU).tolist() == [1.0]


def test_the_log_says_where_texts_are_cut(world: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    med = new_med(world, tokenizer)  # cuts at 14 tokens, specials included
    long = "there is a red circle, there is a blue square, it is that"
    warn_of_cut_texts(med, tokenizer, ["a red circle"] * 39 + [long])
    warn_of_cut_texts(med, tokenizer, [" ".join(["red"] * 12)] * 4)
    assert not caplog.records
    warn_of_cut_texts(med, tokenizer, ["a red circle"] * 8 + [long])
    warn_of_cut_texts(med, tokenizer, [" ".join(["red"] * 10)] * 4, "a picture of")
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 9 texts are longer than model.text.max_tokens 14 and are cut there",
        "4 of 4 texts are longer than model.text.max_tokens 14 and are cut there",
    ]
