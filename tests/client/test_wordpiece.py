"""The tokenizer gives the ids that the reference implementation gives."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_persistence.embedders.wordpiece import WordPiece

# Ids from `tokenizers` 0.23.3, BertWordPieceTokenizer(vocab, lowercase=True).
GOLDEN: dict[str, list[int]] = json.loads(
    Path(__file__).with_name("wordpiece_golden.json").read_text("utf-8")
)


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    return WordPiece()


@pytest.mark.parametrize("text", GOLDEN)
def test_ids_equal_the_reference(tokenizer: WordPiece, text: str) -> None:
    assert tokenizer.encode(text, max_tokens=512) == (GOLDEN[text], False)


def test_the_packaged_vocabulary_is_whole(tokenizer: WordPiece) -> None:
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 100, 101, 102)
    assert tokenizer.encode("##~", max_tokens=9)[0] == [101, 1001, 1001, 1066, 102]


def test_markers_written_in_a_text_are_only_text(tokenizer: WordPiece) -> None:
    assert 102 not in tokenizer.encode("[SEP] [MASK]", max_tokens=64)[0][1:-1]


@pytest.mark.parametrize(("words", "cut"), [(253, False), (254, False), (255, True), (2000, True)])
def test_a_text_longer_than_the_limit_is_cut_and_said_to_be(
    tokenizer: WordPiece, words: int, *, cut: bool
) -> None:
    ids, was_cut = tokenizer.encode("word " * words, max_tokens=256)
    assert was_cut is cut
    assert len(ids) == min(words + 2, 256)
    assert (ids[0], ids[-1]) == (101, 102)


def test_a_cut_falls_inside_a_word_of_several_pieces(tokenizer: WordPiece) -> None:
    whole, _ = tokenizer.encode("unbelievably", max_tokens=99)
    assert len(whole) > 4
    assert tokenizer.encode("unbelievably", max_tokens=4) == ([*whole[:3], 102], True)


@given(st.text(max_size=300))
def test_any_text_gives_ids_of_the_vocabulary_within_the_limit(tokenizer: WordPiece, text: str) -> None:
    ids, _ = tokenizer.encode(text, max_tokens=64)
    assert 2 <= len(ids) <= 64
    assert all(0 <= number < 30522 for number in ids)
