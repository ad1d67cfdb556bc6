from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.models.detokenizer import REPLACEMENT, IncrementalDetokenizer
from penstock.models.gguf_tokenizer import tokenizer_from_gguf
from penstock.models.pre_tokenizers import RULES
from penstock.models.token_pieces import BYTE_ALPHABET
from penstock.models.tokenizer import Tokenizer
from penstock.models.tokenizer_parts import TokenizerParts
from support.text_corpus import CORPUS
from support.tiny_tokenizers import byte_level_backend, sentencepiece_metadata, train_sentencepiece

if TYPE_CHECKING:
    from collections.abc import Sequence


def _byte_level() -> Tokenizer:
    backend = byte_level_backend(RULES["qwen2"].pre_tokenizer(), vocab_size=500)
    return Tokenizer(TokenizerParts(backend, backend.get_vocab_size() + 8, "byte-level"))


def _sentencepiece(*, add_space_prefix: bool = True) -> Tokenizer:
    keys = sentencepiece_metadata(train_sentencepiece()) | {"add_space_prefix": add_space_prefix}
    return Tokenizer(tokenizer_from_gguf({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "sp"))


TOKENIZERS = {
    "byte-level": _byte_level(),
    "sentencepiece": _sentencepiece(),
    "sentencepiece-without-prefix": _sentencepiece(add_space_prefix=False),
}
# How each spells a single byte as a token.
BYTES = {
    name: [
        tokenizer._backend.token_to_id(
            next(symbol for symbol, value in BYTE_ALPHABET.items() if value == byte)
            if name == "byte-level"
            else f"<0x{byte:02X}>"
        )
        for byte in range(256)
    ]
    for name, tokenizer in TOKENIZERS.items()
}
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def stream(tokenizer: Tokenizer, ids: Sequence[int], **options: Any) -> list[str]:
    """What each push gave, and the flush last."""
    detokenizer = IncrementalDetokenizer(tokenizer, **options)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


def token_ids(name: str) -> st.SearchStrategy[list[int]]:
    """Sequences over the whole vocabulary, thick with single bytes and control tokens."""
    tokenizer = TOKENIZERS[name]
    utf8 = st.text(max_size=3).map(lambda text: [BYTES[name][byte] for byte in text.encode()])
    anything = st.integers(0, tokenizer.vocab_size - 1).map(lambda token: [token])
    byte = st.sampled_from(BYTES[name]).map(lambda token: [token])
    special = st.sampled_from(sorted(tokenizer.special_token_ids)).map(lambda token: [token])
    return st.lists(anything | byte | byte | utf8 | special, max_size=25).map(lambda parts: list(chain(*parts)))


@every_tokenizer
@settings(max_examples=400, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_any_tokens_streamed_give_the_text_they_decode_to(name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(token_ids(name))

    texts = stream(tokenizer, ids, skip_special_tokens=skip)

    assert "".join(texts) == tokenizer.decode(ids, skip_special_tokens=skip)


@every_tokenizer
@settings(max_examples=400, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_after_a_prompt_the_text_is_what_the_whole_has_more(name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    prompt, ids = data.draw(token_ids(name)), data.draw(token_ids(name))
    before = tokenizer.decode(prompt, skip_special_tokens=skip)
    whole = tokenizer.decode(prompt + ids, skip_special_tokens=skip)

    text = "".join(stream(tokenizer, ids, skip_special_tokens=skip, prompt_token_ids=prompt))

    shown = [tokenizer.pieces[token] for token in prompt if not (skip and token in tokenizer.special_token_ids)]
    in_run = name != "byte-level" and bool(shown) and shown[-1].text is None
    # The tokens may change what the prompt's last bytes mean, and with them text that is out already.
    if whole.startswith(before) and not (in_run and REPLACEMENT in whole):
        assert text == whole[len(before) :]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (b"\xff", b"\xc3\xa9", "\ufffd\ufffd"),  # the run was broken, so the rest of it is
        (b"\xe2", b"A", "\ufffd"),  # the prompt has shown the U+FFFD of its own byte
        (b"\xe6", b"\xbc\xa2", "漢"),
        (b"\xc3\xa9", b"\xc3\xa9", "é"),
        (b"\xc3\xa9", b"\xff\xff", "\ufffd\ufffd"),  # too late to take back the prompt's é
    ],
)
def test_a_run_of_bytes_that_the_prompt_began_goes_on(before: bytes, after: bytes, text: str) -> None:
    byte = BYTES["sentencepiece"]
    prompt = [1, *(byte[value] for value in before)]

    assert "".join(stream(TOKENIZERS["sentencepiece"], [byte[v] for v in after], prompt_token_ids=prompt)) == text


@every_tokenizer
@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_real_text_comes_out_character_by_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    text = text.replace("▁", " ")

    texts = stream(tokenizer, tokenizer.encode(text))

    assert "".join(texts) == text
    assert not any(REPLACEMENT in piece for piece in texts) or REPLACEMENT in text


@every_tokenizer
def test_no_character_is_split(name: str) -> None:
    family = "👩‍👩‍👧"
    ids = [BYTES[name][byte] for byte in family.encode()]

    texts = stream(TOKENIZERS[name], ids)

    assert "".join(texts) == family
    assert all(set(piece) <= set(family) for piece in texts)


def test_a_byte_level_character_comes_with_its_last_byte() -> None:
    ids = [BYTES["byte-level"][byte] for byte in "é漢👍".encode()]

    assert stream(TOKENIZERS["byte-level"], ids) == ["", "é", "", "", "漢", "", "", "", "👍", ""]


def test_a_run_of_fallback_bytes_comes_when_another_token_ends_it() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = [*(BYTES["sentencepiece"][byte] for byte in "漢é".encode()), tokenizer._backend.token_to_id("▁the")]

    assert stream(tokenizer, ids) == ["", "", "", "", "", "漢é the", ""]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"\xe2\x82a", ["", "", "\ufffda", ""]),  # cut off
        (b"\xff\xfe", ["\ufffd", "\ufffd", ""]),  # never valid
        (b"\xed\xa0\x80", ["", "\ufffd\ufffd", "\ufffd", ""]),  # a surrogate
        (b"\xf4\x90", ["", "\ufffd\ufffd", ""]),  # past U+10FFFF
        (b"\xc0\xaf", ["\ufffd", "\ufffd", ""]),  # overlong
        (b"\xf0\x9f\x98", ["", "", "", "\ufffd"]),  # incomplete at the end
        (b"\x80\x80", ["\ufffd", "\ufffd", ""]),
    ],
)
def test_invalid_bytes_are_replaced_as_soon_as_they_are_certain(data: bytes, texts: list[str]) -> None:
    ids = [BYTES["byte-level"][byte] for byte in data]

    assert stream(TOKENIZERS["byte-level"], ids) == texts
    assert TOKENIZERS["byte-level"].decode(ids) == "".join(texts)


