"""The three losses, each against a loop written from the paper."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from blip_bootstrap.config import EqualTexts, ModelConfig
from blip_training.model.med import Med
from blip_training.objective.losses import (
    ItcLoss,
    WrongTexts,
    draw_negatives,
    drop_words,
    itc_loss,
    itm_loss,
    lm_loss,
    text_hashes,
)


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def tiny(seed: int = 0, itc_in_itm: bool = False) -> Med:
    torch.manual_seed(seed)
    config = ModelConfig.model_validate(
        {
            "vision": {"image_size": 16, "patch_size": 8, "width": 32, "depth": 1, "heads": 2},
            "text": {"width": 32, "depth": 2, "heads": 2, "intermediate": 48, "dropout": 0},
            "embed_dim": 8,
            "itc_in_itm": itc_in_itm,
        }
    )
    return Med(config, 40)


def loop_itc(image: torch.Tensor, text: torch.Tensor, slow_image: torch.Tensor, slow_text: torch.Tensor,
             ids: list[int], slow_ids: list[int], temperature: float, alpha: float) -> float:  # fmt: skip
    total = 0.0
    for anchors, slow_anchors, targets in ((image, slow_image, slow_text), (text, slow_text, slow_image)):
        for i, anchor in enumerate(anchors):
            logits = [float(anchor @ other) / temperature for other in targets]
            soft = torch.tensor([float(slow_anchors[i] @ other) / temperature for other in targets]).softmax(0)
            same = [float(slow_ids[j] == ids[i]) for j in range(len(targets))]
            log_sum = math.log(sum(math.exp(logit) for logit in logits))
            for j, logit in enumerate(logits):
                target = alpha * float(soft[j]) + (1 - alpha) * same[j] / sum(same)
                total -= target * (logit - log_sum)
    return total / (2 * len(image))


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 1, 1, 3]])
def test_itc_with_queue_ids_and_soft_targets(alpha: float, ids: list[int]) -> None:
    image, text, slow_image, slow_text = unit(4, 1), unit(4, 2), unit(9, 3), unit(9, 4)
    slow_ids = [*ids, 7, 8, 1, 9, 0]
    found = itc_loss(image, text, slow_image, slow_text, torch.tensor(slow_ids), torch.tensor(0.2), alpha)
    expected = loop_itc(image, text, slow_image, slow_text, ids, slow_ids, 0.2, alpha)
    assert found.loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found.image_to_text, image @ slow_text[:4].T / 0.2)
    torch.testing.assert_close(found.text_to_image, text @ slow_image[:4].T / 0.2)


def loop_itc_of_texts(rows: list[torch.Tensor], ids: list[int], texts: list[str], equal: str, alpha: float) -> float:
    """Four rows against nine momentum pairs at temperature .2, text by text."""
    image, text, slow_image, slow_text = rows
    total = 0.0
    for i in range(4):
        seen = [j for j in range(9) if equal != "masked" or texts[j] != texts[i] or ids[j] == ids[i]]
        right = [float(ids[j] == ids[i] or (equal == "positives" and texts[j] == texts[i])) for j in seen]
        for anchor, slow, others in ((image, slow_image, slow_text), (text, slow_text, slow_image)):
            logs = torch.stack([anchor[i] @ others[j] / 0.2 for j in seen]).log_softmax(0)
            soft = torch.stack([slow[i] @ others[j] / 0.2 for j in seen]).softmax(0)
            target = alpha * soft + (1 - alpha) * torch.tensor(right) / sum(right)
            total -= float((target * logs).sum()) / 8
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("equal", ["positives", "masked", "negatives"])
def test_itc_with_equal_texts_of_other_images(equal: EqualTexts, alpha: float) -> None:
    rows = [unit(4, 1), unit(4, 2), unit(9, 3), unit(9, 4)]
    ids, texts = [0, 1, 1, 3, 7, 8, 1, 9, 0], list("abcabaccd")
    keys = torch.tensor([ord(one) for one in texts])
    found = itc_loss(rows[0], rows[1], rows[2], rows[3], torch.tensor(ids), torch.tensor(0.2), alpha, keys, equal)
    assert found.loss.item() == pytest.approx(loop_itc_of_texts(rows, ids, texts, equal, alpha), rel=1e-5)
    torch.testing.assert_close(found.image_to_text, rows[0] @ rows[3][:4].T / 0.2)


def test_a_masked_pair_has_no_gradient() -> None:
    rows = [unit(2, 1).requires_grad_(), unit(2, 2), unit(2, 3), unit(2, 4)]
    ids, keys, temperature = torch.arange(2), torch.tensor([5, 5]), torch.tensor(0.2)
    itc_loss(rows[0], rows[1], rows[2], rows[3], ids, temperature, 0.4, keys, "masked").loss.backward()
    assert rows[0].grad is not None
    assert rows[0].grad.abs().max() < 1e-6


def test_keys_are_those_of_the_text_whatever_the_padding() -> None:
    texts = [[2, 5, 6, 3], [2, 6, 5, 3], [2, 5, 3], [2, 5, 6, 3], [2, 5, 6, 7]]
    keys = set()
    for width, pad in ((4, 0), (9, 0), (6, 1)):
        ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts])
        mask = torch.tensor([[int(i < len(text)) for i in range(width)] for text in texts])
        keys.add(tuple(text_hashes(ids, mask).tolist()))
    (found,) = keys
    assert found[0] == found[3]
    assert len(set(found)) == 4


def test_itc_teaches_the_embeddings_and_the_temperature() -> None:
    image, text, temperature = unit(4, 1).requires_grad_(), unit(4, 2).requires_grad_(), torch.tensor(0.07)
    temperature.requires_grad_()
    slow_image, slow_text = unit(4, 3).requires_grad_(), unit(4, 4).requires_grad_()
    itc_loss(image, text, slow_image, slow_text, torch.arange(4), temperature, 0.4).loss.backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (image, text, temperature))


@pytest.mark.parametrize("uniform_share", [0.0, 0.5, 1.0])
def test_negatives_are_drawn_by_similarity_among_the_allowed(uniform_share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(5, 5, generator=generator) * 2
    ids = torch.tensor([0, 1, 1, 3, 4])
    allowed = ids[:, None] != ids[None, :]
    counts = torch.zeros(5, 5)
    for _ in range(4000):
        counts[torch.arange(5), draw_negatives(similarity, allowed, generator, uniform_share)] += 1
    for i in range(5):
        weights = [math.exp(similarity[i, j]) if allowed[i, j] else 0.0 for j in range(5)]
        for j in range(5):
            uniform = float(allowed[i, j]) / sum(allowed[i].tolist())
            expected = (1 - uniform_share) * weights[j] / sum(weights) + uniform_share * uniform
            assert counts[i, j] / 4000 == pytest.approx(expected, abs=0.035)
            assert allowed[i, j] or counts[i, j] == 0


def test_same_generator_state_draws_the_same() -> None:
    similarity, allowed = torch.randn(6, 6), ~torch.eye(6, dtype=torch.bool)
    draws = [draw_negatives(similarity, allowed, torch.Generator().manual_seed(5)).tolist() for _ in range(2)]
    assert draws[0] == draws[1]


def batch(num: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    pixels = torch.randint(0, 256, (num, 3, 16, 16), dtype=torch.uint8, generator=generator)
    ids = torch.randint(4, 38, (num, 7), generator=generator)
    mask = (torch.arange(7) < torch.tensor([7, 5, 6, 7, 4])[:num, None]).long()
    return pixels, ids * mask, mask


@pytest.mark.parametrize("itc_in_itm", [False, True])
def test_itm_is_the_mean_over_positives_and_both_kinds_of_negatives(itc_in_itm: bool) -> None:
    med, (pixels, ids, mask) = tiny(itc_in_itm=itc_in_itm), batch()
    states = med.encode_image(pixels)
    similarity = ItcLoss(torch.tensor(0.0), torch.randn(5, 5), torch.randn(5, 5))
    found = itm_loss(med, states, ids, mask, torch.arange(5), similarity, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    allowed = ~torch.eye(5, dtype=torch.bool)
    wrong_text = draw_negatives(similarity.image_to_text, allowed, generator).tolist()
    wrong_image = draw_negatives(similarity.text_to_image, allowed, generator).tolist()
    pairs = [(i, i, 1) for i in range(5)] + [(i, t, 0) for i, t in enumerate(wrong_text)]
    pairs += [(j, i, 0) for i, j in enumerate(wrong_image)]
    losses = []
    for image, text, label in pairs:
        logits = med.match(states[image : image + 1], ids[text : text + 1], mask[text : text + 1])
        losses.append(F.cross_entropy(logits, torch.tensor([label])))
    torch.testing.assert_close(found.loss, torch.stack(losses).mean(), atol=1e-6, rtol=1e-5)
    assert found.labels.tolist() == [label for _, _, label in pairs]


@pytest.mark.parametrize("num_wrong", [0, 2])
def test_itm_takes_the_embeddings_that_itc_has_made(num_wrong: int) -> None:
    med, (pixels, ids, mask) = tiny(itc_in_itm=True).train(), batch()
    wrong = WrongTexts(ids[:2], mask[:2], torch.tensor([3, 4])) if num_wrong else None
    found = []
    for known in (False, True):
        med.zero_grad()
        states = med.encode_image(pixels)
        own = med.embed_image(states), med.embed_text(ids, mask)
        itc = itc_loss(*own, unit(5, 1), unit(5, 2), torch.arange(5), med.temperature, 0.4)
        itc = itc if known else replace(itc, embedded=None)
        generator = torch.Generator().manual_seed(3)
        itm = itm_loss(med, states, ids, mask, torch.arange(5), itc, generator, wrong=wrong)
        (itc.loss + itm.loss).backward()
        found.append([itm.loss.detach(), *[one.grad for one in med.parameters() if one.grad is not None]])
    assert len(found[0]) == len(found[1])
    for own, again in zip(*found, strict=True):
        torch.testing.assert_close(own, again, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rows", [None, slice(1, 4)])
@pytest.mark.parametrize("itc_in_itm", [False, True])
def test_wrong_texts_are_further_pairs_that_do_not_match(itc_in_itm: bool, rows: slice | None) -> None:
    """They are longer than the batch's own texts, and two are of one image."""
    med, (pixels, ids, mask) = tiny(itc_in_itm=itc_in_itm), batch()
    states, image_ids = med.encode_image(pixels), torch.tensor([0, 1, 2, 3, 3])
    similarity = ItcLoss(torch.tensor(0.0), torch.randn(5, 5), torch.randn(5, 5))
    more = torch.randint(4, 38, (3, 9), generator=torch.Generator().manual_seed(1))
    more_mask = (torch.arange(9) < torch.tensor([9, 3, 8])[:, None]).long()
    own = list(range(5))[rows or slice(None)]
    wrong = WrongTexts(more * more_mask, more_mask, torch.tensor([2, 0, 2]))
    options = torch.Generator().manual_seed(3), 0.0, True, rows, None
    found = itm_loss(med, states, ids, mask, image_ids, similarity, *options, wrong)
    without = itm_loss(med, states, ids, mask, image_ids, similarity, torch.Generator().manual_seed(3), rows=rows)
    total, count = without.loss.item() * 3 * len(own), 3 * len(own)
    for text, row in enumerate(wrong.image_of_row.tolist()):
        image, size = own[row], int(more_mask[text].sum())
        logits = med.match(states[image : image + 1], more[text : text + 1, :size], more_mask[text : text + 1, :size])
        total, count = total - logits.log_softmax(1)[0, 0].item(), count + 1
    assert found.loss.item() == pytest.approx(total / count, rel=1e-5)
    assert found.labels.tolist() == [*without.labels.tolist(), 0, 0, 0]
    torch.testing.assert_close(found.logits[:-3], without.logits)


