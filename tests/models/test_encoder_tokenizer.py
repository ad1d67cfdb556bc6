"""An encoder's tokenizer, which may be at a long text while a server has other things to do."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from penstock.models.encoder_tokenizer import EncoderTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = 60_000


def word_tokenizer() -> EncoderTokenizer:
    backend = tokenizers.Tokenizer(WordLevel({"?": 0, "ab": 1}, unk_token="?"))
    backend.pre_tokenizer = Whitespace()
    return EncoderTokenizer(backend, max_length=512)


@pytest.mark.parametrize(
    "read",
    [
        lambda tokenizer, text: tokenizer.encode([text], fields=["input"], truncate=-1),
        lambda tokenizer, text: tokenizer.encode_pieces(text, "input"),
        lambda tokenizer, text: tokenizer.heads([text], 5),
    ],
    ids=["cut", "pieces", "heads"],
)
def test_given_a_long_text_in_a_thread_then_others_run_meanwhile(
    read: Callable[[EncoderTokenizer, str], object],
) -> None:
    tokenizer, text = word_tokenizer(), "ab " * WORDS

    def longest_stop() -> float:
        """Of this thread, as a share of the time that the text took."""
        reading = threading.Thread(target=read, args=(tokenizer, text))
        began = last = time.perf_counter()
        longest = 0.0
        reading.start()
        while reading.is_alive():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        now = time.perf_counter()
        return max(longest, now - last) / (now - began)

    # To hold the interpreter's lock through all words takes a third of the time or more, always; what else a machine
    # does takes that only sometimes.
    assert any(longest_stop() < 0.25 for _ in range(5))


def test_given_a_long_text_when_only_its_head_is_wanted_then_it_ends_with_the_last_of_the_tokens() -> None:
    assert word_tokenizer().heads(["ab é ab ab", "ab"], 2) == ["ab é", "ab"]
