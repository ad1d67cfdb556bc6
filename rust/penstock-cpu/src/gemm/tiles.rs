//! Products of sixteen rows at a time on AMX tiles.
//!
//! int8: a tile instruction multiplies the numbers of a group for all sixteen rows and outputs at once. What comes out
//! are the whole numbers that other paths compute, and scales are applied by the same function; so all bits are theirs.
//!
//! bfloat16: tiles hold the sums. An instruction adds up 16 pairs of inputs on its own, unlike any other, so tiles serve
//! every number of rows.

use super::{Int8Group, Output, Packed, Part, Tile, add_group, write};
use crate::activations::{GROUP, Group, ROWS, View};
use crate::format::INPUT_ALIGN;
use crate::simd::amx::{self, Shape, Tiles};
use crate::simd::avx512::Avx512;
use crate::simd::{LANES, Simd};
use crate::unrolled;
use std::arch::x86_64::{_mm512_load_si512, _mm512_loadu_si512, _mm512_store_si512};

/// Rows of a block.
const BLOCK: usize = amx::ROWS;

/// What a tile instruction reads and writes for one group.
#[repr(C, align(64))]
struct Scratch {
    x: [[i8; GROUP]; BLOCK],
    weights: [[u8; amx::ROW_BYTES]; GROUP / 4],
    dots: [[i32; LANES]; BLOCK],
}

/// A block of rows times one tile of outputs.
#[inline(always)]
unsafe fn int8_block<const BITS: u32, const LEN: usize, const OFFSETS: bool, const HALF: bool>(
    tiles: &Tiles,
    scratch: &mut Scratch,
    tile: Tile,
    x: View,
    row: usize,
) -> [<Avx512 as Simd>::F; BLOCK] {
    const R: usize = BLOCK;
    let per_row = x.width / GROUP;
    let groups = x.groups.cast_const().add(row / ROWS * per_row);
    let rests = x.rests.cast_const().add(row / ROWS * per_row);
    let mut y = [Avx512::splat(0.0); R];
    for g in 0..tile.groups {
        let w = Int8Group::<Avx512>::load::<BITS, LEN, OFFSETS, HALF>(tile, g);
        let (at, half) = (g * LEN / GROUP, g % (GROUP / LEN));
        if half == 0 {
            for (i, four) in scratch.x.as_flattened_mut().chunks_exact_mut(ROWS * GROUP).enumerate() {
                let from = (&raw const (*groups.add(i * per_row + at)).q).cast::<i8>();
                for byte in (0..ROWS * GROUP).step_by(64) {
                    _mm512_store_si512(four.as_mut_ptr().add(byte).cast(), _mm512_loadu_si512(from.add(byte).cast()));
                }
            }
        }
        let weights = if BITS == 8 {
            tile.weights.add(g * tile.group_bytes)
        } else {
            for (to, quad) in scratch.weights.iter_mut().zip(w.quads) {
                _mm512_store_si512(to.as_mut_ptr().cast(), quad);
            }
            scratch.weights.as_ptr().cast()
        };
        let from = scratch.x.as_ptr().cast::<i8>().add(half * LEN);
        tiles.multiply_bytes(scratch.dots.as_mut_ptr().cast(), from, GROUP, weights);
        unrolled!(R, |r| {
            let dot = _mm512_load_si512(scratch.dots[r].as_ptr().cast());
            let (group, rest): (*const Group, _) =
                (groups.add(r / ROWS * per_row + at), rests.add(r / ROWS * per_row + at));
            y[r] = add_group::<Avx512, LEN, OFFSETS>(y[r], dot, &w, group, rest, r % ROWS, half);
        });
    }
    y
}

/// Compute the rows of a part that fill whole blocks. What is left to do comes back.
///
/// # Safety
/// As [`super::product`]; AMX must be supported.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn int8_blocks<const BITS: u32, const LEN: usize, const OFFSETS: bool, const HALF: bool>(
    matrix: Packed,
    x: View,
    part: Part,
    out: Output,
) -> (Part, Output) {
    let done = part.rows / BLOCK * BLOCK;
    if done > 0 {
        let tiles = Tiles::configure(&[
            Shape { rows: BLOCK, row_bytes: amx::ROW_BYTES },
            Shape { rows: BLOCK, row_bytes: LEN },
            Shape { rows: LEN / 4, row_bytes: amx::ROW_BYTES },
        ]);
        let mut scratch =
            Scratch { x: [[0; GROUP]; BLOCK], weights: [[0; amx::ROW_BYTES]; GROUP / 4], dots: [[0; LANES]; BLOCK] };
        for block in (0..done).step_by(BLOCK) {
            for t in 0..part.tiles {
                let tile = matrix.tile(part.first_tile + t);
                let row = part.first_row + block;
                let y = int8_block::<BITS, LEN, OFFSETS, HALF>(&tiles, &mut scratch, tile, x, row);
                write::<Avx512, BLOCK>(y, out.to.add(block * out.stride + t * LANES), out);
            }
        }
    }
    let left = Part { first_row: part.first_row + done, rows: part.rows - done, ..part };
    (left, Output { to: out.to.add(done * out.stride), ..out })
}

/// Tiles of outputs whose sums are kept side by side, so that none waits for its last instruction.
const TOGETHER: usize = 4;

/// Compute a part from bfloat16. The last rows have smaller tiles, which changes no sum.
///
/// # Safety
/// As [`super::product`]; AMX must be supported.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn bf16(matrix: Packed, x: View, part: Part, out: Output) {
    let whole = part.rows / BLOCK * BLOCK;
    for (from, to, rows) in [(0, whole, BLOCK), (whole, part.rows, part.rows - whole)] {
        if from == to {
            continue;
        }
        let [of_rows, of_pairs] = [rows, INPUT_ALIGN / 2].map(|rows| Shape { rows, row_bytes: amx::ROW_BYTES });
        let tiles = Tiles::configure(&[of_rows, of_rows, of_rows, of_rows, of_rows, of_pairs, of_pairs, of_pairs]);
        let mut t = 0;
        while t < part.tiles {
            let count = if part.tiles - t < TOGETHER { 1 } else { TOGETHER };
            for row in (from..to).step_by(BLOCK) {
                let narrow = x.narrow.cast_const().add((part.first_row + row) * x.width);
                let weights: [_; TOGETHER] =
                    std::array::from_fn(|i| matrix.data.add((part.first_tile + t + i % count) * matrix.tile_bytes));
                let mut sums = Sums([[[0.0; LANES]; BLOCK]; TOGETHER]);
                let to = sums.0.as_mut_ptr().cast();
                match count {
                    TOGETHER => tiles.multiply_bf16_by_four(to, narrow, 2 * x.width, weights, matrix.groups),
                    _ => tiles.multiply_bf16(to, narrow, 2 * x.width, weights[0], matrix.groups),
                }
                for (i, tile) in sums.0[..count].iter().enumerate() {
                    for (r, sums) in tile[..rows].iter().enumerate() {
                        let to = out.to.add((row + r) * out.stride + (t + i) * LANES);
                        write::<Avx512, 1>([Avx512::load(sums.as_ptr())], to, out);
                    }
                }
            }
            t += count;
        }
    }
}

#[repr(C, align(64))]
struct Sums([[[f32; LANES]; BLOCK]; TOGETHER]);
