//! GGML's quantized blocks, taken apart into unsigned numbers, scales and offsets: `w = scale * (q - zero) + offset`.
//!
//! Layouts after `ggml-common.h` and `ggml-quants.c` of the GGML library. Every sequence of bytes is a valid block:
//! nothing here can fail or read out of bounds, whatever a file holds.

use crate::half::f16_to_f32;

/// A quantized type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types)]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// How a type's weights are written down once taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// Bits that hold every `q`: 4 or 8.
    pub bits: u32,
    /// Weights that share a scale: 16 or 32.
    pub group: usize,
    /// What is subtracted from `q`; without one each group has an offset.
    pub zero: Option<u8>,
    /// Whether scales and offsets are half floats in the file, and so lose nothing when kept as such.
    pub half_scales: bool,
}

impl BlockType {
    /// The type that GGUF calls by this name.
    pub fn from_name(name: &str) -> Option<BlockType> {
        Some(match name {
            "Q4_0" => BlockType::Q4_0,
            "Q4_1" => BlockType::Q4_1,
            "Q5_0" => BlockType::Q5_0,
            "Q5_1" => BlockType::Q5_1,
            "Q8_0" => BlockType::Q8_0,
            "Q2_K" => BlockType::Q2_K,
            "Q3_K" => BlockType::Q3_K,
            "Q4_K" => BlockType::Q4_K,
            "Q5_K" => BlockType::Q5_K,
            "Q6_K" => BlockType::Q6_K,
            _ => return None,
        })
    }

    /// Weights of a block.
    pub fn block_len(self) -> usize {
        match self {
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => 32,
            _ => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            BlockType::Q4_0 => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::Q2_K => 84,
            BlockType::Q3_K => 110,
            BlockType::Q4_K => 144,
            BlockType::Q5_K => 176,
            BlockType::Q6_K => 210,
        }
    }

