//! Attention of a text to itself, one head at a time: every token sees all others.

use crate::simd::{LANES, Simd};
use crate::{dispatch, unrolled};

/// Queries that are computed together.
const ROWS: usize = 4;

/// One head of one text. Rows of `q`, `k` and `v` have the same stride.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) q: *const f32,
    pub(super) k: *const f32,
    pub(super) v: *const f32,
    pub(super) stride: usize,
    pub(super) length: usize,
    pub(super) dim: usize,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
}

/// Numbers that [`attend`] needs room for: keys `[dim, length]`, values `[length, dim]`, and the scores and results of a
/// few queries, each padded to whole vectors, keys to two.
pub(super) fn scratch_len(length: usize, dim: usize) -> usize {
    let (across, along) = (length.next_multiple_of(2 * LANES), dim.next_multiple_of(LANES));
    dim * across + length * along + ROWS * across
}

/// Where the parts of the scratch are, and how wide.
#[derive(Clone, Copy)]
struct Room {
    keys: *mut f32,
    across: usize,
    values: *mut f32,
    along: usize,
    scores: *mut f32,
}

#[inline(always)]
unsafe fn attend_generic<S: Simd>(heads: Heads, scratch: &mut [f32]) {
    let Heads { length, dim, .. } = heads;
    let (across, along) = (length.next_multiple_of(2 * LANES), dim.next_multiple_of(LANES));
    let keys = scratch.as_mut_ptr();
    let values = keys.add(dim * across);
    let room = Room { keys, across, values, along, scores: values.add(length * along) };
    for row in 0..length {
        let (k, v) = (heads.k.add(row * heads.stride), heads.v.add(row * heads.stride));
        for at in 0..dim {
            *keys.add(at * across + row) = *k.add(at);
        }
        std::ptr::copy_nonoverlapping(v, values.add(row * along), dim);
    }
    let mut row = 0;
    while row < length {
        match length - row {
            ROWS.. => rows::<S, ROWS>(heads, room, row),
            3 => rows::<S, 3>(heads, room, row),
            2 => rows::<S, 2>(heads, room, row),
            _ => rows::<S, 1>(heads, room, row),
        }
        row += ROWS;
    }
}

/// `R` queries from `first` on.
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize>(heads: Heads, room: Room, first: usize) {
    let Heads { length, dim, .. } = heads;
    let scale = S::splat(1.0 / (dim as f32).sqrt());
    let q = heads.q.add(first * heads.stride);
    for tile in (0..room.across).step_by(2 * LANES) {
        let mut dots = [[S::splat(0.0); 2]; R];
        for at in 0..dim {
            let keys = room.keys.add(at * room.across + tile);
            let (one, two) = (S::load(keys), S::load(keys.add(LANES)));
            unrolled!(few R, |r| {
                let x = S::splat(*q.add(r * heads.stride + at));
                dots[r] = [S::fma(x, one, dots[r][0]), S::fma(x, two, dots[r][1])];
            });
        }
        for (r, dots) in dots.into_iter().enumerate() {
            let to = room.scores.add(r * room.across + tile);
            S::store(to, S::mul(dots[0], scale));
            S::store(to.add(LANES), S::mul(dots[1], scale));
        }
    }
    let mut inverse = [0f32; R];
    for (r, inverse) in inverse.iter_mut().enumerate() {
        *inverse =
            1.0 / softmax::<S>(std::slice::from_raw_parts_mut(room.scores.add(r * room.across), room.across), length);
    }
    for tile in (0..room.along).step_by(LANES) {
        let mut sums = [S::splat(0.0); R];
        for key in 0..length {
            let value = S::load(room.values.add(key * room.along + tile));
            unrolled!(few R, |r| {
                sums[r] = S::fma(S::splat(*room.scores.add(r * room.across + key)), value, sums[r]);
            });
        }
        for (r, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0f32; LANES];
            S::store(lanes.as_mut_ptr(), S::mul(sum, S::splat(inverse[r])));
            let to = heads.to.add((first + r) * heads.to_stride + tile);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, LANES.min(dim - tile));
        }
    }
}

/// Scores to powers in place, those past `length` to zero; the sum of the powers.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: &mut [f32], length: usize) -> f32 {
    scores[length..].fill(f32::NEG_INFINITY);
    let mut most = S::splat(f32::NEG_INFINITY);
    for at in (0..scores.len()).step_by(LANES) {
        most = S::max(S::load(scores.as_ptr().add(at)), most);
    }
    let most = S::splat(S::greatest(most));
    for at in (0..scores.len()).step_by(LANES) {
        let at = scores.as_mut_ptr().add(at);
        S::store(at, S::exp(S::sub(S::load(at), most)));
    }
    scores[length..].fill(0.0);
    let mut sums = S::splat(0.0);
    for at in (0..scores.len()).step_by(LANES) {
        sums = S::add(sums, S::load(scores.as_ptr().add(at)));
    }
    S::sum(sums)
}

dispatch!(pub(super) fn attend = attend_generic; (heads: Heads, scratch: &mut [f32]));
