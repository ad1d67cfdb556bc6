"""The tensors that a text model takes and gives: those of Triton's vLLM and TensorRT-LLM back ends together.

Names, datatypes and shapes: https://github.com/triton-inference-server/vllm_backend and
https://github.com/triton-inference-server/tensorrtllm_backend. Where the two differ in what an absent input means, it
means what vLLM's does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.core.errors import InvalidRequestError
from penstock.core.suggest import did_you_mean
from penstock.server.kserve import refused
from penstock.server.kserve.tensors import count_elements, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.server.kserve.tensors import Value

MAX_ELEMENTS = 1024
_INTEGERS = ("INT32", "UINT32", "INT64", "UINT64")  # back ends of different ages declare different ones
_FLOATS = ("FP32", "FP64")


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor.

    Attributes:
        datatype: as the metadata names it.
        note: what it does.
        field: the field of a completion request that it sets; "" if it is no field of that.
        many: it holds any number of elements, not just one.
        neutral: the values it may have, all of which ask for nothing; None: any.
        optional: it may be left out.
    """

    datatype: str
    note: str = ""
    field: str = ""
    many: bool = False
    neutral: tuple[Value, ...] | None = None
    optional: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """As the metadata names it; the same with a batch dimension of 1 before it is taken too."""
        return (-1,) if self.many else (1,)

    @property
    def datatypes(self) -> tuple[str, ...]:
        """Those that are taken."""
        family = next((each for each in (_INTEGERS, _FLOATS) if self.datatype in each), ())
        return family or (self.datatype,)


@dataclass(frozen=True, slots=True)
class Output:
    """One output tensor; it has as many elements as there are choices, unless `per_choice` is off.

    Attributes:
        datatype: of its elements.
        switch: the input that asks for it; "" if it always comes.
        note: what it holds.
        shape: as the metadata names it.
    """

    datatype: str
    switch: str = ""
    note: str = ""
    shape: tuple[int, ...] = (-1,)


INPUTS: dict[str, Input] = {
    "text_input": Input("BYTES", "the prompt", optional=False),
    "stream": Input("BOOL", "a response for each piece of the answer"),
    "sampling_parameters": Input("BYTES", "vLLM's sampling parameters, a JSON object in a string"),
    "exclude_input_in_output": Input("BOOL", "leave the prompt out of `text_output`; always so in a stream"),
    "return_finish_reason": Input("BOOL", "gives `finish_reason`"),
    "return_cumulative_logprob": Input("BOOL", "gives `cumulative_logprob`"),
    "return_logprobs": Input("BOOL", "gives `logprobs`"),
    "return_num_input_tokens": Input("BOOL", "gives `num_input_tokens`"),
    "return_num_output_tokens": Input("BOOL", "gives `num_output_tokens`"),
    "return_log_probs": Input("BOOL", "gives `cum_log_probs` and `output_log_probs`"),
    "max_tokens": Input("INT32", "default 16", "max_tokens"),
    "min_tokens": Input("INT32", "", "min_tokens"),
    "min_length": Input("INT32", "the older name of `min_tokens`", "min_tokens"),
    "num_return_sequences": Input("INT32", "1 to 128", "n"),
    "temperature": Input("FP32", "0 to 2; 0 is greedy; default 1", "temperature"),
    "top_k": Input("INT32", "0 is all", "top_k"),
    "top_p": Input("FP32", "above 0, up to 1", "top_p"),
    "repetition_penalty": Input("FP32", "above 0, up to 10", "repetition_penalty"),
    "presence_penalty": Input("FP32", "-2 to 2", "presence_penalty"),
    "frequency_penalty": Input("FP32", "-2 to 2", "frequency_penalty"),
    "seed": Input("UINT64", "the same seed gives the same text", "seed"),
    "random_seed": Input("UINT64", "the older name of `seed`", "seed"),
    "stop_words": Input("BYTES", "up to 16; empty ones are left out", "stop", many=True),
    "bad_words": Input("BYTES", "words of one token, which then never come; empty ones are left out", many=True),
    "embedding_bias_words": Input("BYTES", "whose tokens get a bias", many=True),
    "embedding_bias_weights": Input("FP32", "-100 to 100, as many as there are words", many=True),
    "end_id": Input("INT32", "the token that ends an answer instead of the model's own; -1: none does"),
    "pad_id": Input("INT32", "nothing is padded, so it has no effect"),
    "beam_width": Input("INT32", "1: there is no beam search", neutral=(1,)),
    "length_penalty": Input("FP32", "0 or 1: there is no beam search", neutral=(0.0, 1.0)),
    "return_context_logits": Input("BOOL", "false: logits don't come", neutral=(False,)),
    "return_generation_logits": Input("BOOL", "false: logits don't come", neutral=(False,)),
}

