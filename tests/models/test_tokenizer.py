from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from penstock.core.errors import InvalidRequestError, ModelFileError, NotFoundError
from penstock.models.gguf_tokenizer import tokenizer_from_gguf, vocabulary_from_gguf
from penstock.models.pre_tokenizers import RULES
from penstock.models.tokenizer import Tokenizer
from penstock.models.vocabulary_files import load_vocabulary
from support.text_corpus import CORPUS
from support.tiny_tokenizers import (
    CONTROL,
    CONTROL_TYPE,
    NORMAL_TYPE,
    byte_level_backend,
    sentencepiece_metadata,
    train_sentencepiece,
    write_byte_level,
    write_directory,
    write_gguf,
)

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.vocabulary import Vocabulary
    from support.tiny_tokenizers import TinyFiles


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    rule = RULES["smollm"]
    return write_byte_level(tmp_path_factory.mktemp("tiny"), byte_level_backend(rule.pre_tokenizer()), "smollm")


@pytest.fixture(scope="module")
def sentencepiece_keys() -> dict[str, Any]:
    return sentencepiece_metadata(train_sentencepiece())


def build(keys: dict[str, Any], **changes: Any) -> Tokenizer:
    metadata = {f"tokenizer.ggml.{key}": value for key, value in (keys | changes).items() if value is not None}
    return Tokenizer(tokenizer_from_gguf(metadata, "some.gguf"))


@pytest.fixture
def byte_keys() -> dict[str, Any]:
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["a", "b", "ab", "<|begin|>", "<|end|>"],
        "token_type": [1, 1, 1, 3, 3],
        "merges": ["a b"],
        "bos_token_id": 3,
        "eos_token_id": 4,
    }


# The default model


