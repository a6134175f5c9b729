from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip_bootstrap.errors import CheckpointError, ConfigError
from blip_pipelines.captioners import options
from blip_pipelines.captioners.conformance import drawn_asks
from blip_pipelines.captioners.interface import Ask
from blip_pipelines.captioners.seeded import SeededTokens
from blip_pipelines.captioners.transformers import TransformersCaptioner
from blip_training.decoding.sampler import Sampler
from tests.support.captioners import SAVED

PROMPTS = ("Describe this image", "a cat", "what is this a red dog the cat")


@pytest.fixture(scope="module", params=sorted(SAVED))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "smolvlm":
        pytest.importorskip("num2words")
    return SAVED[request.param](tmp_path_factory.mktemp("model") / request.param)


def loaded(checkpoint: Path, **options: Any) -> TransformersCaptioner:
    captioner = TransformersCaptioner({"checkpoint": str(checkpoint), "max_tokens": 8, **options})
    captioner.load("cpu", "float32")
    return captioner


def test_texts_are_by_picture_prompt_and_seed(checkpoint: Path) -> None:
    """Another picture, prompt or seed gives another likelihood; the same ask the same text."""
    captioner, (ask, *_) = loaded(checkpoint), drawn_asks(PROMPTS)
    other = Image.fromarray(255 - np.asarray(ask.picture))
    asks = [ask, Ask(ask.picture, ask.jpg, ask.prompt, ask.seed), Ask(other, b"", ask.prompt, ask.seed),
            Ask(ask.picture, b"", "the red dog", ask.seed)]  # fmt: skip
    first, same, of_picture, of_prompt = captioner.caption(asks)
    assert first.text == same.text
    assert first.logprob == pytest.approx(same.logprob, abs=2e-5)
    assert first.logprob != pytest.approx(of_picture.logprob, abs=1e-4)
    assert first.logprob != pytest.approx(of_prompt.logprob, abs=1e-4)
    texts = {one.text for one in captioner.caption([Ask(ask.picture, b"", "a cat", seed) for seed in range(20)])}
    assert len(texts) > 10


def test_greedy_is_what_transformers_writes(checkpoint: Path) -> None:
    """The plain way by its documentation: one ask, no padding, `generate` without this project's draws."""
    captioner, (ask, *_) = loaded(checkpoint, temperature=0), drawn_asks(PROMPTS)
    given = captioner._inputs([ask])
    tokenizer = captioner._tokenizer
    made = captioner._model.generate(**given, do_sample=False, max_new_tokens=8, pad_token_id=tokenizer.pad_token_id)
    expected = tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert captioner.caption([ask])[0].text == expected


def test_padding_changes_no_text(checkpoint: Path) -> None:
    asks = drawn_asks(PROMPTS)
    padded, alone = loaded(checkpoint), loaded(checkpoint, one_by_one=True)
    assert (padded.varies_with, alone.varies_with) == ("batch", "device")
    assert padded.digest != alone.digest
    for one, other in zip(padded.caption(asks), alone.caption(asks), strict=True):
        assert one.text == other.text
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert (one.cost["completion_tokens"] == 8) == (one.flags == ("cut_at_max_length",))


def test_samplers_of_prompts_are_not_mixed(checkpoint: Path) -> None:
    captioner, asks = loaded(checkpoint), drawn_asks(PROMPTS)
    short = [Ask(ask.picture, ask.jpg, ask.prompt, ask.seed, {"max_tokens": 2 + at % 2}) for at, ask in enumerate(asks)]
    assert [one.cost["completion_tokens"] for one in captioner.caption(short)] == [2, 3] * 3


def test_what_a_model_does_not_take_costs_itself_alone(tmp_path: Path) -> None:
    qwen, asks = loaded(SAVED["qwen"](tmp_path / "qwen")), drawn_asks(PROMPTS)
    narrow = Ask(Image.new("RGB", (1, 400)), b"", "a cat", 1)
    long = Ask(asks[0].picture, b"", "a cat " * 400, 1)
    before, mixed = qwen.caption(asks), qwen.caption([narrow, *asks, long])
    assert [mixed[0].error, mixed[-1].error] == ["too_large", "too_large"]
    assert [one.text for one in mixed[1:-1]] == [one.text for one in before]
    assert [one.error for one in qwen.caption([long])] == ["too_large"]


def test_a_checkpoint_that_is_not_whole_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"options\.checkpoint: .*nowhere: no such file or folder"):
        loaded(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"there is no config\.json in it"):
        loaded(tmp_path)
    qwen = SAVED["qwen"](tmp_path / "qwen")
    (qwen / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no captioner of transformers"):
        loaded(qwen)


def test_the_digest_is_of_weights_and_options_that_decide(tmp_path: Path) -> None:
    qwen = SAVED["qwen"](tmp_path / "qwen")

    def digest(**options: Any) -> str:
        return TransformersCaptioner({"checkpoint": str(qwen), **options}).digest

    assert digest() == digest(batch_size=3)
    assert len({digest(), digest(top_p=0.5), digest(max_tokens=9), digest(system="be short")}) == 4
    before = digest()
    weights = bytearray((qwen / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (qwen / "model.safetensors").write_bytes(weights)
    assert digest() != before
    assert TransformersCaptioner({"checkpoint": "owner/name"}).digest


def test_pieces_of_a_large_file_tell_it_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "WHOLE_BYTES", 1_000)
    monkeypatch.setattr(options, "PIECE_BYTES", 64)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(100_000))
    before = options.digest_of_weights(str(tmp_path))
    file.write_bytes(bytes(99_999) + b"x")
    assert options.digest_of_weights(str(tmp_path)) != before


def test_each_row_is_drawn_by_its_own_seed() -> None:
    """Against the draw itself: the share of each token over many seeds is its probability."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(4_000, 1)
    draws = SeededTokens(range(4_000), Sampler(top_p=1.0, max_tokens=2), ends=[2])
    scores = draws(torch.zeros(4_000, 1), logits)
    assert ((scores == 0).sum(1) == 1).all()
    assert torch.isinf(scores).sum() == 8_000
    shares = (scores == 0).float().mean(0)
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.03)
    ended = int((scores[:, 2] == 0).nonzero()[0])
    assert draws.tokens(ended) == ([], True)
    assert draws.logprob(ended) == pytest.approx(np.log(0.2), abs=1e-5)
