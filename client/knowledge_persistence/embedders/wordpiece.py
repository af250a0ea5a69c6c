"""The uncased BERT tokenizer: what all-MiniLM-L6-v2 reads.

It follows `BertNormalizer`, `BertPreTokenizer` and `WordPiece` of the `tokenizers` package, whose only fault
here is what it brings along: a hub client and a native wheel for a hundred lines of text handling.
"""

from __future__ import annotations

import string
import unicodedata
from functools import lru_cache
from importlib.resources import files
from typing import Final

_MAX_WORD_CHARACTERS: Final = 100
_ASCII_PUNCTUATION: Final = frozenset(string.punctuation)
# The blocks that BERT calls Chinese: CJK ideographs, without kana, hangul or the CJK punctuation.
_CJK_BLOCKS: Final = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def _is_cjk(character: str) -> bool:
    point = ord(character)
    return any(low <= point <= high for low, high in _CJK_BLOCKS)


@lru_cache(maxsize=16384)
def _normalize_character(character: str) -> str:
    """Return what one character becomes before the text is cut into words: '' when it is dropped."""
    if character in "\t\n\r":
        return " "
    # Control and format characters, surrogates and private use go; unassigned ones stay, and become [UNK].
    if character in "\0\ufffd" or unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs"}:
        return ""
    if character.isspace():
        return " "
    return f" {character} " if _is_cjk(character) else character


@lru_cache(maxsize=16384)
def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def normalize(text: str) -> str:
    """Return the text in lower case, without control characters and accents, ideographs set apart."""
    if text.isascii() and text.isprintable():
        return text.lower()
    text = "".join(map(_normalize_character, text))
    text = "".join(
        character
        for character in unicodedata.normalize("NFD", text)
        if unicodedata.category(character) != "Mn"
    )
    # Character by character: the whole-string form turns a final sigma into another letter.
    return "".join(character.lower() for character in text)


def split_words(text: str) -> list[str]:
    """Cut normalized text at white space and around every punctuation character."""
    words: list[str] = []
    for chunk in text.split():
        start = 0
        for position, character in enumerate(chunk):
            if _is_punctuation(character):
                if start < position:
                    words.append(chunk[start:position])
                words.append(character)
                start = position + 1
        if start < len(chunk):
            words.append(chunk[start:])
    return words


class WordPiece:
    """Turn text into token ids by greedy longest match against a vocabulary.

    Args:
        vocabulary: one token a line, its line number (from 0) being its id. None: the packaged one.
    """

    def __init__(self, vocabulary: str | None = None) -> None:
        text = vocabulary
        if text is None:
            text = (
                files(__name__.rpartition(".")[0]).joinpath("data", "vocab.txt").read_text(encoding="utf-8")
            )
        # Not splitlines(): some tokens are themselves Unicode line separators.
        self._ids = {token: number for number, token in enumerate(text.removesuffix("\n").split("\n"))}
        self.cls_id = self._ids["[CLS]"]
        self.sep_id = self._ids["[SEP]"]
        self.pad_id = self._ids["[PAD]"]
        self.unknown_id = self._ids["[UNK]"]
        self._pieces = lru_cache(maxsize=32768)(self._split_word)

    def _split_word(self, word: str) -> tuple[int, ...]:
        if len(word) > _MAX_WORD_CHARACTERS:
            return (self.unknown_id,)
        ids: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else f"##{word[start:end]}"
                number = self._ids.get(piece)
                if number is not None:
                    ids.append(number)
                    start = end
                    break
            else:
                return (self.unknown_id,)
        return tuple(ids)

    def encode(self, text: str, *, max_tokens: int) -> tuple[list[int], bool]:
        """Return the token ids of a text, between [CLS] and [SEP], and whether it was cut.

        Args:
            text: any text.
            max_tokens: length at most, the two markers included; the rest of the text is dropped.
        """
        ids = [self.cls_id]
        room = max_tokens - 1
        for word in split_words(normalize(text)):
            pieces = self._pieces(word)
            if len(ids) + len(pieces) > room:
                ids.extend(pieces[: room - len(ids)])
                ids.append(self.sep_id)
                return ids, True
            ids.extend(pieces)
        ids.append(self.sep_id)
        return ids, False