def test_the_default_model_knows_its_special_tokens(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.load(smollm2_path)

    assert tokenizer.vocab_size == 49152
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_ids == (2,)
    assert tokenizer.special_token_ids == frozenset(range(17))
    assert tokenizer.named_tokens["eos_token"] == "<|im_end|>"


def test_the_default_model_splits_digits_and_adds_no_special_tokens(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.load(smollm2_path)

    pieces = [tokenizer.token_to_piece(token) for token in tokenizer.encode("in 2024<|im_end|>")]

    assert pieces == ["in", " ", "2", "0", "2", "4", "<|im_end|>"]


def test_the_default_model_loads_in_well_under_a_second(smollm2_path: Path) -> None:
    Tokenizer.load(smollm2_path)  # imports

    start = time.process_time()
    Tokenizer.load(smollm2_path)

    assert time.process_time() - start < 0.6


# The vocabulary alone


def assert_same_text(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    """The tokens of both come out alike, and so does an id that has none."""
    assert vocabulary.eos_token_ids == tokenizer.eos_token_ids
    assert vocabulary.special_token_ids == tokenizer.special_token_ids
    ids = range(tokenizer.vocab_size + 1)
    assert [vocabulary.pieces[i] for i in ids] == [tokenizer.pieces[i] for i in ids]
    for name in ("byte_level", "byte_fallback", "strips_leading_space"):
        assert getattr(vocabulary.pieces, name) == getattr(tokenizer.pieces, name)


@pytest.mark.parametrize("form", ["gguf", "directory"])
def test_a_vocabulary_has_the_tokens_of_its_tokenizer(tiny: TinyFiles, form: str) -> None:
    path = getattr(tiny, form)
    assert_same_text(load_vocabulary(path), Tokenizer.load(path))


def test_the_default_models_vocabulary_has_the_tokens_of_its_tokenizer(smollm2_path: Path) -> None:
    assert_same_text(load_vocabulary(smollm2_path), Tokenizer.load(smollm2_path))


@pytest.mark.parametrize("changes", [{}, {"add_space_prefix": False}, {"eot_token_id": 300}], ids=str)
def test_a_sentencepiece_vocabulary_has_the_tokens_of_its_tokenizer(
    sentencepiece_keys: dict[str, Any], changes: dict[str, Any]
) -> None:
    metadata = {f"tokenizer.ggml.{key}": value for key, value in (sentencepiece_keys | changes).items()}
    assert_same_text(vocabulary_from_gguf(metadata, "some.gguf"), build(sentencepiece_keys, **changes))


# Text to tokens and back


@pytest.mark.parametrize("form", ["gguf", "directory"])
@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_every_text_survives_the_way_there_and_back(tiny: TinyFiles, form: str, text: str) -> None:
    tokenizer = Tokenizer.load(getattr(tiny, form))

    ids = tokenizer.encode(text)

    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_every_text_survives_a_sentencepiece_tokenizer(sentencepiece_keys: dict[str, Any], text: str) -> None:
    tokenizer = build(sentencepiece_keys)

    ids = tokenizer.encode(text)

    # "▁" is how SentencePiece spells a space, so the two are the same to it
    assert tokenizer.decode(ids) == text.replace("▁", " ")
    assert b"".join(map(tokenizer.token_bytes, ids[1:])).removeprefix(b" ") == text.replace("▁", " ").encode()


def test_control_tokens_in_text_are_read_as_such_or_as_plain_characters(tiny: TinyFiles) -> None:
    tokenizer = Tokenizer.load(tiny.gguf)
    text = f"hi {CONTROL[1]} there"

    as_control = tokenizer.encode(text)
    as_text = tokenizer.encode(text, parse_special=False)

    assert tokenizer.eos_token_ids[0] in as_control
    assert not tokenizer.special_token_ids & set(as_text)
    assert tokenizer.decode(as_control) == "hi  there"
    assert tokenizer.decode(as_text) == text


def test_plain_text_never_merges_into_a_sentencepiece_control_token(sentencepiece_keys: dict[str, Any]) -> None:
    keys = {key: list(value) if isinstance(value, list) else value for key, value in sentencepiece_keys.items()}
    for token in ("<", "/", "s", ">", "</", "s>"):
        if token not in keys["tokens"]:
            keys["tokens"].append(token)
            keys["scores"].append(-1.0)
            keys["token_type"].append(NORMAL_TYPE)
    tokenizer = build(keys)

    ids = tokenizer.encode("</s>", parse_special=False, add_special_tokens=False)

    assert 2 not in ids
    assert tokenizer.decode(ids) == "</s>"


def test_lone_surrogates_are_refused_with_their_place(tiny: TinyFiles) -> None:
    tokenizer = Tokenizer.load(tiny.gguf)

    with pytest.raises(InvalidRequestError, match=r"character 2 is the lone surrogate U\+D800"):
        tokenizer.encode("ab\ud800c")


@pytest.mark.parametrize("bad", [-1, 1 << 20, 1 << 70])
def test_an_id_that_the_model_does_not_have_is_refused(tiny: TinyFiles, bad: int) -> None:
    tokenizer = Tokenizer.load(tiny.gguf)

    for use in (lambda: tokenizer.decode([5, bad]), lambda: tokenizer.token_bytes(bad)):
        with pytest.raises(InvalidRequestError, match=f"Token {bad} doesn't exist"):
            use()


def test_pieces_of_special_and_partial_tokens_are_shown(sentencepiece_keys: dict[str, Any]) -> None:
    tokenizer = build(sentencepiece_keys)
    byte = sentencepiece_keys["tokens"].index("<0xE2>")

    assert tokenizer.token_bytes(byte) == b"\xe2"
    assert tokenizer.token_to_piece(byte) == "\ufffd"
    assert tokenizer.token_to_piece(1) == "<s>"
    assert tokenizer.token_to_piece(sentencepiece_keys["tokens"].index("▁the")) == " the"


def test_other_threads_run_while_a_long_text_is_encoded(tiny: TinyFiles) -> None:
    tokenizer = Tokenizer.load(tiny.gguf)
    text = " ".join(str(number) + chr(97 + number % 26) * 3 for number in range(30_000))
    longest = 0.0

    with ThreadPoolExecutor(1) as pool:
        start = last = time.perf_counter()
        encoding = pool.submit(tokenizer.encode, text)
        while not encoding.done():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    assert longest < (last - start) / 2


def test_threads_may_share_one_tokenizer(tiny: TinyFiles) -> None:
    tokenizer = Tokenizer.load(tiny.gguf)
    texts = list(CORPUS) * 4
    alone = [tokenizer.encode(text, parse_special=bool(index % 2)) for index, text in enumerate(texts)]

    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda item: tokenizer.encode(item[1], parse_special=bool(item[0] % 2)), enumerate(texts))

    assert list(together) == alone


# What GGUF metadata says


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [2]),
        ({"add_bos_token": True}, [3, 2]),
        ({"add_eos_token": True}, [2, 4]),
        ({"add_bos_token": True, "add_eos_token": True}, [3, 2, 4]),
        ({"add_bos_token": True, "bos_token_id": None}, [2]),
        ({"pre": "llama-bpe"}, [3, 2]),
        ({"pre": "llama-bpe", "add_bos_token": False}, [2]),
    ],
)
def test_begin_and_end_of_text_are_added_as_the_file_says(
    byte_keys: dict[str, Any], flags: dict[str, Any], expected: list[int]
) -> None:
    tokenizer = build(byte_keys, **flags)

    assert tokenizer.encode("ab") == expected
    assert tokenizer.encode("ab", add_special_tokens=False) == [2]


