//! Adapters as Python hands them over.

use crate::{NativeError, contents};
use penstock_cpu::lora::{Adapter, Pair, Pairs};
use penstock_cpu::stored::Stored;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

/// A matrix: the type's name, outputs and inputs, and the bytes.
type PyMatrix = (String, (usize, usize), PyBuffer<u8>);
/// For each module by its canonical name the scale, and both matrices.
pub type PyPairs = HashMap<String, (f32, PyMatrix, PyMatrix)>;

/// An adapter's matrices in Python's memory, which the buffers keep where it is.
pub struct PairBuffers(PyPairs);

impl PairBuffers {
    pub fn new(pairs: PyPairs) -> PyResult<PairBuffers> {
        let whole = |matrix: &PyMatrix| matrix.2.is_c_contiguous();
        match pairs.iter().find(|(_, (_, a, b))| !whole(a) || !whole(b)) {
            Some((name, _)) => Err(NativeError::new_err(format!("The bytes of {name} are not in one piece."))),
            None => Ok(PairBuffers(pairs)),
        }
    }
}

impl Pairs for PairBuffers {
    fn get(&self, module: &str) -> penstock_cpu::Result<Option<Pair<'_>>> {
        let Some((name, (scale, a, b))) = self.0.get_key_value(module) else { return Ok(None) };
        Ok(Some(Pair { a: matrix(name, a), b: matrix(name, b), scale: *scale }))
    }
}

fn matrix<'a>(name: &'a str, (dtype, (outputs, inputs), buffer): &'a PyMatrix) -> Stored<'a> {
    // SAFETY: it was checked when it was taken that they are in one piece.
    let bytes = unsafe { contents(buffer) };
    Stored { name, dtype, outputs: *outputs, inputs: *inputs, bytes, quantization: None }
}

/// The adapters of `shares` shares by their numbers, 0 for none; empty if none has any.
pub fn find(
    loaded: &HashMap<u32, Arc<Adapter>>,
    numbers: &[u32],
    shares: usize,
) -> PyResult<Vec<Option<Arc<Adapter>>>> {
    if numbers.iter().all(|&number| number == 0) {
        return Ok(Vec::new());
    }
    if numbers.len() != shares {
        return Err(NativeError::new_err(format!("There are {} adapters for {shares} sequences.", numbers.len())));
    }
    let find = |&number: &u32| match (number, loaded.get(&number)) {
        (0, _) => Ok(None),
        (_, Some(adapter)) => Ok(Some(Arc::clone(adapter))),
        (_, None) => Err(NativeError::new_err(format!("There is no adapter {number}."))),
    };
    numbers.iter().map(find).collect()
}
