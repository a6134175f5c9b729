"""Videos: which frames are seen, and retrieval and questions over them against the released code's way written here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blip_bootstrap.config import Config
from blip_bootstrap.errors import InputError
from blip_training.benchmarks.evaluate_on import evaluate_on, measure
from blip_training.benchmarks.frames import even_places, read_frames
from blip_training.checkpoint.store import load_vqa, save_filter, save_vqa
from blip_training.data.tokenizer import Tokenizer
from blip_training.decoding.generate import generate
from blip_training.decoding.sampler import Sampler
from tests.support.benchmark_files import some_texts, write_frames, write_json, write_lines
from tests.support.plain_retrieval import plain_figures
from tests.support.tiny_med import WORDS, tiny
from tests.support.tiny_vqa import tiny_vqa

FRAMES, TOP_K = 3, 2


def config(**changes: Any) -> Config:
    settings = {"device": "cpu", "batch_size": 8, "frames": FRAMES, "rerank_top_k": TOP_K}
    return Config.model_validate({"benchmark": settings | changes})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


@pytest.mark.parametrize(
    ("length", "count", "places"),
    [(300, 8, [0, 37, 74, 111, 148, 185, 222, 259]), (16, 8, list(range(0, 16, 2))), (8, 8, list(range(8)))],
)
def test_frames_are_those_of_the_released_code(length: int, count: int, places: list[int]) -> None:
    """Which are numpy's arange from 0 to the length in steps of length / count, in whole numbers."""
    assert even_places(length, count) == places == np.arange(0, length, length / count, dtype=int).tolist()


