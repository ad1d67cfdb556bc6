"""A prompt's vector against transformers' last hidden state, whatever runner computes it and in whatever pieces."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModel

from penstock.engine.config import EngineConfig
from penstock.engine.core import EngineCore
from penstock.engine.types import Pooling, Request, SamplingParams
from support.tiny_models import write_tiny_variant

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.oracle

SCORED = SamplingParams(max_tokens=0)
PROMPTS = [list(range(5, 75)), [7], list(range(5, 45)), [9, 8, 7]]  # the third begins as the first


def vectors(core: EngineCore, pooling: Pooling, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Of all prompts side by side."""
    for index, prompt in enumerate(prompts):
        request = Request(request_id=str(index), prompt_token_ids=prompt, params=SCORED, pooling=pooling)
        assert core.add(request) is None
    found: dict[str, torch.Tensor] = {}
    while core.has_work:
        for output in core.step():
            assert (output.finish_reason, output.token_ids, output.error) == ("stop", [], None)
            assert output.embedding is not None
            found[output.request_id] = torch.tensor(array("f", output.embedding))
    core.idle()
    return [found[str(index)] for index in range(len(prompts))]


@pytest.mark.parametrize(
    ("variant", "runner", "step_tokens"),
    [("llama", "native", 2048), ("qwen3-tied", "native", 24), ("qwen3-tied", "torch", 2048), ("llama", "torch", 24)],
)
def test_given_prompts_together_then_each_vector_is_the_pooled_last_hidden_state(
    tmp_path: Path, variant: str, runner: str, step_tokens: int
) -> None:
    path = write_tiny_variant(tmp_path, variant)
    (path / "tokenizer.json").write_text(_tokenizer())
    model = AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        hidden = [model(torch.tensor([prompt])).last_hidden_state[0] for prompt in PROMPTS]
    core = EngineCore(
        EngineConfig(
            model_path=str(path),
            runner=runner,
            dtype="float32",
            threads=1,
            kv_memory=1 << 24,
            max_num_batched_tokens=step_tokens,
            runner_cache=False,
        )
    )
    try:
        for _ in range(2):  # the second time the prefix cache knows them
            for own, expected in zip(vectors(core, "last", PROMPTS), hidden, strict=True):
                torch.testing.assert_close(own, expected[-1], atol=2e-4, rtol=1e-3)
            for own, expected in zip(vectors(core, "mean", PROMPTS), hidden, strict=True):
                torch.testing.assert_close(own, expected.mean(0), atol=2e-4, rtol=1e-3)
    finally:
        core.shutdown()


def _tokenizer() -> str:
    from tokenizers import Tokenizer, decoders, models

    backend = Tokenizer(models.BPE(vocab={f"t{index}": index for index in range(320)}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    return backend.to_str()
