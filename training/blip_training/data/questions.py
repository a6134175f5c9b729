"""Questions about pictures, with the answers that people gave, and closed lists of answers, read from files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip_bootstrap.errors import InputError
from blip_bootstrap.reading.header import Header
from blip_bootstrap.reading.json_files import parse_json
from blip_bootstrap.reading.records import JSON_ENDINGS, Record, read_records
from blip_bootstrap.reading.text_files import lines_of, plain_suffix
from blip_bootstrap.schemas.cells import NotTextError, described, folded_text_of, text_of

MAX_TEXT_CHARS = 10_000
"""The longest question or answer that is read: the tokenizer would take minutes for some megabytes."""

SHAPE = '{"image": file, "question": text, "answers": [text, ...] or {text: count}}'


@dataclass(frozen=True)
class Question:
    """A question about a picture; `answers` are the numbers of people who gave each, empty if nobody did."""

    image: Path
    text: str
    answers: Mapping[str, float] = field(default_factory=dict)
    where: str = ""

    @property
    def weights(self) -> dict[str, float]:
        """Each answer's share of the people who answered; the shares sum to 1."""
        total = sum(self.answers.values())
        return {answer: count / total for answer, count in self.answers.items()}


def read_questions(file: Path, image_root: Path | None = None, answered: bool = True) -> list[Question]:
    """Read questions from JSON lines {image, question, answers}; pictures are relative to `image_root` or the file.

    `answers` are texts, one for each person, or a mapping from text to number of people; with `answered` each question
    must have one. Raises InputError naming the line that is wrong.
    """
    root = image_root or file.parent
    records = read_records(file, _columns, "a list of questions", (*JSON_ENDINGS, ".parquet"), ".jsonl")
    questions = [_question(record, f"{file}: {record.where}", root, answered) for record in records]
    if not questions:
        raise InputError(f"{file}: no question in it; each line is {SHAPE}")
    return questions


def check_pictures(questions: Sequence[Question]) -> None:
    """Raise InputError if pictures are missing; the message counts them and names the first."""
    missing = {q.image: q.where for q in questions if not q.image.is_file()}
    if missing:
        image, where = next(iter(missing.items()))
        of_all = f"{len(missing):,} of {len({q.image for q in questions}):,} pictures are missing"
        raise InputError(f"{where}: {image} is not there; {of_all} (pictures are looked for under --image-root)")


def _columns(found: Header) -> list[str]:
    found.require({"image": "image", "question": "question"})
    return ["image", "question", *(["answers"] if "answers" in found.names else [])]


def read_answers(file: Path) -> list[str]:
    """Read a closed list of distinct answers, one a line or as a JSON list. Raises InputError if there is none."""
    lines: Any = [line for _, line in lines_of(file)]
    try:
        lines = parse_json("\n".join(lines)) if plain_suffix(file) == ".json" else lines
        found = [folded_text_of(line) for line in lines] if isinstance(lines, list) else []
    except ValueError as error:  # NotTextError is one
        raise InputError(f"{file}: a JSON list of texts was expected ({error})") from error
    if not isinstance(lines, list):
        raise InputError(f"{file}: a JSON list of texts was expected")
    answers = [text for text in dict.fromkeys(found) if text]
    if not answers:
        raise InputError(f"{file}: no answer in it; one a line is expected")
    return answers


def _question(record: Record, where: str, root: Path, answered: bool) -> Question:
    if record.mistake:
        raise InputError(f"{where} is not a JSON object; each line is {SHAPE}")
    image, text = (_text(record.cells.get(name), f"{where}: {name}") for name in ("image", "question"))
    answers = _answers(record.cells.get("answers"), where)
    if answered and not answers:
        raise InputError(f"{where}: no answers; each line is {SHAPE}")
    return Question(root / image, " ".join(text.split()), answers, where)


def _text(cell: Any, where: str) -> str:
    try:
        text = text_of(cell)
    except NotTextError as error:
        raise InputError(f"{where} is {error}, a text was expected; each line is {SHAPE}") from error
    if not text.strip():
        raise InputError(f"{where} is {described(cell)}, a text was expected; each line is {SHAPE}")
    if len(text) > MAX_TEXT_CHARS:
        raise InputError(f"{where} has {len(text):,} characters, at most {MAX_TEXT_CHARS:,} are read; leave it out")
    return text


def _answers(given: Any, where: str) -> dict[str, float]:
    """How many people gave each answer, whitespace folded; null, NaN and blank texts are left out."""
    given = given if isinstance(given, list | dict) else [given]
    counted = given.items() if isinstance(given, dict) else [(one, 1) for one in given]
    if not all(_is_count(count) for _, count in counted):
        raise InputError(f"{where}: the answers' counts are no numbers above 0; each line is {SHAPE}")
    folded: Counter[str] = Counter()
    for cell, count in counted:
        try:
            words = folded_text_of(cell)
        except NotTextError as error:
            raise InputError(f"{where}: an answer is {error}, a text was expected; each line is {SHAPE}") from error
        if len(words) > MAX_TEXT_CHARS:
            raise InputError(f"{where}: an answer has {len(words):,} characters; at most {MAX_TEXT_CHARS:,} are read")
        if words:
            folded[words] += count
    return dict(folded)


def _is_count(count: Any) -> bool:
    return isinstance(count, int | float) and not isinstance(count, bool) and 0 < count < float("inf")