def test_a_sentencepiece_file_adds_begin_of_text_unless_it_says_no(sentencepiece_keys: dict[str, Any]) -> None:
    assert build(sentencepiece_keys).encode("the")[0] == 1
    assert build(sentencepiece_keys, add_bos_token=False).encode("the")[0] != 1
    assert build(sentencepiece_keys, bos_token_id=None, eos_token_id=None).eos_token_ids == (2,)


def test_a_sentencepiece_file_may_do_without_the_leading_space(sentencepiece_keys: dict[str, Any]) -> None:
    with_space, without = build(sentencepiece_keys), build(sentencepiece_keys, add_space_prefix=False)

    assert with_space.token_to_piece(with_space.encode("the")[1]) == " the"
    assert not without.token_to_piece(without.encode("the")[1]).startswith(" ")
    for tokenizer in (with_space, without):
        assert tokenizer.decode(tokenizer.encode(" the")) == " the"


def test_some_pre_tokenizers_take_a_word_that_is_a_token_whatever_the_merges_say(byte_keys: dict[str, Any]) -> None:
    byte_keys |= {"tokens": ["a", "b", "ba", "<|begin|>", "<|end|>"], "merges": []}

    assert build(byte_keys, pre="gpt-2").encode("ba") == [1, 0]
    assert build(byte_keys, pre="llama-bpe").encode("ba", add_special_tokens=False) == [2]


def test_unused_tokens_stay_in_the_vocabulary_but_match_no_text(byte_keys: dict[str, Any]) -> None:
    byte_keys["tokens"] += ["[PAD5]", "[", "P", "A", "D", "5", "]"]
    byte_keys["token_type"] += [5, 1, 1, 1, 1, 1, 1]

    tokenizer = build(byte_keys)

    assert tokenizer.vocab_size == 12
    assert tokenizer.encode("[PAD5]") == [6, 7, 8, 9, 10, 11]


def test_all_ends_of_text_that_the_file_names_count(byte_keys: dict[str, Any]) -> None:
    byte_keys["tokens"] += ["<|eot_id|>", "<|eom_id|>"]
    byte_keys["token_type"] += [CONTROL_TYPE, CONTROL_TYPE]

    assert build(byte_keys).eos_token_ids == (4,)
    assert build(byte_keys, eot_token_id=5, eom_token_id=6).eos_token_ids == (4, 5, 6)


def test_ends_of_text_are_special_whatever_their_type_and_padding_is_not(byte_keys: dict[str, Any]) -> None:
    tokenizer = build(byte_keys, token_type=None, padding_token_id=2)

    assert tokenizer.special_token_ids == {3, 4}
    assert tokenizer.encode("ab<|end|>") == [2, 4]
    assert tokenizer.decode([3, 2, 4]) == "ab"


def test_a_turn_end_that_only_the_chat_template_writes_counts_too(byte_keys: dict[str, Any]) -> None:
    byte_keys["tokens"] += ["<|eot_id|>", "<|im_end|>"]
    byte_keys["token_type"] += [CONTROL_TYPE, NORMAL_TYPE]
    metadata = {f"tokenizer.ggml.{key}": value for key, value in byte_keys.items()}
    metadata["tokenizer.chat_template"] = "{{ messages[0].content }}<|eot_id|><|im_end|>"

    # <|im_end|> is a normal token here, so it ends nothing
    assert Tokenizer(tokenizer_from_gguf(metadata, "some.gguf")).eos_token_ids == (4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "from-next-year"}, "'from-next-year'"),
        ({"model": "t5"}, "'t5'"),
        ({"model": None}, "tokenizer model None"),
        ({"tokens": None}, "no vocabulary"),
        ({"tokens": ["a", "b", "a", "c", "d"]}, "'a' is in the vocabulary twice"),
        ({"tokens": [1, 2, 3]}, "tokens isn't a list of type str"),
        ({"merges": ["a c"]}, "merges don't fit"),
        ({"merges": ["ab"]}, "merges don't fit"),
        ({"token_type": [1, 1]}, "token_type isn't one number for each of the 5"),
        ({"token_type": "abcde"}, "token_type isn't one number"),
        ({"eos_token_id": 5}, "eos_token_id is 5, but there are only 5"),
        ({"bos_token_id": -1}, "bos_token_id is -1"),
        ({"bos_token_id": "3"}, "bos_token_id is '3', not of type int"),
        ({"add_bos_token": 1}, "add_bos_token is 1, not of type bool"),
    ],
)
def test_metadata_that_makes_no_tokenizer_is_refused_with_the_reason(
    byte_keys: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=f"some.gguf: .*{message}"):
        build(byte_keys, **changes)


