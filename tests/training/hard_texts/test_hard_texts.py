"""Hard texts in a filter's fine-tuning: what is made, that it is wrong, and that it is the same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_bootstrap.config import FinetuneConfig, HardTextsConfig, ItcConfig, ItmConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.schemas.tables import ANNOTATED
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_training.checkpoint.store import load_med
from blip_training.data.held_out import read_held_out
from blip_training.data.tokenizer import Tokenizer
from blip_training.evaluate.retrieval import area_under_curve
from blip_training.feed.batches import TrainingData
from blip_training.feed.feed import Feed
from blip_training.feed.shards import annotated_shards, image_id_of
from blip_training.hard_texts.captioner_texts import disagrees, read_texts, write_texts
from blip_training.hard_texts.hard_texts import HardTexts, Kind, open_hard_texts
from blip_training.hard_texts.human_pictures import HumanPictures
from blip_training.hard_texts.near_texts import texts_of_near_pictures
from blip_training.model.med import Med
from blip_training.objective.contrast import Contrast
from blip_training.objective.micro_batches import encode_texts, micro_batches_of
from blip_training.runtime.workers import Worker
from blip_training.train.finetune import finetune_captioner_model, finetune_filter_model
from blip_training.train.log import ITM_AT_REST, itm_of_guessing
from blip_training.train.pretrain import pretrain_model
from tests.support.drawn import COLOURS, SHAPES, finetune_config, model_config, pretrain_config, read_log
from tests.support.tiny_batch import TEXTS, cut, whole_batch

CPU = Worker(torch.device("cpu"))
ALL: dict[str, Any] = {"swapped": 0.5, "captioner": 0.5, "near": 0.5}


@pytest.fixture(scope="module")
def model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    pretrain_model(out, world / "images", world / "pairs", world / "human", pretrain_config(world, steps=40, lr=4e-3))
    return out


@pytest.fixture(scope="module")
def captioner(world: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has learned to write, and not yet what it sees."""
    out = tmp_path_factory.mktemp("captioner")
    finetune_captioner_model(out, model, world / "human", finetune_config(steps=15, lr=4e-3))
    return out


def with_shares(config: FinetuneConfig, **shares: float) -> FinetuneConfig:
    return config.model_copy(update={"hard_texts": HardTextsConfig.model_validate(shares)})


def opened(
    out: Path, world: Path, model: Path, writer: Path | None = None, augment: str = "none", **shares: float
) -> HardTexts:
    med, _ = load_med(model)
    config = with_shares(finetune_config(), **shares).model_copy(update={"augment": augment})
    found = open_hard_texts(out, med, annotated_shards(world / "human"), config, CPU, writer)
    assert found is not None
    return found


def test_every_kind_gives_wrong_texts_and_is_counted(world: Path, model: Path, captioner: Path, tmp_path: Path) -> None:
    """The drawn pictures say what is in them by their first caption: a colour and a shape."""
    hard = opened(tmp_path, world, model, captioner, swapped=1, captioner=1, near=1)
    pictures = HumanPictures(annotated_shards(world / "human"))
    assert hard.counts()["hard_texts_swapped"] == 40
    assert all(count > 0 for count in hard.counts().values())
    for image_id, own in pictures.captions.items():
        _, colour, shape = own[0].split()
        batch = whole_batch(ids=[image_id] * 8)
        found = hard.of_batch(3, type(batch)(batch.images, [own[0]] * 8, batch.ids))
        assert len(found) >= 16, "a swap and a near text for every row, the captioner's where there is one"
        for _, text in found:
            assert text not in own
            named = {word for word in text.replace(",", "").split() if word in (*COLOURS, *SHAPES)}
            assert named - {colour, shape} or not named


