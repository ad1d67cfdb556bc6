"""The compiled module; `rust/penstock-py/src/lib.rs` says what each part does."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# Temperature, top-k, top-p, min-p, uniform number, alternatives to report; bias, banned ids, repetition penalty, the
# ids it is for, amounts to subtract, bits of the allowed tokens.
Choice: TypeAlias = tuple[
    float,
    int,
    float,
    float,
    float,
    int | None,
    list[tuple[int, float]],
    list[int],
    float,
    list[int],
    list[tuple[int, float]],
    bytes | None,
]
# Token ids, position of the first, block table, how to choose the tokens after the last so many, ids to be scored after
# each position and how many alternatives to each.
Share: TypeAlias = tuple[list[int], int, list[int], list[Choice], list[int], int]
Scored: TypeAlias = tuple[int, float, int]
Logprobs: TypeAlias = tuple[Scored, list[Scored]]
# Whether all was finite, the tokens (where one could be chosen) with their log probabilities, scores of the prompt.
Answer: TypeAlias = tuple[bool, list[tuple[int | None, Logprobs | None]], list[Logprobs]]

# Rows at once, rows to a block, runs to a thread: `rust/penstock-cpu/src/tuner.rs`.
Plan: TypeAlias = tuple[int, int, int]

# One matrix of an adapter's pair: type, shape, bytes.
Half: TypeAlias = tuple[str, tuple[int, ...], memoryview]

class NativeError(Exception): ...
class NativeModelError(NativeError): ...
class NativeConfigError(NativeError): ...

class Placement:
    def __init__(
        self, threads: int | None = None, reserve: int = 0, pin: str = "auto", quota: float | None = None
    ) -> None: ...
    @property
    def threads(self) -> int: ...

class PackedWeights:
    def write(self, path: str, key: str) -> None: ...

class Runner:
    def __init__(
        self, placement: Placement, precision: str, path: str | None = None, unverified: bool = False
    ) -> None: ...
    def load(
        self,
        sizes: Mapping[str, Any],
        frequencies: Sequence[float],
        positions: int,
        tensors: Mapping[str, tuple[str, list[int], memoryview]],
        quantization: str | None = None,
    ) -> None: ...
    def load_kept(
        self,
        sizes: Mapping[str, Any],
        frequencies: Sequence[float],
        positions: int,
        tensors: Mapping[str, tuple[str, list[int], bytes | memoryview]],
        path: str,
        key: str,
        quantization: str | None = None,
    ) -> bool: ...
    def packed_weights(self) -> PackedWeights: ...
    @staticmethod
    def planned_bytes(
        sizes: Mapping[str, Any],
        frequencies: Sequence[float],
        tensors: Mapping[str, tuple[str, list[int], bytes | memoryview]],
        quantization: str | None = None,
    ) -> int: ...
    def weight_bytes(self) -> int: ...
    def block_bytes(self, block_size: int, kv_type: str) -> int: ...
    def allocate(self, blocks: int, block_size: int, kv_type: str) -> None: ...
    def path(self) -> str: ...
    def path_is_verified(self) -> bool: ...
    def placement(self) -> str: ...
    def pooled(self, share: int, whole: bool) -> bytes: ...
    def execute(self, shares: Sequence[Share], adapters: Sequence[int] = ()) -> list[Answer]: ...
    def load_adapter(self, number: int, pairs: Mapping[str, tuple[float, Half, Half]]) -> int: ...
    def unload_adapter(self, number: int) -> None: ...
    def phases(self) -> dict[str, float]: ...
    def plans(self) -> dict[str, Plan]: ...
    def count_plans(self) -> int: ...
    def know_plans(self, plans: Mapping[str, Plan]) -> None: ...
    def peak(self) -> tuple[float, float]: ...
    def logits(
        self, tokens: Sequence[int], start: int, table: Sequence[int], adapter: int = 0
    ) -> list[list[float]]: ...
    def close(self) -> None: ...

class Encoder:
    def __init__(
        self,
        placement: Placement,
        sizes: Mapping[str, Any],
        tensors: Mapping[str, tuple[str, list[int], memoryview]],
        head: tuple[str, str, int] | None = None,
        path: str | None = None,
    ) -> None: ...
    def run(self, ids: bytes, types: bytes, lengths: Sequence[int], pooling: str) -> bytes: ...

def are_finite(dtype: str, data: memoryview) -> bool: ...
def end_of_strings(data: memoryview, start: int, count: int) -> int | None: ...
def read_strings(data: memoryview, count: int) -> list[str]: ...
def merges_by_score(tokens: list[str], scores: Sequence[float], made: Sequence[bool]) -> list[tuple[str, str]]: ...

PACKED_MAGIC: str

def supported_paths() -> list[str]: ...
def best_path() -> str: ...
def has_bfloat16() -> bool: ...

# A name of `penstock_load::stub::behaviour::Distribution` and its parameters.
Distribution: TypeAlias = tuple[str, float, float]

def load_endings() -> list[str]: ...

class LoadGenerator:
    def __init__(
        self,
        ip: str,
        port: int,
        *,
        slots: int,
        timeout: float,
        keep_alive: bool = True,
        keep_text: int = 0,
        tls_name: str | None = None,
        tls_authorities: bytes | None = None,
    ) -> None: ...
    def submit(self, requests: Sequence[tuple[int, int | None, bytes]]) -> None: ...
    def close(self) -> None: ...
    def drain(self) -> None: ...
    def cut(self) -> None: ...
    def wait(self, timeout: float, *, for_endings: bool = False) -> bool: ...
    def take(self) -> dict[str, Any]: ...
    def counters(self) -> dict[str, int]: ...
    def health(self) -> dict[str, float | None]: ...

class StubServer:
    def __init__(
        self,
        ip: str,
        port: int,
        *,
        first_token: Distribution,
        gap: Distribution,
        tokens: Distribution | None,
        tokens_per_piece: int,
        slots: int | None,
        stalls: Sequence[tuple[float, float]],
        faults: Sequence[tuple[float, str, int]],
        usage: bool,
        seed: int,
    ) -> None: ...
    @property
    def port(self) -> int: ...
    def stop(self) -> None: ...
