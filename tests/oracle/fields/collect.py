"""Names of vLLM's fields, read from its source: `python tests/oracle/fields/collect.py DIRECTORY_OF_VLLM > vllm.json`.

Nothing of it is imported or run. Classes are read with what they inherit; a field is an annotated name of a class, on
the wire by its alias.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

# Each API and object of the manifest, and the classes that vLLM has for it.
CLASSES = {
    "chat": "ChatCompletionRequest",
    "completions": "CompletionRequest",
    "responses": "ResponsesRequest",
    "messages": "AnthropicMessagesRequest",
    "count_tokens": "AnthropicCountTokensRequest",
    "tokenize": "TokenizeChatRequest TokenizeCompletionRequest",
    "detokenize": "DetokenizeRequest",
    "load_lora_adapter": "LoadLoRAAdapterRequest",
    "unload_lora_adapter": "UnloadLoRAAdapterRequest",
    "embeddings": "EmbeddingCompletionRequest EmbeddingChatRequest",
    "rerank": "RerankRequest",
    "score": "ScoreDataRequest ScoreQueriesDocumentsRequest ScoreQueriesItemsRequest ScoreTextRequest",
    "classify": "ClassificationChatRequest ClassificationCompletionRequest",
    "StructuredOutputs": "StructuredOutputsParams",
    "StreamOptions": "StreamOptions",
    "ResponseFormat": "ResponseFormat",
    "JsonSchemaFormat": "JsonSchemaResponseFormat",
    "Tool": "ChatCompletionToolsParam",
    "FunctionDefinition": "FunctionDefinition",
    "Document": "RerankDocument",
    "Block": "AnthropicContentBlock",
    "AnthropicMessage": "AnthropicMessage",
    "AnthropicTool": "AnthropicTool",
    "AnthropicToolChoice": "AnthropicToolChoice",
    "OutputConfig": "AnthropicOutputConfig",
    "ChatCompletion": "ChatCompletionResponse",
    "ChatChoice": "ChatCompletionResponseChoice",
    "ChatChunk": "ChatCompletionStreamResponse",
    "ChatChunkChoice": "ChatCompletionResponseStreamChoice",
    "AssistantMessage": "ChatMessage",
    "Delta": "DeltaMessage",
    "MessageToolCall": "ToolCall",
    "CalledFunction": "FunctionCall",
    "ToolCallDelta": "DeltaToolCall",
    "FunctionDelta": "DeltaFunctionCall",
    "ChatLogprobs": "ChatCompletionLogProbs",
    "ChatLogprob": "ChatCompletionLogProbsContent",
    "TopLogprob": "ChatCompletionLogProb",
    "Completion": "CompletionResponse CompletionStreamResponse",
    "CompletionChoice": "CompletionResponseChoice CompletionResponseStreamChoice",
    "CompletionLogprobs": "CompletionLogProbs",
    "Usage": "UsageInfo",
    "PromptTokensDetails": "PromptTokenUsageInfo",
    "CompletionTokensDetails": "CompletionTokenUsageInfo",
    "ModelCard": "ModelCard",
    "ModelList": "ModelList",
    "ErrorDetail": "ErrorInfo",
    "Tokenized": "TokenizeResponse",
    "Detokenized": "DetokenizeResponse",
    "Embeddings": "EmbeddingResponse",
    "Embedding": "EmbeddingResponseData",
    "Ranking": "RerankResponse",
    "RankedDocument": "RerankResult",
    "Scores": "ScoreResponse",
    "Score": "ScoreResponseData",
    "Classifications": "ClassificationResponse",
    "Classification": "ClassificationData",
    "ResponseObject": "ResponsesResponse",
    "ResponseUsage": "ResponseUsage",
    "InputTokensDetails": "InputTokensDetails",
    "OutputTokensDetails": "OutputTokensDetails",
    "AnthropicAnswer": "AnthropicMessagesResponse",
    "MessageUsage": "AnthropicUsage",
    "MessageEvent": "AnthropicStreamEvent",
    "EventDelta": "AnthropicDelta",
    "TokenCount": "AnthropicCountTokensResponse",
}
NOT_ON_THE_WIRE = {"field_names"}  # a class attribute of all of them


def main(root: Path) -> None:
    """Write the names, sorted, under the version."""
    classes: dict[str, ast.ClassDef] = {}
    for path in [*sorted((root / "entrypoints").rglob("protocol.py")), root / "sampling_params.py"]:
        found = ast.parse(path.read_text(encoding="utf-8")).body
        classes |= {node.name: node for node in found if isinstance(node, ast.ClassDef)}
    [about] = [*root.parent.glob("vllm*.dist-info")]
    fields = {
        name: " ".join(sorted(set().union(*(fields_of(kind, classes) for kind in kinds.split()))))
        for name, kinds in CLASSES.items()
    }
    json.dump({"version": about.name.split("-")[1].removesuffix(".dist"), "fields": fields}, sys.stdout, indent=1)


def fields_of(kind: str, classes: dict[str, ast.ClassDef]) -> set[str]:
    """Those of a class and of what it inherits, if that is known."""
    if kind not in classes:
        return set()
    found: set[str] = set()
    for base in classes[kind].bases:
        found |= fields_of(ast.unparse(base).partition("[")[0], classes)
    for node in classes[kind].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            found.add(_alias(node.value) or node.target.id)
    return found - NOT_ON_THE_WIRE


def _alias(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg == "alias" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
