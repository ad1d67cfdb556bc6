"""What Triton's protocol has and this server has not, with the reason that a client is told."""

from __future__ import annotations

_NO_SHARED_MEMORY = "Tensors come with the request here, never through shared memory."
_NO_TRACES = "Tracing is not set through this protocol."
_NO_LOG_SETTINGS = "Logging is set when the server starts, with --log-level."

# Methods of inference.GRPCInferenceService.
METHODS = {
    "SystemSharedMemoryStatus": _NO_SHARED_MEMORY,
    "SystemSharedMemoryRegister": _NO_SHARED_MEMORY,
    "SystemSharedMemoryUnregister": _NO_SHARED_MEMORY,
    "CudaSharedMemoryStatus": _NO_SHARED_MEMORY,
    "CudaSharedMemoryRegister": _NO_SHARED_MEMORY,
    "CudaSharedMemoryUnregister": _NO_SHARED_MEMORY,
    "TraceSetting": _NO_TRACES,
    "LogSettings": _NO_LOG_SETTINGS,
}

# Paths below /v2.
PATHS = {
    "systemsharedmemory/{rest:path}": _NO_SHARED_MEMORY,
    "cudasharedmemory/{rest:path}": _NO_SHARED_MEMORY,
    "trace/setting": _NO_TRACES,
    "models/{model:path}/trace/setting": _NO_TRACES,
    "logging": _NO_LOG_SETTINGS,
}

# Inputs of the vLLM and TensorRT-LLM back ends.
INPUTS = {
    "image": "only text goes in",
    "video": "only text goes in",
    "audio": "only text goes in",
    "embedding_request": "this model answers with text",
    "prompt_embedding_table": "only text goes in",
    "prompt_vocab_size": "it belongs to 'prompt_embedding_table'",
    "prompt_table_extra_ids": "it belongs to 'prompt_embedding_table'",
    "decoder_text_input": "the model is a decoder alone; send 'text_input'",
    "num_draft_tokens": "drafting is not the client's here",
    "use_draft_logits": "drafting is not the client's here",
    "lora_task_id": "ask for the adapter as the model",
    "lora_weights": "ask for the adapter as the model",
    "lora_config": "ask for the adapter as the model",
}

# Parameters of a request.
PARAMETERS = {
    "sequence_id": "requests keep no state; send the whole text",
    "sequence_start": "requests keep no state",
    "sequence_end": "requests keep no state",
    "guided_decoding": "send 'structured_outputs'",
    "lora_name": "ask for the adapter as the model",
    "timeout": "set the client's own deadline; a request ends with the call that made it",
}
