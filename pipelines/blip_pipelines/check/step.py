"""The step that measures the scores: texts known to be right or wrong, scored like the round's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from blip_bootstrap.config import CaptionConfig, CheckFilterConfig, RayConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import FILTER_CHECK
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_pipelines.check.human_agreement import HumanAgreement
from blip_pipelines.check.pictures import Chosen, KnownPicture, choose_pictures, other_texts
from blip_pipelines.judges.registry import told_of
from blip_pipelines.scoring.references import pick_references
from blip_pipelines.scoring.sources import absolute, with_absolute_models
from blip_pipelines.train.runner import Counts, Training, place_of_task, run_tasks

PART = "part-00000.parquet"

OF_ANOTHER_SET = "known/"
"""Stands before the keys of pictures while they are captioned: keys seed captions, and these are no images'."""

Judge = Callable[[pa.Table], pa.Table]
"""`CaptionWorker.judge`: rows with `key`, `status`, `jpg` and `texts` to rows of `captions`."""


def check_filter(
    out: Path, images: Path, captioner: Path | str | None, filter: Path | str, human: Path | None,
    held_out: Path | None, *, config: CheckFilterConfig, ray: RayConfig, judges: Path | str | None = None,
    scored: Mapping[str, Path] | None = None,
) -> Counts:  # fmt: skip
    """Score texts that are known to be right or wrong as the round's own were scored, into one file of `filter_check`.

    `judges` is the digest of what `config.caption.judges` say of themselves, as the recipe has it. Where `scored` has a
    file that lacks nothing but what judges say who have not been asked, such judges alone are asked.

    Of each of at most `config.pictures` pictures: one of its human captions, which is right; a web text of one of the
    `images`, which is taken for wrong; and what the captioner writes about it, which is right where it agrees with the
    human captions (`HumanAgreement`). The pictures are ones that no fine-tuning of the round saw: the validation tenth
    of the human set, or the held-out set; the human set itself where there is no other, `trained_on` then is 1.
    Returns the numbers of pictures and texts, and from which set the pictures are. Raises InputError where no picture
    can be used.
    """
    with_paths = config.model_copy(update={"caption": with_absolute_models(config.caption)})
    people = [one.resolve() if one else None for one in (human, held_out)]
    models = absolute(captioner) if captioner else None, absolute(filter)
    before = next((one.absolute() for one in (scored or {}).values()), None)
    call = partial(call_check, out.resolve(), images.resolve(), people[0], people[1], *models, with_paths, before)
    job = Training("filter_check", out, 0, call, device=config.caption.device)
    return run_tasks([job], 1, place_of_task(ray, config.caption.device))[0]


def call_check(
    out: Path, images: Path, human: Path | None, held_out: Path | None, captioner: str | None, filter: str,
    config: CheckFilterConfig, before: Path | None = None,
) -> Counts:  # fmt: skip
    """In the worker: choose the pictures, score their texts, judge them, write them; or judge alone those of before."""
    chosen = choose_pictures(human, held_out, config)
    if not chosen.pictures:
        raise InputError(f"{human or held_out}: no readable picture with a caption; set filter_check.pictures: 0")
    if before:
        return _judge_alone(out, before, chosen, config)
    wrong = other_texts(images, chosen.pictures, config.seed)
    judge = judge_by(captioner, filter, config.caption, images)
    rows, least = judged_rows(chosen.pictures, wrong, judge, config.seed)
    told = {"set": chosen.set, "trained_on": str(int(chosen.trained_on)), "least_agreement": str(least)}
    if judges := config.caption.judges:
        told["judges"] = json.dumps([told_of(one) for one in judges], sort_keys=True)
    write_parquet(out / PART, rows_to_table(rows, FILTER_CHECK), FILTER_CHECK, told)
    return _counts(chosen, [row["fits"] for row in rows], least)


