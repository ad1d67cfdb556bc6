//! The native encoder for Python.

use crate::passed::{Buffers, PyTensors};
use crate::runner::{PyPlacement, path_named};
use crate::{NativeError, detached, raise};
use penstock_cpu::encoder::{Encoder, Head, Pooling, Sizes, Texts};
use penstock_cpu::pool::Pool;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A model's sizes by their names in `EncoderSpec`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct PyEncoderSizes {
    vocab_size: usize,
    hidden_size: usize,
    ffn_size: usize,
    n_layers: usize,
    n_heads: usize,
    norm_eps: f32,
    first_position: usize,
    max_length: usize,
}

impl From<PyEncoderSizes> for Sizes {
    fn from(s: PyEncoderSizes) -> Sizes {
        Sizes {
            vocab: s.vocab_size,
            hidden: s.hidden_size,
            ffn: s.ffn_size,
            layers: s.n_layers,
            heads: s.n_heads,
            eps: s.norm_eps,
            first_position: s.first_position,
            longest: s.max_length,
        }
    }
}

/// One encoder on this machine's processor.
#[pyclass(name = "Encoder", module = "penstock._native")]
pub(crate) struct PyEncoder(Encoder);

#[pymethods]
impl PyEncoder {
    /// Pack the weights. `head` are the names of a classifying head's two products and the number of classes; `path` is
    /// as a runner's.
    #[new]
    #[pyo3(signature = (placement, sizes, tensors, head=None, path=None))]
    fn new(
        py: Python<'_>,
        placement: &PyPlacement,
        sizes: PyEncoderSizes,
        tensors: PyTensors,
        head: Option<(String, String, usize)>,
        path: Option<&str>,
    ) -> PyResult<PyEncoder> {
        let tensors = Buffers::new(tensors)?;
        let path = path_named(path, false)?;
        let head = head.map(|(first, last, classes)| Head { first, last, classes });
        let pool = Pool::placed(placement.0.clone()).map_err(raise)?;
        detached(py, || Encoder::new(path, pool, sizes.into(), head, &tensors)).map(PyEncoder)
    }

    /// float32 `[texts, size]` of texts that lie one behind the other, as `EncoderSession.run` has them before they are
    /// normed: ids and types are int32 in the machine's byte order, `pooling` is "mean", "cls", "last" or "max".
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        ids: &[u8],
        types: &[u8],
        lengths: Vec<usize>,
        pooling: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let pooling = match pooling {
            "mean" => Pooling::Mean,
            "cls" => Pooling::Cls,
            "last" => Pooling::Last,
            "max" => Pooling::Max,
            other => return Err(NativeError::new_err(format!("Unknown pooling '{other}'."))),
        };
        let (ids, types) = (numbers(ids), numbers(types));
        let encoder = &mut self.0;
        let vectors =
            detached(py, move || encoder.run(Texts { ids: &ids, types: &types, lengths: &lengths }, pooling))?;
        PyBytes::new_with(py, 4 * vectors.len(), |to| {
            for (to, number) in to.chunks_exact_mut(4).zip(&vectors) {
                to.copy_from_slice(&number.to_ne_bytes());
            }
            Ok(())
        })
    }
}

fn numbers(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks().0.iter().map(|&number| i32::from_ne_bytes(number)).collect()
}