def test_a_text_depends_on_seed_step_picture_and_caption_alone(
    world: Path, model: Path, captioner: Path, tmp_path: Path
) -> None:
    hard = opened(tmp_path, world, model, captioner, **ALL)
    ids = list(HumanPictures(annotated_shards(world / "human")).captions)[:8]
    batch = whole_batch(ids=ids)
    whole = hard.of_batch(1, batch)
    halves = [hard.of_batch(1, half) for half in cut(batch, 2)]
    assert whole == [*halves[0], *((row + 4, text) for row, text in halves[1])]
    (tmp_path / "again").mkdir()
    again = opened(tmp_path / "again", world, model, captioner, **ALL)
    assert again.of_batch(1, batch) == whole
    assert hard.of_batch(2, batch) != whole
    assert HardTexts(hard.kinds, seed=1).of_batch(1, batch) != whole


def test_a_share_is_that_of_the_pictures() -> None:
    hard = HardTexts({"near": Kind(0.25, lambda image_id, text, rng: "wrong", 1, 1.0)}, 0)
    num = sum(len(hard.of_batch(step, whole_batch())) for step in range(200))
    assert num / 1600 == pytest.approx(0.25, abs=0.04)
    assert hard.num_per_picture == 0.25


def test_a_text_that_names_a_side_is_not_drawn_where_the_picture_may_be_mirrored(
    model: Path, world: Path, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"key": str(at), "name": f"{at}.jpg", "captions": texts, "status": "success", "jpg": jpg_of(world, at)}
        for at, texts in enumerate([["a red circle"], ["a blue circle on the left"]])
    ]
    write_parquet(tmp_path / "human" / "part-00000.parquet", rows_to_table(rows, ANNOTATED), ANNOTATED)
    first, second = HumanPictures(annotated_shards(tmp_path / "human")).captions
    batch = whole_batch(ids=[first, second] * 4)
    texts = ["a red circle", "a blue circle on the left"] * 4
    batch = type(batch)(batch.images, texts, batch.ids)
    for augment, rows_with in (("none", {0, 1}), ("crop", {1})):
        found = opened(tmp_path, tmp_path, model, None, augment, near=1).of_batch(0, batch)
        assert {row % 2 for row, _ in found} == rows_with


def jpg_of(world: Path, at: int) -> bytes:
    return read_held_out(world / "human").pictures[at].jpg


def test_pictures_are_those_that_are_trained_on_and_workers_share_them(world: Path) -> None:
    data = TrainingData([], annotated_shards(world / "human", "train", frozenset({"0000000001"})), feed())
    pictures = HumanPictures(data.human.shards)
    trained = {sample.image_id for sample in data.human.samples(0, data.num_samples)}
    assert set(pictures.captions) == trained
    assert image_id_of("human", "0000000001") not in trained
    assert sum(map(len, pictures.captions.values())) == data.num_samples < 40
    shares = [[one for ids, _ in pictures.pixels(32, rank, 3) for one in ids] for rank in range(3)]
    assert sorted(one for share in shares for one in share) == sorted(trained)
    assert data.samples(0), "the files can be read again"


def feed() -> Feed:
    return Feed(batch_size=4, image_size=32, seed=0)


def test_a_text_disagrees_that_contradicts_every_caption_and_shares_few_words_with_each(world: Path) -> None:
    pictures = HumanPictures(annotated_shards(world / "human"))
    image_id = next(iter(pictures.captions))  # a red circle
    f1 = {"a red square": 0.5, "a blue square": 0.0, "blue": 0.0, "the blue circle": 0.5, "red green circle": 0.8}
    for text, value in f1.items():
        contradicts = text != "red green circle"  # it does not deny that it is red
        assert disagrees(pictures, image_id, text, value + 0.01) == contradicts
        assert not disagrees(pictures, image_id, text, value)
    for text in ("there is a", "", "red", "a circle", "a large red circle", "a striped thing"):
        assert not disagrees(pictures, image_id, text, 1.0), text


