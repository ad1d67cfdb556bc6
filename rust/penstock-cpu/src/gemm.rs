//! Products of activations with packed weights, a tile of sixteen outputs for a few rows at a time.
//!
//! Whatever the number of rows, a row's output is the same sum in the same order: over groups from the first to the
//! last, each group's integer dot product (which is exact) times both scales, fused into the sum. So the result does
//! not depend on the batch, on the chunk of a prompt, on the number of threads or on the path. (Products of bfloat16 with
//! bfloat16 do depend on the path, see `bf16.rs`.)

#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod tiles;

use crate::activations::{Form, GROUP, Group, Precision, ROWS, Rest, View};
use crate::format::{Format, INPUT_ALIGN};
use crate::ggml::Scheme;
use crate::matrix::Matrix;
use crate::simd::{LANES, Path, Simd};
use crate::{dispatch, unrolled};

/// What one call computes: a matrix's tiles `first_tile .. first_tile + tiles` for rows `first_row .. first_row + rows`.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The first tile.
    pub first_tile: usize,
    /// How many.
    pub tiles: usize,
    /// The first row of the activations, a multiple of four.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// How many of them are computed together at most: 4, 8, 12 or 16. A path that has room for fewer takes fewer.
    pub together: usize,
}

/// Where outputs go: row r of the activations, output o, to `to[(r - origin) * stride + o - 16 * first_tile]`.
#[derive(Clone, Copy)]
pub struct Output {
    /// The first row's first output.
    pub to: *mut f32,
    /// float32 between two rows; whole tiles are written, padding outputs included.
    pub stride: usize,
    /// Add to what is there.
    pub accumulate: bool,
}

/// The groups of a tile for one row after the other, as one step of the product takes them.
#[derive(Clone, Copy)]
struct Tile {
    weights: *const u8,
    groups: usize,
    group_bytes: usize,
    zero: f32,
}

/// How far ahead of its arithmetic a product asks for weights. What comes from memory comes sooner than the processor
/// would ask by itself, whose prefetchers stop where a page ends; where it lies in a cache, asking costs next to nothing.
const AHEAD: usize = 4096;

/// Ask for what comes after the weights at `from`.
#[inline(always)]
unsafe fn ask_ahead<S: Simd>(from: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        S::prefetch(from.wrapping_add(AHEAD + line));
    }
}

#[inline(always)]
unsafe fn load_scale<S: Simd, const HALF: bool>(from: *const u8) -> S::F {
    if HALF { S::load_f16(from.cast()) } else { S::load(from.cast()) }
}

/// Where a group's scales and offsets begin, and where it ends.
const fn parts_of_group(bits: u32, len: usize, offsets: bool, half: bool) -> (usize, usize, usize) {
    let scales_at = LANES * len * bits as usize / 8;
    let offsets_at = scales_at + LANES * if half { 2 } else { 4 };
    (scales_at, offsets_at, if offsets { 2 * offsets_at - scales_at } else { offsets_at })
}

/// The numbers of a group, four inputs a vector. For a group of sixteen only the first four are used.
#[inline(always)]
unsafe fn unpack<S: Simd, const BITS: u32, const LEN: usize>(from: *const u8) -> [S::I; 8] {
    let mut quads = [S::zero_i(); 8];
    if BITS == 4 {
        for i in 0..4 {
            let both = S::load_bytes(from.add(64 * i));
            quads[i] = S::low_nibbles(both);
            quads[i + 4] = S::high_nibbles(both);
        }
    } else {
        for (i, quad) in quads.iter_mut().enumerate().take(LEN / 4) {
            *quad = S::load_bytes(from.add(64 * i));
        }
    }
    quads
}

/// A group of a tile as int8 products take it.
struct Int8Group<S: Simd> {
    quads: [S::I; 8],
    scale: S::F,
    offset: S::F,
    minus_zero: S::F,
}

