"""What the protocol answers beside inference. The names are those of the protocol's JSON and of its messages alike."""

from __future__ import annotations

from msgspec import Struct


class ServerMetadata(Struct):
    """Of the server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct):
    """Of one input or output; -1 in a shape is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    """Of a model: what goes in and what comes out."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigInput(Struct):
    """One input in a model's configuration."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool


class ConfigOutput(Struct):
    """One output in a model's configuration."""

    name: str
    data_type: str
    dims: list[int]


class TransactionPolicy(Struct):
    """Whether a request may have several responses."""

    decoupled: bool


class ConfigParameter(Struct):
    """One parameter of a model's configuration."""

    string_value: str


class ModelConfig(Struct):
    """A model's configuration, in the part that means something here."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigInput]
    output: list[ConfigOutput]
    model_transaction_policy: TransactionPolicy
    parameters: dict[str, ConfigParameter]


class Duration(Struct):
    """How often something happened and how many nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += max(int(seconds * 1e9), 0)


class InferStatistics(Struct):
    """Where requests spent their time."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(Struct):
    """Of one model since the server started; `last_inference` is in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[None] = []  # a request is no batch here


class Statistics(Struct):
    """Of one model or several."""

    model_stats: list[ModelStatistics]


class ModelIndex(Struct):
    """One model of the repository; `reason` says why it isn't ready."""

    name: str
    version: str
    state: str
    reason: str


class OutputTensor(Struct, omit_defaults=True):
    """One output; its elements are in `data`, or in binary after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[bool | int | float | str] | None = None


class InferAnswer(Struct, omit_defaults=True):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""


class InferError(Struct):
    """A failure. `param` and `code` are this server's own."""

    error: str
    param: str | None = None
    code: str | None = None
