"""The language of each text of a round, by py3langid, as a Parquet file that the audits read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from blip_bootstrap.errors import InputError
from blip_bootstrap.query.macros import MOST_CHARS
from blip_bootstrap.query.questions import query
from blip_bootstrap.query.views import connect
from blip_bootstrap.schemas.shown_tables import LANGUAGES
from blip_bootstrap.storage import parquet
from blip_bootstrap.storage.files import check_writable
from blip_bootstrap.storage.run_folder import languages_path, resolve_round

Classify = Callable[[str], tuple[str, float]]

_TEXTS = """
WITH sizes AS (
    SELECT round, source, ceil(count(*) / {size})::UBIGINT AS every FROM {pairs} WHERE round = {round} GROUP BY ALL
)
SELECT round, key, source, candidate, caption FROM {pairs} JOIN sizes USING (round, source)
WHERE caption <> '' AND hash(key) % every = 0 ORDER BY key, source DESC, candidate
"""


def identify_languages(root: Path, number: int | None = None, size: int = 50_000) -> Path:
    """Identify the language of about `size` texts of each source of a round, drawn evenly by image; the file's path.

    The texts are drawn from at most 64 files, those that audits read. `size` 0 takes every text of the round, for
    queries of your own. Short names and lists of words have no clear language, and a low `confidence`. Raises
    InputError where the round is not there.
    """
    classify = _classifier()
    with connect(root) as connection:
        number = resolve_round(root, number)
        texts = query(
            connection, _TEXTS.format(round=number, size=int(size) or 2**62, pairs="some_pairs" if size else "pairs")
        )
    if not texts.num_rows:
        raise InputError(f"{root}: round {number} has no texts to look at")
    check_writable(languages_path(root, number))
    # Each different text once: some 8,000 a second on one core.
    found = {text: classify(text[:MOST_CHARS]) for text in dict.fromkeys(texts["caption"].to_pylist())}
    answers = [found[text] for text in texts["caption"].to_pylist()]
    columns = {
        "language": pa.array([language for language, _ in answers], pa.string()),
        "confidence": pa.array([confidence for _, confidence in answers], pa.float32()),
    }
    rows = pa.table({name: texts[name] for name in texts.schema.names} | columns)
    parquet.write_parquet(languages_path(root, number), rows, LANGUAGES, {"identifier": "py3langid"})
    return languages_path(root, number)


def _classifier() -> Classify:
    classify: Classify = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify
    return classify
