//! Whether stored weights are finite numbers, found without computing them: as fast as memory can be read.

use crate::error::{Error, Result};
use crate::ggml::BlockType;

/// Bytes looked at before it is asked whether all was well so far; a multiple of every float's width.
const PIECE: usize = 1 << 12;

/// Whether all weights in `bytes`, whole blocks of the type that GGML or safetensors call `dtype`, are finite.
///
/// Half floats decide for blocks: a weight is one of them times small integers, at most 2^14 in all, and perhaps
/// another such product. Finite ones never leave the range of float32, and infinities and NaNs never come back to it.
pub fn are_finite(dtype: &str, bytes: &[u8]) -> Result<bool> {
    Ok(match dtype {
        "F32" => all(bytes, |x: [u8; 4]| u32::from_le_bytes(x) & 0x7F80_0000 != 0x7F80_0000),
        "F16" => all(bytes, is_finite_half),
        "BF16" => all(bytes, |x: [u8; 2]| u16::from_le_bytes(x) & 0x7F80 != 0x7F80),
        name => {
            let block = BlockType::from_name(name)
                .ok_or_else(|| Error::Internal(format!("{name} is none of the types that weights are stored as.")))?;
            let halves = block.halves();
            bytes
                .chunks_exact(block.block_bytes())
                .all(|block| halves.iter().all(|&at| is_finite_half([block[at], block[at + 1]])))
        }
    })
}

fn is_finite_half(x: [u8; 2]) -> bool {
    u16::from_le_bytes(x) & 0x7C00 != 0x7C00
}

/// Whether `test` holds for all elements of `N` bytes. Within a piece without leaving early, so that it is vectorized.
fn all<const N: usize>(bytes: &[u8], test: impl Fn([u8; N]) -> bool) -> bool {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.chunks(PIECE / N).all(|piece| piece.iter().fold(true, |so_far, &element| so_far & test(element)))
}
