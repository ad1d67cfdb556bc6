//! What happens to single rows between the products: rotary embedding, and what the feed-forward's gate does.

use crate::dispatch;
use crate::simd::{LANES, Path, Simd};

/// Cosines and sines of every position, `[positions, head_dim / 2]` each (Su et al., RoFormer, arXiv:2104.09864).
pub struct Rotary {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// Tables for positions 0 to `positions - 1`, from the radians per position of each rotated pair.
    pub fn new(frequencies: &[f32], positions: usize) -> Rotary {
        let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        Rotary {
            half: frequencies.len(),
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
        }
    }

    /// How many positions there are tables for.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Rotate heads that lie side by side in place: element j of each pairs with j + head_dim / 2.
    ///
    /// # Panics
    /// If there is no such position.
    ///
    /// # Safety
    /// The path must be supported.
    pub unsafe fn rotate(&self, path: Path, heads: &mut [f32], position: usize) {
        let half = self.half;
        rotate_heads(path, heads, &self.cos[position * half..][..half], &self.sin[position * half..][..half]);
    }
}

/// Plain Rust, which is compiled for each path's registers.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn rotate_generic<S: Simd>(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    for head in heads.chunks_exact_mut(2 * cos.len()) {
        let (low, high) = head.split_at_mut(cos.len());
        for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

/// RMSNorm of one head in place, as Qwen3 and Gemma 3 do before rotating.
pub fn norm_head(head: &mut [f32], weight: &[f32], eps: f32) {
    let mean = head.iter().map(|x| x * x).sum::<f32>() / head.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (x, w) in head.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}

/// `gate * sigmoid(gate) * up` (Shazeer, arXiv:2002.05202) of `rows` times sixteen numbers.
#[inline(always)]
unsafe fn swiglu_generic<S: Simd>(
    gate: *const f32,
    up: *const f32,
    stride: usize,
    rows: usize,
    to: *mut f32,
    to_stride: usize,
) {
    for r in 0..rows {
        let (g, u) = (S::load(gate.add(r * stride)), S::load(up.add(r * stride)));
        S::store(to.add(r * to_stride), S::mul(S::mul(g, sigmoid::<S>(g)), u));
    }
}

/// `gelu(gate) * up` of `rows` times sixteen numbers, with the approximation by tanh (Hendrycks and Gimpel,
/// arXiv:1606.08415): `x / 2 * (1 + tanh(y))`, which is `x * sigmoid(2 y)`, for `y = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
unsafe fn geglu_generic<S: Simd>(
    gate: *const f32,
    up: *const f32,
    stride: usize,
    rows: usize,
    to: *mut f32,
    to_stride: usize,
) {
    const ROOT: f32 = 2.0 * 0.797_884_6; // 2 sqrt(2 / pi)
    for r in 0..rows {
        let (g, u) = (S::load(gate.add(r * stride)), S::load(up.add(r * stride)));
        let inner = S::mul(g, S::fma(S::mul(g, g), S::splat(ROOT * 0.044_715), S::splat(ROOT)));
        S::store(to.add(r * to_stride), S::mul(S::mul(g, sigmoid::<S>(inner)), u));
    }
}

#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    let one = S::splat(1.0);
    S::div(one, S::add(one, S::exp(S::sub(S::splat(0.0), x))))
}

/// The greatest number and where it stands first; (-inf, 0) if all are NaN or -inf.
#[inline(always)]
unsafe fn argmax_generic<S: Simd>(x: &[f32]) -> (f32, usize) {
    let whole = x.len() / LANES * LANES;
    let mut most = S::splat(f32::NEG_INFINITY);
    for i in (0..whole).step_by(LANES) {
        most = S::max(S::load(x.as_ptr().add(i)), most);
    }
    let greatest = x[whole..].iter().copied().fold(S::greatest(most), f32::max);
    (greatest, x.iter().position(|&v| v == greatest).unwrap_or(0))
}

dispatch!(pub fn swiglu = swiglu_generic; (
    gate: *const f32, up: *const f32, stride: usize, rows: usize, to: *mut f32, to_stride: usize
));
dispatch!(pub fn geglu = geglu_generic; (
    gate: *const f32, up: *const f32, stride: usize, rows: usize, to: *mut f32, to_stride: usize
));
dispatch!(fn rotate_heads = rotate_generic; (heads: &mut [f32], cos: &[f32], sin: &[f32]));
dispatch!(pub fn argmax = argmax_generic; (x: &[f32]) -> (f32, usize));
