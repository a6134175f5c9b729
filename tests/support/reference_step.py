"""The pre-training step written straightforwardly with transformers' modules, to compare ours with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextModel

from blip_bootstrap.config import ModelConfig
from blip_training.checkpoint.blip_format import captioner_weights, filter_weights
from blip_training.model.med import Med

MOMENTUM, ALPHA = 0.995, 0.4


@dataclass(frozen=True)
class Inputs:
    """What a step sees: normalised pixels [B, 3, H, W], token ids and mask [B, T]."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor


def text_config(config: ModelConfig, num_tokens: int) -> BlipTextConfig:
    text = config.text
    return BlipTextConfig(
        vocab_size=num_tokens, hidden_size=text.width, encoder_hidden_size=config.vision.width,
        intermediate_size=text.intermediate, num_hidden_layers=text.depth, num_attention_heads=text.heads,
        max_position_embeddings=text.max_positions, layer_norm_eps=1e-12, hidden_dropout_prob=text.dropout,
        attention_probs_dropout_prob=text.dropout, label_smoothing=0.1, bos_token_id=num_tokens - 2, pad_token_id=0,
        use_cache=False,
    )  # fmt: skip


def vision_config(config: ModelConfig) -> BlipVisionConfig:
    vision = config.vision
    return BlipVisionConfig(
        image_size=vision.image_size, patch_size=vision.patch_size, hidden_size=vision.width,
        intermediate_size=4 * vision.width, num_hidden_layers=vision.depth, num_attention_heads=vision.heads,
        layer_norm_eps=1e-6, attention_dropout=0.0,
    )  # fmt: skip


