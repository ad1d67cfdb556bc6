//! Products of bfloat16 activations with bfloat16 weights, summed in float32.
//!
//! An instruction adds both products of a pair of inputs to a row's sum, pair after pair: in the same order for every
//! number of rows. How it rounds between them is the processor's business, so paths may differ in the last bits.

use super::{Output, Packed, Part, Product, Tile, ask_ahead, blocks, tiles};
use crate::activations::View;
use crate::format::INPUT_ALIGN;
use crate::simd::avx512::Avx512;
use crate::simd::{LANES, Path, Simd};
use crate::unrolled;
use std::arch::x86_64::{__m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32};
use std::mem::transmute;

struct Bf16Rows;

#[inline(always)]
fn as_bf16(pairs: __m512i) -> __m512bh {
    // SAFETY: the same bits under another name.
    unsafe { transmute(pairs) }
}

impl Product<Avx512> for Bf16Rows {
    #[inline(always)]
    unsafe fn rows<const R: usize>(tile: Tile, x: View, row: usize) -> [__m512; R] {
        let narrow = x.narrow.cast_const().add(row * x.width);
        let mut y = [Avx512::splat(0.0); R];
        for k in (0..tile.groups * INPUT_ALIGN).step_by(2) {
            let weights = tile.weights.add(2 * k * LANES);
            ask_ahead::<Avx512>(weights, 4 * LANES);
            let w = as_bf16(Avx512::load_bytes(weights));
            unrolled!(R, |r| {
                let pair = narrow.add(r * x.width + k).cast::<i32>().read_unaligned();
                y[r] = _mm512_dpbf16_ps(y[r], w, as_bf16(_mm512_set1_epi32(pair)));
            });
        }
        y
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn avx512(matrix: Packed, x: View, part: Part, out: Output) {
    blocks::<Avx512, Bf16Rows>(matrix, x, part, out);
}

/// # Safety
/// As [`super::product`].
pub(super) unsafe fn run(path: Path, matrix: Packed, x: View, part: Part, out: Output) {
    match path {
        Path::Amx => tiles::bf16(matrix, x, part, out),
        _ => avx512(matrix, x, part, out),
    }
}
