"""Answers to questions, written or chosen from a closed list (section 5.4), and their VQA accuracy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from blip_bootstrap.errors import InputError
from blip_training.checkpoint.store import load_vqa
from blip_training.data.normalise import questions_as_seen, set_normalise
from blip_training.data.questions import Question
from blip_training.data.tokenizer import encode_cut
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import Sampler
from blip_training.feed.question_batches import read_picture
from blip_training.objective.losses import token_costs
from blip_training.runtime.workers import resolve_device

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from blip_bootstrap.config import VqaConfig
    from blip_training.data.tokenizer import Tokenizer
    from blip_training.model.vqa import Vqa


Mode = Literal["generate", "rank"]

Encode = Callable[[Sequence[Question]], "Tensor"]
"""Gives the image states [B, P, V] of B questions' pictures."""

ROWS_AT_ONCE = 256
"""Answers whose likelihoods are computed together: their logits over 30,524 tokens are what takes memory."""

ENOUGH_PEOPLE = 3

ARTICLES = frozenset({"a", "an", "the"})

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}


@dataclass(frozen=True)
class Answer:
    """An answer and its log-probability given picture and question, [SEP] included, nats."""

    text: str
    logprob: float


def open_vqa(source: Path | str, config: VqaConfig) -> tuple[Vqa, Tokenizer]:
    """A model that answers, on the configured device. Raises CheckpointError where `source` names none."""
    vqa, tokenizer = load_vqa(source, resolve_device(config.optimizer.device), config.image_size)
    set_normalise(vqa, config.normalise)
    return vqa, tokenizer


@torch.inference_mode()
def answer_questions(
    vqa: Vqa,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    config: VqaConfig,
    mode: Mode = "generate",
    candidates: Sequence[str] = (),
    encode: Encode | None = None,
    rank_smoothing: float = 0.0,
) -> list[Answer]:
    """One answer to each question.

    `generate` writes it by beam search (greedily with one beam). `rank` chooses the most likely of `candidates`: of the
    `rank_top_k` whose first tokens are the most likely, it compares the whole likelihoods, or with `rank_smoothing` the
    costs with that label smoothing. `encode` gives the image states of questions, as of videos; by default their
    pictures are read and encoded. An answer does not depend on its batch. Raises InputError if a picture cannot be read
    or there is no candidate.
    """
    if mode == "rank" and not candidates:
        raise InputError("rank needs a list of answers to choose from")
    answers: dict[int, Answer] = {}
    ids, mask = encode_cut(vqa, tokenizer, candidates, config.answer_tokens)
    for rows, read in question_states(vqa, tokenizer, questions, config, encode):
        if mode == "generate":
            found = _write(vqa, tokenizer, read, config)
        else:
            ranked = rank(vqa, read, ids, mask, config.rank_top_k, rank_smoothing)
            found = [Answer(candidates[i], logprob) for i, logprob in ranked]
        answers |= zip(rows, found, strict=True)
    return [answers[row] for row in range(len(questions))]


def question_states(
    vqa: Vqa, tokenizer: Tokenizer, questions: Sequence[Question], config: VqaConfig, encode: Encode | None = None
) -> Iterator[tuple[list[int], Float[Tensor, "n t d"]]]:
    """Indices and states of questions, in groups of equal length, so that there is no padding.

    The groups are made within batches of `answer_batch_size` successive questions; a picture is encoded once a batch.
    """
    for start in range(0, len(questions), config.answer_batch_size):
        batch = questions[start : start + config.answer_batch_size]
        first = {question.image: question for question in reversed(batch)}
        place = {image: at for at, image in enumerate(first)}
        images = encode(list(first.values())) if encode else _encode(vqa, list(first.values()), config)
        seen = questions_as_seen(vqa.config.text, [question.text for question in batch])
        ids, mask = encode_cut(vqa, tokenizer, seen, config.question_tokens)
        lengths = mask.sum(1).tolist()
        for length in sorted(set(lengths)):
            rows = [row for row, own in enumerate(lengths) if own == length]
            of_image = torch.tensor([place[batch[row].image] for row in rows], device=vqa.device)
            read = vqa.read_questions(images, ids[rows, :length], mask[rows, :length], of_image)
            yield [start + row for row in rows], read


