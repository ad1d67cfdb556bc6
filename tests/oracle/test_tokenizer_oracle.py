"""Token ids and decoded text against transformers, the tokenizers library and SentencePiece."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.models.gguf_tokenizer import tokenizer_from_gguf
from penstock.models.tokenizer import Tokenizer
from support.text_corpus import CORPUS
from support.tiny_tokenizers import (
    CONTROL,
    GEMMA_TOKENS,
    byte_level_backend,
    sentencepiece_metadata,
    train_sentencepiece,
    write_byte_level,
    write_directory,
    write_gguf,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle

# The cuts of the published tokenizer.json files, spelt as they are there.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# name -> (splits, digits apart, GPT-2's cut last, NFC, ignore_merges, begin of text)
PUBLISHED: dict[str, tuple[tuple[str, ...], bool, bool, bool, bool, bool]] = {
    "gpt-2": ((), False, True, False, False, False),
    "olmo": ((), False, True, True, False, False),
    "smollm": ((), True, True, False, False, False),
    "command-r": ((), True, True, True, False, True),
    "llama-bpe": ((LLAMA3,), False, False, False, True, True),
    "qwen2": ((QWEN2,), False, False, True, False, False),
    "qwen35": ((QWEN35,), False, False, True, False, False),
    "tekken": ((TEKKEN,), False, False, False, True, True),
    "gpt-4o": ((GPT4O,), False, False, False, False, True),
    "deepseek-v3": (
        (
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        False,
        False,
        False,
        False,
        True,
    ),
    "deepseek-coder": (
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+"),
        True,
        False,
        False,
        False,
        True,
    ),
}
any_text = st.text(max_size=60) | st.lists(st.sampled_from([*CORPUS, *CONTROL, "<think>"]), max_size=3).map("".join)


def ids_of(reference: Any, text: str, *, special: bool = True) -> list[int]:
    ids: list[int] = reference.encode(text, add_special_tokens=special)
    return ids


def random_ids(size: int, count: int, seed: int) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randrange(size) for _ in range(generator.randrange(1, 30))] for _ in range(count)]


def published_backend(name: str) -> Any:
    from tokenizers import Regex, normalizers, pre_tokenizers

    splits, digits, gpt2, nfc, ignore_merges, _ = PUBLISHED[name]
    steps: list[Any] = [pre_tokenizers.Split(Regex(split), behavior="isolated", invert=False) for split in splits]
    steps += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=gpt2)]
    return byte_level_backend(
        pre_tokenizers.Sequence(steps), normalizer=normalizers.NFC() if nfc else None, ignore_merges=ignore_merges
    )


@pytest.fixture(scope="module", params=PUBLISHED)
def byte_level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Tokenizer]]:
    """What transformers makes of a directory, and our tokenizers of that directory and of the same as GGUF."""
    from transformers import AutoTokenizer

    name = request.param
    files = write_byte_level(tmp_path_factory.mktemp(name), published_backend(name), name, add_bos=PUBLISHED[name][-1])
    reference = AutoTokenizer.from_pretrained(files.directory)
    return reference, [Tokenizer.load(files.gguf), Tokenizer.load(files.directory)]


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_every_pre_tokenizer_cuts_text_as_transformers_does(byte_level: tuple[Any, list[Tokenizer]], text: str) -> None:
    reference, ours = byte_level

    for tokenizer in ours:
        assert tokenizer.encode(text) == ids_of(reference, text)
        assert tokenizer.encode(text, add_special_tokens=False) == ids_of(reference, text, special=False)


@settings(max_examples=150, deadline=None)
@given(text=any_text)
def test_random_text_becomes_the_same_tokens(byte_level: tuple[Any, list[Tokenizer]], text: str) -> None:
    reference, ours = byte_level
    expected = ids_of(reference, text)

    for tokenizer in ours:
        assert tokenizer.encode(text) == expected


def test_random_tokens_become_the_same_text(byte_level: tuple[Any, list[Tokenizer]]) -> None:
    reference, ours = byte_level

    for ids in random_ids(len(reference), 300, seed=1):
        for skip in (True, False):
            expected = reference.decode(ids, skip_special_tokens=skip)
            assert [tokenizer.decode(ids, skip_special_tokens=skip) for tokenizer in ours] == [expected] * 2


def test_plain_reading_of_control_tokens_is_the_same(byte_level: tuple[Any, list[Tokenizer]]) -> None:
    reference, ours = byte_level
    text = f"say {CONTROL[1]} twice{CONTROL[0]}"

    for tokenizer in ours:
        assert tokenizer.encode(text, parse_special=False) == reference.encode(text, split_special_tokens=True)


# The default model: transformers reads its vocabulary, merges and special tokens from the GGUF file, but doesn't
# know its pre-tokenizer, so that is given as the published tokenizer.json has it.


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> tuple[Any, Tokenizer]:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    return reference, Tokenizer.load(smollm2_path)


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_the_default_model_reads_the_corpus_as_transformers_does(smollm2: tuple[Any, Tokenizer], text: str) -> None:
    reference, tokenizer = smollm2

    assert tokenizer.encode(text) == ids_of(reference, text)


@settings(max_examples=400, deadline=None)
@given(text=st.text(max_size=80) | st.text("ab \n\t\r'sé漢1٣<|im_end|>\u00a0\u200d👍🏽", max_size=40))
def test_the_default_model_reads_random_text_as_transformers_does(smollm2: tuple[Any, Tokenizer], text: str) -> None:
    reference, tokenizer = smollm2

    assert tokenizer.encode(text) == ids_of(reference, text)


def test_the_default_model_writes_random_tokens_as_transformers_does(smollm2: tuple[Any, Tokenizer]) -> None:
    reference, tokenizer = smollm2

    for ids in random_ids(tokenizer.vocab_size, 2000, seed=2):
        for skip in (True, False):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


def test_every_token_of_the_default_model_has_the_bytes_it_decodes_to(smollm2: tuple[Any, Tokenizer]) -> None:
    reference, tokenizer = smollm2

    for token in range(tokenizer.vocab_size):
        assert tokenizer.token_to_piece(token) == reference.decode([token]) or token in tokenizer.special_token_ids


# SentencePiece: its own library is the reference, and the published tokenizer.json of Llama 2 has this form.


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, list[Tokenizer], Path]:
    """SentencePiece, transformers on a directory, ours on GGUF and the directory, and the GGUF file."""
    from tokenizers import AddedToken, decoders, models, normalizers, processors
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import generate_merges

    model = train_sentencepiece()
    keys = sentencepiece_metadata(model)
    vocab = {token: index for index, token in enumerate(keys["tokens"])}
    merges = generate_merges(vocab, dict(zip(keys["tokens"], keys["scores"], strict=True)))
    backend = Backend(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in keys["tokens"][:3]])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    directory = write_directory(
        tmp_path_factory.mktemp("sp"), backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    gguf = write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", keys)
    reference = PreTrainedTokenizerFast.from_pretrained(directory)
    return model, reference, [Tokenizer.load(gguf), Tokenizer.load(directory)], gguf


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_sentencepiece_style_text_becomes_the_same_tokens(sentencepiece: tuple[Any, ...], text: str) -> None:
    model, reference, ours, _ = sentencepiece

    for tokenizer in ours:
        assert tokenizer.encode(text) == ids_of(reference, text)
        assert tokenizer.encode(text, add_special_tokens=False) == model.encode(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60) | st.text("the and\n\té漢👍▁ ", max_size=40))
def test_random_sentencepiece_style_text_becomes_the_same_tokens(sentencepiece: tuple[Any, ...], text: str) -> None:
    model, reference, ours, _ = sentencepiece

    for tokenizer in ours:
        assert tokenizer.encode(text) == ids_of(reference, text)
        if "\0" not in text:  # which SentencePiece drops
            assert tokenizer.encode(text, add_special_tokens=False) == model.encode(text)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.sampled_from(["<s>", "</s>", "the", " and", "é", " ", "\n"]), max_size=8))
def test_sentencepiece_style_control_tokens_are_found_as_transformers_does(
    sentencepiece: tuple[Any, ...], parts: list[str]
) -> None:
    _, reference, ours, _ = sentencepiece
    text = "".join(parts)

    for tokenizer in ours:
        assert tokenizer.encode(text) == ids_of(reference, text)


def test_random_sentencepiece_style_tokens_become_the_same_text(sentencepiece: tuple[Any, ...]) -> None:
    _, reference, ours, _ = sentencepiece

    for ids in random_ids(len(reference), 1000, seed=3):
        for skip in (True, False):
            expected = reference.decode(ids, skip_special_tokens=skip)
            assert [tokenizer.decode(ids, skip_special_tokens=skip) for tokenizer in ours] == [expected] * 2


@pytest.fixture(scope="module")
def gemma_style() -> tuple[Any, Tokenizer]:
    """SentencePiece as Gemma has it: no space before the text, and tokens that come before any merging."""
    model = train_sentencepiece(user_defined_symbols=list(GEMMA_TOKENS), add_dummy_prefix=False)
    keys = sentencepiece_metadata(model, GEMMA_TOKENS) | {"add_space_prefix": False}
    return model, Tokenizer(tokenizer_from_gguf({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "sp"))


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("the and\n\n\t  <b>é漢👍", max_size=60)
    | st.sampled_from(CORPUS)
    | st.lists(st.sampled_from([*CORPUS, " " * 20, "\n" * 9, "\t ", "<b>"]), max_size=3).map("".join)
)
def test_gemma_style_text_becomes_the_tokens_of_sentencepiece_and_the_same_text_again(
    gemma_style: tuple[Any, Tokenizer], text: str
) -> None:
    model, ours = gemma_style
    if "\0" in text or "▁" in text:  # which SentencePiece drops, or takes for a space
        return
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == model.encode(text)
    assert ours.decode(ids) == text


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_transformers_reads_the_same_tokens_from_the_gguf_file(sentencepiece: tuple[Any, ...], text: str) -> None:
    from transformers import AutoTokenizer

    model, _, (ours, _), gguf = sentencepiece
    reference = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)

    if text.startswith((" ", "▁")):
        # There transformers leaves out the space that SentencePiece, and so the model's training, puts before any
        # text; a text's own first space is then lost on the way back.
        assert reference.decode(reference.encode(text), skip_special_tokens=True) != text
        assert ours.encode(text, add_special_tokens=False) == model.encode(text)
    else:
        assert ours.encode(text) == ids_of(reference, text)


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_a_sentencepiece_file_without_prefix_space_reads_as_transformers_does(
    sentencepiece: tuple[Any, ...], text: str
) -> None:
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    model = sentencepiece[0]
    keys = sentencepiece_metadata(model) | {"add_space_prefix": False}
    vocab = {token: index for index, token in enumerate(keys["tokens"])}
    merges = generate_merges(vocab, dict(zip(keys["tokens"], keys["scores"], strict=True)))
    reference = LlamaTokenizer(vocab=vocab, merges=merges, add_prefix_space=False, add_bos_token=True)
    ours = Tokenizer(tokenizer_from_gguf({f"tokenizer.ggml.{key}": value for key, value in keys.items()}, "sp"))

    ids = ours.encode(text)

    assert ids == ids_of(reference, text)
    assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)