def test_scores_that_are_no_numbers_are_refused(sentencepiece_keys: dict[str, Any]) -> None:
    scores = [*sentencepiece_keys["scores"][:-1], float("nan")]

    with pytest.raises(ModelFileError, match="scores isn't one number for each"):
        build(sentencepiece_keys, scores=scores)


def test_a_token_so_long_that_its_merges_would_take_forever_is_refused(sentencepiece_keys: dict[str, Any]) -> None:
    tokens = [*sentencepiece_keys["tokens"][:-1], "a" * 10_000_000]

    with pytest.raises(ModelFileError, match="a token has 10000000 characters"):
        build(sentencepiece_keys, tokens=tokens)


def test_a_file_without_a_pre_tokenizer_gets_gpt2s_with_a_warning(
    byte_keys: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert build(byte_keys, pre=None).encode("ab") == [2]
    assert "names no pre-tokenizer" in caplog.text


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Tokenizer.load(tmp_path / "nothing.gguf")


def test_a_gguf_file_is_closed_after_loading(tmp_path: Path, byte_keys: dict[str, Any]) -> None:
    path = write_gguf(tmp_path / "m.gguf", byte_keys)
    tokenizer = Tokenizer.load(path)
    path.unlink()

    assert tokenizer.encode("ab") == [2]


# What a directory says


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    backend = byte_level_backend(RULES["gpt-2"].pre_tokenizer(), vocab_size=300)
    return write_directory(tmp_path / "model", backend, eos_token=CONTROL[1], bos_token={"content": CONTROL[0]})


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def test_a_directory_names_its_special_tokens_as_text_or_object(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)

    assert tokenizer.named_tokens == {"bos_token": CONTROL[0], "eos_token": CONTROL[1]}
    assert tokenizer.token_to_piece(tokenizer.bos_token_id or 0) == CONTROL[0]
    assert [tokenizer.token_to_piece(token) for token in tokenizer.eos_token_ids] == [CONTROL[1]]


def test_a_directory_ends_text_with_what_generation_config_adds(directory: Path) -> None:
    change(directory / "generation_config.json", eos_token_id=[7, 8])
    change(directory / "config.json", eos_token_id=9)

    tokenizer = Tokenizer.load(directory)

    assert tokenizer.eos_token_ids[1:] == (7, 8)


@pytest.mark.parametrize("nothing", [-1, None, True, [], "2", [None]])
def test_an_end_of_text_that_is_no_token_ends_nothing(directory: Path, nothing: Any) -> None:
    change(directory / "generation_config.json", eos_token_id=nothing)

    assert len(Tokenizer.load(directory).eos_token_ids) == 1


def test_a_directory_counts_the_padding_of_the_embedding(directory: Path) -> None:
    change(directory / "config.json", vocab_size=4096)

    tokenizer = Tokenizer.load(directory)

    assert tokenizer.vocab_size == 4096
    assert tokenizer.decode([4095]) == ""
    assert tokenizer.token_bytes(4095) == b""


def test_the_post_processor_decides_about_begin_of_text_whatever_the_configuration_says(tmp_path: Path) -> None:
    files = write_byte_level(tmp_path, byte_level_backend(RULES["gpt-2"].pre_tokenizer()), "gpt-2", add_bos=True)
    change(files.directory / "tokenizer_config.json", add_bos_token=False)

    tokenizer = Tokenizer.load(files.directory)

    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id


def test_special_tokens_known_only_to_the_configuration_are_special(directory: Path) -> None:
    change(directory / "special_tokens_map.json", additional_special_tokens=["<think>", "<nowhere>"])

    tokenizer = Tokenizer.load(directory)

    assert tokenizer.decode(tokenizer.encode("<think>a</think>")) == "a</think>"


def test_truncation_and_padding_in_the_file_do_not_apply(directory: Path) -> None:
    change(
        directory / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )

    assert len(Tokenizer.load(directory).encode("a b c d e f")) > 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{}", "isn't a tokenizer"),
        ("tokenizer.json", '{"version": "1.0"', "isn't a tokenizer"),
        ("tokenizer_config.json", "{", "JSON"),
        ("tokenizer_config.json", "[]", "object"),
        ("config.json", "\ud800", "JSON"),
    ],
)
def test_a_directory_that_makes_no_tokenizer_is_refused(
    directory: Path, file: str, content: str | None, message: str
) -> None:
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_bytes(content.encode(errors="surrogatepass"))

    with pytest.raises(ModelFileError, match=message):
        Tokenizer.load(directory)


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "}]},
        None,
    ],
)
def test_a_decoder_that_cannot_be_streamed_is_refused(directory: Path, decoder: dict[str, Any] | None) -> None:
    change(directory / "tokenizer.json", decoder=decoder)

    with pytest.raises(ModelFileError, match="decoder"):
        Tokenizer.load(directory)