def test_near_pictures_are_the_nearest_that_show_something_else(world: Path, model: Path) -> None:
    """Against all similarities, pair by pair: pictures of another colour or shape, all captions of which are wrong."""
    med, _ = load_med(model)
    pictures = HumanPictures(annotated_shards(world / "human"))
    ids, pixels = next(pictures.pixels(32))
    with torch.no_grad():
        embedded = med.embed_image(med.encode_image(pixels))
    found = texts_of_near_pictures(med, pictures)
    assert not med.training
    for row, image_id in enumerate(ids):
        order = sorted(range(len(ids)), key=lambda other: -float(embedded[row] @ embedded[other]))
        others = [pictures.captions[ids[at]] for at in order]
        near = [own for own in others if own != pictures.captions[image_id]][:8]
        assert found[image_id] == [text for own in near for text in own]


@pytest.mark.parametrize(
    ("texts", "share", "message"),
    [
        (["so it is"], "swapped", "no caption has a word that can be swapped.*set hard_texts.swapped to 0"),
        (["so it is"], "near", "no near picture has a caption"),
        (["a red circle"], "captioner", "no captioner is given"),
    ],
)
def test_a_kind_that_cannot_be_made_is_refused_in_one_line(
    model: Path, world: Path, tmp_path: Path, texts: list[str], share: str, message: str
) -> None:
    rows: list[dict[str, object]] = [
        {"key": str(at), "name": f"{at}.jpg", "captions": texts, "status": "success", "jpg": jpg_of(world, at)}
        for at in range(3)
    ]
    write_parquet(tmp_path / "human" / "part-00000.parquet", rows_to_table(rows, ANNOTATED), ANNOTATED)
    config = with_shares(finetune_config(steps=1, batch_size=2), **{share: 1.0})
    with pytest.raises(InputError, match=message):
        finetune_filter_model(tmp_path, model, tmp_path / "human", config)


def test_a_captioner_whose_every_text_agrees_is_refused(
    world: Path, model: Path, captioner: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the captioner wrote no text that contradicts"):
        opened(tmp_path, world, model, captioner, captioner=1, max_agreement=0)


def test_a_killed_training_sees_the_same_texts_and_ends_with_the_same_losses(
    world: Path, model: Path, captioner: Path, tmp_path: Path
) -> None:
    config = with_shares(finetune_config(steps=6, checkpoint_every_steps=2), **ALL)

    def kill(step: int, figures: object) -> None:
        if step == 5:
            raise KeyboardInterrupt

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for out in (straight, killed):
        out.mkdir()
    counts = finetune_filter_model(straight, model, world / "human", config, captioner=captioner)
    with pytest.raises(KeyboardInterrupt):
        finetune_filter_model(killed, model, world / "human", config, kill, captioner=captioner)
    finetune_filter_model(killed, model, world / "human", config, captioner=captioner)
    assert read_log(killed) == read_log(straight)
    assert {name: value for name, value in counts.items() if name.startswith("hard_texts")}.keys() == {
        "hard_texts_swapped", "hard_texts_captioner", "hard_texts_near",
    }  # fmt: skip
    texts = json.loads((straight / "captioner_texts.json").read_text())["texts"]
    assert counts["hard_texts_captioner"] == sum(map(len, texts.values()))


def test_off_nothing_changes_not_even_a_bit(world: Path, model: Path, captioner: Path, tmp_path: Path) -> None:
    config = finetune_config(steps=4)
    for name, own, writer in (("one", config, None), ("two", with_shares(config), captioner)):
        (tmp_path / name).mkdir()
        counts = finetune_filter_model(tmp_path / name, model, world / "human", own, captioner=writer)
        assert not any(key.startswith("hard_texts") for key in counts)
    assert read_log(tmp_path / "one") == read_log(tmp_path / "two")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_weigh_by_their_hard_texts(world: Path, count: int) -> None:
    """All rows are of one image, so that no negative is drawn: ITM is the mean over matches and hard texts."""
    tokenizer = Tokenizer.load(str(world / "vocab.txt"))
    torch.manual_seed(0)
    med = Med(model_config(world), tokenizer.num_tokens)
    contrast = Contrast(med, ItcConfig(queue_size=0), ItmConfig(), CPU)
    wrong = {"red": "a blue square", "green": "circle", "blue": "a picture of a yellow circle that is yellow"}

    def draw(image_id: int, text: str, rng: object) -> str | None:
        return next((other for word, other in wrong.items() if word in text), None)

    hard = HardTexts({"swapped": Kind(1.0, draw, 4, 0.5)}, 0)
    whole = whole_batch(ids=[7] * 8)
    batches = cut(whole, count)
    micro = hard.with_texts(med, tokenizer, 0, batches, micro_batches_of(med, tokenizer, batches, CPU))
    assert len({0 if one.wrong is None else len(one.wrong.ids) for one in micro}) > 1
    features, losses = contrast.features(micro), []
    for one in micro:
        states = med.encode_image(one.images)
        itc = contrast.itc(features, one, states, 0.0)
        losses.append(contrast.itm(features, one, states, itc, torch.Generator().manual_seed(0)))
    pairs = [(row, text, 1) for row, text in enumerate(TEXTS)]
    pairs += [(row, text, 0) for row, text in hard.of_batch(0, whole)]
    ids, mask = encode_texts(med, tokenizer, [text for _, text, _ in pairs])
    logits = med.match(med.encode_image(whole.images), ids, mask, torch.tensor([row for row, _, _ in pairs]))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, _, label in pairs]))
    torch.testing.assert_close(torch.stack(losses).mean(), expected, rtol=1e-5, atol=1e-6)


