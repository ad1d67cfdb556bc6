"""What is the native runner's own: the sampler's twin, its refusals, and panics that stay errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _native
from penstock.core.errors import ConfigError, InvariantError, ModelFileError
from penstock.engine.runners import native
from penstock.engine.runners.base import RunnerConfig
from penstock.engine.runners.native import NativeRunner
from penstock.engine.types import SampleSpec, SamplingParams, SequenceStep, StepBatch
from support.gguf_files import tiny_spec, write_tiny_gguf
from support.runners import GREEDY, NATIVE_KINDS, generate, make_requests, make_runner, new_runner, random_prompts
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from penstock.engine.runners.torch.runner import TorchRunner
    from penstock.engine.types import PositionLogprobs, SequenceOutput

VOCAB = 320
PROMPTS = random_prompts(3, 17, 9, 30, 1, 12)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_variant(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.fixture(scope="module")
def runners(tiny: Path) -> tuple[NativeRunner, TorchRunner]:
    return make_runner(tiny, "native-float32"), make_runner(tiny, "torch")


def spec(
    seed: int = 0,
    *,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
    banned: Sequence[int] = (),
    allowed: bytes | None = None,
    **params: Any,
) -> SampleSpec:
    return SampleSpec(SamplingParams(**params), seed, prompt, output, banned, allowed)


def steps(specs: Sequence[SampleSpec]) -> StepBatch:
    """A step that samples after one of the prompts for each spec, whatever the spec says came before."""
    return StepBatch([
        SequenceStep(str(i), PROMPTS[i % len(PROMPTS)], 0, (2 * i, 2 * i + 1), s) for i, s in enumerate(specs)
    ])  # fmt: skip


def assert_same(ours: SequenceOutput, theirs: SequenceOutput) -> None:
    assert (ours.token_id, ours.error) == (theirs.token_id, theirs.error)
    if ours.logprobs is None or theirs.logprobs is None:
        assert ours.logprobs is theirs.logprobs
        return
    for mine, other in zip(flat(ours.logprobs), flat(theirs.logprobs), strict=True):
        assert (mine.token_id, mine.rank) == (other.token_id, other.rank)
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)


def flat(position: PositionLogprobs) -> list[Any]:
    return [position.chosen, *position.top]


def compare(runners: tuple[NativeRunner, TorchRunner], specs: Sequence[SampleSpec]) -> list[SequenceOutput]:
    ours, theirs = (list(runner.execute(steps(specs)).sequences) for runner in runners)
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)
    return ours


@pytest.mark.parametrize("params", [
    {"temperature": 0.0}, {"temperature": 1e-6}, {"temperature": 0.3}, {"temperature": 1.0}, {"temperature": 2.0},
    {"top_k": 1}, {"top_k": 7}, {"top_k": VOCAB}, {"top_k": 4096}, {"top_p": 0.5}, {"top_p": 0.95}, {"top_p": 1e-6},
    {"min_p": 0.05}, {"min_p": 1.0}, {"top_k": 20, "top_p": 0.8, "min_p": 0.01, "temperature": 0.8},
    {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7}, {"frequency_penalty": 0.9}, {"presence_penalty": -1.5},
    {"frequency_penalty": -0.4, "presence_penalty": 0.6, "repetition_penalty": 1.1, "temperature": 0.0},
    {"logit_bias": {7: 4.0, 90: -100.0}}, {"logit_bias": {7: 100.0}, "temperature": 0.0},
], ids=str)  # fmt: skip
def test_each_parameter_chooses_the_tokens_that_the_torch_runner_chooses(
    runners: tuple[NativeRunner, TorchRunner], params: dict[str, Any]
) -> None:
    tokens = set()
    for position in range(8):
        output = [5, 5, 7, 120, 5][:position]
        specs = [spec(seed, prompt=[7, 8, 9], output=output, logprobs=4, **params) for seed in range(12)]
        tokens |= {o.token_id for o in compare(runners, specs)}
    assert None not in tokens


def bits(tokens: Iterable[int], size: int = -(-VOCAB // 8)) -> bytes:
    """A mask that allows these tokens."""
    mask = bytearray(size)
    for token in tokens:
        mask[token // 8] |= 1 << token % 8
    return bytes(mask)


ids = st.lists(st.integers(0, VOCAB - 1), max_size=4)
masks = st.one_of(st.none(), st.sets(st.integers(0, VOCAB - 1), min_size=6).map(bits))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            spec,
            seed=st.integers(-(1 << 63), (1 << 64) - 1),
            temperature=st.sampled_from([0.0, 0.7, 1.0, 5.0]),
            top_k=st.sampled_from([0, 1, 5, 100, 4096]),
            top_p=st.sampled_from([1.0, 0.95, 0.3, 1e-6]),
            min_p=st.sampled_from([0.0, 0.05, 1.0]),
            repetition_penalty=st.sampled_from([1.0, 1.3]),
            frequency_penalty=st.sampled_from([0.0, 0.5]),
            presence_penalty=st.sampled_from([0.0, -2.0]),
            logit_bias=st.sampled_from([{}, {3: 5.0}, {3: 5.0, 250: -100.0}]),
            prompt=ids,
            output=ids,
            banned=ids,
            allowed=masks,
            logprobs=st.sampled_from([None, 0, 5]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_mix_of_parameters_samples_as_the_torch_runner_does(
    runners: tuple[NativeRunner, TorchRunner], specs: list[SampleSpec]
) -> None:
    for output, wish in zip(compare(runners, specs), specs, strict=True):
        assert output.token_id not in wish.banned_token_ids
        if wish.allowed is not None and output.token_id is not None:
            assert wish.allowed[output.token_id // 8] >> output.token_id % 8 & 1


def test_bans_unknown_ids_and_rows_with_nothing_to_choose_are_treated_alike(
    runners: tuple[NativeRunner, TorchRunner],
) -> None:
    specs = [
        spec(temperature=0, banned=range(VOCAB)),
        spec(temperature=1, banned=range(VOCAB), logit_bias={4: 100.0}, logprobs=2),
        spec(temperature=0, banned=range(1, VOCAB)),
        spec(temperature=0, banned=[VOCAB, -1], logit_bias={VOCAB: 100.0, -1: 100.0}),
        spec(temperature=1, logprobs=2 * VOCAB),
        spec(temperature=0, logprobs=0),
    ]
    outputs = compare(runners, specs[:4] + specs[5:])
    assert [o.error is None for o in outputs] == [False, False, True, True, True]
    assert outputs[2].token_id == 0
    [_, all_tokens] = runners[0].execute(steps([specs[0], specs[4]])).sequences
    assert all_tokens.logprobs is not None
    assert len({t.token_id for t in all_tokens.logprobs.top}) == VOCAB
    assert [t.rank for t in all_tokens.logprobs.top] == list(range(1, VOCAB + 1))


def test_only_what_a_mask_allows_is_chosen_and_what_lies_beyond_it_is_not_allowed(
    runners: tuple[NativeRunner, TorchRunner],
) -> None:
    outputs = compare(runners, [
        spec(temperature=0, allowed=bits([])),
        spec(temperature=1, allowed=bits([3]), banned=[3]),
        spec(temperature=0, allowed=b"", logit_bias={4: 100.0}),
        spec(temperature=0, allowed=bits([8], size=2), logit_bias={300: 100.0}),
        spec(temperature=1, allowed=bits([VOCAB + 7, 5], size=64), logprobs=2),
    ])  # fmt: skip
    assert [o.error is None for o in outputs] == [False, False, False, True, True]
    assert [o.token_id for o in outputs[3:]] == [8, 5]
    logprobs = outputs[4].logprobs
    assert logprobs is not None
    assert logprobs.chosen.rank > 2 or logprobs.top[0].token_id == 5  # of all tokens, allowed or not


def test_prompt_scores_equal_the_torch_runners(runners: tuple[NativeRunner, TorchRunner]) -> None:
    found = []
    for runner in runners:
        requests = make_requests(PROMPTS, 3, params=SamplingParams(temperature=0, prompt_logprobs=3))
        generate(runner, requests, 3, chunk=11)
        found.append([p for r in requests for result in r.results for p in result.prompt_logprobs])
    assert len(found[0]) == sum(map(len, PROMPTS)) - len(PROMPTS)
    for mine, other in zip((t for p in found[0] for t in flat(p)), (t for p in found[1] for t in flat(p)), strict=True):
        assert (mine.token_id, mine.rank) == (other.token_id, other.rank)
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize(("fields", "message"), [
    ({"dtype": "float16"}, "no dtype 'float16'"),
    ({"device": "cuda"}, "not on 'cuda'"),
    ({"device": "mps"}, "not on 'mps'"),
])  # fmt: skip
def test_what_only_torch_has_is_refused_by_name(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        NativeRunner(RunnerConfig(model_path="unused", **fields))  # type: ignore[arg-type]
    assert caught.value.param in fields
    assert "--runner torch" in caught.value.message


def test_unknown_instructions_are_refused_and_those_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CPU_PATH", "mmx")
    with pytest.raises(ConfigError, match="'mmx'") as caught:
        NativeRunner(RunnerConfig(model_path="unused"))
    assert all(path in caught.value.message for path in _native.supported_paths())


def test_instructions_that_the_processor_lacks_are_refused_and_those_it_has_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have = _native.supported_paths()
    lacking = [path for path in ("amx", "avx512", "avx2") if path not in have]
    if not lacking:
        pytest.skip("this processor has all instructions that there is a path for")
    monkeypatch.setenv("PENSTOCK_CPU_PATH", lacking[0])
    with pytest.raises(ConfigError, match="lacks") as caught:
        NativeRunner(RunnerConfig(model_path="unused"))
    assert ", ".join(have) in caught.value.message


def test_any_processor_has_the_plain_path_and_uses_the_best(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_CPU_PATH", raising=False)
    assert _native.supported_paths()[-1] == "scalar"
    described = make_runner(tiny, "native-int8").describe()
    assert described["runner"] == "native"
    verified = [path for path in _native.supported_paths() if path in {"avx512", "avx2", "scalar"}]
    assert (described["instructions"], described["verified"]) == (verified[0], "yes")
    assert described["dtype"] == "float32"  # which unquantized weights are multiplied in, under auto too
    assert described["attention"] == "paged, float16 KV"
    assert "note" not in described


def test_a_note_on_the_choice_is_passed_on(tiny: Path) -> None:
    runner = NativeRunner(RunnerConfig(model_path=str(tiny), threads=1), "a GPU stays unused")
    runner.load()
    assert runner.describe()["note"] == "a GPU stays unused"


def test_a_block_that_is_no_multiple_of_sixteen_takes_whole_strips(tiny: Path) -> None:
    sizes = {}
    for block_size in (8, 16, 17, 32):
        runner = NativeRunner(RunnerConfig(model_path=str(tiny), threads=1, block_size=block_size))
        runner.load()
        sizes[block_size] = runner.kv_capacity().bytes_per_block
    assert sizes[8] == sizes[16]
    assert sizes[17] == sizes[32] == 2 * sizes[16]


@pytest.mark.parametrize("block_size", [1, 5, 8, 24, 32])
@pytest.mark.parametrize("kind", NATIVE_KINDS)
def test_the_size_of_blocks_changes_no_text(tiny: Path, kind: str, block_size: int) -> None:
    """Scores differ in their last bits: they are summed in other strips."""
    params = SamplingParams(temperature=0, prompt_logprobs=0)
    found = []
    for size in (16, block_size):
        runner = make_runner(tiny, kind, block_size=size)
        requests = make_requests(PROMPTS, 5, params=params, block_size=size)
        generate(runner, requests, 5, chunk=7)
        scores = [p.chosen.logprob for r in requests for s in r.results for p in s.prompt_logprobs]
        found.append(([r.output for r in requests], scores))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4 if kind == "native-float32" else 5e-3)


def test_a_tensor_of_an_unsupported_type_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    wide = tiny_spec(hidden_size=256, ffn_size=256, head_dim=64)
    write_tiny_gguf(file, types=lambda name: "IQ4_NL" if name.endswith("down.weight") else "F32", spec=wide)
    runner = NativeRunner(RunnerConfig(model_path=str(file), threads=1))
    with pytest.raises(ModelFileError, match="IQ4_NL"):
        runner.load()


def test_tensors_that_no_kernel_takes_or_that_are_missing_are_named(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the checks of the reader, which finds these first."""
    load = native.load

    def without(name: str, dtype: str | None) -> Any:
        def loading(path: Path) -> Any:
            spec, weights = load(path)
            names, info = weights.names, weights.info
            if dtype is None:
                monkeypatch.setattr(weights, "names", lambda: [n for n in names() if n != name])
            else:
                changed = info(name)
                object.__setattr__(changed, "dtype", dtype)
                monkeypatch.setattr(weights, "info", lambda n: changed if n == name else info(n))
            return spec, weights

        return loading

    for name, dtype, message in (
        ("layers.1.down.weight", None, "no tensor layers.1.down.weight"),
        ("final_norm.weight", None, "no tensor final_norm.weight"),
        ("layers.0.q.weight", "I32", "layers.0.q.weight is stored as I32"),
        ("embed.weight", "F16", "embed.weight has"),
    ):
        monkeypatch.setattr(native, "load", without(name, dtype))
        with pytest.raises(ModelFileError, match=message):
            NativeRunner(RunnerConfig(model_path=str(tiny), threads=1)).load()