def _judge_alone(out: Path, before: Path, chosen: Chosen, config: CheckFilterConfig) -> Counts:
    """The texts of before with the scores of judges that had not been asked."""
    from blip_pipelines.caption.rejudge import rejudged  # torch, in the worker alone

    found = rejudged(before, {one.key: one.jpg for one in chosen.pictures}, config.caption, FILTER_CHECK)
    write_parquet(out / PART, found.judged, FILTER_CHECK, found.metadata)
    least = found.metadata["least_agreement"]
    return _counts(chosen, found.judged["fits"].to_pylist(), None if least == "None" else float(least))


def _counts(chosen: Chosen, fits: Sequence[bool | None], least: float | None) -> Counts:
    known = [one for one in fits if one is not None]
    counts: Counts = {"pictures": len(chosen.pictures), "set": chosen.set, "trained_on": int(chosen.trained_on)}
    counts |= {"texts": len(fits), "right": sum(known), "unknown": len(fits) - len(known)}
    return counts | ({} if least is None else {"least_agreement": round(least, 4)})


def judge_by(captioner: Path | str | None, filter: Path | str, config: CaptionConfig, images: Path) -> Judge:
    """What scores given texts as a run over `images` would, with its reference pictures."""
    from blip_pipelines.caption.worker import CaptionWorker  # torch, in the worker alone

    worker = CaptionWorker(captioner, filter, config, references=pick_references(images, config.references))

    def judge(given: pa.Table) -> pa.Table:
        names = pc.binary_join_element_wise(OF_ANOTHER_SET, given["key"], "")
        scored: pa.Table = worker.judge(given.set_column(given.column_names.index("key"), "key", names))
        keys = pc.utf8_slice_codeunits(scored["key"], len(OF_ANOTHER_SET))
        return scored.set_column(scored.column_names.index("key"), "key", keys)

    return judge


def score_given(
    given: pa.Table, images: Path, captioner: Path | str | None, filter: Path | str, settings: Mapping[str, Any]
) -> pa.Table:
    """Score given texts (rows with `key`, `status`, `jpg`, `texts`) by the settings of a run's section `caption`."""
    return judge_by(captioner, filter, CaptionConfig.model_validate(dict(settings)), images)(given)


def judged_rows(
    pictures: Sequence[KnownPicture], wrong: Sequence[str | None], judge: Judge, seed: int
) -> tuple[list[dict[str, Any]], float | None]:
    """Rows of `filter_check` of all texts of the pictures, and the agreement from which a synthetic one is right.

    `wrong` has a text of another image for each picture, or None.
    """
    agreement = HumanAgreement({one.key: one.captions for one in pictures})
    given = [_texts(one, other, seed) for one, other in zip(pictures, wrong, strict=True)]
    table = pa.table(
        {
            "key": pa.array([one.key for one in pictures], pa.string()),
            "status": pa.array(["success"] * len(pictures), pa.string()),
            "jpg": pa.array([one.jpg for one in pictures], pa.binary()),
            "texts": pa.array(given, pa.list_(pa.string())),
        }
    )
    names = {one.key: one.name for one in pictures}
    rows = [_row(row, names, agreement) for row in judge(table).to_pylist() if row["itm_score"] is not None]
    return rows, agreement.least_agreement


def _texts(picture: KnownPicture, other: str | None, seed: int) -> list[str]:
    """One of its human captions, by the seed, and the text of another image."""
    place = int(hashlib.blake2b(f"{seed}/{picture.key}".encode(), digest_size=4).hexdigest(), 16)
    return [picture.captions[place % len(picture.captions)], *([other] if other else [])]


def _row(row: Mapping[str, Any], names: Mapping[str, str], agreement: HumanAgreement) -> dict[str, Any]:
    """A scored text with what is known of it."""
    key, text = row["key"], row["caption"]
    if row["source"] == "synthetic":
        agrees = agreement.with_all(key, text)
        known = {"kind": "synthetic", "fits": agreement.is_right(agrees), "human_agreement": agrees}
    elif row["candidate"] == 0:
        known = {"kind": "human", "fits": True, "human_agreement": agreement.of(key, text)}
    else:
        known = {"kind": "other", "fits": False, "human_agreement": agreement.with_all(key, text)}
    return {**row, **known, "name": names[key]}
