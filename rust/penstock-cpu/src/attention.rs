//! Paged attention of a few queries of one sequence over one KV head, decode and prefill alike, with an exact online
//! softmax (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135).
//!
//! The context is gone through in splits of a fixed number of strips, counted from the sequence's beginning, so a
//! query's sums have one order, whichever queries it is computed with.

use crate::kv_cache::{KvCache, KvType};
use crate::simd::{LANES, Path, Simd};
use crate::{dispatch, unrolled};

/// Strips of sixteen keys between two rescalings.
const SPLIT: usize = 16;
/// Rows of scores computed together.
const ROWS: usize = 12;

/// Queries of one sequence that share a KV head: `positions` tokens times `group` heads.
#[derive(Clone, Copy)]
pub struct Queries {
    /// The layer and the KV head.
    pub layer: usize,
    /// See `layer`.
    pub head: usize,
    /// The sequence's blocks.
    pub table: *const u32,
    /// The first query's position.
    pub start: usize,
    /// How many tokens.
    pub positions: usize,
    /// Query heads of the KV head.
    pub group: usize,
    /// The first token's first query, float32 `[positions, stride]`; a token's heads lie side by side.
    pub q: *const f32,
    /// float32 between two tokens of `q`.
    pub q_stride: usize,
    /// Where results go, laid out like `q`.
    pub out: *mut f32,
    /// float32 between two tokens of `out`.
    pub out_stride: usize,
    /// Tokens each query sees, itself included; `usize::MAX`: all.
    pub window: usize,
    /// What scores are multiplied with.
    pub scale: f32,
}

/// How many tokens with `group` query heads are best computed together.
pub fn positions_together(group: usize) -> usize {
    (ROWS / group).max(1)
}

/// Memory of one thread.
#[derive(Default)]
pub struct Scratch {
    queries: Vec<f32>, // [head_dim, rows]
    scores: Vec<f32>,  // [rows, SPLIT * LANES]
    sums: Vec<f32>,    // [rows, value_width]
    greatest: Vec<f32>,
    total: Vec<f32>,
    factor: Vec<f32>,
}

impl Scratch {
    /// Make room for `rows` queries.
    pub fn resize(&mut self, rows: usize, head_dim: usize) {
        let width = head_dim.next_multiple_of(LANES);
        self.queries.resize(rows * head_dim, 0.0);
        self.scores.resize(rows * SPLIT * LANES, 0.0);
        self.sums.resize(rows * width, 0.0);
        self.greatest.resize(rows, 0.0);
        self.total.resize(rows, 0.0);
        self.factor.resize(rows, 0.0);
    }
}

#[inline(always)]
unsafe fn load<S: Simd, const HALF: bool>(from: *const u8, at: usize) -> S::F {
    if HALF { S::load_f16(from.cast::<u16>().add(at)) } else { S::load(from.cast::<f32>().add(at)) }
}

/// Scores of `R` queries with the sixteen keys of a strip.
#[inline(always)]
unsafe fn score<S: Simd, const HALF: bool, const R: usize>(
    strip: *const u8,
    head_dim: usize,
    q: *const f32,
    q_stride: usize,
    scale: f32,
    to: *mut f32,
) {
    let mut y = [S::splat(0.0); R];
    for d in 0..head_dim {
        let keys = load::<S, HALF>(strip, d * LANES);
        let q = q.add(d * q_stride);
        unrolled!(R, |r| {
            y[r] = S::fma(keys, S::splat(*q.add(r)), y[r]);
        });
    }
    for (r, y) in y.into_iter().enumerate() {
        S::store(to.add(r * SPLIT * LANES), S::mul(y, S::splat(scale)));
    }
}

