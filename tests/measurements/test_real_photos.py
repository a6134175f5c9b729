"""The bench of real photographs: its configuration, its pairs, and MiniLM with the captions' own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from blip_bootstrap.errors import CheckpointError
from blip_training.checkpoint.fresh import new_med
from blip_training.data.tokenizer import Tokenizer
from blip_training.runtime.sources import resolve_source
from tests.bench.real_photos import MINILM, NEVER, STAGES, Photos, write_pairs, write_words

CONFIG = Path(__file__).parents[1] / "bench" / "flickr8k_clean.yaml"
CAPTIONS = ["A brown dog runs.", "Two dogs are playing in the snow."]


@pytest.fixture(scope="module")
def config() -> Photos:
    return Photos.model_validate(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        resolve_source(MINILM)
    except CheckpointError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("words")
    write_words(folder, CAPTIONS)
    return folder


def test_itm_joins_in_the_filter_alone(config: Photos) -> None:
    assert [config.stage(name).itm.start_step for name in STAGES] == [NEVER, NEVER, 0, 0]
    assert config.stage("heads").optimizer.started_lr_scale == 0


def test_the_seed_is_every_trainings(config: Photos) -> None:
    seeded = config.model_copy(update={"seed": 7})
    assert {seeded.stage(name).optimizer.seed for name in STAGES} == {7}


def test_the_captioner_takes_the_image_encoder_of_contrast() -> None:
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    content["captioning"]["model"]["vision"]["trained_blocks"] = 0
    with pytest.raises(ValidationError, match=r"captioning\.model\.vision is not retrieval's"):
        Photos.model_validate(content)


def test_pairs_are_the_human_set_and_the_clean_rows(tmp_path: Path) -> None:
    human = json.dumps({"image": "a.jpg", "captions": ["one", "two"]})
    (tmp_path / "human.jsonl").write_text(human + "\n")
    (tmp_path / "web.tsv").write_text('image\talt_text\nb.jpg\tsay "dog"\nc.jpg\tIMG_1\n')
    (tmp_path / "truth.tsv").write_text("image\tkind\nb.jpg\tclean\nc.jpg\tdamaged\n")
    write_pairs(tmp_path / "out" / "pairs.jsonl", tmp_path / "truth.tsv")
    lines = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert lines == [json.loads(human), {"image": "b.jpg", "captions": ['say "dog"']}]


def test_the_captions_words_are_single_pieces_and_others_are_spelled(words: Path) -> None:
    few, all_words = Tokenizer.load(words), Tokenizer.load(MINILM)
    assert few.num_tokens < 120
    for caption in CAPTIONS:
        assert few.decode(few.piece_ids(caption)) == all_words.decode(all_words.piece_ids(caption))
        assert len(few.piece_ids(caption)) == len(all_words.piece_ids(caption))
    assert few.decode(few.piece_ids("zebra")) == "zebra"
    assert few.unk_id not in few.piece_ids("zebra 42")


def test_a_model_starts_from_the_words_with_minilms_vectors(config: Photos, words: Path) -> None:
    few, all_words = Tokenizer.load(words), Tokenizer.load(MINILM)
    model, start = config.captioning.model, {"tokenizer": str(words), "start": str(words), "depth": 1}
    model = model.model_copy(update={"text": model.text.model_copy(update=start)})
    whole = model.model_copy(update={"text": model.text.model_copy(update={"start": MINILM})})
    rows = []
    for tokenizer, settings in ((few, model), (all_words, whole)):
        table = new_med(settings, tokenizer.num_tokens).text.embeddings.of("causal").words.weight
        rows.append(table[tokenizer.piece_ids(CAPTIONS[0])])
    assert torch.equal(*rows)