class Reference(nn.Module):
    """Image encoder, text encoder and text decoder of transformers; the last two tied but for self-attention.

    `train_step` is one step of AdamW on ITC + ITM + LM, as the paper and ALBEF describe it: two whole momentum towers,
    a queue (its contents are `queue`), negatives drawn in a Python loop, a pass for positives and one for negatives.
    """

    def __init__(self, config: ModelConfig, num_tokens: int, queue: tuple[Tensor, Tensor], lr: float = 3e-4) -> None:
        super().__init__()
        text = text_config(config, num_tokens)
        self.vision_model = BlipVisionModel(vision_config(config))
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)
        self.text_decoder = BlipTextLMHeadModel(text)
        self._tie()
        self.vision_proj = nn.Linear(config.vision.width, config.embed_dim)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.num_tokens = num_tokens
        self._start_training(queue, lr)

    def _tie(self) -> None:
        """Encoder and decoder share all but self-attention."""
        encoder, decoder = self.text_encoder, self.text_decoder.bert
        decoder.embeddings = encoder.embeddings
        for mine, yours in zip(decoder.encoder.layer, encoder.encoder.layer, strict=True):
            mine.crossattention, mine.intermediate, mine.output = yours.crossattention, yours.intermediate, yours.output
        self.text_decoder.cls.predictions.decoder.weight = encoder.embeddings.word_embeddings.weight

    towers: list[nn.Module]
    slow: list[Any]
    queue: tuple[Tensor, Tensor]

    def _start_training(self, queue: tuple[Tensor, Tensor], lr: float) -> None:
        towers = [self.vision_model, self.text_encoder, self.vision_proj, self.text_proj]
        self.__dict__["towers"] = towers
        self.__dict__["slow"] = [copy.deepcopy(tower).requires_grad_(False) for tower in towers]
        self.__dict__["queue"] = queue
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=0.05)

    def load(self, med: Med) -> None:
        """Take the weights of ours."""
        given = filter_weights(med) | captioner_weights(med) | {"temperature": med.temperature.detach()}
        found = self.load_state_dict(given, strict=False)
        assert not found.unexpected_keys, found.unexpected_keys
        tied = self.text_decoder.cls.predictions
        tied.decoder.bias = tied.bias
        for fast, slow in zip(self.towers, self.slow, strict=True):
            slow.load_state_dict(fast.state_dict())

    def train_step(self, batch: Inputs) -> dict[str, Tensor]:
        """One optimizer step and one step of the momentum towers; the losses."""
        losses = self.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.temperature.clamp_(0.001, 0.5)
            for fast, slow in zip(self.towers, self.slow, strict=True):
                for p, q in zip(fast.parameters(), slow.parameters(), strict=True):
                    q.data = q.data * MOMENTUM + p.data * (1 - MOMENTUM)
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, batch: Inputs) -> dict[str, Tensor]:
        """ITC, ITM and LM."""
        states = self.vision_model(batch.pixels).last_hidden_state
        atts = torch.ones(states.shape[:2], dtype=torch.long)
        text = self.text_encoder(batch.ids, attention_mask=batch.mask).last_hidden_state
        image_feat = F.normalize(self.vision_proj(states[:, 0]), dim=-1)
        text_feat = F.normalize(self.text_proj(text[:, 0]), dim=-1)
        itc, sim_i2t, sim_t2i = self._itc(batch, image_feat, text_feat)
        itm = self._itm(batch, states, atts, sim_i2t, sim_t2i)
        ids = batch.ids.clone()
        ids[:, 0] = self.num_tokens - 2
        labels = ids.masked_fill(batch.mask == 0, -100)
        lm = self.text_decoder(
            ids, attention_mask=batch.mask, encoder_hidden_states=states, encoder_attention_mask=atts, labels=labels
        ).loss
        return {"itc": itc, "itm": itm, "lm": lm}

    def _itc(self, batch: Inputs, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            vision, encoder, vision_proj, text_proj = self.slow
            slow_image = F.normalize(vision_proj(vision(batch.pixels).last_hidden_state[:, 0]), dim=-1)
            slow_states = encoder(batch.ids, attention_mask=batch.mask).last_hidden_state
            slow_text = F.normalize(text_proj(slow_states[:, 0]), dim=-1)
            images, texts = torch.cat([slow_image, self.queue[0]]), torch.cat([slow_text, self.queue[1]])
            hard = torch.zeros(len(image), len(images))
            hard.fill_diagonal_(1)
            i2t_targets = ALPHA * F.softmax(slow_image @ texts.T / self.temperature, dim=1) + (1 - ALPHA) * hard
            t2i_targets = ALPHA * F.softmax(slow_text @ images.T / self.temperature, dim=1) + (1 - ALPHA) * hard
        sim_i2t, sim_t2i = image @ texts.T / self.temperature, text @ images.T / self.temperature
        loss_i2t = -(F.log_softmax(sim_i2t, dim=1) * i2t_targets).sum(dim=1).mean()
        loss_t2i = -(F.log_softmax(sim_t2i, dim=1) * t2i_targets).sum(dim=1).mean()
        return (loss_i2t + loss_t2i) / 2, sim_i2t[:, : len(image)], sim_t2i[:, : len(image)]

    def _itm(self, batch: Inputs, states: Tensor, atts: Tensor, sim_i2t: Tensor, sim_t2i: Tensor) -> Tensor:
        ids = batch.ids.clone()
        ids[:, 0] = self.num_tokens - 1
        with torch.no_grad():
            weights_i2t = (F.softmax(sim_i2t, dim=1) + 1e-4).fill_diagonal_(0)
            weights_t2i = (F.softmax(sim_t2i, dim=1) + 1e-4).fill_diagonal_(0)
        wrong_states, wrong_ids, wrong_mask = [], [], []
        for row in range(len(ids)):
            wrong_states.append(states[int(torch.multinomial(weights_t2i[row], 1).item())])
        for row in range(len(ids)):
            drawn = int(torch.multinomial(weights_i2t[row], 1).item())
            wrong_ids.append(ids[drawn])
            wrong_mask.append(batch.mask[drawn])
        right = self._match(ids, batch.mask, states, atts)
        all_ids, all_mask = torch.cat([ids, torch.stack(wrong_ids)]), torch.cat([batch.mask, torch.stack(wrong_mask)])
        all_states = torch.cat([torch.stack(wrong_states), states])
        wrong = self._match(all_ids, all_mask, all_states, torch.cat([atts, atts]))
        logits = self.itm_head(torch.cat([right, wrong]))
        labels = torch.cat([torch.ones(len(ids)), torch.zeros(2 * len(ids))]).long()
        return F.cross_entropy(logits, labels)

    def _match(self, ids: Tensor, mask: Tensor, states: Tensor, atts: Tensor) -> Tensor:
        last = self.text_encoder(
            ids, attention_mask=mask, encoder_hidden_states=states, encoder_attention_mask=atts
        ).last_hidden_state
        return last[:, 0]
