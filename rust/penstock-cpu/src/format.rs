//! How packed weights are stored in memory.

use crate::activations::GROUP;
use crate::ggml::Scheme;
use crate::simd::LANES;

/// Inputs are padded to a multiple of this: whole groups, of activations and of any weights.
pub const INPUT_ALIGN: usize = GROUP;

/// How the weights of a matrix are stored in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Numbers of 4 or 8 bits with scales for each group.
    Quantized(Scheme),
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half floats.
    F16,
}

impl Format {
    /// Bytes of one tile's group of [`Format::group`] inputs.
    pub fn group_bytes(self) -> usize {
        match self {
            Format::Quantized(s) => {
                let scales = if s.zero.is_some() { 1 } else { 2 };
                LANES * s.group * s.bits as usize / 8 + scales * LANES * if s.half_scales { 2 } else { 4 }
            }
            Format::F32 => LANES * INPUT_ALIGN * 4,
            Format::Bf16 | Format::F16 => LANES * INPUT_ALIGN * 2,
        }
    }

    /// Inputs of a group.
    pub fn group(self) -> usize {
        match self {
            Format::Quantized(s) => s.group,
            _ => INPUT_ALIGN,
        }
    }

    /// The narrowest format that holds the weights of both without loss.
    pub(crate) fn with(self, other: Format) -> Format {
        match (self, other) {
            (a, b) if a == b => a,
            (Format::Quantized(a), Format::Quantized(b)) => {
                let group = a.group.min(b.group);
                Format::Quantized(Scheme {
                    bits: if group < INPUT_ALIGN { 8 } else { a.bits.max(b.bits) },
                    group,
                    zero: if a.zero == b.zero { a.zero } else { None },
                    half_scales: a.half_scales && b.half_scales && a.zero == b.zero,
                })
            }
            _ => Format::F32,
        }
    }
}