def test_same_image_and_equal_texts_are_never_negatives() -> None:
    med, (pixels, ids, mask) = tiny(), batch(4)
    ids[3], mask[3] = ids[2], mask[2]
    image_ids = torch.tensor([0, 0, 1, 2])
    similarity = ItcLoss(torch.tensor(0.0), torch.zeros(4, 4), torch.zeros(4, 4))
    seen = []
    real = med.match

    def spy(
        states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, images: torch.Tensor, keys: None, cosines: None
    ) -> torch.Tensor:
        seen.append((ids, images))
        return real(states, ids, mask, images)

    med.match = spy  # type: ignore[method-assign, assignment]
    states = med.encode_image(pixels)
    for seed in range(30):
        itm_loss(med, states, ids, mask, image_ids, similarity, torch.Generator().manual_seed(seed))
    of_text = {tuple(row.tolist()): {i for i in range(4) if torch.equal(row, ids[i])} for row in ids}
    for texts, images in seen:
        for text, image in list(zip(texts, images.tolist(), strict=True))[4:]:
            sources = of_text[tuple(text.tolist())]
            assert all(image_ids[source] != image_ids[image] for source in sources)


def test_a_row_without_possible_negatives_carries_no_weight() -> None:
    med, (pixels, ids, mask) = tiny(), batch(3)
    states = med.encode_image(pixels)
    similarity = ItcLoss(torch.tensor(0.0), torch.zeros(3, 3), torch.zeros(3, 3))
    found = itm_loss(med, states, ids, mask, torch.zeros(3, dtype=torch.int64), similarity)
    positives = F.cross_entropy(med.match(states, ids, mask), torch.ones(3, dtype=torch.int64))
    torch.testing.assert_close(found.loss, positives)