/// One vector of `R` weighted sums of values: `sums = sums * factor + weights * values`.
#[inline(always)]
unsafe fn weigh<S: Simd, const HALF: bool, const R: usize>(
    strips: &[(*const u8, usize)],
    values_at: usize,
    width: usize,
    weights: *const f32,
    factor: *const f32,
    sums: *mut f32,
) {
    let mut y = [S::splat(0.0); R];
    for (s, &(strip, lanes)) in strips.iter().enumerate() {
        for lane in 0..lanes {
            let values = load::<S, HALF>(strip, values_at + lane * width);
            let weights = weights.add(s * LANES + lane);
            unrolled!(R, |r| {
                y[r] = S::fma(S::splat(*weights.add(r * SPLIT * LANES)), values, y[r]);
            });
        }
    }
    for (r, y) in y.into_iter().enumerate() {
        let to = sums.add(r * width);
        S::store(to, S::fma(S::load(to), S::splat(*factor.add(r)), y));
    }
}

/// `$f::<S, HALF, R>` for all rows, as many at a time as there are; `$row` is the first of each.
macro_rules! by_rows {
    ($rows:expr, |$row:ident| $f:ident($($arg:expr),* $(,)?)) => {{
        let mut $row = 0;
        while $row < $rows {
            match $rows - $row {
                12.. => { $f::<S, HALF, 12>($($arg),*); $row += 12; }
                6.. => { $f::<S, HALF, 6>($($arg),*); $row += 6; }
                3.. => { $f::<S, HALF, 3>($($arg),*); $row += 3; }
                2 => { $f::<S, HALF, 2>($($arg),*); $row += 2; }
                _ => { $f::<S, HALF, 1>($($arg),*); $row += 1; }
            }
        }
    }};
}

