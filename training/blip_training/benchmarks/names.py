"""The benchmarks by name: their tasks, the files that are read, and where their publishers have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blip_bootstrap.config.benchmark import Task
from blip_bootstrap.errors import InputError


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    `files` are the names of lists that it can be read from, by split; the first of them that is there is read. `beside`
    names what is needed beside any of them. `rerank_top_k` and `max_words` are those of the released code. `is_video`
    says that its items are videos.
    """

    name: str
    tasks: tuple[Task, ...]
    files: Mapping[str, tuple[str, ...]]
    publisher: str
    beside: str | None = None
    is_video: bool = False
    rerank_top_k: int = 128
    repetition_penalty: float = 1.0

    @property
    def max_words(self) -> int:
        """Words after which the released code cuts this benchmark's texts."""
        return 40 if self.is_video or self.tasks == ("nlvr",) else 30

    @property
    def is_own(self) -> bool:
        """Whether it is no public benchmark: its list is a file of this project's own format, of any name."""
        return not self.files


BLIP_LISTS = "https://storage.googleapis.com/sfr-vision-language-research/datasets"
"""Where BLIP's authors published their lists of COCO, Flickr30k, nocaps, VQAv2, NLVR2 and MSRVTT."""

KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent"

_COCO_PICTURES = "pictures val2014 and train2014 from https://cocodataset.org"

_QA = "QA pairs of Xu et al. 2017 from https://github.com/xudejing/video-question-answering"

_MSVD_VIDEOS = "videos YouTubeClips from https://www.cs.utexas.edu/~ml/clamp/videoDescription"

_MSRVTT_VIDEOS = "videos from https://www.microsoft.com/en-us/research/publication/msr-vtt"

VQA_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"

_ALL = (
    Benchmark(
        "coco", ("captioning", "retrieval"),
        {
            "test": ("coco_karpathy_test.json", "dataset_coco.json"),
            "val": ("coco_karpathy_val.json", "dataset_coco.json"),
        },
        f"dataset_coco.json from {KARPATHY}, or coco_karpathy_test.json from {BLIP_LISTS}; {_COCO_PICTURES}",
        rerank_top_k=256,
    ),
    Benchmark(
        "flickr30k", ("captioning", "retrieval"),
        {
            "test": ("flickr30k_test.json", "dataset_flickr30k.json"),
            "val": ("flickr30k_val.json", "dataset_flickr30k.json"),
        },
        f"dataset_flickr30k.json from {KARPATHY}, or flickr30k_test.json from {BLIP_LISTS}; pictures from "
        "https://shannon.cs.illinois.edu/DenotationGraph",
    ),
    Benchmark(
        "nocaps", ("captioning",),
        {"test": ("nocaps_val_4500_captions.json", "nocaps_val.json")},
        "nocaps_val_4500_captions.json from https://nocaps.org/download; pictures of Open Images V4, by the URLs in it",
        repetition_penalty=1.1,
    ),
    Benchmark(
        "vqav2", ("vqa",),
        {"test": (VQA_QUESTIONS, "vqa_val.json")},
        f"questions and annotations of the validation part from https://visualqa.org/download; {_COCO_PICTURES}; "
        f"answer_list.json for mode rank from {BLIP_LISTS}",
    ),
    Benchmark(
        "nlvr2", ("nlvr",),
        {"test": ("nlvr_test.json", "test1.json"), "val": ("nlvr_dev.json", "dev.json")},
        f"test1.json from https://github.com/lil-lab/nlvr/tree/master/nlvr2/data, or nlvr_test.json from {BLIP_LISTS}; "
        "pictures by the form named at https://github.com/lil-lab/nlvr",
    ),
    Benchmark(
        "msrvtt", ("retrieval",),
        {"test": ("msrvtt_test.jsonl", "MSRVTT_JSFUSION_test.csv", "test_videodatainfo.json")},
        f"msrvtt_test.jsonl from {BLIP_LISTS}, or MSRVTT_JSFUSION_test.csv (the 1,000 videos of split 1k-A); "
        f"{_MSRVTT_VIDEOS}",
        is_video=True,
    ),
    Benchmark(
        "msvd", ("retrieval",),
        {"test": ("AllVideoDescriptions.txt", "MSR Video Description Corpus.csv", "video_corpus.csv")},
        f"AllVideoDescriptions.txt from https://www.cs.utexas.edu/~ml/clamp/videoDescription, with test_list.txt, the "
        f"names of the 670 test videos, beside it; {_MSVD_VIDEOS}",
        is_video=True,
    ),
    Benchmark(
        "msrvtt_qa", ("vqa",), {"test": ("test_qa.json",), "val": ("val_qa.json",)},
        f"test_qa.json of MSRVTT-QA: {_QA}; {_MSRVTT_VIDEOS}", is_video=True,
    ),
    Benchmark(
        "msvd_qa", ("vqa",), {"test": ("test_qa.json",), "val": ("val_qa.json",)},
        f"test_qa.json of MSVD-QA and youtube_mapping.txt: {_QA}; {_MSVD_VIDEOS}",
        "youtube_mapping.txt", is_video=True,
    ),
    Benchmark("captions", ("captioning", "retrieval"), {}, 'JSON lines of {"image": file, "captions": [text, ...]}'),
    Benchmark(
        "questions", ("vqa",), {}, 'JSON lines of {"image": file, "question": text, "answers": [text, ...]}'
    ),
    Benchmark(
        "two_images", ("nlvr",), {}, 'JSON lines of {"images": [file, file], "sentence": text, "label": true or false}'
    ),
    Benchmark(
        "videos", ("retrieval",), {}, 'JSON lines of {"video": file or folder of frames, "captions": [text, ...]}',
        is_video=True,
    ),
    Benchmark(
        "video_questions", ("vqa",), {}, 'JSON lines of {"video": ..., "question": text, "answers": [text, ...]}',
        is_video=True,
    ),
)  # fmt: skip

BENCHMARKS: Mapping[str, Benchmark] = {one.name: one for one in _ALL}


def benchmark_of(name: str) -> Benchmark:
    """The benchmark of that name. Raises InputError where there is none."""
    if name not in BENCHMARKS:
        raise InputError(f"--on {name}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
