"""Wrong texts that a filter is fine-tuned on, beside the negatives of section 3.2."""

from __future__ import annotations

from pydantic import Field

from blip_bootstrap.settings.section import Count, Fraction, Section


class HardTextsConfig(Section):
    """Wrong texts that a filter is fine-tuned on beside the batch's own negatives; 0 everywhere: none.

    Each share is of one kind and stands alone: a picture may get a text of every kind. Each is one more pair of ITM's
    loss that does not match, and weighs as much as any other pair.
    """

    swapped: Fraction = Field(
        0.0,
        description="share of a batch's pictures with their human caption after a swap: one word for another of its "
        "kind, or two words around a relation exchanged; kinds are learned from the human set",
    )
    captioner: Fraction = Field(
        0.0,
        description="share of a batch's pictures with a text that the round's captioner writes about them, and that "
        "contradicts all of their human captions",
    )
    near: Fraction = Field(
        0.0,
        description="share of a batch's pictures with a human caption of a picture near by ITC, which contradicts all "
        "of their own captions",
    )
    max_agreement: Fraction = Field(
        0.75,
        description="captioner: its texts share fewer words than this with each human caption, by the F1 of the words "
        "that tell pictures apart; lower: surer to be wrong, and easier to tell",
    )
    candidates: Count = Field(4, description="captioner: texts that it writes about each human picture")

    @property
    def needs_captioner(self) -> bool:
        """Whether the fine-tuning of the filter reads the round's captioner."""
        return self.captioner > 0
