"""Fields of the JSON objects of the KServe protocol over HTTP; those of its tensors stand in `kserve`."""

from __future__ import annotations

from penstock.server.kserve import http, http_body, types
from penstock.server.manifest.api import Part
from penstock.server.manifest.field import OURS, absent, supported

_KSERVE = "https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md"
_TRITON = "https://github.com/triton-inference-server/server/blob/main/docs/protocol/"
_INFER = {"": _KSERVE}
_CONFIG = {"": _TRITON + "extension_model_configuration.md"}
_STATISTICS = {"": _TRITON + "extension_statistics.md"}
_REPOSITORY = {"": _TRITON + "extension_model_repository.md"}

_COUNTED = "of requests that came by this protocol"
_NO_FILES = "a model's files are not laid out as Triton's"
_NO_CONFIGURATION = "see [serving](serving.md)"

KSERVE_PARTS = (
    Part(types.ServerMetadata, supported(name="`penstock`", version="", extensions=""), _INFER),
    Part(
        types.ModelMetadata,
        supported(name="as it was asked for", versions="", platform="`penstock`", inputs="", outputs=""),
        _INFER,
    ),
    Part(types.TensorMetadata, supported(name="", datatype="", shape="-1 is any size"), _INFER),
    Part(
        http_body.InferBody,
        supported(
            id="comes back with the answer",
            parameters="sampling parameters, `priority`, `binary_data_output`",
            inputs="",
            outputs="all that are switched on if absent",
        ),
        _INFER,
    ),
    Part(
        http_body.InputBody,
        supported(name="", datatype="", shape="", parameters="`binary_data_size`", data="or in binary after the JSON"),
        _INFER,
    ),
    Part(http_body.OutputBody, supported(name="", parameters="`binary_data`"), _INFER),
    Part(
        types.InferAnswer,
        {
            **supported(model_name="", model_version="", id="if the request had one", outputs=""),
            **absent(parameters="there are none"),
        },
        _INFER,
    ),
    Part(
        types.OutputTensor,
        supported(name="", datatype="", shape="", parameters="`binary_data_size`", data="unless it is in binary"),
        _INFER,
    ),
    Part(
        types.InferError,
        {
            **supported(error="what, where, what to do"),
            **supported(OURS, param="what is at fault", code="a stable name"),
        },
        {"": _KSERVE, OURS: "triton.md"},
    ),
    Part(
        types.ModelConfig,
        {
            **supported(
                name="as it was asked for",
                platform="`penstock`",
                backend="`penstock`",
                max_batch_size="always 0: requests are batched as they come",
                input="",
                output="",
                model_transaction_policy="",
                parameters="the context and the runner",
            ),
            **absent(
                batch_input="requests are batched as they come",
                batch_output="requests are batched as they come",
                dynamic_batching="requests are batched as they come",
                sequence_batching="requests keep no state",
                ensemble_scheduling="see [ensembles](ensembles.md)",
                instance_group=_NO_CONFIGURATION,
                version_policy=_NO_CONFIGURATION,
                optimization=_NO_CONFIGURATION,
                model_warmup=_NO_CONFIGURATION,
                model_operations=_NO_CONFIGURATION,
                response_cache=_NO_CONFIGURATION,
                metric_tags="see /metrics",
                model_metrics="see /metrics",
                default_model_filename=_NO_FILES,
                cc_model_filenames=_NO_FILES,
                model_repository_agents=_NO_FILES,
                runtime=_NO_FILES,
            ),
        },
        _CONFIG,
    ),
    Part(
        types.ConfigInput,
        {
            **supported(name="", data_type="", dims="", optional=""),
            **absent(
                format="tensors are no images",
                reshape="",
                is_shape_tensor="",
                allow_ragged_batch="requests are batched as they come",
                is_non_linear_format_io="",
            ),
        },
        _CONFIG,
    ),
    Part(
        types.ConfigOutput,
        {
            **supported(name="", data_type="", dims=""),
            **absent(reshape="", label_filename=_NO_FILES, is_shape_tensor="", is_non_linear_format_io=""),
        },
        _CONFIG,
    ),
    Part(types.TransactionPolicy, supported(decoupled="always true"), _CONFIG),
    Part(types.ConfigParameter, supported(string_value=""), _CONFIG),
    Part(types.Statistics, supported(model_stats=""), _STATISTICS),
    Part(
        types.ModelStatistics,
        {
            **supported(
                name="",
                version="",
                last_inference="milliseconds since 1970",
                inference_count=_COUNTED,
                execution_count="the same: the engine's steps are in /metrics",
                inference_stats="",
                batch_stats="always empty",
            ),
            **absent(memory_usage="see /metrics", response_stats="see /metrics"),
        },
        _STATISTICS,
    ),
    Part(
        types.InferStatistics,
        supported(
            success="",
            fail="cancelled ones included",
            queue="",
            compute_input="until the prompt is tokens",
            compute_infer="",
            compute_output="",
            cache_hit="always 0: answers are not cached",
            cache_miss="always 0",
        ),
        _STATISTICS,
    ),
    Part(types.Duration, supported(count="", ns=""), _STATISTICS),
    Part(types.ModelIndex, supported(name="", version="", state="", reason="why it is not ready"), _REPOSITORY),
    Part(http.IndexBody, supported(ready="only those that are"), _REPOSITORY),
    Part(
        http.ControlBody,
        supported(parameters="`unload_dependents` of unload; a model is loaded as it is declared"),
        _REPOSITORY,
    ),
)
