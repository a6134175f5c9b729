"""Reads BERT word pieces: tokenizer.json by the tokenizers library, or vocab.txt with its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as WordPieces

from blip_bootstrap.errors import CheckpointError
from blip_training.runtime.weight_files import refuse_pointer

UNKNOWN = "[UNK]"

ADDED = ("[DEC]", "[ENC]")
"""The first tokens of the decoder and of the image-grounded encoder; they have the two last ids."""

BERTS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")

LONGEST_WORD = 100
"""Characters of the longest word; a longer one is [UNK] as a whole."""

SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""The settings of BERT's normaliser: their names in tokenizer_config.json, and in tokenizer.json."""


def word_pieces(vocabulary: Sequence[str], settings: Mapping[str, Any] | None = None) -> WordPieces:
    """A tokenizer that cuts texts as BERT does, of pieces in the order of their ids ("": the id has none).

    `settings` are those of tokenizer_config.json; by default texts are put in lower case, without accents.
    """
    ids = {piece: i for i, piece in enumerate(vocabulary) if piece}
    for ours in SETTINGS:
        said = (settings or {}).get(ours, True)
        if not isinstance(said, bool) and not (said is None and ours == "strip_accents"):
            raise CheckpointError(f"tokenizer_config.json: {ours} is {json.dumps(said)}; it must be true or false")
    given = {theirs: (settings or {}).get(ours) for ours, theirs in SETTINGS.items()}
    normalizer = normalizers.BertNormalizer(
        lowercase=given["lowercase"] is not False,
        strip_accents=given["strip_accents"],
        handle_chinese_chars=given["handle_chinese_chars"] is not False,
    )
    pieces = WordPieces(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD))
    pieces.normalizer = normalizer
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece(cleanup=True)
    if "[SEP]" in ids and "[CLS]" in ids:
        pieces.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return pieces


def read_pieces(path: Path) -> WordPieces:
    """Read the tokenizer of a folder, or of a tokenizer.json or vocab.txt, with the files beside it.

    A tokenizer.json decides how texts are cut; tokenizer_config.json must not contradict it. [DEC] and [ENC] are left
    out: they have the two ids after all others, whether the file has them or not. Raises CheckpointError if there is
    neither file, it is no word-piece tokenizer, or an id is wrong.
    """
    for file in (path / "tokenizer.json", path / "vocab.txt") if path.is_dir() else (path,):
        if file.is_file():
            refuse_pointer(file)
            read = _read_vocabulary if file.suffix == ".txt" else _read_tokenizer
            return _with_added(*read(file), file)
    raise CheckpointError(f"{path}: neither tokenizer.json nor vocab.txt in it")


def _read_vocabulary(file: Path) -> tuple[WordPieces, dict[str, Any]]:
    """Read a vocab.txt: a piece a line. Only a line feed ends a line: U+2028 and others are pieces."""
    try:
        lines = file.read_bytes().decode("utf-8-sig").rstrip("\r\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not a vocabulary ({error})") from error
    config = _beside(file, "tokenizer_config.json")
    if config.get("do_basic_tokenize") is False:
        raise CheckpointError(f"{file}: do_basic_tokenize is false beside it; such texts are cut by no BLIP")
    vocabulary = [line.removesuffix("\r") for line in lines]
    return word_pieces(_without_added(vocabulary, file), config), config


def _without_added(vocabulary: list[str], file: Path) -> list[str]:
    """The pieces without [DEC] and [ENC], which must stand last if they are there."""
    own = [piece for piece in vocabulary if piece not in ADDED]
    for number, name in enumerate(ADDED):
        if name in vocabulary:
            check_added(name, vocabulary.index(name), len(own) + number, file)
    return own


def check_added(name: str, found: int, wanted: int, file: Path) -> None:
    """Raise CheckpointError if [DEC] or [ENC] has an id that is not after all others."""
    if found != wanted:
        raise CheckpointError(f"{file}: {name} has id {found}, not {wanted}; [DEC] and [ENC] are a BLIP's two last ids")


def _read_tokenizer(file: Path) -> tuple[WordPieces, dict[str, Any]]:
    """Read a tokenizer.json by the tokenizers library, without its truncation and padding."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model, added = content["model"], content.get("added_tokens") or []
        if model["type"] != "WordPiece":
            raise CheckpointError(f"{file}: a {model['type']} tokenizer; BLIP's text stack needs WordPiece")
        if model.get("unk_token") != UNKNOWN:
            raise CheckpointError(f"{file}: its unknown token is {model.get('unk_token')!r}; BERT's is {UNKNOWN}")
        ids = model["vocab"] | {token["content"]: token["id"] for token in added}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not a tokenizer ({type(error).__name__}: {error})") from error
    size = 1 + max((i for piece, i in ids.items() if piece not in ADDED), default=-1)
    for number, name in enumerate(ADDED):
        if name in ids:
            check_added(name, ids[name], size + number, file)
    content["model"]["vocab"] = {piece: i for piece, i in model["vocab"].items() if piece not in ADDED}
    content |= {"added_tokens": [t for t in added if t["content"] not in ADDED], "truncation": None, "padding": None}
    config = _beside(file, "tokenizer_config.json")
    _check_settings(content.get("normalizer"), config, file)
    try:
        return WordPieces.from_str(json.dumps(content)), config
    except Exception as error:  # the library raises no narrower class
        raise CheckpointError(f"{file}: not a tokenizer ({error})") from error


def _check_settings(normalizer: Any, config: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError if tokenizer.json and tokenizer_config.json contradict each other."""
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return
    for ours, theirs in SETTINGS.items():
        said, meant = config.get(ours), normalizer.get(theirs)
        if said is not None and meant is not None and said != meant:
            raise CheckpointError(
                f"{file}: {theirs} is {json.dumps(meant)}, but tokenizer_config.json says {ours} {json.dumps(said)};"
                " set both to what the model was trained with"
            )


def _with_added(pieces: WordPieces, config: Mapping[str, Any], file: Path) -> WordPieces:
    """Add the tokens that tokenizer_config.json or added_tokens.json put after the vocabulary, and check their ids."""
    stated = {str(token): (i, AddedToken(str(token))) for token, i in _beside(file, "added_tokens.json").items()}
    for i, token in (config.get("added_tokens_decoder") or {}).items():
        stated[token["content"]] = int(i), AddedToken(**{k: v for k, v in token.items() if k != "__type"})
    for name, (i, token) in sorted(stated.items(), key=lambda item: item[1][0]):
        if name in ADDED:
            continue
        # A word of the vocabulary may be one to find whole in texts, too; [SEP] and others of BERT's never are.
        if pieces.token_to_id(name) is None or not (token.special or name in BERTS):
            pieces.add_tokens([token])
        if (found := pieces.token_to_id(name)) != i:
            raise CheckpointError(f"{file}: {name} has id {found}, but id {i} by what lies beside it")
    size = 1 + max(pieces.get_vocab().values(), default=-1)
    for number, name in enumerate(ADDED):
        if name in stated:
            check_added(name, stated[name][0], size + number, file)
    pieces.encode_special_tokens = True  # a text that says [SEP] is text
    return pieces


def _beside(file: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file `name` of `file`'s folder; empty if there is none."""
    other = file.with_name(name)
    if not other.is_file():
        return {}
    refuse_pointer(other)
    try:
        content = json.loads(other.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{other}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{other}: not a JSON object")
    return content
