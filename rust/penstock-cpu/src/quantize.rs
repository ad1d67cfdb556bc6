//! Float weights rounded to 8 or 4 bits as a model is loaded: `w = scale * (q - zero) + offset` in groups of 32.
//!
//! Eight bits, as Q8_0 has them: the scale is the group's greatest magnitude over 127, rounded up to a half float, so
//! that no weight moves by more than half a scale.
//!
//! Four bits, as Q4_1 has them: scale and offset are sought for the least squared error. Nearest levels for a scale
//! and offset, then the scale and offset that fit these levels best, in turn (Lloyd, "Least squares quantization in
//! PCM", IEEE Transactions on Information Theory 28, 1982, with levels that stay evenly spaced); begun from the whole
//! range of the group and from a narrower one, for cutting off a far weight may serve the others (Choukroun et al.,
//! "Low-bit Quantization of Neural Networks for Efficient Inference", arXiv:1902.06822). Each step is judged with its
//! numbers rounded to half floats, as they are stored, so the result is never worse than the plain range.
//!
//! The same weights give the same numbers on every processor: nothing here depends on its instructions.

use crate::error::Error;
use crate::ggml::{BlockType, Scheme};
use crate::half::{f16_to_f32, f32_to_f16};
use std::str::FromStr;

/// What to round weights to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// 8.5 bits a weight.
    Int8,
    /// 5 bits a weight.
    Int4,
}

const GROUP: usize = 32;
/// Widths that the search for four bits begins from, as shares of the group's range; the whole range first.
const RANGES: [f32; 2] = [1.0, 0.92];
/// How often levels and scales are fitted to each other from each of them. Of normal weights both together take away
/// a sixth of the squared error; more of either takes longer and little more away.
const FITS: usize = 3;

impl Quantization {
    /// How the rounded weights are written down.
    pub fn scheme(self) -> Scheme {
        match self {
            Quantization::Int8 => BlockType::Q8_0.scheme(),
            Quantization::Int4 => BlockType::Q4_1.scheme(),
        }
    }

    /// For embeddings and the vocabulary's head: never fewer than eight bits. A step reads few rows of the one, so
    /// little is gained; what the other loses is in every score, with no later layer to make up for it.
    pub fn for_vocabulary(self) -> Quantization {
        Quantization::Int8
    }

    /// Round a row of weights. `q` has room for whole groups; `scale` and `offset` for a number for each, of which
    /// int8 leaves the offsets as they are.
    ///
    /// False if that can't be done: a weight is NaN, infinite, or too large for scales that are half floats.
    #[must_use]
    pub fn round(self, weights: &[f32], q: &mut [u8], scale: &mut [f32], offset: &mut [f32]) -> bool {
        weights.chunks(GROUP).zip(q.chunks_mut(GROUP)).enumerate().all(|(g, (weights, q))| {
            let done = match self {
                Quantization::Int8 => int8(weights, q).map(|found| scale[g] = found),
                Quantization::Int4 => int4(weights, q).map(|found| (scale[g], offset[g]) = found),
            };
            done.is_some()
        })
    }
}

impl FromStr for Quantization {
    type Err = Error;

    fn from_str(name: &str) -> Result<Quantization, Error> {
        match name {
            "int8" => Ok(Quantization::Int8),
            "int4" => Ok(Quantization::Int4),
            _ => Err(Error::Config(format!("Unknown quantization '{name}': int8 or int4."))),
        }
    }
}

/// A group's scale; `q` becomes the numbers plus 128.
fn int8(weights: &[f32], q: &mut [u8]) -> Option<f32> {
    if !weights.iter().all(|w| w.is_finite()) {
        return None;
    }
    let scale = half_above(weights.iter().fold(0.0, |most: f32, w| most.max(w.abs())) / 127.0);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    q.fill(128);
    for (q, w) in q.iter_mut().zip(weights) {
        *q = (nearest(w * inverse) as i32 + 128) as u8;
    }
    scale.is_finite().then_some(scale)
}

/// A group's scale and offset; `q` becomes its levels, 0 to 15.
fn int4(weights: &[f32], q: &mut [u8]) -> Option<(f32, f32)> {
    let count = weights.len() as f32;
    let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // What lies behind the row's end counts for nothing.
    let live: [f32; GROUP] = std::array::from_fn(|i| if i < weights.len() { 1.0 } else { 0.0 });
    let above: [f32; GROUP] = std::array::from_fn(|i| weights.get(i).map_or(0.0, |w| w - low));
    let total = sum(above);

    let (mut least, mut best, mut chosen) = (f32::INFINITY, None, [0.0; GROUP]);
    for range in RANGES {
        let mut scale = (high - low) * range / 15.0;
        let mut offset = (high - low) * (1.0 - range) / 2.0; // above `low`
        for _ in 0..=FITS {
            let stored = (half(scale), half(low + offset));
            let inverse = if stored.0 > 0.0 { 1.0 / stored.0 } else { 0.0 };
            let from = stored.1 - low;
            let levels = above.map(|w| nearest(((w - from) * inverse).clamp(0.0, 15.0)));
            let error = sum(std::array::from_fn(|i| {
                let off = above[i] - (stored.0 * levels[i] + from);
                live[i] * off * off
            }));
            // A NaN or an infinity anywhere makes the error one, which is less than nothing.
            if error < least {
                (least, best, chosen) = (error, Some(stored), levels);
            }
            let first = sum(std::array::from_fn(|i| live[i] * levels[i]));
            let second = sum(std::array::from_fn(|i| live[i] * levels[i] * levels[i]));
            let mixed = sum(std::array::from_fn(|i| levels[i] * above[i]));
            let spread = count * second - first * first;
            if spread <= 0.0 {
                break; // all on one level
            }
            scale = (count * mixed - first * total) / spread;
            offset = (total - scale * first) / count;
        }
    }
    for (q, level) in q.iter_mut().zip(chosen) {
        *q = level as u8;
    }
    best
}

/// Eight sums side by side, which the compiler can keep in registers, then those.
fn sum(terms: [f32; GROUP]) -> f32 {
    let mut sums = [0.0; 8];
    for terms in terms.chunks_exact(8) {
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    sums.iter().sum()
}

/// The nearest integer, ties to even, of less than 2^22: there is no room for fractions beside 1.5 * 2^23. (`round`
/// calls the C library where the baseline's instructions lack it.)
fn nearest(x: f32) -> f32 {
    x + 12_582_912.0 - 12_582_912.0
}

fn half(x: f32) -> f32 {
    f16_to_f32(f32_to_f16(x))
}

/// The least half float that is not below `x`, which is not negative.
fn half_above(x: f32) -> f32 {
    let bits = f32_to_f16(x);
    if f16_to_f32(bits) < x { f16_to_f32(bits + 1) } else { f16_to_f32(bits) }
}
