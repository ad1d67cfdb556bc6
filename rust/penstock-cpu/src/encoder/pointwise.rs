//! What an encoder does to single rows between the products.

use crate::dispatch;
use crate::simd::{LANES, Simd};

/// `rows` of `to` become the bias, or have it added if there is something to `keep`.
#[inline(always)]
unsafe fn bias_generic<S: Simd>(to: *mut f32, stride: usize, rows: usize, bias: &[f32], keep: bool) {
    for row in 0..rows {
        for at in (0..bias.len()).step_by(LANES) {
            let (to, bias) = (to.add(row * stride + at), S::load(bias.as_ptr().add(at)));
            S::store(to, if keep { S::add(S::load(to), bias) } else { bias });
        }
    }
}

/// GELU in place, `x / 2 * (1 + erf(x / sqrt 2))` (Hendrycks and Gimpel, arXiv:1606.08415), of `rows` times `tiles`
/// times sixteen numbers.
///
/// Computed as `max(x, 0) - |x| / 2 * erfc(|x| / sqrt 2)`, which cancels nothing; erfc by Abramowitz and Stegun,
/// "Handbook of Mathematical Functions", 7.1.26, to 1.5e-7.
#[inline(always)]
unsafe fn gelu_generic<S: Simd>(to: *mut f32, stride: usize, rows: usize, tiles: usize) {
    let one = S::splat(1.0);
    for row in 0..rows {
        for tile in 0..tiles {
            let to = to.add(row * stride + tile * LANES);
            let x = S::load(to);
            let size = S::abs(x);
            let z = S::mul(size, S::splat(std::f32::consts::FRAC_1_SQRT_2));
            let t = S::div(one, S::fma(S::splat(0.327_591_1), z, one));
            let mut p = S::splat(1.061_405_4);
            for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
                p = S::fma(p, t, S::splat(c));
            }
            let erfc = S::mul(S::mul(p, t), S::exp(S::mul(S::sub(S::splat(0.0), z), z)));
            // max gives its second operand where one is NaN.
            let positive = S::max(S::splat(0.0), x);
            S::store(to, S::sub(positive, S::mul(S::mul(S::splat(0.5), size), erfc)));
        }
    }
}

/// Layer normalization in place (Ba et al., arXiv:1607.06450) of `rows` as wide as `weight` and `bias`.
#[inline(always)]
unsafe fn layer_norm_generic<S: Simd>(x: *mut f32, stride: usize, rows: usize, weight: &[f32], bias: &[f32], eps: f32) {
    let (width, whole) = (weight.len(), weight.len() / LANES * LANES);
    for row in 0..rows {
        let x = std::slice::from_raw_parts_mut(x.add(row * stride), width);
        let mut sums = S::splat(0.0);
        for at in (0..whole).step_by(LANES) {
            sums = S::add(sums, S::load(x.as_ptr().add(at)));
        }
        let mean = (S::sum(sums) + x[whole..].iter().sum::<f32>()) / width as f32;
        let minus = S::splat(-mean);
        let mut squares = S::splat(0.0);
        for at in (0..whole).step_by(LANES) {
            let off = S::add(S::load(x.as_ptr().add(at)), minus);
            squares = S::fma(off, off, squares);
        }
        let rest: f32 = x[whole..].iter().map(|x| (x - mean) * (x - mean)).sum();
        let scale = 1.0 / ((S::sum(squares) + rest) / width as f32 + eps).sqrt();
        let by = S::splat(scale);
        for at in (0..whole).step_by(LANES) {
            let off = S::mul(S::add(S::load(x.as_ptr().add(at)), minus), by);
            let normed = S::fma(off, S::load(weight.as_ptr().add(at)), S::load(bias.as_ptr().add(at)));
            S::store(x.as_mut_ptr().add(at), normed);
        }
        for at in whole..width {
            x[at] = ((x[at] - mean) * scale).mul_add(weight[at], bias[at]);
        }
    }
}

dispatch!(pub(super) fn bias_rows = bias_generic; (
    to: *mut f32, stride: usize, rows: usize, bias: &[f32], keep: bool
));
dispatch!(pub fn gelu = gelu_generic; (to: *mut f32, stride: usize, rows: usize, tiles: usize));
dispatch!(pub fn layer_norm = layer_norm_generic; (
    x: *mut f32, stride: usize, rows: usize, weight: &[f32], bias: &[f32], eps: f32
));