impl<S: Simd> Int8Group<S> {
    #[inline(always)]
    unsafe fn load<const BITS: u32, const LEN: usize, const OFFSETS: bool, const HALF: bool>(
        tile: Tile,
        g: usize,
    ) -> Int8Group<S> {
        let (scales_at, offsets_at, _) = parts_of_group(BITS, LEN, OFFSETS, HALF);
        let from = tile.weights.add(g * tile.group_bytes);
        let scale = load_scale::<S, HALF>(from.add(scales_at));
        Int8Group {
            quads: unpack::<S, BITS, LEN>(from),
            scale,
            offset: if OFFSETS { load_scale::<S, HALF>(from.add(offsets_at)) } else { scale },
            minus_zero: S::splat(-tile.zero),
        }
    }

    #[inline(always)]
    unsafe fn dot<const LEN: usize>(&self, q: *const i8) -> S::I {
        let mut dot = S::zero_i();
        for (j, quad) in self.quads.iter().enumerate().take(LEN / 4) {
            dot = S::dot(dot, *quad, q.add(4 * j));
        }
        dot
    }
}

/// Add a group's integer dot product, and what rounding left of it, to a row's sum `y`. The row is the `r`th of its
/// four; `half` is the part of the activations' group, where the weights' groups are of sixteen.
#[inline(always)]
unsafe fn add_group<S: Simd, const LEN: usize, const OFFSETS: bool>(
    y: S::F,
    dot: S::I,
    w: &Int8Group<S>,
    group: *const Group,
    rest: *const Rest,
    r: usize,
    half: usize,
) -> S::F {
    let dot = S::to_f32(dot);
    let step = S::mul(w.scale, S::splat((*group).scale[r]));
    let y = if OFFSETS {
        let sum = if LEN == GROUP { (*group).scaled_sum[r] } else { (*group).scaled_half_sum[r][half] };
        S::fma(w.offset, S::splat(sum), S::fma(dot, step, y))
    } else {
        let sum = if LEN == GROUP { (*group).sum[r] } else { (*group).half_sum[r][half] };
        // Whole numbers below 2^24: exact.
        S::fma(S::fma(w.minus_zero, S::splat(sum), dot), step, y)
    };
    if !(*group).has_rest[r] {
        return y;
    }
    let mut dot = S::to_f32(w.dot::<LEN>((&raw const (*rest).q[r]).cast::<i8>().add(half * LEN)));
    if !OFFSETS {
        let sums = (*rest).half_sum[r];
        let sum = if LEN == GROUP { sums[0] + sums[1] } else { sums[half] };
        dot = S::fma(w.minus_zero, S::splat(sum), dot);
    }
    S::fma(dot, S::mul(w.scale, S::splat((*rest).scale[r])), y)
}

/// `R` rows times one tile, from int8 activations. `row` is a multiple of four.
#[inline(always)]
unsafe fn int8_rows<
    S: Simd,
    const BITS: u32,
    const LEN: usize,
    const OFFSETS: bool,
    const HALF: bool,
    const R: usize,
>(
    tile: Tile,
    x: View,
    row: usize,
) -> [S::F; R] {
    let per_row = x.width / GROUP;
    let groups = x.groups.cast_const().add(row / ROWS * per_row);
    let rests = x.rests.cast_const().add(row / ROWS * per_row);
    let (_, _, end) = parts_of_group(BITS, LEN, OFFSETS, HALF);
    let mut y = [S::splat(0.0); R];
    for g in 0..tile.groups {
        ask_ahead::<S>(tile.weights.add(g * tile.group_bytes), end);
        let w = Int8Group::<S>::load::<BITS, LEN, OFFSETS, HALF>(tile, g);
        let (at, half) = (g * LEN / GROUP, g % (GROUP / LEN));
        let (first, first_rest) = (groups.add(at), rests.add(at));
        unrolled!(R, |r| {
            let (group, rest) = (first.add(r / ROWS * per_row), first_rest.add(r / ROWS * per_row));
            let dot = w.dot::<LEN>((&raw const (*group).q[r % ROWS]).cast::<i8>().add(half * LEN));
            y[r] = add_group::<S, LEN, OFFSETS>(y[r], dot, &w, group, rest, r % ROWS, half);
        });
    }
    y
}