    /// Where in a block its half floats begin: all that isn't a small integer.
    pub fn halves(self) -> &'static [usize] {
        match self {
            BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => &[0],
            BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4_K | BlockType::Q5_K => &[0, 2],
            BlockType::Q2_K => &[80, 82],
            BlockType::Q3_K => &[108],
            BlockType::Q6_K => &[208],
        }
    }

    /// How its weights come out of [`BlockType::take_apart`].
    pub fn scheme(self) -> Scheme {
        let (bits, group, zero, half_scales) = match self {
            BlockType::Q4_0 => (4, 32, Some(8), true),
            BlockType::Q4_1 => (4, 32, None, true),
            BlockType::Q5_0 => (8, 32, Some(16), true),
            BlockType::Q5_1 => (8, 32, None, true),
            BlockType::Q8_0 => (8, 32, Some(128), true),
            BlockType::Q2_K => (8, 16, None, false),
            BlockType::Q3_K => (8, 16, Some(4), false),
            BlockType::Q4_K => (4, 32, None, false),
            BlockType::Q5_K => (8, 32, None, false),
            BlockType::Q6_K => (8, 16, Some(32), false),
        };
        Scheme { bits, group, zero, half_scales }
    }

    /// Take one block apart.
    ///
    /// `block` has `block_bytes()` bytes, `q` room for `block_len()`; `scale` and `offset` have room for a number
    /// for each group. Offsets stay as they are where the scheme has a zero.
    ///
    /// # Panics
    /// If a slice is shorter than that.
    pub fn take_apart(self, block: &[u8], q: &mut [u8], scale: &mut [f32], offset: &mut [f32]) {
        match self {
            BlockType::Q4_0 => {
                scale[0] = half(block, 0);
                nibbles(&block[2..18], q);
            }
            BlockType::Q4_1 => {
                scale[0] = half(block, 0);
                offset[0] = half(block, 2);
                nibbles(&block[4..20], q);
            }
            BlockType::Q5_0 => {
                scale[0] = half(block, 0);
                nibbles(&block[6..22], q);
                fifth_bits(&block[2..6], q);
            }
            BlockType::Q5_1 => {
                scale[0] = half(block, 0);
                offset[0] = half(block, 2);
                nibbles(&block[8..24], q);
                fifth_bits(&block[4..8], q);
            }
            BlockType::Q8_0 => {
                scale[0] = half(block, 0);
                for (q, &byte) in q[..32].iter_mut().zip(&block[2..34]) {
                    *q = byte ^ 0x80; // two's complement plus 128
                }
            }
            BlockType::Q2_K => {
                let (d, least) = (half(block, 80), half(block, 82));
                for (g, &both) in block[..16].iter().enumerate() {
                    scale[g] = d * f32::from(both & 0x0F);
                    offset[g] = -(least * f32::from(both >> 4));
                }
                two_bits(&block[16..80], q);
            }
            BlockType::Q3_K => {
                let d = half(block, 108);
                for g in 0..16 {
                    let low = if g < 8 { block[96 + g] & 0x0F } else { block[96 + g - 8] >> 4 };
                    let high = block[104 + g % 4] >> (2 * (g / 4)) & 3;
                    scale[g] = d * (f32::from(low | high << 4) - 32.0);
                }
                two_bits(&block[32..96], q);
                for (i, q) in q[..256].iter_mut().enumerate() {
                    *q += (block[i % 32] >> (i / 32) & 1) << 2;
                }
            }
            BlockType::Q4_K => {
                k_scales(block, scale, offset);
                paired_nibbles(&block[16..144], q);
            }
            BlockType::Q5_K => {
                k_scales(block, scale, offset);
                paired_nibbles(&block[48..176], q);
                for (i, q) in q[..256].iter_mut().enumerate() {
                    *q += (block[16 + i % 32] >> (i / 32) & 1) << 4;
                }
            }
            BlockType::Q6_K => {
                let d = half(block, 208);
                for (scale, &byte) in scale[..16].iter_mut().zip(&block[192..208]) {
                    *scale = d * f32::from(byte as i8);
                }
                for (i, q) in q[..256].iter_mut().enumerate() {
                    let (n, quarter, l) = (i / 128, i / 32 % 4, i % 32);
                    let low = block[64 * n + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 0x0F;
                    let high = block[128 + 32 * n + l] >> (2 * quarter) & 3;
                    *q = low | high << 4;
                }
            }
        }
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Sixteen bytes: their low halves, then their high halves.
fn nibbles(bytes: &[u8], q: &mut [u8]) {
    for (i, &byte) in bytes.iter().enumerate() {
        q[i] = byte & 0x0F;
        q[i + 16] = byte >> 4;
    }
}

/// Bit i of the four bytes is the fifth bit of weight i.
fn fifth_bits(bytes: &[u8], q: &mut [u8]) {
    for (i, q) in q[..32].iter_mut().enumerate() {
        *q |= (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Two halves of 32 bytes: of each the lowest two bits of all, then the next two, four times.
fn two_bits(bytes: &[u8], q: &mut [u8]) {
    for (i, q) in q[..256].iter_mut().enumerate() {
        *q = bytes[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3;
    }
}

/// Runs of 32 bytes: of each the low halves, then the high halves.
fn paired_nibbles(bytes: &[u8], q: &mut [u8]) {
    for (i, q) in q[..256].iter_mut().enumerate() {
        *q = bytes[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 0x0F;
    }
}

/// Q4_K's and Q5_K's eight scales and minima of six bits each, in twelve bytes after the two half floats.
fn k_scales(block: &[u8], scale: &mut [f32], offset: &mut [f32]) {
    let (d, least) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    for g in 0..8 {
        let (s, m) = if g < 4 {
            (packed[g] & 63, packed[g + 4] & 63)
        } else {
            (packed[g + 4] & 0x0F | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4)
        };
        scale[g] = d * f32::from(s);
        offset[g] = -(least * f32::from(m));
    }
}
