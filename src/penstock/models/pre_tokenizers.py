"""How text is cut into words before byte-level BPE merges inside each: one entry per `tokenizer.ggml.pre`.

A GGUF file only names its pre-tokenizer; what the name stands for is the `normalizer`, `pre_tokenizer` and
`ignore_merges` of the published `tokenizer.json` that the model was converted from. A wrong cut gives tokens
the model never saw in training, without any visible error, so a name that isn't in this table is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.core.errors import ModelFileError

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(numbers: str, contractions: str = _CONTRACTIONS, letter: str = r"\p{L}", mark: str = "") -> str:
    """The tiktoken-like cut of Llama 3 and Qwen: contractions, words, numbers, symbols, line ends, spaces."""
    return "|".join(
        (
            contractions,
            rf"[^\r\n\p{{L}}\p{{N}}]?{letter}+",
            numbers,
            rf" ?[^\s\p{{L}}{mark}\p{{N}}]+[\r\n]*",
            _LINES_AND_SPACES,
        )
    )


def _cased_words(numbers: str, contractions: str = "") -> str:
    """The cut of Tekken and GPT-4o, which also cuts where a capital starts a new word."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    return "|".join(
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{contractions}",
            rf"[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{contractions}",
            numbers,
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            _LINES_AND_SPACES,
        )
    )


_LLAMA3 = _words(r"\p{N}{1,3}")
_QWEN2 = _words(r"\p{N}")
_QWEN35 = _words(r"\p{N}", letter=r"[\p{L}\p{M}]", mark=r"\p{M}")
_TEKKEN = _cased_words(r"\p{N}")
_GPT4O = _cased_words(r"\p{N}{1,3}", f"{_CONTRACTIONS}?")
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_LINES_AND_SPACES}",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+")


@dataclass(frozen=True, slots=True)
class PreTokenizerRule:
    """What one name stands for.

    `splits` are regular expressions whose matches become words of their own, applied one after the other;
    `digits` then makes each digit a word, and without any split GPT-2's own cut comes last.
    `ignore_merges` takes a word that is a token as it stands. `add_bos` holds if the file doesn't say.
    """

    splits: tuple[str, ...] = ()
    digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def normalizer(self) -> Normalizer | None:
        from tokenizers import normalizers

        return normalizers.NFC() if self.nfc else None

    def pre_tokenizer(self) -> PreTokenizer:
        from tokenizers import Regex, pre_tokenizers

        steps: list[PreTokenizer] = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in self.splits]
        if self.digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not self.splits))
        return pre_tokenizers.Sequence(steps)


_GPT2_RULE = PreTokenizerRule()
_DIGITS_RULE = PreTokenizerRule(digits=True)
_LLAMA3_RULE = PreTokenizerRule((_LLAMA3,), ignore_merges=True, add_bos=True)
_GPT4O_RULE = PreTokenizerRule((_GPT4O,))

RULES: dict[str, PreTokenizerRule] = {
    "default": _GPT2_RULE,
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "mpt": PreTokenizerRule(nfc=True),
    "olmo": PreTokenizerRule(nfc=True),
    "smollm": _DIGITS_RULE,
    "starcoder": _DIGITS_RULE,
    "refact": _DIGITS_RULE,
    "command-r": PreTokenizerRule(digits=True, nfc=True),
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "falcon3": _LLAMA3_RULE,
    "pixtral": _LLAMA3_RULE,
    "smaug-bpe": PreTokenizerRule((_LLAMA3,)),
    "qwen2": PreTokenizerRule((_QWEN2,), nfc=True),
    "deepseek-r1-qwen": PreTokenizerRule((_QWEN2,), nfc=True),
    "qwen35": PreTokenizerRule((_QWEN35,), nfc=True),
    "tekken": PreTokenizerRule((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": _GPT4O_RULE,
    "llama4": _GPT4O_RULE,
    "deepseek-v3": PreTokenizerRule(_DEEPSEEK3),
    "deepseek-coder": PreTokenizerRule(_DEEPSEEK_CODER, digits=True),
}


def pre_tokenizer_rule(name: str, source: str) -> PreTokenizerRule:
    """Raises ModelFileError for a name that isn't known; `source` is the file, for the message."""
    if name not in RULES:
        raise ModelFileError(
            f"{source}: the pre-tokenizer {name!r} (tokenizer.ggml.pre) isn't supported, so text would become wrong "
            f"tokens. Supported are {', '.join(sorted(RULES))}. Use the model's directory with its tokenizer.json."
        )
    return RULES[name]
