//! `penstock._native`: the native CPU runner for Python, and what else is too slow there. Its callers,
//! `penstock/engine/runners/native.py`, `penstock/models/mapped_weights.py` and readers of vocabularies, check what they
//! pass on.

mod adapters;
mod encoder;
mod load;
mod passed;
mod runner;
mod vocabulary;

use passed::contents;
use penstock_cpu::simd::Path;
use penstock_cpu::{Error, finite, kept};
use pyo3::buffer::PyBuffer;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use runner::{PackedWeights, PyPlacement, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind};

create_exception!(penstock._native, NativeError, PyException, "A promise inside the native runner was broken.");
create_exception!(penstock._native, NativeModelError, NativeError, "A model that the native runner can't compute.");
create_exception!(penstock._native, NativeConfigError, NativeError, "A setting that can't be met on this machine.");

fn raise(error: Error) -> PyErr {
    match error {
        Error::Model(text) => NativeModelError::new_err(text),
        Error::Config(text) => NativeConfigError::new_err(text),
        Error::Internal(text) => NativeError::new_err(text),
    }
}

/// Run without the interpreter's lock; a panic becomes an error that `except Exception` catches.
fn detached<T: Send>(py: Python<'_>, job: impl FnOnce() -> penstock_cpu::Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(job))) {
        Ok(result) => result.map_err(raise),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(NativeError::new_err(format!("The native runner panicked: {}", text.unwrap_or("no reason given"))))
        }
    }
}

/// Whether the path that is taken unasked has bfloat16 products on this processor.
#[pyfunction]
fn has_bfloat16() -> bool {
    Path::best().has_bf16_products()
}

/// The instruction path that is taken unasked.
#[pyfunction]
fn best_path() -> &'static str {
    Path::best().name()
}

/// The instruction paths of this processor, best first.
#[pyfunction]
fn supported_paths() -> Vec<&'static str> {
    Path::supported().map(Path::name).collect()
}

/// Whether all weights in `data`, whole blocks of the type `dtype`, are finite numbers.
#[pyfunction]
fn are_finite(py: Python<'_>, dtype: &str, data: PyBuffer<u8>) -> PyResult<bool> {
    if !data.is_c_contiguous() {
        return Err(NativeError::new_err("The bytes to be checked are not in one piece."));
    }
    // SAFETY: it was just checked.
    detached(py, || finite::are_finite(dtype, unsafe { contents(&data) }))
}

/// The native CPU runner.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_class::<PyPlacement>()?;
    module.add_class::<Runner>()?;
    module.add_class::<PackedWeights>()?;
    module.add_class::<encoder::PyEncoder>()?;
    module.add_class::<load::PyGenerator>()?;
    module.add_class::<load::PyStub>()?;
    module.add_function(wrap_pyfunction!(load::load_endings, module)?)?;
    module.add_function(wrap_pyfunction!(are_finite, module)?)?;
    module.add_function(wrap_pyfunction!(vocabulary::end_of_strings, module)?)?;
    module.add_function(wrap_pyfunction!(vocabulary::read_strings, module)?)?;
    module.add_function(wrap_pyfunction!(vocabulary::merges_by_score, module)?)?;
    module.add_function(wrap_pyfunction!(supported_paths, module)?)?;
    module.add_function(wrap_pyfunction!(best_path, module)?)?;
    module.add_function(wrap_pyfunction!(has_bfloat16, module)?)?;
    module.add("PACKED_MAGIC", kept::MAGIC)?;
    module.add("NativeError", py.get_type::<NativeError>())?;
    module.add("NativeModelError", py.get_type::<NativeModelError>())?;
    module.add("NativeConfigError", py.get_type::<NativeConfigError>())?;
    Ok(())
}
