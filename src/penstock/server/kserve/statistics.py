"""What the protocol's statistics count of one model: the requests that came by it, over HTTP and gRPC."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from penstock.server.kserve.types import Duration, InferStatistics, ModelStatistics


@dataclass(slots=True)
class ModelCounts:
    """Counts of one model since the server started; a request that fails or is cancelled counts in `fail` alone."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    last_inference: int = 0

    def finished(self, *, read: float, queued: float, computed: float) -> None:
        """A request went well: seconds until its prompt was tokens, until its first step, and from there to its end."""
        self.compute_input.add(read)
        self.queue.add(queued)
        self.compute_infer.add(computed)
        self.compute_output.count += 1
        self.last_inference = time.time_ns() // 1_000_000

    def report(self, name: str, version: str) -> ModelStatistics:
        """As the protocol has them."""
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=self.last_inference,
            inference_count=self.success.count,
            execution_count=self.success.count,  # a request is one execution; the engine's steps are in /metrics
            inference_stats=InferStatistics(
                success=self.success,
                fail=self.fail,
                queue=self.queue,
                compute_input=self.compute_input,
                compute_infer=self.compute_infer,
                compute_output=self.compute_output,
                cache_hit=Duration(),
                cache_miss=Duration(),
            ),
        )
