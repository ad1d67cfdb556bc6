"""Prompts of exactly as many tokens as wanted, under tokenizers of several kinds."""

from __future__ import annotations

from itertools import count, product
from random import Random
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from penstock.core.errors import ConfigError, InvalidRequestError
from penstock.lab.bench.workloads.wordlist import WordList

if TYPE_CHECKING:
    from penstock.models.tokenizer import Tokenizer

_WORDS = ["".join(letters) for letters in product(ascii_lowercase[:5], repeat=3)]  # 125


class _SentencePiece:
    """A SentencePiece tokenizer of whole words, which writes spaces as U+2581 and puts one before a text."""

    def __init__(self, *, splits: bool = True) -> None:
        vocabulary = [("<unk>", 0.0), *((letter, -9.0) for letter in "▁" + ascii_lowercase)]
        vocabulary += [("▁" + word, -1.0) for word in _WORDS]
        if not splits:  # a token over a space is likelier than two words
            vocabulary += [(f"▁{one}▁{other}", -1.0) for one in _WORDS for other in _WORDS]
        self._backend = tokenizers.Tokenizer(models.Unigram(vocabulary, 0))
        scheme: Any = pre_tokenizers.Metaspace(prepend_scheme="first", split=splits)
        self._backend.pre_tokenizer = scheme
        self.vocab_size = self._backend.get_vocab_size()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """With a token before each text, as many have."""
        return [0] * add_special_tokens + self._backend.encode(text, add_special_tokens=False).ids

    def token_bytes(self, token_id: int) -> bytes:
        """As Penstock's tokenizer gives them."""
        return str(self._backend.id_to_token(token_id)).replace("▁", " ").encode()


def test_given_a_byte_level_tokenizer_then_text_and_ids_are_the_same_tokens(tokenizer: Tokenizer) -> None:
    words = WordList.of(tokenizer)
    assert words.exact
    assert len(words.pieces) == 4096
    for number in range(50):
        drawn = words.draw(Random(number), 1 + 37 * number, number)
        text = words.text(drawn)
        assert tokenizer.encode(text) == words.ids(drawn)
        assert text == text.strip()  # what a chat template strips is not there


def test_given_a_sentencepiece_tokenizer_then_its_token_before_a_text_is_counted() -> None:
    tokenizer = _SentencePiece()
    words = WordList.of(tokenizer)
    assert sorted(words.pieces) == sorted(" " + word for word in _WORDS)
    drawn = words.draw(Random(1), words.count(20, "text"), 5)
    assert len(tokenizer.encode(words.text(drawn))) == 20
    assert tokenizer.encode(words.text(drawn))[1:] == words.ids(drawn)
    assert words.count(20, "ids") == 20


def test_given_a_tokenizer_with_tokens_over_spaces_then_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="doesn't split a text at its spaces"):
        WordList.of(_SentencePiece(splits=False))


def test_given_a_tokenizer_without_english_words_then_it_is_refused() -> None:
    class Letters(_SentencePiece):
        def token_bytes(self, token_id: int) -> bytes:
            return super().token_bytes(token_id)[:2]

    with pytest.raises(ConfigError, match="only 0 are English words"):
        WordList.of(Letters())


def test_given_no_tokenizer_then_common_words_are_one_token_each_in_a_real_one(tokenizer: Tokenizer) -> None:
    words = WordList.common()
    assert not words.exact
    drawn = words.draw(Random(0), 500, 3)
    assert len(tokenizer.encode(words.text(drawn))) == 500
    with pytest.raises(InvalidRequestError, match="--tokenizer"):
        words.ids(drawn)


def test_given_numbers_in_a_row_then_first_words_differ_and_later_the_first_two_do() -> None:
    words, random = WordList.common(), Random(0)
    size = len(words.starts)
    heads = [tuple(words.draw(random, 2, number)) for number in range(7, 7 + size * len(words.pieces))]
    assert len({first for first, _ in heads[:size]}) == size
    assert len(set(heads)) == len(heads)


@given(st.integers(0, 2**60), st.integers(1, 300))
def test_given_any_number_then_so_many_words_are_drawn_and_the_same_again(number: int, wanted: int) -> None:
    words = WordList.common()
    drawn = words.draw(Random(number), wanted, number)
    assert len(drawn) == wanted == len(words.text(drawn).split())
    assert drawn == words.draw(Random(number), wanted, number)
    assert drawn[0] in words.starts


def test_given_a_tokenizer_of_few_words_then_numbers_are_still_told_apart() -> None:
    words = WordList.of(_SentencePiece())
    numbers = count(1 << 40)
    assert len({tuple(words.draw(Random(0), 2, next(numbers))) for _ in range(125 * 125)}) == 125 * 125
