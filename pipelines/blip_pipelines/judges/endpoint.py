"""The yes or no of a model behind OpenAI-compatible endpoints as a judge: VQAScore by an answer's log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from blip_pipelines.captioners.endpoint import EndpointCaptioner
from blip_pipelines.captioners.options import digest_of
from blip_pipelines.judges.interface import Pair, Scores
from blip_pipelines.judges.yes_or_no import EndpointJudge, probability_of


class EndpointVqaJudge(EndpointJudge):
    """P(yes) / (P(yes) + P(no)) of a server's answer to whether a picture shows a text, 0..1.

    Options are those of `yes_or_no.JudgeOptions`: `urls`, `model`, `question`, and how they are
    reached. It is read off the likeliest first tokens, over all spellings of yes and of no. A text of which neither is
    among these has no score (`bad_answer`), nor has one that is not answered, for a server's reasons.
    """

    names: tuple[str, ...] = ("yes",)
    with_account = staticmethod(EndpointCaptioner.with_account)

    @cached_property
    def digest(self) -> str:
        """Of the model's name and revision, the question, and how it is asked."""
        return digest_of("endpoint_vqa_score", super().digest)

    def score(self, pairs: Sequence[Pair]) -> list[Scores]:  # type: ignore[override]
        """The score of each pair, or why there is none. Raises RunFailed as `EndpointJudge.asked` does."""
        return [
            Scores.failed(self.names, reply.error or "bad_answer")
            if reply.value is None or (score := share_of_yes(reply.value)) is None
            else Scores(yes=score)
            for reply in self.asked(pairs)
        ]


def share_of_yes(tokens: Mapping[str, float]) -> float | None:
    """P(yes) / (P(yes) + P(no)) of a first token; one of the two that is not told counts as 0; None without both."""
    yes, no = (probability_of(word, tokens) or 0.0 for word in ("yes", "no"))
    return yes / (yes + no) if yes + no else None
