"""One encoder in onnxruntime: padded batches of token ids in, one float32 vector a text out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from penstock.core.errors import ModelFileError
from penstock.engine.encoders.results import activate, unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from penstock.engine.encoders.results import Floats, Ids
    from penstock.models.encoder_spec import EncoderSpec

SPIN_MICROSECONDS = 30
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_DTYPES: dict[str, type[np.integer[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
# What a graph calls its result, by what the model is for, in the order of preference.
_POOLED = ("sentence_embedding",)
_HIDDEN = ("last_hidden_state", "token_embeddings", "hidden_states", "output_0")
_LOGITS = ("logits", "output_0")
_NO_GAIN = ["SkipLayerNormFusion"]  # the fused operator takes longer on a CPU than its parts


class EncoderSession:
    """An encoder that has been loaded. One thread calls it.

    Args:
        spec: what the model is.
        directory: its files.
        threads: that compute one batch together.

    Raises:
        ModelFileError: onnxruntime can't load it, or its inputs or outputs are not an encoder's.
    """

    pads = True

    def __init__(self, spec: EncoderSpec, directory: Path, threads: int) -> None:
        self._spec = spec
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A short text's operators take less time than waking a thread does. One that waits for longer than the steps
        # between two shares take has nothing to do: whoever computes beside this needs the core more.
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
        path = directory / spec.file
        model: str | bytes = str(path)
        if spec.drawn:
            from penstock.engine.encoders.bert import draw

            model, weights = draw(spec, path)
            self._weights = weights  # the session computes with these very bytes
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            options.add_external_initializers(list(weights), values)
        try:
            self._session = ort.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], disabled_optimizers=_NO_GAIN
            )
        except Exception as error:  # the library raises a class for each status, with no base of their own
            raise ModelFileError(f"{path}: onnxruntime can't load it ({str(error)[:300]}).") from error
        self._inputs = self._checked_inputs(path)
        self._output, self._is_hidden = self._checked_output(path)

    def run(self, token_ids: Sequence[Ids], type_ids: Sequence[Ids]) -> Floats:
        """Vectors [texts, size] of some texts: embeddings, or scores by class.

        Args:
            token_ids: of each text, [length].
            type_ids: of each text, of the same lengths.
        """
        lengths = np.array([len(ids) for ids in token_ids])
        ids, types, mask = _padded(token_ids, type_ids, lengths)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        feed = {name: given[name].astype(dtype, copy=False) for name, dtype in self._inputs.items()}
        output: Floats = self._session.run([self._output], feed)[0].astype(np.float32, copy=False)
        with np.errstate(all="ignore"):  # what isn't finite is found by who asked
            if self._spec.kind != "embedder":
                return activate(output, self._spec.activation)
            pooled = self._pool(output, mask, lengths) if self._is_hidden else output
            return unit(pooled) if self._spec.normalize else pooled

    def _pool(self, hidden: Floats, mask: Ids, lengths: NDArray[Any]) -> Floats:
        """[texts, size] of hidden states [texts, length, size]."""
        pooled: Floats
        match self._spec.pooling:
            case "cls":
                return hidden[:, 0]
            case "last":
                pooled = hidden[np.arange(len(hidden)), lengths - 1]
            case "max":
                pooled = np.where(mask[:, :, None] > 0, hidden, -np.inf).max(axis=1)
            case "mean":
                shares = mask.astype(np.float32) / lengths[:, None].astype(np.float32)
                pooled = np.matmul(shares[:, None, :], hidden)[:, 0]
        return pooled

    def _checked_inputs(self, path: Path) -> dict[str, type[np.integer[Any]]]:
        found = {each.name: each.type for each in self._session.get_inputs()}
        wrong = [name for name, kind in found.items() if name not in _INPUTS or kind not in _DTYPES]
        if wrong or "input_ids" not in found:
            raise ModelFileError(
                f"{path} takes {', '.join(found)}; an encoder takes integers called {', '.join(_INPUTS)}."
            )
        return {name: _DTYPES[kind] for name, kind in found.items()}

    def _checked_output(self, path: Path) -> tuple[str, bool]:
        """The output's name, and whether it holds a vector for each token."""
        found = {each.name: len(each.shape) for each in self._session.get_outputs()}
        for names, dims in ((_POOLED, 2), (_HIDDEN, 3)) if self._spec.kind == "embedder" else ((_LOGITS, 2),):
            for name in names:
                if found.get(name) == dims:
                    return name, dims == 3
        wanted = "last_hidden_state or sentence_embedding" if self._spec.kind == "embedder" else "logits"
        raise ModelFileError(f"{path} gives {', '.join(found)}, and the model is a {self._spec.kind}: {wanted} is due.")


def _padded(token_ids: Sequence[Ids], type_ids: Sequence[Ids], lengths: NDArray[Any]) -> tuple[Ids, Ids, Ids]:
    """Token ids, type ids and the mask, each [texts, longest]."""
    if len(token_ids) == 1:
        ids = token_ids[0][None]
        return ids, type_ids[0][None], np.ones_like(ids)
    shape = (len(token_ids), int(lengths.max()))
    ids, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, (own, own_types) in enumerate(zip(token_ids, type_ids, strict=True)):
        ids[row, : len(own)] = own
        types[row, : len(own)] = own_types
    return ids, types, (np.arange(shape[1]) < lengths[:, None]).astype(np.int32)