/// `R` rows times one tile of quantized weights, from float32 activations.
#[inline(always)]
unsafe fn wide_rows<
    S: Simd,
    const BITS: u32,
    const LEN: usize,
    const OFFSETS: bool,
    const HALF: bool,
    const R: usize,
>(
    tile: Tile,
    x: View,
    row: usize,
) -> [S::F; R] {
    let (scales_at, offsets_at, end) = parts_of_group(BITS, LEN, OFFSETS, HALF);
    let wide = x.wide.add(row * x.width);
    let mut y = [S::splat(0.0); R];
    for g in 0..tile.groups {
        let group = tile.weights.add(g * tile.group_bytes);
        ask_ahead::<S>(group, end);
        let quads = unpack::<S, BITS, LEN>(group);
        let d = load_scale::<S, HALF>(group.add(scales_at));
        let offset =
            if OFFSETS { load_scale::<S, HALF>(group.add(offsets_at)) } else { S::mul(S::splat(-tile.zero), d) };
        for (j, &quad) in quads.iter().enumerate().take(LEN / 4) {
            let weights = [
                S::fma(d, S::byte::<0>(quad), offset),
                S::fma(d, S::byte::<1>(quad), offset),
                S::fma(d, S::byte::<2>(quad), offset),
                S::fma(d, S::byte::<3>(quad), offset),
            ];
            unrolled!(R, |r| {
                let numbers = wide.add(r * x.width + g * LEN + 4 * j);
                for (i, &w) in weights.iter().enumerate() {
                    y[r] = S::fma(w, S::splat(*numbers.add(i)), y[r]);
                }
            });
        }
    }
    y
}

/// float32, bfloat16 and half floats, as numbers a const generic can take.
const F32: u8 = 0;
const BF16: u8 = 1;
const F16: u8 = 2;

/// `R` rows times one tile of float weights, from float32 activations.
#[inline(always)]
unsafe fn float_rows<S: Simd, const KIND: u8, const R: usize>(tile: Tile, x: View, row: usize) -> [S::F; R] {
    let wide = x.wide.add(row * x.width);
    let mut y = [S::splat(0.0); R];
    for k in (0..tile.groups * INPUT_ALIGN).step_by(2) {
        let at = k * LANES;
        let width = if KIND == F32 { 4 } else { 2 };
        ask_ahead::<S>(tile.weights.add(at * width), 2 * LANES * width);
        let (first, second) = match KIND {
            F32 => {
                let weights = tile.weights.cast::<f32>().add(at);
                (S::load(weights), S::load(weights.add(LANES)))
            }
            BF16 => S::load_bf16_pairs(tile.weights.cast::<u16>().add(at)),
            _ => {
                let weights = tile.weights.cast::<u16>().add(at);
                (S::load_f16(weights), S::load_f16(weights.add(LANES)))
            }
        };
        unrolled!(R, |r| {
            let numbers = wide.add(r * x.width + k);
            y[r] = S::fma(second, S::splat(*numbers.add(1)), S::fma(first, S::splat(*numbers), y[r]));
        });
    }
    y
}

#[inline(always)]
unsafe fn write<S: Simd, const R: usize>(y: [S::F; R], to: *mut f32, out: Output) {
    for (r, y) in y.into_iter().enumerate() {
        let to = to.add(r * out.stride);
        S::store(to, if out.accumulate { S::add(S::load(to), y) } else { y });
    }
}

/// A way to multiply a tile.
trait Product<S: Simd> {
    /// `R` rows times one tile.
    unsafe fn rows<const R: usize>(tile: Tile, x: View, row: usize) -> [S::F; R];
}