#[inline(always)]
unsafe fn attend_as<S: Simd, const HALF: bool>(cache: &KvCache, t: &Queries, scratch: &mut Scratch) {
    let shape = cache.shape;
    let (dim, width, block_size) = (shape.head_dim, shape.value_width(), shape.block_size);
    let (values_at, per_block) = (shape.strip_keys(), shape.strips());
    let rows = t.positions * t.group;
    let row_len = SPLIT * LANES;
    scratch.resize(rows, dim);
    for p in 0..t.positions {
        for h in 0..t.group {
            let from = t.q.add(p * t.q_stride + h * dim);
            for d in 0..dim {
                scratch.queries[d * rows + p * t.group + h] = *from.add(d);
            }
        }
    }
    scratch.sums.fill(0.0);
    scratch.greatest.fill(f32::NEG_INFINITY);
    scratch.total.fill(0.0);

    // The strips that any of the queries sees; the first split begins where splits do.
    let end = t.start + t.positions; // one past the last key
    let lowest = (t.start + 1).saturating_sub(t.window);
    let strip_of = |key: usize| key / block_size * per_block + key % block_size / LANES;
    let last_strip = strip_of(end - 1);
    let mut split = strip_of(lowest) / SPLIT * SPLIT;
    while split <= last_strip {
        let mut strips = [(std::ptr::null::<u8>(), 0usize); SPLIT];
        let mut first_keys = [0usize; SPLIT];
        let count = (last_strip + 1 - split).min(SPLIT);
        for (s, strip) in strips.iter_mut().enumerate().take(count) {
            let (block, within) = ((split + s) / per_block, (split + s) % per_block);
            let first_key = block * block_size + within * LANES;
            first_keys[s] = first_key;
            // Keys of this strip that were written, and that some query sees or an earlier one saw.
            let lanes = (block_size - within * LANES).min(LANES).min(end.saturating_sub(first_key));
            let seen = first_key + lanes > lowest;
            let data = cache.strip(t.layer, t.head, *t.table.add(block) as usize, within);
            *strip = (data, if seen { lanes } else { 0 });
        }
        let strips = &strips[..count];

        for (s, &(strip, lanes)) in strips.iter().enumerate() {
            if lanes > 0 {
                by_rows!(rows, |row| score(
                    strip,
                    dim,
                    scratch.queries.as_ptr().add(row),
                    rows,
                    t.scale,
                    scratch.scores.as_mut_ptr().add(row * row_len + s * LANES),
                ));
            }
        }
        for row in 0..rows {
            let position = t.start + row / t.group;
            let low = (position + 1).saturating_sub(t.window);
            let scores = scratch.scores.as_mut_ptr().add(row * row_len);
            let old = scratch.greatest[row];
            // Lanes whose key this query doesn't see get `value`.
            let mask = |value: f32| {
                for (s, &(_, lanes)) in strips.iter().enumerate() {
                    let first = first_keys[s];
                    if lanes == LANES && first >= low && first + LANES - 1 <= position {
                        continue;
                    }
                    for lane in 0..LANES {
                        if lane >= lanes || first + lane > position || first + lane < low {
                            *scores.add(s * LANES + lane) = value;
                        }
                    }
                }
            };
            mask(f32::NEG_INFINITY);
            let mut most = S::splat(f32::NEG_INFINITY);
            for s in 0..count {
                most = S::max(most, S::load(scores.add(s * LANES)));
            }
            let greatest = old.max(S::greatest(most));
            if greatest == f32::NEG_INFINITY {
                // Nothing of it seen so far, or nothing but NaN, which must not be lost.
                for score in std::slice::from_raw_parts_mut(scores, count * LANES) {
                    *score = if score.is_nan() { *score } else { 0.0 };
                }
                scratch.factor[row] = 1.0;
                continue;
            }
            let by = S::splat(greatest);
            for s in 0..count {
                let at = scores.add(s * LANES);
                S::store(at, S::exp(S::sub(S::load(at), by)));
            }
            mask(0.0);
            let mut sum = S::splat(0.0);
            for s in 0..count {
                sum = S::add(sum, S::load(scores.add(s * LANES)));
            }
            let factor = if old == f32::NEG_INFINITY { 0.0 } else { first_lane::<S>(S::exp(S::splat(old - greatest))) };
            scratch.factor[row] = factor;
            scratch.greatest[row] = greatest;
            scratch.total[row] = scratch.total[row].mul_add(factor, S::sum(sum));
        }
        for at in (0..width).step_by(LANES) {
            by_rows!(rows, |row| weigh(
                strips,
                values_at + at,
                width,
                scratch.scores.as_ptr().add(row * row_len),
                scratch.factor.as_ptr().add(row),
                scratch.sums.as_mut_ptr().add(row * width + at),
            ));
        }
        split += SPLIT;
    }
    for row in 0..rows {
        let by = 1.0 / scratch.total[row];
        let out = t.out.add(row / t.group * t.out_stride + row % t.group * dim);
        for d in 0..dim {
            *out.add(d) = scratch.sums[row * width + d] * by;
        }
    }
}

#[inline(always)]
unsafe fn first_lane<S: Simd>(x: S::F) -> f32 {
    let mut lanes = [0f32; LANES];
    S::store(lanes.as_mut_ptr(), x);
    lanes[0]
}

#[inline(always)]
unsafe fn attend_half<S: Simd>(cache: &KvCache, queries: &Queries, scratch: &mut Scratch) {
    attend_as::<S, true>(cache, queries, scratch);
}

#[inline(always)]
unsafe fn attend_wide<S: Simd>(cache: &KvCache, queries: &Queries, scratch: &mut Scratch) {
    attend_as::<S, false>(cache, queries, scratch);
}

dispatch!(fn half = attend_half; (cache: &KvCache, queries: &Queries, scratch: &mut Scratch));
dispatch!(fn wide = attend_wide; (cache: &KvCache, queries: &Queries, scratch: &mut Scratch));

/// Attend.
///
/// # Safety
/// The path must be supported; the table must name blocks of the cache for all keys up to the last query, all written
/// by now and not being written; `q` and `out` must hold the queries.
pub unsafe fn attend(path: Path, cache: &KvCache, queries: &Queries, scratch: &mut Scratch) {
    match cache.shape.kind {
        KvType::F16 => half(path, cache, queries, scratch),
        KvType::F32 => wide(path, cache, queries, scratch),
    }
}
