//! What Python passes on: a model's sizes and tensors, how to choose tokens; and what it gets back.

use crate::{NativeError, NativeModelError};
use penstock_cpu::Error;
use penstock_cpu::model::{Activation, Sizes, Tensors};
use penstock_cpu::sampler::{Choice, Logprobs, Scored};
use penstock_cpu::stored::Stored;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use std::collections::HashMap;

/// A model's sizes and switches by their names in `ModelSpec`, and the rotation of layers with a window.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct PySizes {
    vocab_size: usize,
    hidden_size: usize,
    ffn_size: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    rms_norm_eps: f32,
    sliding_window: Option<usize>,
    global_layers: Vec<usize>,
    local_frequencies: Vec<f32>,
    query_scalar: Option<f32>,
    embedding_scale: f32,
    #[pyo3(from_py_with = activation_from)]
    activation: Activation,
    post_norms: bool,
    tied_embeddings: bool,
    qkv_bias: bool,
    qk_norm: bool,
}

fn activation_from(name: &Bound<'_, PyAny>) -> PyResult<Activation> {
    match name.extract::<&str>()? {
        "silu" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        other => Err(NativeModelError::new_err(format!("The native runner knows no activation '{other}'."))),
    }
}

impl From<PySizes> for Sizes {
    fn from(s: PySizes) -> Sizes {
        Sizes {
            vocab: s.vocab_size,
            hidden: s.hidden_size,
            ffn: s.ffn_size,
            layers: s.n_layers,
            heads: s.n_heads,
            kv_heads: s.n_kv_heads,
            head_dim: s.head_dim,
            eps: s.rms_norm_eps,
            window: s.sliding_window,
            global_layers: s.global_layers,
            local_frequencies: s.local_frequencies,
            query_scalar: s.query_scalar,
            embedding_scale: s.embedding_scale,
            activation: s.activation,
            post_norms: s.post_norms,
            tied: s.tied_embeddings,
            qkv_bias: s.qkv_bias,
            qk_norm: s.qk_norm,
        }
    }
}

/// Tensors in Python's memory, which the buffers keep where it is.
pub(crate) struct Buffers(PyTensors);

/// For each canonical name the type's name, the shape and the bytes.
pub(crate) type PyTensors = HashMap<String, (String, Vec<usize>, PyBuffer<u8>)>;

impl Buffers {
    pub(crate) fn new(tensors: PyTensors) -> PyResult<Buffers> {
        match tensors.iter().find(|(_, t)| !t.2.is_c_contiguous()) {
            Some((name, _)) => Err(NativeError::new_err(format!("The bytes of {name} are not in one piece."))),
            None => Ok(Buffers(tensors)),
        }
    }
}

impl Tensors for Buffers {
    fn get(&self, name: &str) -> penstock_cpu::Result<Stored<'_>> {
        let missing = || Error::Model(format!("The model has no tensor {name}."));
        let (name, (dtype, shape, buffer)) = self.0.get_key_value(name).ok_or_else(missing)?;
        let (outputs, inputs) = match shape[..] {
            [outputs, inputs] => (outputs, inputs),
            [inputs] => (1, inputs),
            _ => return Err(Error::Model(format!("{name} has {} dimensions, not one or two.", shape.len()))),
        };
        // SAFETY: it was checked when it was taken.
        Ok(Stored { name, dtype, outputs, inputs, bytes: unsafe { contents(buffer) }, quantization: None })
    }
}

/// The bytes of weights, which nobody writes.
///
/// # Safety
/// The buffer is contiguous.
pub(crate) unsafe fn contents(buffer: &PyBuffer<u8>) -> &[u8] {
    std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes())
}

/// Temperature, top-k, top-p, min-p, uniform number, log probabilities; bias, banned ids, repetition penalty, ids it
/// is for, amounts to subtract, bits of the allowed tokens.
pub(crate) type PyChoice = (
    f32,
    usize,
    f32,
    f32,
    f64,
    Option<usize>,
    Vec<(u32, f32)>,
    Vec<u32>,
    f32,
    Vec<u32>,
    Vec<(u32, f32)>,
    Option<PyBackedBytes>,
);
/// Token ids, position of the first, block table; how to choose the tokens after the last so many of them; ids to be
/// scored after each position and how many alternatives.
pub(crate) type PyShare = (Vec<u32>, usize, Vec<u32>, Vec<PyChoice>, Vec<u32>, usize);
pub(crate) type PyLogprobs = (Scored, Vec<Scored>);
/// Whether all values were finite; the chosen tokens and their log probabilities; scores of the prompt.
pub(crate) type PyAnswer = (bool, Vec<(Option<u32>, Option<PyLogprobs>)>, Vec<PyLogprobs>);

pub(crate) fn choice_from(c: PyChoice) -> Choice {
    Choice {
        temperature: c.0,
        top_k: c.1,
        top_p: c.2,
        min_p: c.3,
        point: c.4,
        logprobs: c.5,
        bias: c.6,
        banned: c.7,
        repetition: c.8,
        seen: c.9,
        subtracted: c.10,
        allowed: c.11.map(|bits| bits.to_vec()),
    }
}

pub(crate) fn plain(logprobs: Logprobs) -> PyLogprobs {
    (logprobs.chosen, logprobs.top)
}
