//! Products of float32 rows with packed float32 weights, rows and tiles of outputs together as registers allow.
//!
//! An output is the same sum in the same order whatever stands beside it: over inputs, from the first to the last.

use crate::matrix::Matrix;
use crate::simd::{LANES, Path, Simd};
use crate::{dispatch, unrolled};

/// How far ahead of its arithmetic a product asks for weights, in float32.
const AHEAD: usize = 1024;

/// What one call computes: for each of `rows` the outputs of `tiles`, added to what is there.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) x: *const f32,
    pub(super) x_stride: usize,
    pub(super) rows: usize,
    pub(super) first_tile: usize,
    pub(super) tiles: usize,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
}

/// A matrix as the kernels see it.
#[derive(Clone, Copy)]
struct Packed {
    weights: *const f32,
    per_tile: usize, // float32
    inputs: usize,
}

#[inline(always)]
unsafe fn add_generic<S: Simd>(packed: Packed, piece: Piece) {
    // Blocks of equal size: with a small one at the end, its few sums would wait for each other.
    let blocks = piece.rows.div_ceil(S::ROWS);
    for block in 0..blocks {
        let (first, end) = (piece.rows * block / blocks, piece.rows * (block + 1) / blocks);
        let at = Piece {
            x: piece.x.add(first * piece.x_stride),
            rows: end - first,
            to: piece.to.add(first * piece.to_stride),
            ..piece
        };
        match at.rows {
            1 => tiles::<S, 1>(packed, at),
            2 => tiles::<S, 2>(packed, at),
            3 => tiles::<S, 3>(packed, at),
            4 => tiles::<S, 4>(packed, at),
            5 if S::ROWS >= 5 => tiles::<S, 5>(packed, at),
            6 if S::ROWS >= 6 => tiles::<S, 6>(packed, at),
            7 if S::ROWS >= 7 => tiles::<S, 7>(packed, at),
            8 if S::ROWS >= 8 => tiles::<S, 8>(packed, at),
            9 if S::ROWS >= 9 => tiles::<S, 9>(packed, at),
            10 if S::ROWS >= 10 => tiles::<S, 10>(packed, at),
            11 if S::ROWS >= 11 => tiles::<S, 11>(packed, at),
            _ => tiles::<S, 12>(packed, at),
        }
    }
}

/// `R` rows through all tiles: of few rows four tiles together, of more two, where there are registers for them.
#[inline(always)]
unsafe fn tiles<S: Simd, const R: usize>(packed: Packed, piece: Piece) {
    let mut tile = 0;
    if S::ROWS >= 12 {
        if R <= 5 {
            while tile + 4 <= piece.tiles {
                sums::<S, R, 4>(packed, piece, tile);
                tile += 4;
            }
        }
        while tile + 2 <= piece.tiles {
            sums::<S, R, 2>(packed, piece, tile);
            tile += 2;
        }
    }
    while tile < piece.tiles {
        sums::<S, R, 1>(packed, piece, tile);
        tile += 1;
    }
}

#[inline(always)]
unsafe fn sums<S: Simd, const R: usize, const T: usize>(packed: Packed, piece: Piece, tile: usize) {
    let weights = packed.weights.add((piece.first_tile + tile) * packed.per_tile);
    let mut y = [[S::splat(0.0); T]; R];
    for k in 0..packed.inputs {
        let mut w = [S::splat(0.0); T];
        unrolled!(few T, |t| {
            let from = weights.add(t * packed.per_tile + k * LANES);
            S::prefetch(from.wrapping_add(AHEAD).cast());
            w[t] = S::load(from);
        });
        unrolled!(R, |r| {
            let x = S::splat(*piece.x.add(r * piece.x_stride + k));
            unrolled!(few T, |t| {
                y[r][t] = S::fma(w[t], x, y[r][t]);
            });
        });
    }
    for (r, y) in y.into_iter().enumerate() {
        for (t, y) in y.into_iter().enumerate() {
            let to = piece.to.add(r * piece.to_stride + (tile + t) * LANES);
            S::store(to, S::add(S::load(to), y));
        }
    }
}

dispatch!(fn add = add_generic; (packed: Packed, piece: Piece));

/// Add a piece of `x * matrix^T`, of a matrix of float32 with rows of `x` as long as its inputs with their padding.
///
/// # Safety
/// The path must be supported, and the piece lie within what its pointers point to.
pub(super) unsafe fn add_product(path: Path, matrix: &Matrix, piece: Piece) {
    let per_tile = matrix.tile_bytes() / size_of::<f32>();
    add(path, Packed { weights: matrix.tile(0).cast(), per_tile, inputs: per_tile / LANES }, piece);
}