def test_a_panic_is_an_error_and_the_runner_works_on(tiny: Path) -> None:
    for threads in (1, 2):
        runner = make_runner(tiny, "native-float32", threads=threads)
        good = SequenceStep("good", [5, 6, 7], 0, (3,), SampleSpec(GREEDY, 0, [5, 6, 7], [], ()))
        expected = runner.execute(StepBatch([good])).sequences
        for share in (
            ([VOCAB], 0, [0], [], [], 0),  # no such token
            ([1], 0, [256], [], [], 0),  # no such block
            ([1], 16, [0], [], [], 0),  # a table too short
            ([1], 256, [0] * 17, [], [], 0),  # behind the last position
            ([], 0, [0], [], [], 0),
            ([1], 0, [0], [], [VOCAB], 0),  # a token to score that there isn't
        ):
            with pytest.raises(_native.NativeError, match="panicked"):
                runner._runner.execute([share])
            assert runner.execute(StepBatch([good])).sequences == expected


def test_a_panic_inside_a_step_is_an_invariant_error(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(tiny, "native-float32")
    good = SequenceStep("good", [5, 6, 7], 0, (3,), SampleSpec(GREEDY, 0, [5, 6, 7], [], ()))
    expected = runner.execute(StepBatch([good])).sequences
    with monkeypatch.context() as patch:
        patch.setattr(native, "refusal", lambda *_: None)
        bad = SequenceStep("bad", [VOCAB], 0, (3,), None)
        with pytest.raises(InvariantError, match="panicked"):
            runner.execute(StepBatch([good, bad]))
    assert runner.execute(StepBatch([good])).sequences == expected


def test_a_cache_larger_than_any_memory_is_refused(tiny: Path) -> None:
    runner = NativeRunner(RunnerConfig(model_path=str(tiny), threads=1))
    runner.load()
    with pytest.raises(ConfigError, match="KV cache"):
        runner.allocate(1 << 50)


def test_steps_of_the_bare_module_before_loading_are_errors() -> None:
    runner = _native.Runner(_native.Placement(1), "float32")
    for call in (lambda: runner.execute([]), lambda: runner.logits([1], 0, [0]), runner.weight_bytes):
        with pytest.raises(_native.NativeError):
            call()
    with pytest.raises(_native.NativeConfigError, match="precision"):
        _native.Runner(_native.Placement(1), "int4")


def test_weights_that_need_more_than_the_free_memory_are_refused_before_they_are_packed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make_runner(tiny, "native-float32")
    needed = loaded.kv_capacity().weight_bytes
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(native, "available_memory", lambda free=free: free)
        runner = NativeRunner(RunnerConfig(model_path=str(tiny), threads=1))
        if fits:
            runner.load()
            continue
        with pytest.raises(ConfigError, match=r"take .* of memory; .* are free") as caught:
            runner.load()
        assert caught.value.param == "model"


def test_the_time_of_steps_is_told_by_phase(tiny: Path) -> None:
    runner = make_runner(tiny, "native-float32")
    runner.phases()
    generate(runner, make_requests(PROMPTS, 5), 5)
    spent = runner.phases()
    assert spent.pop("adapt") == 0, "no sequence has an adapter"
    assert {"embed", "norm", "qkv", "rotate", "attend", "out", "gate", "down", "head"} == set(spent)
    assert all(seconds > 0 for seconds in spent.values())
    assert not any(runner.phases().values())


def test_peaks_are_of_this_processors_order_and_int8_is_no_slower(tiny: Path) -> None:
    int8, float32 = make_runner(tiny, "native-float32").peak()
    assert 1e9 < float32 < 1e13
    assert float32 / 2 < int8 < 1e14


def test_the_torch_runner_keeps_keys_and_values_as_it_computes(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="--runner native") as caught:
        new_runner(tiny, "torch", kv_cache_dtype="int8")
    assert caught.value.param == "kv_cache_dtype"
