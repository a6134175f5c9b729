"""VQA: an encoder reads the question with the image, a decoder writes the answer from its states (section 5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from blip_training.model.med import DECODE, Med, with_first
from blip_training.model.onednn import Linear

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_bootstrap.config import ModelConfig
    from blip_training.model.text_stack import Reading


ANSWER = "answer"

READINGS: tuple[Reading, ...] = ("bidirectional", "causal")


class Vqa(Med):
    """A MED re-arranged for questions: its encoder looks at the image, its decoder at the question's states.

    The two share no weights, and there are no heads for ITC and ITM. The decoding functions take question states
    where a captioner's take image states; the decoder's cross-attention has the text's width, not the image's.
    """

    def __init__(self, config: ModelConfig, num_tokens: int) -> None:
        super().__init__(config.model_copy(update={"share": "none", "itc_in_itm": False}), num_tokens)
        self.capabilities = frozenset({ANSWER, DECODE})
        del self.vision_projection, self.text_projection, self.itm_head, self.temperature
        width = config.text.width
        if config.vision.width != width:
            for layer in self.text.each_layer():
                key_value = Linear(width, 2 * width)
                nn.init.normal_(key_value.weight, std=0.02)
                nn.init.zeros_(key_value.bias)
                layer.cross_attention.of("causal").key_value = key_value

    def read_questions(
        self,
        states: Float[Tensor, "b p v"],
        ids: Int64[Tensor, "n t"],
        mask: Int64[Tensor, "n t"],
        image_of_row: Int64[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n t d"]:
        """Question states: each question read together with its image. [ENC] replaces the first token.

        Question r goes with image `image_of_row[r]`; by default each image has N / B questions in succession.
        """
        ids = with_first(ids, self.enc_id)
        read: Tensor = self.text(ids, mask, "bidirectional", states, image_of_row)
        return read

    def answer_states(
        self,
        questions: Float[Tensor, "n t d"],
        question_mask: Int64[Tensor, "n t"] | None,
        ids: Int64[Tensor, "m a"],
        mask: Int64[Tensor, "m a"],
        question_of_row: Int64[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "m a d"]:
        """Last states of answers, before the LM head. [DEC] replaces the first token.

        `question_mask` is 0 at padding; None: there is no padding. Answer r belongs to question
        `question_of_row[r]`; by default each question has M / N answers in succession.
        """
        ids = with_first(ids, self.dec_id)
        decoded: Tensor = self.text(ids, mask, "causal", questions, question_of_row, question_mask)
        return decoded
