"""A training that meets NaN: the step is skipped and leaves no trace, many in a row end it, and no NaN is kept."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from blip_bootstrap.config import VqaConfig
from blip_bootstrap.errors import CheckpointError, RunFailed
from blip_training.checkpoint.finite import is_finite, not_finite
from blip_training.checkpoint.fresh import start_text, start_vision
from blip_training.checkpoint.store import load_med, save_captioner, save_filter, save_med, save_vqa
from blip_training.data.questions import Question
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.clip_scorer import ClipScorer
from blip_training.model.med import Med
from blip_training.objective.losses import draw_negatives
from blip_training.runtime.workers import Worker
from blip_training.train import finetune, finetune_vqa, pretrain
from blip_training.train.checkpoint_files import newest_step
from blip_training.train.run import Run
from blip_training.train.vision_start import save_vit
from tests.support.checkpoints import newest_state
from tests.support.drawn import WORDS, finetune_config, model_config, optimizer_config, pretrain_config, read_log
from tests.support.tiny_scorers import save_clip
from tests.support.tiny_vqa import tiny_vqa

CPU = Worker(torch.device("cpu"))


def poison(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *calls: int, by: float = math.nan) -> None:
    """Make the results of calls number 1, 2, ... of a loss worthless, as an overflow does."""
    loss, count = getattr(module, name), 0

    def poisoned(*inputs: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        return loss(*inputs, **more) * (by if count in calls else 1.0)

    monkeypatch.setattr(module, name, poisoned)


def rows_of(out: Path) -> list[dict[str, float]]:
    """The log's lines, which are JSON in the strict sense: no NaN, no Infinity."""

    def refuse(name: str) -> float:
        raise AssertionError(name)

    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def pretrain_into(out: Path, world: Path, progress: Any = None, **changes: object) -> dict[str, int | float]:
    out.mkdir(exist_ok=True)
    config = pretrain_config(world, **changes)
    human = world / "human"
    return pretrain.pretrain_model(out, world / "images", world / "pairs", human, config, progress)