struct Int8Rows<const BITS: u32, const LEN: usize, const OFFSETS: bool, const HALF: bool>;
struct WideRows<const BITS: u32, const LEN: usize, const OFFSETS: bool, const HALF: bool>;
struct FloatRows<const KIND: u8>;

impl<S: Simd, const BITS: u32, const LEN: usize, const OFFSETS: bool, const HALF: bool> Product<S>
    for Int8Rows<BITS, LEN, OFFSETS, HALF>
{
    #[inline(always)]
    unsafe fn rows<const R: usize>(tile: Tile, x: View, row: usize) -> [S::F; R] {
        int8_rows::<S, BITS, LEN, OFFSETS, HALF, R>(tile, x, row)
    }
}

impl<S: Simd, const BITS: u32, const LEN: usize, const OFFSETS: bool, const HALF: bool> Product<S>
    for WideRows<BITS, LEN, OFFSETS, HALF>
{
    #[inline(always)]
    unsafe fn rows<const R: usize>(tile: Tile, x: View, row: usize) -> [S::F; R] {
        wide_rows::<S, BITS, LEN, OFFSETS, HALF, R>(tile, x, row)
    }
}

impl<S: Simd, const KIND: u8> Product<S> for FloatRows<KIND> {
    #[inline(always)]
    unsafe fn rows<const R: usize>(tile: Tile, x: View, row: usize) -> [S::F; R] {
        float_rows::<S, KIND, R>(tile, x, row)
    }
}

/// A matrix as the kernels see it.
#[derive(Clone, Copy)]
struct Packed {
    data: *const u8,
    tile_bytes: usize,
    groups: usize,
    group_bytes: usize,
    zero: f32,
}

impl Packed {
    #[inline(always)]
    unsafe fn tile(&self, index: usize) -> Tile {
        let weights = self.data.add(index * self.tile_bytes);
        Tile { weights, groups: self.groups, group_bytes: self.group_bytes, zero: self.zero }
    }
}

/// Go through a part's rows in blocks as large as the path likes, and for each through its tiles.
#[inline(always)]
unsafe fn blocks<S: Simd, P: Product<S>>(matrix: Packed, x: View, part: Part, out: Output) {
    let most = S::ROWS.min(part.together);
    let mut done = 0;
    while done < part.rows {
        let left = part.rows - done;
        let block = match left {
            12.. if most >= 12 => 12,
            8.. if most >= 8 => 8,
            4.. => 4,
            few => few, // all that is left: a block begins at a multiple of four
        };
        let row = part.first_row + done;
        for t in 0..part.tiles {
            let tile = matrix.tile(part.first_tile + t);
            let to = out.to.add(done * out.stride + t * LANES);
            match block {
                12 => write::<S, 12>(P::rows::<12>(tile, x, row), to, out),
                8 => write::<S, 8>(P::rows::<8>(tile, x, row), to, out),
                4 => write::<S, 4>(P::rows::<4>(tile, x, row), to, out),
                3 => write::<S, 3>(P::rows::<3>(tile, x, row), to, out),
                2 => write::<S, 2>(P::rows::<2>(tile, x, row), to, out),
                _ => write::<S, 1>(P::rows::<1>(tile, x, row), to, out),
            }
        }
        done += block;
    }
}

macro_rules! quantized_kernel {
    ($name:ident, $bits:literal, $len:literal, $offsets:literal, $half:literal) => {
        mod $name {
            use super::*;
            #[inline(always)]
            unsafe fn generic<S: Simd>(matrix: Packed, x: View, int8: bool, part: Part, out: Output) {
                if int8 {
                    blocks::<S, Int8Rows<$bits, $len, $offsets, $half>>(matrix, x, part, out);
                } else {
                    blocks::<S, WideRows<$bits, $len, $offsets, $half>>(matrix, x, part, out);
                }
            }
            dispatch!(fn rows = generic; (matrix: Packed, x: View, int8: bool, part: Part, out: Output));

            pub(super) unsafe fn run(path: Path, matrix: Packed, x: View, int8: bool, part: Part, out: Output) {
                #[cfg(target_arch = "x86_64")]
                let (part, out) = match path {
                    Path::Amx if int8 && part.together >= LANES => tiles::int8_blocks::<$bits, $len, $offsets, $half>(matrix, x, part, out),
                    _ => (part, out),
                };
                rows(path, matrix, x, int8, part, out);
            }
        }
    };
}