NO_EFFECT = frozenset({"pad_id"})

OUTPUTS: dict[str, Output] = {
    "text_output": Output("BYTES", "", "the answer, in a stream a piece of it"),
    "finish_reason": Output("BYTES", "return_finish_reason", "`stop` or `length`; `None` while it goes on"),
    "cumulative_logprob": Output("FP32", "return_cumulative_logprob", "of the answer so far"),
    "logprobs": Output("BYTES", "return_logprobs", "JSON: of each token, with the sampling parameter `logprobs`"),
    "num_input_tokens": Output("UINT32", "return_num_input_tokens", "of the prompt", (1,)),
    "num_output_tokens": Output("UINT32", "return_num_output_tokens", "of this response"),
    "cum_log_probs": Output("FP32", "return_log_probs", "of the answer so far"),
    "output_log_probs": Output("FP32", "return_log_probs", "of this response's tokens; shorter choices end in 0",
                               (-1, -1)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signature:
    """The tensors of one kind of model.

    Attributes:
        inputs: by name.
        outputs: by name.
        refused: inputs that other back ends have, with the reason that this model has not.
        in_rows: its texts may also stand one to a row, as Triton batches them: [texts, 1].
    """

    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    refused: Mapping[str, str] = field(default_factory=dict)
    in_rows: bool = False

    def check_input(self, name: str, datatype: str, shape: Sequence[int]) -> None:
        """Raises InvalidRequestError for a tensor that isn't there, or of another kind, before its data is read."""
        known = self.inputs.get(name)
        if known is None:
            raise self._unknown_input(name)
        if datatype not in known.datatypes:
            raise invalid(name, f"is of the datatype {datatype[:64]!r}; it must be {' or '.join(known.datatypes)}.")
        count = count_elements(name, shape)
        if self.in_rows:
            if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
                raise invalid(name, f"has the shape {list(shape[:8])}; it must be [texts] or [texts, 1].")
        elif len(shape) > 2 or (len(shape) == 2 and shape[0] != 1):
            raise invalid(
                name,
                f"has the shape {list(shape[:8])}; it must be {list(known.shape)}, or the same in a batch of 1. "
                "Requests are batched here as they come: send each text as one.",
            )
        if not known.many and count != 1:
            raise invalid(name, f"has the shape {list(shape)}; it holds one element, so it must be [1] or [1, 1].")
        if count > MAX_ELEMENTS:
            raise invalid(name, f"has the shape {list(shape)}; at most {MAX_ELEMENTS} elements are taken.")

    def check_output(self, name: str) -> None:
        """Raises InvalidRequestError for an output that isn't there."""
        if name not in self.outputs:
            raise InvalidRequestError(
                f"There is no output {name[:256]!r}.{did_you_mean(name, self.outputs)}",
                param="outputs",
                code="unknown_tensor",
            )

    def _unknown_input(self, name: str) -> InvalidRequestError:
        """Of an input that isn't there, with the reason if another back end has it."""
        if name in self.refused:
            return InvalidRequestError(
                f"'{name}' is not supported: {self.refused[name]}.", param=name, code="unsupported_parameter"
            )
        return InvalidRequestError(
            f"There is no input {name[:256]!r}.{did_you_mean(name, self.inputs)}",
            param=name[:256],
            code="unknown_tensor",
        )


TEXT = Signature(INPUTS, OUTPUTS, refused.INPUTS)


def check_value(name: str, values: Sequence[Value]) -> None:
    """Raises InvalidRequestError where an input may only hold what asks for nothing, and doesn't."""
    neutral = INPUTS[name].neutral
    if neutral is not None and any(value not in neutral for value in values):
        raise InvalidRequestError(
            f"'{name}' is not supported: {INPUTS[name].note}.", param=name, code="unsupported_parameter"
        )


def no_tensor_parameter(tensor: str, name: str) -> InvalidRequestError:
    """For a parameter of one tensor that nothing here reads."""
    why = "tensors come with the request here" if name.startswith("shared_memory") else "nothing here reads it"
    return InvalidRequestError(
        f"The parameter {name[:256]!r} of {tensor[:256]!r} is not supported: {why}.",
        param=name[:256],
        code="unsupported_parameter",
    )