def test_a_video_of_few_frames_shows_some_again() -> None:
    assert even_places(3, 8) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert even_places(1, 4) == [0] * 4


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    pixels = write_frames(tmp_path / "video0", 1, 12)
    (tmp_path / "video0" / "notes.txt").write_text("x")
    assert torch.equal(read_frames(tmp_path / "video0", 4, 32, 10**6), pixels[[0, 3, 6, 9]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures in this folder of frames"):
        read_frames(tmp_path / "empty", 4, 32, 10**6)


def test_a_video_file_gives_its_frames(tmp_path: Path) -> None:
    """Frames of one colour each, so that the codec's losses do not matter."""
    file = tmp_path / "video0.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for shade in range(0, 200, 10):
        writer.write(np.full((48, 64, 3), (shade, 0, 250 - shade), dtype=np.uint8))  # BGR
    writer.release()
    frames = read_frames(file, 5, 32, 10**6)
    assert frames.shape == (5, 3, 32, 32)
    shades = [0, 40, 80, 120, 160]
    wanted = torch.tensor([[250 - shade, 0, shade] for shade in shades], dtype=torch.float)
    torch.testing.assert_close(frames.float().mean((2, 3)), wanted, atol=6, rtol=0)
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"none\.mp4: not a video that OpenCV can decode; give a folder"):
        read_frames(tmp_path / "none.mp4", 4, 32, 10**6)


def write_msrvtt(root: Path, count: int = 6) -> tuple[list[str], torch.Tensor]:
    texts = some_texts(count, 2)
    videos = [write_frames(root / "videos" / f"video{i}", i, 10) for i in range(count)]
    write_lines(root / "msrvtt_test.jsonl", [{"clip_name": f"video{i}", "caption": t} for i, t in enumerate(texts)])
    return texts, torch.stack([video[[0, 3, 6]] for video in videos])


@torch.no_grad()
def test_retrieval_is_that_of_the_released_code(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Embeddings are averaged over frames before they get length 1; ITM looks at all frames' patches in a row."""
    med = tiny(tokenizer)
    save_filter(tmp_path / "filter", med, tokenizer)
    texts, videos = write_msrvtt(tmp_path)
    ids, mask = tokenizer.encode(texts, 35)
    rows, matches = [], torch.zeros(len(videos), len(texts))
    for i, frames in enumerate(videos):
        states = med.encode_image(frames)
        rows.append(F.normalize(med.vision_projection(states[:, 0]).mean(0), dim=-1))
        for t in range(len(texts)):
            one = slice(t, t + 1)
            matches[i, t] = med.match(states.reshape(1, -1, 128), ids[one], mask[one])[0, 1]
    similar = torch.stack(rows) @ med.embed_text(ids, mask).T
    expected = plain_figures(similar, matches, 1, TOP_K)
    for size in (1, 64):
        found = evaluate_on(tmp_path / "filter", "msrvtt", tmp_path, config(batch_size=size))
        assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_lists_of_msrvtt_and_msvd_are_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The same videos and texts by every list have the same figures."""
    save_filter(tmp_path / "filter", tiny(tokenizer), tokenizer)
    texts, _ = write_msrvtt(tmp_path / "a")
    names = [f"video{i}" for i in range(len(texts))]
    pairs = list(zip(names, texts, strict=True))
    rows = "".join(f"ret{i},msr{i},{name},{text}\n" for i, (name, text) in enumerate(pairs))
    lines = "".join(f"{name} {text}\n" for name, text in [*pairs, ("v9", "w1")])
    cells = [
        f"video,{i},9,1,clean,1,{language}\n"
        for i, text in enumerate(texts)
        for language in (f"English,{text}", "Dutch,een")
    ]
    files = {
        "b/MSRVTT_JSFUSION_test.csv": f"key,vid_key,video_id,sentence\n{rows}",
        "d/AllVideoDescriptions.txt": f"# MSVD\n\n{lines}",
        "d/test_list.txt": "\n".join(names),
        "e/video_corpus.csv": "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
        + "".join(cells),
        "e/test_list.txt": "".join(f"video_{i}_9\n" for i in range(len(names))),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    write_json(
        tmp_path / "c" / "test_videodatainfo.json", {"sentences": [{"video_id": n, "caption": t} for n, t in pairs]}
    )
    (tmp_path / "f").mkdir()
    for i, name in enumerate(names):
        (tmp_path / "f" / f"video_{i}_9").symlink_to(tmp_path / "a" / "videos" / name)
    found = {
        folder: evaluate_on(
            tmp_path / "filter", "msrvtt" if folder in "abc" else "msvd", tmp_path / folder,
            config(image_root=str(tmp_path / ("f" if folder == "e" else "a"))),
        )
        for folder in "abcde"
    }  # fmt: skip
    for other in found.values():
        compared = [name for name in other if not name.startswith("itm_")]  # whose wrong texts go by names
        assert {name: other[name] for name in compared} == {name: found["a"][name] for name in compared}


@torch.no_grad()
def test_questions_are_asked_of_all_frames(tokenizer: Tokenizer, tmp_path: Path) -> None:
    vqa, questions = tiny_vqa(tokenizer), some_texts(5, 3, 4)
    save_vqa(tmp_path / "vqa", vqa, tokenizer)
    vqa, _ = load_vqa(tmp_path / "vqa")
    videos = [write_frames(tmp_path / f"clip{i}_0_9", i, 10)[[0, 3, 6]] for i in range(5)]
    expected = []
    for question, frames in zip(questions, videos, strict=True):
        ids, mask = tokenizer.encode([question], 35)
        read = vqa.read_questions(vqa.encode_image(frames).reshape(1, -1, 128), ids, mask)
        sampler = Sampler(sample=False, num_beams=3, min_tokens=1, max_tokens=10)
        expected.append(generate(vqa, tokenizer, read, "", sampler, [[0]])[0][0].text)
    answers = [text if i % 2 else "w59" for i, text in enumerate(expected)]
    rows = [
        {"id": i, "video_id": i + 1, "question": q, "answer": a}
        for i, (q, a) in enumerate(zip(questions, answers, strict=True))
    ]
    write_json(tmp_path / "test_qa.json", rows)
    (tmp_path / "youtube_mapping.txt").write_text("".join(f"clip{i}_0_9 vid{i + 1}\n" for i in range(5)))
    found = measure(tmp_path / "vqa", "msvd_qa", tmp_path, config(), tmp_path / "out")
    equal = Counter(text == answer for text, answer in zip(expected, answers, strict=True))
    assert found["figures"] == {"accuracy": equal[True] / 5}
    assert 0 < equal[True] < 5
    for i in range(5):
        (tmp_path / f"video{i + 1}").symlink_to(tmp_path / f"clip{i}_0_9")
    assert evaluate_on(tmp_path / "vqa", "msrvtt_qa", tmp_path, config()) == found["figures"]
    mine = [
        {"video": f"clip{i}_0_9", "question": row["question"], "answers": [row["answer"]]} for i, row in enumerate(rows)
    ]
    file = write_lines(tmp_path / "mine.jsonl", mine)
    assert evaluate_on(tmp_path / "vqa", "video_questions", file, config(batch_size=1)) == found["figures"]


def test_by_default_there_are_as_many_frames_as_in_the_paper(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_filter(tmp_path / "filter", tiny(tokenizer), tokenizer)
    write_msrvtt(tmp_path, 3)
    found = measure(tmp_path / "filter", "msrvtt", tmp_path, config(frames=None, rerank_top_k=None), None)
    assert (found["settings"]["frames"], found["settings"]["rerank_top_k"]) == (8, 128)