quantized_kernel!(q4_offset_half, 4, 32, true, true);
quantized_kernel!(q4_offset_wide, 4, 32, true, false);
quantized_kernel!(q4_zero_half, 4, 32, false, true);
quantized_kernel!(q8_offset_half, 8, 32, true, true);
quantized_kernel!(q8_offset_wide, 8, 32, true, false);
quantized_kernel!(q8_zero_half, 8, 32, false, true);
quantized_kernel!(q8_offset_wide_16, 8, 16, true, false);
quantized_kernel!(q8_zero_wide_16, 8, 16, false, false);

macro_rules! float_kernel {
    ($name:ident, $kind:ident) => {
        mod $name {
            use super::*;
            #[inline(always)]
            unsafe fn generic<S: Simd>(matrix: Packed, x: View, part: Part, out: Output) {
                blocks::<S, FloatRows<$kind>>(matrix, x, part, out);
            }
            dispatch!(pub(super) fn run = generic; (matrix: Packed, x: View, part: Part, out: Output));
        }
    };
}

float_kernel!(float32, F32);
float_kernel!(bfloat16, BF16);
float_kernel!(half_float, F16);

/// Compute a part of `x * matrix^T`.
///
/// # Safety
/// The path must be supported and, for [`Precision::Bf16`], have bfloat16 products; `x` hold the part's rows with
/// `matrix.inputs` numbers each in the form that [`Matrix::takes`] names; and `out` have room for the part.
pub unsafe fn product(path: Path, matrix: &Matrix, x: View, precision: Precision, part: Part, out: Output) {
    debug_assert_eq!(x.width, matrix.inputs.next_multiple_of(INPUT_ALIGN));
    debug_assert!(part.first_tile + part.tiles <= matrix.tiles());
    if part.tiles == 0 || part.rows == 0 {
        return;
    }
    let mut packed = Packed {
        data: matrix.tile(0),
        tile_bytes: matrix.tile_bytes(),
        groups: matrix.groups(),
        group_bytes: matrix.format.group_bytes(),
        zero: 0.0,
    };
    let form = matrix.takes(precision);
    let scheme = match matrix.format {
        #[cfg(target_arch = "x86_64")]
        Format::Bf16 if form == Form::Bf16 => return bf16::run(path, packed, x, part, out),
        Format::F32 => return float32::run(path, packed, x, part, out),
        Format::Bf16 => return bfloat16::run(path, packed, x, part, out),
        Format::F16 => return half_float::run(path, packed, x, part, out),
        Format::Quantized(scheme) => scheme,
    };
    let run = match scheme {
        Scheme { bits: 4, zero: None, half_scales: true, .. } => q4_offset_half::run,
        Scheme { bits: 4, zero: None, half_scales: false, .. } => q4_offset_wide::run,
        Scheme { bits: 4, zero: Some(_), .. } => q4_zero_half::run,
        Scheme { group: 32, zero: None, half_scales: true, .. } => q8_offset_half::run,
        Scheme { group: 32, zero: None, half_scales: false, .. } => q8_offset_wide::run,
        Scheme { group: 32, zero: Some(_), .. } => q8_zero_half::run,
        Scheme { zero: None, .. } => q8_offset_wide_16::run,
        Scheme { zero: Some(_), .. } => q8_zero_wide_16::run,
    };
    packed.zero = scheme.zero.map_or(0.0, f32::from);
    run(path, packed, x, form == Form::Int8, part, out);
}