@pytest.mark.parametrize("by", [math.nan, math.inf, -math.inf])
def test_a_skipped_step_leaves_no_trace_in_weights_moments_momentum_queue_or_log(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    """What the fourth step finds is what the fifth one finds again."""
    poison(monkeypatch, pretrain, "lm_loss", 4, by=by)
    found: list[dict[str, Any]] = [{}]
    update = Run.update

    def look(run: Run, **figures: Any) -> bool:
        state = copy.deepcopy(run._weights())
        found.append(state | {"moments": state["optimizer"]["state"]})  # its groups hold the step's learning rate
        return update(run, **figures)

    monkeypatch.setattr(Run, "update", look)
    counts = pretrain_into(tmp_path, world, steps=6)
    assert counts["skipped_steps"] == 1
    for part in ("model", "momentum", "queue", "moments"):
        assert same(found[4][part], found[5][part])
        assert not same(found[3][part], found[4][part])
        assert not same(found[5][part], found[6][part])
    assert [row.get("skipped_steps") for row in rows_of(tmp_path)] == [None, None, None, 1, 1, 1]
    assert ["lm" in row for row in rows_of(tmp_path)] == [True, True, True, False, True, True]
    assert not not_finite(load_med(tmp_path)[0].state_dict())


def test_a_mean_over_steps_leaves_the_skipped_one_out(tmp_path: Path) -> None:
    module = nn.Linear(1, 1, bias=False)
    run = Run(tmp_path, module, optimizer_config(steps=3, log_every_steps=3, clip_norm=None), CPU)
    for step in run.count():
        run.backward({"own": (module(torch.ones(1, 1)) * 0).sum() + (2.0, math.nan, 4.0)[step]})
        assert run.update() == (step != 1)
    (row,) = rows_of(tmp_path)
    assert (row["own"], row["loss"], row["skipped_steps"]) == (3.0, 3.0, 1)


def test_a_gradient_that_is_not_finite_is_enough(tmp_path: Path) -> None:
    """The loss is 0, its gradient is not: sqrt at 0."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    run = Run(tmp_path, module, optimizer_config(steps=1), CPU)
    for _ in run.count():
        run.backward({"root": module(torch.ones(1, 1)).sqrt().sum()})
        assert not run.update()
    assert module.weight.item() == 0.0
    assert run.finish()["skipped_steps"] == 1


def test_too_many_in_a_row_end_the_training_and_leave_the_last_good_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, pretrain, "lm_loss", *range(4, 100))
    with pytest.raises(
        RunFailed, match=r"3 steps in a row up to step 6 are not finite; lower .*lr.*checkpoint"
    ) as told:
        pretrain_into(tmp_path, world, steps=20, checkpoint_every_steps=2, max_skipped_steps=3)
    assert "\n" not in str(told.value)
    assert told.value.exit_code == 1
    assert not (tmp_path / "model.safetensors").exists()
    state = newest_state(tmp_path)
    assert state["step"] == 2  # that of step 4, after a skipped one, was not written
    assert not not_finite(state)
    monkeypatch.undo()
    counts = pretrain_into(tmp_path, world, steps=20, checkpoint_every_steps=2, max_skipped_steps=3)
    assert (counts["steps"], counts["skipped_steps"]) == (20, 0)


def test_a_kill_amid_skipped_steps_changes_nothing(tmp_path: Path) -> None:
    """The checkpoint is that before the first of them, and the second one ends the training again."""

    def go(kill: bool) -> None:
        module = nn.Linear(1, 1)
        run = Run(tmp_path, module, optimizer_config(steps=5, checkpoint_every_steps=1, max_skipped_steps=2), CPU)
        for step in run.count():
            if kill and step == 3:
                return
            run.backward({"own": module(torch.ones(1, 1)).sum() * (math.nan if step > 1 else 1.0)})
            run.update()

    go(kill=True)
    with pytest.raises(RunFailed, match="2 steps in a row up to step 4"):
        go(kill=False)


def test_a_checkpoint_that_was_due_amid_skipped_steps_is_made_after_them(tmp_path: Path) -> None:
    module, steps = nn.Linear(1, 1), []
    run = Run(tmp_path, module, optimizer_config(steps=9, checkpoint_every_steps=4), CPU)
    for step in run.count():
        run.backward({"own": module(torch.ones(1, 1)).sum() * (math.nan if step + 1 in (3, 4, 5) else 1.0)})
        run.update()
        steps.append((step + 1, newest_step(tmp_path)))
    assert steps[5:] == [(6, 0), (7, 6), (8, 6), (9, 8)]
    assert newest_step(tmp_path) == 9


@pytest.mark.parametrize(("skipped", "fails"), [((7,), False), ((8,), False), ((6, 7), False), ((7, 8), True)])
def test_weights_after_which_no_loss_was_finite_are_no_model(
    tmp_path: Path, skipped: tuple[int, ...], fails: bool
) -> None:
    """A training of eight steps; one bad batch at the end is no reason, two are."""
    module = nn.Linear(1, 1)
    run = Run(tmp_path, module, optimizer_config(steps=8), CPU)

    def go() -> None:
        for step in run.count():
            run.backward({"own": module(torch.ones(1, 1)).sum() * (math.nan if step + 1 in skipped else 1.0)})
            run.update()

    if fails:
        with pytest.raises(RunFailed, match="2 steps in a row up to step 8"):
            go()
    else:
        go()
        assert run.finish()["skipped_steps"] == len(skipped)


@pytest.mark.parametrize("broken_at", [1, 2, 4])
def test_weights_that_are_not_finite_are_neither_checkpointed_nor_left_as_the_model(
    tmp_path: Path, broken_at: int
) -> None:
    """A finite gradient can take a step out of the numbers, too."""
    module = nn.Linear(2, 2)
    run = Run(tmp_path, module, optimizer_config(steps=4, checkpoint_every_steps=1), CPU)

    def go() -> None:
        for step in run.count():
            run.backward({"loss": module(torch.ones(1, 2)).sum()})
            run.update()
            if step + 1 == broken_at:
                nn.init.constant_(module.bias, math.inf)

    with pytest.raises(RunFailed, match=rf"1 weights are not finite after step {broken_at} \(model\.bias\)"):
        go()
    assert newest_step(tmp_path) == broken_at - 1


def test_a_checkpoint_with_nan_is_not_taken_up(tmp_path: Path) -> None:
    """Such a one can be left by a version that did not look."""
    module = nn.Linear(2, 2)
    run = Run(tmp_path, module, optimizer_config(), CPU)
    nn.init.constant_(module.bias, math.nan)
    run._save()
    with pytest.raises(CheckpointError, match=r"0000\.pt: of a diverged training \(model\.bias is not finite\)"):
        Run(tmp_path, nn.Linear(2, 2), optimizer_config(), CPU)


@pytest.mark.parametrize("kind", ["captioner", "filter"])
def test_fine_tunes_skip_and_fail_alike(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pretrain_into(tmp_path / "model", world, steps=1)
    tune = {"captioner": finetune.finetune_captioner_model, "filter": finetune.finetune_filter_model}[kind]
    name = {"captioner": "lm_loss", "filter": "alpha_at"}[kind]
    for out, calls in (("skips", [2]), ("fails", range(2, 99))):
        (tmp_path / out).mkdir()
        poison(monkeypatch, finetune, name, *calls)
        run = (tmp_path / out, tmp_path / "model", world / "human", finetune_config(steps=6, max_skipped_steps=4))
        if out == "skips":
            assert tune(*run)["skipped_steps"] == 1
            assert not not_finite(load_med(tmp_path / out)[0].state_dict())
        else:
            with pytest.raises(RunFailed, match="4 steps in a row"):
                tune(*run)
        monkeypatch.undo()
    assert not (tmp_path / "fails" / "model.safetensors").exists()


def test_a_validation_that_is_never_finite_names_no_best(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain_into(tmp_path / "model", world, steps=1)
    monkeypatch.setattr(finetune, "validate_matching", lambda *inputs: torch.tensor(math.nan))
    config = finetune_config(steps=2).model_copy(update={"validate_every_steps": 1})
    with pytest.raises(RunFailed, match="the validation loss was not finite at any step"):
        finetune.finetune_filter_model(tmp_path, tmp_path / "model", world / "human", config)
    assert not (tmp_path / "model.safetensors").exists()


def test_questions_skip_too(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain_into(tmp_path / "model", world, steps=1)
    picture = tmp_path / "red.jpg"
    picture.write_bytes(first_picture(world))
    questions = [Question(picture, "a circle", {"red": 1})] * 4
    poison(monkeypatch, finetune_vqa, "answer_loss", 2, 3)
    config = VqaConfig(optimizer=optimizer_config(steps=5, batch_size=4), augment="none")
    counts = finetune_vqa.finetune_vqa_model(tmp_path, tmp_path / "model", questions, config)
    assert counts["skipped_steps"] == 2
    assert ["lm" in row for row in read_log(tmp_path)] == [True, False, False, True, True]


def first_picture(world: Path) -> bytes:
    from blip_bootstrap.storage.parquet import read_parquet

    jpg: bytes = read_parquet(world / "human" / "part-00000.parquet", ["jpg"])["jpg"][0].as_py()
    return jpg


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_negatives_are_drawn_even_where_there_are_no_similarities(value: float) -> None:
    """torch.multinomial raises on NaN, on a GPU it ends the process."""
    similarity = torch.zeros(4, 4)
    similarity[1] = value
    allowed = ~torch.eye(4, dtype=torch.bool)
    drawn = draw_negatives(similarity, allowed, torch.Generator().manual_seed(0), 0.5)
    assert drawn.shape == (4,)
    assert all(int(drawn[row]) != row for row in (0, 2, 3))


def test_a_sum_that_overflows_is_no_weight_that_does() -> None:
    assert is_finite(torch.full((4,), 3e38))
    assert is_finite(torch.full((4,), 60_000.0, dtype=torch.float16))
    assert is_finite(torch.ones(2, dtype=torch.int64))
    assert is_finite(torch.empty(0))
    for value in (math.nan, math.inf, -math.inf):
        assert not is_finite(torch.tensor([1.0, value]))
    assert not is_finite(torch.tensor([math.inf, -math.inf]))


def broken_med(folder: Path) -> tuple[Med, Tokenizer]:
    tokenizer = Tokenizer(WORDS.split())
    med = Med(model_config(folder), tokenizer.num_tokens)
    with torch.no_grad():
        med.get_parameter("text.layers.0.feed_forward.both.fc1.bias")[3] = math.nan
    return med, tokenizer


@pytest.mark.parametrize("save", [save_med, save_captioner, save_filter])
def test_no_model_that_is_not_finite_is_saved(world: Path, tmp_path: Path, save: Callable[..., None]) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors: keys .* hold NaN or infinite numbers"):
        save(tmp_path, *broken_med(world))
    assert not (tmp_path / "model.safetensors").exists()


def spoil(file: Path, value: float = math.nan) -> None:
    """Put one NaN into the file's largest tensor."""
    weights = load_file(file)
    name = max(weights, key=lambda one: weights[one].numel())
    weights[name].view(-1)[-1] = value
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize("kind", ["own", "captioner", "filter", "vqa"])
def test_no_model_that_is_not_finite_is_loaded(world: Path, tmp_path: Path, kind: str) -> None:
    tokenizer = Tokenizer(WORDS.split())
    model = tiny_vqa(tokenizer) if kind == "vqa" else Med(model_config(world), tokenizer.num_tokens)
    save: Any = {"own": save_med, "captioner": save_captioner, "filter": save_filter, "vqa": save_vqa}[kind]
    save(tmp_path, model, tokenizer)
    spoil(tmp_path / "model.safetensors", math.inf)
    with pytest.raises(CheckpointError, match=r"keys \S+ hold NaN or infinite numbers") as told:
        load_med(tmp_path)
    assert "\n" not in str(told.value)


def test_starts_and_scorers_that_are_not_finite_are_refused(world: Path, tmp_path: Path) -> None:
    config = model_config(world)
    med = Med(config, len(WORDS.split()) + 2)
    save_vit(tmp_path / "vit", med.vision)
    spoil(tmp_path / "vit" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"vit: keys .* hold NaN"):
        start_vision(med, str(tmp_path / "vit"))
    clip = save_clip(tmp_path / "clip")
    spoil(clip / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"clip: keys .* hold NaN"):
        ClipScorer(clip)


def test_a_bert_that_is_not_finite_is_refused(world: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    tokens = len(WORDS.split())
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"vocab_size": tokens, "max_position_embeddings": 24, "num_hidden_layers": 1}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path)
    spoil(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="hold NaN"):
        start_text(Med(model_config(world), tokens + 2), str(tmp_path))