def test_guessing_costs_less_the_more_wrong_texts_there_are() -> None:
    assert itm_of_guessing(2) == ITM_AT_REST
    logits = torch.tensor([1.0, 3.0]).log().expand(4, 2)
    labels = torch.tensor([0, 1, 1, 1])
    assert itm_of_guessing(3) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))


def auc_of_swaps(filter: Path, world: Path) -> float:
    """Captions of held-out pictures against the same with another colour or the other shape."""
    med, tokenizer = load_med(filter)
    right: list[Any] = []
    wrong: list[Any] = []
    for picture in read_held_out(world / "held_out").pictures:
        _, colour, shape = picture.captions[0].split()
        texts = [f"a {colour} {shape}", *(f"a {other} {shape}" for other in COLOURS if other != colour)]
        texts += [f"a {colour} {other}" for other in SHAPES if other != shape]
        ids, mask = encode_texts(med, tokenizer, texts)
        pixels = next(iter(type(read_held_out(world / "held_out"))([picture]).pixels(32, 1)))[1]
        with torch.inference_mode():
            scores = med.match(med.encode_image(pixels), ids, mask).softmax(1)[:, 1].tolist()
        right.append(scores[0])
        wrong += scores[1:]
    return area_under_curve(right, wrong)


def test_a_filter_trained_on_swaps_tells_swaps_better(world: Path, model: Path, tmp_path: Path) -> None:
    found = {}
    for share in (0.0, 1.0):
        out = tmp_path / str(share)
        out.mkdir()
        config = with_shares(finetune_config(steps=100, lr=2e-3), swapped=share)
        finetune_filter_model(out, model, world / "human", config)
        found[share] = auc_of_swaps(out, world)
    assert found[1.0] > found[0.0], found


def test_texts_of_the_captioner_that_are_damaged_are_none(tmp_path: Path) -> None:
    file, texts = tmp_path / "captioner_texts.json", {7: ["a red cat", "a dog"], 3: ["two birds"]}
    write_texts(file, texts)
    assert read_texts(file) == texts
    whole = file.read_text()
    for damaged in ("", whole[:-9], whole.replace("red", "bed"), "[]", '{"texts": 3}'):
        file.write_text(damaged)
        assert read_texts(file) is None
    assert read_texts(tmp_path / "none.json") is None