def _encode(vqa: Vqa, questions: Sequence[Question], config: VqaConfig) -> Float[Tensor, "b p v"]:
    """The image states of the questions' pictures."""
    size = vqa.config.vision.image_size
    return vqa.encode_image(torch.stack([read_picture(question, size, config) for question in questions]))


def _write(vqa: Vqa, tokenizer: Tokenizer, read: Tensor, config: VqaConfig) -> list[Answer]:
    most = min(config.answer_tokens, vqa.config.text.max_positions)
    sampler = Sampler(sample=False, num_beams=config.num_beams, min_tokens=1, max_tokens=most)
    written = generate(vqa, tokenizer, read, "", sampler, [[0]] * len(read))
    return [Answer(best.text, best.logprob) for (best,) in written]


def rank(
    vqa: Vqa,
    read: Float[Tensor, "n t d"],
    ids: Int64[Tensor, "a s"],
    mask: Int64[Tensor, "a s"],
    top_k: int,
    smoothing: float = 0.0,
) -> list[tuple[int, float]]:
    """For each question index and log-probability of the most likely of A answers, in the released code's two stages.

    The `top_k` answers whose first tokens are the most likely are compared by their whole likelihoods. These are the
    model's own; the released code compares losses with a label smoothing of 0.1 (`smoothing`), which then stand in
    place of the log-probabilities.
    """
    top_k = min(top_k, len(ids))
    begun = vqa.answer_states(read, None, ids[:1, :1].expand(len(read), 1), mask[:1, :1].expand(len(read), 1))
    of_first = vqa.lm_logits(begun[:, 0]).float().log_softmax(-1)[:, ids[:, 1]]  # [N, A]
    chosen = of_first.topk(top_k, dim=1).indices  # [N, K]
    ranked: list[tuple[int, float]] = []
    num_questions = max(1, ROWS_AT_ONCE // top_k)
    for some, states in zip(torch.split(chosen, num_questions), torch.split(read, num_questions), strict=True):
        rows = some.flatten()
        decoded = vqa.answer_states(states, None, ids[rows], mask[rows])
        logprobs = -token_costs(vqa, decoded, ids[rows], mask[rows], smoothing).sum(1).view(some.shape)
        best = logprobs.argmax(1, keepdim=True)
        ranked += zip(some.gather(1, best)[:, 0].tolist(), logprobs.gather(1, best)[:, 0].tolist(), strict=True)
    return ranked


def vqa_accuracy(answer: str, given: Mapping[str, float]) -> float:
    """VQA accuracy of one answer: min(n / 3, 1), n the number of people who gave it.

    If fewer than three people answered, n counts against their number. Texts are compared in lower case, without
    articles and punctuation, with number words up to ten as digits.
    """
    agreeing = sum(count for text, count in given.items() if normalise_answer(text) == normalise_answer(answer))
    return min(1.0, agreeing / min(ENOUGH_PEOPLE, sum(given.values())))


def normalise_answer(text: str) -> str:
    """The form in which answers are compared (`vqa_accuracy`)."""
    words = re.findall(r"\w+", text.lower().replace("'", ""))
    return " ".join(DIGITS.get(word, word) for word in words if word not in ARTICLES)


def answer_figures(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, int | float]:
    """Mean VQA accuracy over the questions that people answered, and that of the most common answer given to all."""
    pairs = [(question, answer) for question, answer in zip(questions, answers, strict=True) if question.answers]
    if not pairs:
        return {"questions": len(questions), "answered_by_people": 0}
    given: Counter[str] = Counter()
    for question, _ in pairs:
        given.update(question.weights)
    most_common = given.most_common(1)[0][0]
    return {
        "questions": len(questions),
        "answered_by_people": len(pairs),
        "accuracy": sum(vqa_accuracy(answer, question.answers) for question, answer in pairs) / len(pairs),
        "accuracy_of_most_common": sum(vqa_accuracy(most_common, q.answers) for q, _ in pairs) / len(pairs),
    }
