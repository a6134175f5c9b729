"""MED: what is shared, which token comes first, what an image's rows share, and what the text starts from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import ModelConfig
from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.cast import cast_products
from blip_training.checkpoint.fresh import new_med
from blip_training.model.cross_attention import CrossAttention
from blip_training.model.med import Med

VISION = {"image_size": 16, "patch_size": 8, "width": 32, "depth": 1, "heads": 2}


def tiny(**changes: Any) -> Med:
    torch.manual_seed(0)
    text = {"width": 32, "depth": 2, "heads": 2, "intermediate": 48}
    config = ModelConfig.model_validate({"vision": VISION, "text": text, "embed_dim": 8} | changes)
    return Med(config, 40).eval()


def inputs(images: int, texts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, 16, 16), dtype=torch.uint8, generator=generator)
    ids = torch.randint(4, 38, (texts, 6), generator=generator)
    return pixels, ids, (torch.arange(6) < torch.randint(3, 7, (texts, 1), generator=generator)).long()


@pytest.mark.parametrize(
    ("share", "millions"), [("all", 223.68), ("all_but_ca", 252.05), ("all_but_sa", 252.05), ("none", 360.94)]
)
def test_base_size_has_the_papers_parameters(share: Any, millions: float) -> None:
    with torch.device("meta"):
        med = Med(ModelConfig(share=share), 30524)
    count = sum(weight.numel() for part in (med.vision, med.text) for weight in part.parameters())
    assert round(count / 1e6, 2) == millions


def test_only_self_attention_is_not_shared() -> None:
    names = dict(tiny().text.named_parameters())
    apart = {name.split(".")[2] for name in names if ".bidirectional." in name or ".causal." in name}
    assert apart == {"self_attention"}
    assert {name.split("causal.")[1] for name in names if "layers.0" in name and "causal." in name} == {
        f"{part}.{kind}" for part in ("qkv", "output", "norm") for kind in ("weight", "bias")
    }


@torch.no_grad()
def test_first_token_is_enc_when_matching_and_dec_when_writing() -> None:
    med, (pixels, ids, mask) = tiny(), inputs(2, 2)
    states = med.encode_image(pixels)
    for call, token in ((med.match, 39), (med.decode, 38)):
        own = ids.clone()
        own[:, 0] = token
        assert torch.equal(call(states, ids, mask), call(states, own, mask))
    with_cls, with_other = ids.clone(), ids.clone()
    with_cls[:, 0], with_other[:, 0] = 2, 3
    assert not torch.allclose(med.embed_text(with_cls, mask), med.embed_text(with_other, mask))


@torch.no_grad()
@pytest.mark.parametrize("itc_pooling", ["first", "mean"])
def test_padding_changes_nothing_and_the_decoder_sees_no_later_token(itc_pooling: str) -> None:
    med, (pixels, ids, mask) = tiny(itc_pooling=itc_pooling), inputs(3, 3)
    states = med.encode_image(pixels)
    other = torch.where(mask == 1, ids, 5)
    torch.testing.assert_close(med.embed_text(ids, mask), med.embed_text(other, mask))
    torch.testing.assert_close(med.match(states, ids, mask), med.match(states, other, mask))
    later = ids.clone()
    later[:, 4:] = 6
    torch.testing.assert_close(med.decode(states, ids, mask)[:, :4], med.decode(states, later, mask)[:, :4])


@torch.no_grad()
@pytest.mark.parametrize("itc_in_itm", [False, True])
def test_texts_of_one_image_share_its_keys_and_values(itc_in_itm: bool) -> None:
    med, (pixels, ids, mask) = tiny(itc_in_itm=itc_in_itm), inputs(2, 6)
    states = med.encode_image(pixels)
    one_by_one = torch.cat([med.match(states[i // 3 : i // 3 + 1], ids[i : i + 1], mask[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(med.match(states, ids, mask), one_by_one)
    order = torch.tensor([1, 0, 0, 1, 1, 0])
    mixed = torch.cat([med.match(states[j : j + 1], ids[i : i + 1], mask[i : i + 1]) for i, j in enumerate(order)])
    torch.testing.assert_close(med.match(states, ids, mask, order), mixed)
    cosines = med.cosines(states, ids, mask, order)
    assert torch.equal(med.match(states, ids, mask, order, cosines=cosines), med.match(states, ids, mask, order))


@torch.no_grad()
@pytest.mark.parametrize("seen", [None, 6])
def test_few_queries_do_without_keys_and_values(seen: int | None) -> None:
    attention, generator = CrossAttention(32, 24, 4, 0.1).eval(), torch.Generator().manual_seed(0)
    for weight in attention.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    x, states = torch.randn(6, 5, 32, generator=generator), torch.randn(2, 9, 24, generator=generator)
    mask = None if seen is None else (torch.arange(9) < seen).expand(2, 1, 1, 9)
    by_keys = attention(x, attention.keys_values(states), mask)
    torch.testing.assert_close(attention(x, states, mask), by_keys, atol=1e-5, rtol=1e-5)
    # 9 patches of width 32 against 4 heads' 9 similarities and a width each: 288 / 68.
    assert attention.absorbs(states, 4)
    assert not attention.absorbs(states, 5)
    assert not attention.train().absorbs(states, 1), "dropout is of the weights of values"
    with torch.enable_grad():
        assert not attention.eval().absorbs(states, 1)


@torch.no_grad()
def test_mean_pooling_embeds_patches_without_the_class_token_and_a_texts_own_tokens() -> None:
    med, (pixels, ids, mask) = tiny(itc_pooling="mean"), inputs(2, 3)
    states = med.encode_image(pixels)
    for row, embedded in zip(states, med.embed_image(states), strict=True):
        own = med.vision_projection(torch.stack(list(row[1:])).mean(0))
        torch.testing.assert_close(embedded, own / own.norm())
    for text, seen, embedded in zip(ids, mask, med.embed_text(ids, mask), strict=True):
        length = int(seen.sum())
        tokens = med.text(text[None, :length], seen[None, :length], "bidirectional")[0]
        own = med.text_projection(tokens.mean(0))
        torch.testing.assert_close(embedded, own / own.norm())


@torch.no_grad()
def test_embeddings_have_length_one_and_the_temperature_stays_in_its_range() -> None:
    med, (pixels, ids, mask) = tiny(), inputs(2, 4)
    for embedded in (med.embed_image(med.encode_image(pixels)), med.embed_text(ids, mask)):
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(embedded)))
    for value, kept in ((0.9, 0.5), (0.0001, 0.001), (0.2, 0.2)):
        med.temperature.fill_(value)
        med.clamp_temperature()
        assert med.temperature.item() == pytest.approx(kept)


def test_activation_checkpointing_changes_no_gradient() -> None:
    med, (pixels, ids, mask) = tiny(), inputs(3, 3)
    med.train()
    gradients = []
    for on in (False, True):
        med.zero_grad()
        med.set_activation_checkpointing(on)
        torch.manual_seed(5)
        states = med.encode_image(pixels)
        loss = med.match(states, ids, mask, torch.tensor([2, 0, 1])).sum() + med.decode(states, ids, mask).mean()
        loss.backward()
        gradients.append({name: w.grad.clone() for name, w in med.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def bert_folder(folder: Path, head: bool) -> Any:
    from transformers import BertConfig, BertForMaskedLM, BertModel

    torch.manual_seed(3)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=38,
        max_position_embeddings=20,
    )  # fmt: skip
    model = BertForMaskedLM(config) if head else BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2)
    model.eval().save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize("share", ["all", "all_but_sa", "none"])
def test_a_bert_starts_both_readings(tmp_path: Path, share: str) -> None:
    theirs = bert_folder(tmp_path, head=True)
    text = {"width": 32, "depth": 2, "heads": 2, "intermediate": 48, "max_positions": 20, "max_tokens": 12}
    config = {"vision": VISION, "text": text | {"start": str(tmp_path)}, "share": share}
    med = new_med(ModelConfig.model_validate(config), 40).eval()
    _, ids, mask = inputs(1, 3)
    ids[:, 0] = 2
    expected = theirs.bert(ids, mask).last_hidden_state
    found = med.text(ids, mask, "bidirectional")
    torch.testing.assert_close(found[mask == 1], expected[mask == 1], atol=1e-5, rtol=1e-5)
    logits = med.lm_logits(expected)[..., :38]
    torch.testing.assert_close(logits, theirs.cls(expected), atol=1e-4, rtol=1e-4)
    if share == "all_but_sa":
        layer = next(iter(med.text.each_layer()))
        readings = [layer.self_attention.of(reading).qkv.weight for reading in ("bidirectional", "causal")]
        assert torch.equal(*readings)


def test_a_bert_without_a_head_and_one_that_does_not_fit(tmp_path: Path) -> None:
    bert_folder(tmp_path, head=False)
    text = {"width": 32, "depth": 2, "heads": 2, "intermediate": 48, "max_positions": 20, "max_tokens": 12}
    config = ModelConfig.model_validate({"vision": VISION, "text": text | {"start": str(tmp_path)}})
    new_med(config, 40)
    with pytest.raises(CheckpointError, match=r"words\.weight does not fit: \[38, 32\] in the file, \[50, 32\]"):
        new_med(config, 50)


@pytest.mark.parametrize("itc_pooling", ["first", "mean"])
def test_heads_on_the_first_state_get_what_the_whole_last_layer_would_give(itc_pooling: str) -> None:
    med, (pixels, ids, mask) = tiny(itc_pooling=itc_pooling, vision=VISION | {"depth": 2}), inputs(2, 4)
    states = med.encode_image(pixels)
    torch.testing.assert_close(med.embed_pixels(pixels), med.embed_image(states))
    enc = ids.clone()
    enc[:, 0] = med.enc_id
    for keys in (states, med.text.image_keys_values(states, "bidirectional")):
        whole = med.text(enc, mask, "bidirectional", keys)
        alone = med.text(enc, mask, "bidirectional", keys, first_alone=True)
        assert whole.shape == (4, 6, 32)
        assert alone.shape == (4, 1, 32)
        torch.testing.assert_close(alone[:, 0], whole[:, 0])
        torch.testing.assert_close(med.match(states, ids, mask), med.itm_head(whole[:, 0]))
    of_row = torch.tensor([1, 1, 0, 1])
    whole = med.text(enc, mask, "bidirectional", states, of_row)
    torch.testing.assert_close(med.match(states, ids, mask, of_row), med.itm_head(whole[:, 0]))
    unimodal = med.text(ids, mask, "bidirectional")
    mean = (unimodal * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(med.pool_text(ids, mask), unimodal[:, 0] if itc_pooling == "first" else mean)


@torch.no_grad()
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_heads_of_itc_and_itm_are_float32_where_all_else_is_bfloat16(cast: bool, pooling: str) -> None:
    med, (pixels, ids, mask) = tiny(itc_pooling=pooling), inputs(40, 40)
    torch.nn.init.normal_(med.itm_head.weight, std=0.5)
    exact = med.match(med.encode_image(pixels), ids, mask)
    used = cast_products(copy.deepcopy(med)) if cast else med
    with torch.autocast("cpu", torch.bfloat16):
        states = used.encode_image(pixels)
        logits, image = used.match(states, ids, mask), used.project_image(states)
        text = used.embed_text(ids, mask)
    for found in (logits, image, text):
        assert found.dtype == torch.float32
        assert not torch.equal(found, found.bfloat16().float()), "rounded to three digits"
    assert len(logits.softmax(1)[:, 1].unique()) == 40, "no two pairs tie"
    assert torch.allclose(logits, exact, atol=0.1)
    assert {used.itm_head.weight.dtype, used.vision_projection.weight.dtype} == {torch.float32}


@torch.no_grad()
def test_heads_in_float32_are_the_layers_to_the_last_bit() -> None:
    med, (pixels, ids, mask) = tiny(), inputs(3, 3)
    states = med.encode_image(pixels)
    assert torch.equal(med.project_image(states), med.vision_projection(states[:, 0]))
    pooled = med.pool_text(ids, mask)
    assert torch.equal(med.embed_text(ids, mask), torch.nn.functional.normalize(med.text_projection(pooled), dim=-1))