@pytest.mark.parametrize("prompt_tokens", [0, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_lm_with_label_smoothing_and_prompt(prompt_tokens: int, smoothing: float) -> None:
    med, (pixels, ids, mask) = tiny(), batch()
    states = med.encode_image(pixels)
    logs = med.decode(states, ids, mask).log_softmax(-1)
    losses = []
    for row in range(5):
        for at in range(1 + prompt_tokens, int(mask[row].sum())):
            own = logs[row, at - 1]
            losses.append(-(1 - smoothing) * own[ids[row, at]] - smoothing * own.mean())
    found = lm_loss(med, states, ids, mask, prompt_tokens, smoothing)
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-6, rtol=1e-5)


def test_word_dropout_reads_unknown_words_and_keeps_the_targets() -> None:
    med, (pixels, ids, mask) = tiny(), batch()
    torch.manual_seed(0)
    read = drop_words(ids.repeat(400, 1), 0.3, 1, prompt_tokens=2)
    changed = read != ids.repeat(400, 1)
    assert not changed[:, :3].any()
    assert (read[changed] == 1).all()
    assert changed[:, 3:].float().mean().item() == pytest.approx(0.3, abs=0.03)
    states, read = med.encode_image(pixels), ids.clone()
    read[:, 3:] = 1
    logs, losses = med.decode(states, read, mask).log_softmax(-1), []
    for row in range(5):
        losses += [-logs[row, at - 1, ids[row, at]] for at in range(3, int(mask[row].sum()))]
    torch.testing.assert_close(lm_loss(med, states, ids, mask, 2, 0.0, read=read), torch.stack(losses).mean())


def test_three_losses_reach_every_weight() -> None:
    med, (pixels, ids, mask) = tiny(), batch()
    states = med.encode_image(pixels)
    image, text, own = med.embed_image(states), med.embed_text(ids, mask), torch.arange(5)
    itc = itc_loss(image, text, image.detach(), text.detach(), own, med.temperature, 0.4)
    itm = itm_loss(med, states, ids, mask, own, itc, torch.Generator().manual_seed(0))
    (itc.loss + itm.loss + lm_loss(med, states, ids, mask)).backward()
    assert [name for name, weight in med.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_keys_give_the_same_losses_and_gradients(checkpointing: bool) -> None:
    med, (pixels, ids, mask) = tiny(), batch()
    med.train().set_activation_checkpointing(checkpointing)
    found = []
    for shared in (False, True):
        med.zero_grad()
        states = med.encode_image(pixels)
        keys = med.shared_keys(states) if shared else None
        similarity = ItcLoss(torch.tensor(0.0), torch.zeros(5, 5), torch.zeros(5, 5))
        generator = torch.Generator().manual_seed(3)
        itm = itm_loss(med, states, ids, mask, torch.arange(5), similarity, generator, keys=keys).loss
        (itm + lm_loss(med, states, ids, mask, keys=keys)).backward()
        found.append([weight.grad.clone() for weight in med.parameters() if weight.grad is not None])
    torch.testing.assert_close(found[0], found[1])


def test_readings_with_cross_attention_of_their_own_share_no_keys() -> None:
    med = Med(tiny().config.model_copy(update={"share": "all_but_ca"}), 40)
    assert med.shared_keys(med.encode_image(batch()[0])) is None