def test_invalid_fallback_bytes_are_not_held_back() -> None:
    byte = BYTES["sentencepiece"]

    texts = stream(TOKENIZERS["sentencepiece"], [byte[0xC3], byte[0xA9], byte[0xFF], *[byte[0x41]] * 100])

    assert texts[:3] == ["", "", "\ufffd\ufffd\ufffd"]
    assert texts[3:] == ["\ufffd"] * 100 + [""]


def test_every_sequence_of_three_bytes_decodes_as_the_library_does() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    byte = BYTES["byte-level"]
    edges = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF]
    edges += [0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]

    for first in edges:
        for second in edges:
            for third in edges:
                ids = [byte[first], byte[second], byte[third]]
                assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids), ids


def test_the_first_word_of_a_text_loses_its_space_and_that_of_an_answer_does_not() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    the, begin = tokenizer._backend.token_to_id("▁the"), 1

    assert "".join(stream(tokenizer, [the, the])) == "the the"
    assert "".join(stream(tokenizer, [the, the], prompt_token_ids=[begin, the])) == " the the"
    assert "".join(stream(tokenizer, [the, the], prompt_token_ids=[begin])) == "the the"


@every_tokenizer
def test_a_character_that_the_prompt_began_comes_out_whole(name: str) -> None:
    ids = [BYTES[name][byte] for byte in "a漢b".encode()]

    text = "".join(stream(TOKENIZERS[name], ids[2:], prompt_token_ids=ids[:2]))

    assert text == "漢b"


@every_tokenizer
def test_special_tokens_do_not_break_a_character(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    special = max(tokenizer.special_token_ids)
    first, second = (BYTES[name][byte] for byte in "é".encode())

    assert "".join(stream(tokenizer, [first, special, second])) == "é"


def test_special_tokens_can_be_shown() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode("a<|user|>b")

    assert "".join(stream(tokenizer, ids, skip_special_tokens=False)) == "a<|user|>b"
    assert "".join(stream(tokenizer, ids)) == "ab"


@every_tokenizer
def test_ids_without_a_token_are_no_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]

    assert stream(tokenizer, [tokenizer.vocab_size + 5, BYTES[name][0x41]])[0] == ""


@every_tokenizer
def test_each_push_looks_at_its_own_token_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("word and another 漢字 " * 500)
    looked_up: list[int] = []

    class Counted(type(tokenizer.pieces)):  # type: ignore[misc]
        def __getitem__(self, token_id: int) -> Any:
            looked_up.append(token_id)
            return super().__getitem__(token_id)

    counted = Counted.of_backend(tokenizer._backend, "counted")
    monkeypatch.setattr(tokenizer, "pieces", counted)
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_token_ids=ids)
    assert len(looked_up) < 12  # of a long prompt, only the end
    looked_up.clear()

    for token in ids:
        detokenizer.push(token)

    assert looked_up == [token for token in ids if token not in tokenizer.special_token_ids]
