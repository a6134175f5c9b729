"""The tasks of answering questions about pictures and videos, and of judging statements about two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blip_bootstrap.config import BenchmarkConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.progress import Progress
from blip_training.benchmarks.asked import Asked, Statement
from blip_training.benchmarks.vqa_accuracy import official_accuracy
from blip_training.benchmarks.work import BLOCK, Work, as_videos, blocks_of, check_finite
from blip_training.data.questions import Question
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.vqa_answers import answer_questions
from blip_training.model.nlvr import Nlvr
from blip_training.model.vqa import Vqa

if TYPE_CHECKING:
    from torch import Tensor


FRAMES_TO_A_QUESTION = 4
"""A video's states take much memory: so many times fewer questions about videos are answered together."""

TRUE_ABOVE = 0.5


def measure_answering(
    vqa: Vqa, tokenizer: Tokenizer, asked: Sequence[Asked], work: Work, candidates: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`accuracy`, that of each kind of answer as `accuracy_<kind>`, and a row for each question.

    The accuracy is VQA's official one; where one person answered, as in MSRVTT-QA and MSVD-QA, it is the share of equal
    answers.
    """
    at_once = work.config.batch_size // (FRAMES_TO_A_QUESTION if work.benchmark.is_video else 1)
    config = work.vqa.model_copy(update={"answer_batch_size": max(1, at_once)})

    def encode(questions: Sequence[Question]) -> Tensor:
        states = []
        for _, some in blocks_of(questions, work.items_at_once):
            pixels = work.pixels([question.image for question in some], vqa.config.vision.image_size)
            states.append(as_videos(vqa.encode_image(pixels), work.num_frames))
        return torch.cat(states)

    def answer(block: Sequence[Asked]) -> list[tuple[str, float]]:
        found = answer_questions(
            vqa, tokenizer, block, config, work.config.mode, candidates, encode, work.config.rank_smoothing
        )
        check_finite([one.logprob for one in found], "likelihoods of answers")
        return [(one.text, one.logprob) for one in found]

    # Questions about one picture or video stand together, so that it is encoded once.
    in_order = sorted(range(len(asked)), key=lambda place: str(asked[place].image))
    answers: dict[int, Any] = {}
    with Progress("answers", len(asked), unit="questions") as progress:
        for start, block in blocks_of(in_order, BLOCK):
            found = work.values(f"answers-{start:07d}", len(block), partial(answer, [asked[place] for place in block]))
            answers |= zip(block, found, strict=True)
            progress.advance(len(block))
    rows = [
        {
            "question_id": one.id, "question": one.text, "file": one.image.name, "answer": text,
            "logprob": round(logprob, 6), "accuracy": official_accuracy(text, one.answers), "kind": one.kind,
        }
        for one, (text, logprob) in ((one, answers[place]) for place, one in enumerate(asked))
    ]  # fmt: skip
    return _accuracies(rows), rows


def _accuracies(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    figures = {"accuracy": sum(row["accuracy"] for row in rows) / len(rows)}
    for kind in dict.fromkeys(row["kind"] for row in rows if row["kind"]):
        own = [row["accuracy"] for row in rows if row["kind"] == kind]
        figures[f"accuracy_{kind.replace('/', '_')}"] = sum(own) / len(own)
    return figures


def find_answers(config: BenchmarkConfig, file: Path) -> Path | None:
    """The list of the answers to choose from; None in mode generate. Raises InputError where it is missing."""
    if config.mode == "generate":
        return None
    beside = config.answers or file.with_name("answer_list.json")
    if not beside.is_file():
        raise InputError(f"{beside}: not there; mode rank chooses from a list of answers: set benchmark.answers=FILE")
    return beside


def measure_statements(
    nlvr: Nlvr, tokenizer: Tokenizer, statements: Sequence[Statement], work: Work
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`accuracy`, the share of statements that are judged rightly, and a row for each.

    Pictures are shown in the order of the file; the released evaluation swaps them, and left and right in the sentence,
    at random.
    """

    def judge(block: Sequence[Statement]) -> list[float]:
        truths = []
        for _, some in blocks_of(block, max(1, work.config.batch_size // 2)):
            files = [statement.images[side] for side in (0, 1) for statement in some]
            pixels = work.pixels(files, nlvr.config.vision.image_size)
            first, second = nlvr.encode_image(pixels).chunk(2)
            sentences = [statement.sentence for statement in some]
            ids, mask = work.encode_texts(nlvr.config.text, tokenizer, sentences, nlvr.device)
            truths += nlvr(first, second, ids, mask).softmax(1)[:, 1].tolist()
        check_finite(truths, "judgements")
        return truths

    truths: list[float] = []
    with Progress("statements", len(statements), unit="statements") as progress:
        for start, block in blocks_of(statements, BLOCK):
            truths += work.values(f"statements-{start:07d}", len(block), partial(judge, block))
            progress.advance(len(block))
    rows = [
        {"id": one.id, "sentence": one.sentence, "true": round(truth, 6), "label": one.label}
        for one, truth in zip(statements, truths, strict=True)
    ]
    right = sum((truth > TRUE_ABOVE) == one.label for one, truth in zip(statements, truths, strict=True))
    return {"accuracy": right / len(statements)}, rows
