"""The tokenizer of the text stack: BERT's word pieces, and BLIP's two tokens beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from tokenizers import Tokenizer as WordPieces
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from blip_bootstrap.errors import CheckpointError
from blip_training.sources import resolve_source

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

FirstToken = Literal["[CLS]", "[ENC]", "[DEC]"]
REQUIRED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
ADDED = ("[DEC]", "[ENC]")
"""The first token of the decoder and of the image-grounded encoder; the two last ids."""


class Tokenizer:
    """BERT word pieces, lower case, plus [DEC] and [ENC] (section 3.1).

    The two added tokens have the ids after the vocabulary: 30522 and 30523 for bert-base-uncased. A text that
    contains the letters "[SEP]" is text: it never becomes a special token.
    """

    def __init__(self, vocabulary: Sequence[str], lower_case: bool = True) -> None:
        self.vocabulary = [piece for piece in vocabulary if piece not in ADDED]
        self.lower_case = lower_case
        ids = {piece: i for i, piece in enumerate(self.vocabulary)}
        if missing := [piece for piece in REQUIRED if piece not in ids]:
            raise CheckpointError(f"vocabulary of {len(ids)} pieces lacks {', '.join(missing)}; BERT's has them")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (ids[piece] for piece in REQUIRED)
        self.dec_id, self.enc_id = len(self.vocabulary), len(self.vocabulary) + 1
        self.num_tokens = len(self.vocabulary) + 2
        self._silent = {*range(self.dec_id, self.num_tokens), *(ids[p] for p in (*REQUIRED, "[MASK]") if p in ids)}
        self._pieces = _word_pieces(ids, lower_case)

    @classmethod
    def load(cls, source: str | Path) -> Tokenizer:
        """From a folder with `tokenizer.json` or `vocab.txt`, a `vocab.txt` file, `package:NAME` or a hub name.

        Raises CheckpointError where there is neither, or where it is no word-piece vocabulary.
        """
        path = resolve_source(source)
        for file in (path / "tokenizer.json", path / "vocab.txt") if path.is_dir() else (path,):
            if file.is_file():
                return cls(*_read_vocabulary(file))
        raise CheckpointError(f"{path}: neither tokenizer.json nor vocab.txt in it")

    def encode(
        self, texts: Sequence[str], max_tokens: int, first: FirstToken = "[CLS]"
    ) -> tuple[Int64[Tensor, "b t"], Int64[Tensor, "b t"]]:
        """Token ids and mask (1: a token, 0: padding), `first` ... [SEP], padded to the longest text.

        `max_tokens` counts the first token and [SEP]; longer texts are cut.
        """
        head = {"[CLS]": self.cls_id, "[ENC]": self.enc_id, "[DEC]": self.dec_id}[first]
        encoded = self._pieces.encode_batch(list(texts), add_special_tokens=False)
        rows = [[head, *e.ids[: max_tokens - 2], self.sep_id] for e in encoded]
        longest = max(map(len, rows), default=2)
        ids = torch.tensor([row + [self.pad_id] * (longest - len(row)) for row in rows], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        ids = ids.view(len(rows), longest)
        return ids, (torch.arange(longest) < lengths[:, None]).long()

    def piece_ids(self, text: str) -> list[int]:
        """The word pieces of one text, no special tokens."""
        return list(self._pieces.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids: special tokens dropped, word pieces joined."""
        return str(self._pieces.decode([i for i in ids if i not in self._silent]))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`, which transformers' BertTokenizer reads."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "BertTokenizer", "do_lower_case": self.lower_case, "model_max_length": 512,
            "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }  # fmt: skip
        self._pieces.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in self.vocabulary), encoding="utf-8")


def _word_pieces(ids: dict[str, int], lower_case: bool) -> WordPieces:
    pieces = WordPieces(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece(cleanup=True)
    pieces.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return pieces


def _read_vocabulary(file: Path) -> tuple[list[str], bool]:
    """Pieces in the order of their ids, and whether texts are lower-cased."""
    try:
        if file.suffix == ".txt":
            return file.read_text(encoding="utf-8").splitlines(), True
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        if content["model"]["type"] != "WordPiece":
            raise CheckpointError(f"{file}: a {content['model']['type']} tokenizer; BLIP's text stack needs WordPiece")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not a tokenizer ({type(error).__name__}: {error})") from error
    lower_case = (content.get("normalizer") or {}).get("lowercase", True)
    return sorted(vocabulary, key=vocabulary.__getitem__), bool(lower_case)
