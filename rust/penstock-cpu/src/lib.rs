//! Penstock's native CPU runner: packed weights, kernels for what the processor has, a thread pool, a paged KV cache,
//! and sampling.
//!
//! A row's numbers never depend on its company: not on the batch, the chunk of a prompt, the number of threads or the
//! instruction path, but for products of bfloat16, which each path rounds in its own way. Every kernel is written once
//! over [`simd::Simd`], but for those and for products on tiles.

pub mod activations;
pub mod affinity;
pub mod arena;
pub mod attention;
pub mod encoder;
pub mod error;
pub mod finite;
pub mod format;
pub mod gemm;
pub mod ggml;
pub mod half;
pub mod kept;
pub mod kv_cache;
pub mod lora;
pub mod matrix;
pub mod memory;
pub mod model;
pub mod peak;
pub mod phases;
pub mod pointwise;
pub mod pool;
mod products;
pub mod quantize;
pub mod sampler;
pub mod simd;
pub mod stepper;
pub mod stored;
pub mod topology;
pub mod tuner;

pub use error::{Error, Result};
