"""Fine-tuning for visual question answering (section 5.4)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import InputError
from blip_training.checkpoint.fresh import vqa_from_med
from blip_training.checkpoint.skip_init import undrawn
from blip_training.checkpoint.store import load_any, save_vqa
from blip_training.data.normalise import questions_as_seen, set_normalise
from blip_training.data.questions import Question
from blip_training.data.tokenizer import Tokenizer, encode_cut
from blip_training.feed.question_batches import VqaBatch, VqaData
from blip_training.model.med import DECODE, MATCH, require
from blip_training.model.vqa import Vqa
from blip_training.objective.losses import answer_loss
from blip_training.runtime.workers import Worker, this_worker
from blip_training.train.alike import check_config
from blip_training.train.best_model import Best
from blip_training.train.feed import feed_of
from blip_training.train.log import OnStep
from blip_training.train.run import Run, prepare


def finetune_vqa_model(
    out: Path, start: Path | str, questions: Sequence[Question], config: VqaConfig, on_step: OnStep | None = None
) -> dict[str, int | float]:
    """Fine-tune `start` to answer questions (section 5.4), and save it in `out`.

    `start` is a pre-trained model or one that answers already. The loss is LM on the answers, each weighted by the
    share of people who gave it. The model is saved in transformers' format if transformers can compute it. A killed run
    resumes from the checkpoint in `out`. Raises CheckpointError if the model can neither match and decode nor answer.
    """
    worker = this_worker(config.optimizer.device)
    check_config(config, worker)
    vqa, tokenizer = start_vqa(start, config, worker)

    def lm_of(batch: VqaBatch) -> Tensor:
        ids, mask = encode_cut(
            vqa, tokenizer, questions_as_seen(vqa.config.text, batch.questions), config.question_tokens
        )  # [B, T]
        read = vqa.read_questions(vqa.encode_image(batch.images), ids, mask)  # [B, T, D]
        answers = encode_cut(vqa, tokenizer, batch.answers, config.answer_tokens)  # [A, S]
        return answer_loss(vqa, read, mask, *answers, batch.weights, batch.question_of_answer, config.label_smoothing)

    def losses_of(batch: VqaBatch) -> dict[str, Tensor]:
        return {"lm": lm_of(batch)}

    trained, watched = split_questions(questions) if config.validate_every_steps else (questions, [])
    feed = feed_of(vqa, config.optimizer, worker, config.augment, crop_area=config.crop_area)
    data = VqaData(trained, feed, config)
    measured = config.validate_every_steps and config.optimizer.steps  # without a step the model is as it was
    best = _best(vqa, watched, config, worker, lm_of) if measured else None
    run = Run(out, vqa, config.optimizer, worker, {"best": best} if best else {}, on_step)

    for _step, batches in run.steps(data):
        for batch in batches:
            run.backward(run.losses(partial(losses_of, batch)))
        run.update()
        run.measure(best)

    figures = best.figures() if best else {}
    with run.published():
        if best:
            vqa.load_state_dict(best.best.state_dict())
        if worker.first:
            save_vqa(out, vqa, tokenizer)
    return {"questions": data.num_samples, **run.finish(), **figures}


def start_vqa(source: Path | str, config: VqaConfig, worker: Worker) -> tuple[Vqa, Tokenizer]:
    """The model of `source` in training mode; a pre-trained one is re-arranged for questions (`vqa_from_med`)."""
    med, tokenizer = load_any(source, worker.device, config.image_size)
    vqa = med if isinstance(med, Vqa) else vqa_from_med(med)
    set_normalise(vqa, config.normalise)
    prepare(vqa, config.optimizer)
    return vqa, tokenizer


def check_vqa_start(source: Path | str) -> None:
    """Raise CheckpointError if `start_vqa` cannot start from `source`."""
    with undrawn():
        med, _ = load_any(source)
    if not isinstance(med, Vqa):
        require(med, MATCH, source)
        require(med, DECODE, source)


def split_questions(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Divide questions by their pictures' file names: nine tenths for training, the last tenth for validation.

    Raises InputError if there are so few pictures that one of the two is empty.
    """
    held_out = {q.image for q in questions if zlib.crc32(q.image.name.encode()) % 10 == 0}
    split = [q for q in questions if q.image not in held_out], [q for q in questions if q.image in held_out]
    if not all(split):
        raise InputError(
            f"validation takes a tenth of the pictures, by file name: {len(held_out)} of "
            f"{len({q.image for q in questions})}; give more pictures or set vqa.validate_every_steps: 0"
        )
    return split


def _best(
    vqa: Vqa, questions: Sequence[Question], config: VqaConfig, worker: Worker, loss_of: Callable[[VqaBatch], Tensor]
) -> Best:
    """What keeps the best weights by the loss on the validation questions; every worker computes it alike."""
    size = min(config.optimizer.batch_size, len(questions))
    alone = config.optimizer.model_copy(update={"batch_size": size, "accumulate": 1})
    data = VqaData(questions, feed_of(vqa, alone, Worker(worker.device), "none"), config)
    return Best(vqa, data, loss_of, config.validate_every_steps)
