"""The tokenizer of the text stack: BERT's word pieces, and BLIP's two tokens beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer as WordPieces

from blip_bootstrap.errors import CheckpointError, InputError
from blip_bootstrap.storage.files import staged_file, write_whole
from blip_training.data.vocabulary import ADDED, BERTS, LONGEST_WORD, SETTINGS, read_pieces, word_pieces
from blip_training.model.vqa import Vqa
from blip_training.runtime.sources import resolve_source

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor


FirstToken = Literal["[CLS]", "[ENC]", "[DEC]"]

REQUIRED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class Tokenizer:
    """BERT word pieces plus [DEC] and [ENC] (section 3.1).

    `vocabulary` are the pieces in the order of their ids, by which texts are cut as bert-base-uncased does, or cased if
    `lower_case` is false; or a tokenizer of the tokenizers library, with its own settings. [DEC] and [ENC] have the
    next two ids: 30522 and 30523 for bert-base-uncased. The letters "[SEP]" in a text never become a special token.
    """

    def __init__(self, vocabulary: Sequence[str] | WordPieces, lower_case: bool = True) -> None:
        if not isinstance(vocabulary, WordPieces):
            own = [piece for piece in vocabulary if piece not in ADDED]
            vocabulary = word_pieces(own, {"do_lower_case": lower_case})
        self._pieces = vocabulary
        ids = vocabulary.get_vocab()
        if missing := [piece for piece in REQUIRED if piece not in ids]:
            raise CheckpointError(f"vocabulary of {len(ids)} pieces lacks {', '.join(missing)}; BERT's has them")
        self.vocabulary = [""] * (1 + max(ids.values()))
        for piece, i in ids.items():
            self.vocabulary[i] = piece
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (ids[piece] for piece in REQUIRED)
        self.dec_id, self.enc_id = len(self.vocabulary), len(self.vocabulary) + 1
        self.num_tokens = len(self.vocabulary) + 2
        self._silent = {*range(self.dec_id, self.num_tokens), *(ids[p] for p in (*REQUIRED, "[MASK]") if p in ids)}

    @property
    def lower_case(self) -> bool:
        """Whether texts are read in lower case."""
        normalizer = self._pieces.normalizer
        return normalizer is not None and str(normalizer.normalize_str("A")) == "a"

    @classmethod
    def load(cls, source: str | Path) -> Tokenizer:
        """Load a folder with tokenizer.json or vocab.txt, such a file, `package:NAME` or a hub name.

        Texts are cut by the settings in tokenizer.json, or those in tokenizer_config.json beside a vocab.txt. Raises
        CheckpointError if there is neither file, or it is no word-piece tokenizer.
        """
        path = resolve_source(source)
        try:
            return cls(read_pieces(path))
        except CheckpointError as error:
            raise error if str(path) in str(error) else CheckpointError(f"{path}: {error}") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # Values of other types than a tokenizer's files have them.
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise CheckpointError(f"{path}: its tokenizer's files cannot be read ({told})") from error

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
        """The ids of a text's word pieces, without special tokens."""
        return list(self._pieces.encode(text, add_special_tokens=False).ids)

    def seen_pieces(self, batches: Iterable[Sequence[str]], least: int = 1) -> list[int]:
        """The ids, in order, of the pieces that `least` of the texts or more have, of letters, digits, signs and
        BERT's special tokens."""
        count = np.zeros(len(self.vocabulary), dtype=np.int64)
        for texts in batches:
            for encoded in self._pieces.encode_batch(list(texts), add_special_tokens=False):
                count[list(set(encoded.ids))] += 1
        for number, piece in enumerate(self.vocabulary):
            if piece in BERTS or (len(piece.removeprefix("##")) == 1 and piece.isascii()):
                count[number] = least
        return [int(number) for number in np.flatnonzero(count >= least)]

    def cut_to(self, pieces: Sequence[int]) -> Tokenizer:
        """A tokenizer of these pieces alone, in this order; it writes all other words in shorter pieces.

        Raises InputError if texts are not cut as BERT cuts them, or there are added words.
        """
        content = json.loads(self._pieces.to_str())
        settings = _config_of(content)
        added = {token["content"] for token in content.get("added_tokens") or []} - {*BERTS}
        if settings["tokenizer_class"] != "BertTokenizer" or added:
            raise InputError(
                "model.text.vocabulary seen needs a tokenizer of BERT's, without added words; leave vocabulary out"
            )
        return Tokenizer(word_pieces([self.vocabulary[number] for number in pieces], settings))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._pieces.decode([i for i in ids if i not in self._silent]))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and vocab.txt, by which transformers cuts texts alike."""
        folder.mkdir(parents=True, exist_ok=True)
        with staged_file(folder / "tokenizer.json") as staged:
            self._pieces.save(str(staged))
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        config = _config_of(content) | {
            "model_max_length": 512, "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
            "sep_token": "[SEP]", "mask_token": "[MASK]",
        }  # fmt: skip
        write_whole(folder / "tokenizer_config.json", json.dumps(config, indent=2))
        words = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
        lines = [""] * (1 + words[-1][1])
        for piece, i in words:
            lines[i] = piece
        write_whole(folder / "vocab.txt", "".join(f"{piece}\n" for piece in lines))


def _config_of(content: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with which transformers follows tokenizer.json: BertTokenizer ignores its settings."""
    normalizer, model = content.get("normalizer") or {}, content["model"]
    is_berts = (
        normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text")
        and (content.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and (model["continuing_subword_prefix"], model["max_input_chars_per_word"]) == ("##", LONGEST_WORD)
    )
    if not is_berts:
        return {"tokenizer_class": "PreTrainedTokenizerFast"}
    return {"tokenizer_class": "BertTokenizer"} | {ours: normalizer[theirs] for ours, theirs in SETTINGS.items()}


def encode_cut(
    vqa: Vqa, tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int
) -> tuple[Int64[Tensor, "n t"], Int64[Tensor, "n t"]]:
    """Ids and mask on the model's device, cut at `max_tokens` or at the model's number of positions."""
    ids, mask = tokenizer.encode(texts, min(max_tokens, vqa.config.text.max_positions))
    return ids.to(vqa.device, non_blocking=True), mask.to(vqa.device, non_blocking=True)
