//! Paged attention of a few queries of one sequence over one KV head, decode and prefill alike, with an exact online
//! softmax (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135).
//!
//! The context is cut into chunks of a fixed number of strips, and these into splits, both counted from the sequence's
//! beginning. A chunk's sums do not depend on other chunks, and chunks are merged in their order, so a query's sums
//! have one order, whichever queries it is computed with and whether one thread goes through its chunks or several.

use crate::kv_cache::{KvCache, KvShape, KvType};
use crate::simd::{LANES, Path, Simd};
use crate::{dispatch, unrolled};
use std::ops::Range;

/// Strips of sixteen keys between two rescalings.
const SPLIT: usize = 16;
/// Strips of a chunk.
const CHUNK: usize = 4 * SPLIT;
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

/// Chunks that the queries of positions `start .. start + positions` see keys of, by their numbers.
pub fn chunks(shape: &KvShape, start: usize, positions: usize, window: usize) -> Range<usize> {
    let lowest = (start + 1).saturating_sub(window);
    strip_of(shape, lowest) / CHUNK..strip_of(shape, start + positions - 1) / CHUNK + 1
}

/// The strip of a sequence that a key is in.
fn strip_of(shape: &KvShape, key: usize) -> usize {
    key / shape.block_size * shape.strips() + key % shape.block_size / LANES
}

/// Memory of one thread.
#[derive(Default)]
pub struct Scratch {
    work: Work,
    chunk: Partial,
    merged: Partial,
}

impl Scratch {
    /// Make room for tasks of [`positions_together`]`(group)` tokens, so that none has to.
    pub fn reserve(&mut self, shape: &KvShape, group: usize) {
        let rows = positions_together(group) * group;
        for (numbers, len) in [
            (&mut self.work.queries, rows * shape.head_dim),
            (&mut self.work.scores, rows * SPLIT * LANES),
            (&mut self.work.factor, rows),
        ] {
            numbers.reserve(len.saturating_sub(numbers.len()));
        }
        self.chunk.reserve(shape, group);
        self.merged.reserve(shape, group);
    }
}

#[derive(Default)]
struct Work {
    queries: Vec<f32>, // [head_dim, rows]
    scores: Vec<f32>,  // [rows, SPLIT * LANES]
    factor: Vec<f32>,  // [rows]
}

/// For each row the weighted sum of values, the sum of the weights, and the score whose weight is 1.
#[derive(Clone, Debug, Default)]
pub struct Partial {
    sums: Vec<f32>, // [rows, value_width]
    total: Vec<f32>,
    greatest: Vec<f32>,
}

impl Partial {
    /// As [`Scratch::reserve`].
    pub fn reserve(&mut self, shape: &KvShape, group: usize) {
        let rows = positions_together(group) * group;
        self.reset(rows, shape.value_width());
    }

    fn reset(&mut self, rows: usize, width: usize) {
        for (numbers, len, value) in [
            (&mut self.sums, rows * width, 0.0),
            (&mut self.total, rows, 0.0),
            (&mut self.greatest, rows, f32::NEG_INFINITY),
        ] {
            numbers.clear();
            numbers.resize(len, value);
        }
    }

    /// Add what later keys gave.
    #[inline(always)]
    unsafe fn merge<S: Simd>(&mut self, later: &Partial) {
        let width = self.sums.len() / self.total.len();
        for row in 0..self.total.len() {
            let (old, new) = (self.greatest[row], later.greatest[row]);
            // Minus infinity: no key seen, so that all sums are zero, unless all that was seen is NaN.
            let greatest = old.max(new);
            let scale = |of: f32| match of == f32::NEG_INFINITY {
                true => 1.0,
                false => first_lane::<S>(S::exp(S::splat(of - greatest))),
            };
            let (keep, add) = (scale(old), scale(new));
            for at in (row * width..(row + 1) * width).step_by(LANES) {
                let kept = S::mul(S::load(self.sums.as_ptr().add(at)), S::splat(keep));
                let added = S::load(later.sums.as_ptr().add(at));
                S::store(self.sums.as_mut_ptr().add(at), S::fma(added, S::splat(add), kept));
            }
            self.total[row] = later.total[row].mul_add(add, self.total[row] * keep);
            self.greatest[row] = greatest;
        }
    }
}

/// How numbers are stored.
trait Element {
    /// Sixteen numbers of a strip, without their scales.
    unsafe fn load<S: Simd>(strip: *const u8, at: usize) -> S::F;
    /// Whether each key and each value has a scale.
    const SCALED: bool;
}

struct Wide;
struct Half;
struct Brain;
struct Byte;

impl Element for Wide {
    #[inline(always)]
    unsafe fn load<S: Simd>(strip: *const u8, at: usize) -> S::F {
        S::load(strip.cast::<f32>().add(at))
    }
    const SCALED: bool = false;
}

impl Element for Half {
    #[inline(always)]
    unsafe fn load<S: Simd>(strip: *const u8, at: usize) -> S::F {
        S::load_f16(strip.cast::<u16>().add(at))
    }
    const SCALED: bool = false;
}

impl Element for Brain {
    #[inline(always)]
    unsafe fn load<S: Simd>(strip: *const u8, at: usize) -> S::F {
        S::load_bf16(strip.cast::<u16>().add(at))
    }
    const SCALED: bool = false;
}

impl Element for Byte {
    #[inline(always)]
    unsafe fn load<S: Simd>(strip: *const u8, at: usize) -> S::F {
        S::load_i8(strip.cast::<i8>().add(at))
    }
    const SCALED: bool = true;
}

/// Where a split's strips are, and how many keys of each count.
type Strips<'a> = &'a [(*const u8, usize)];

/// Scores of `R` queries with the keys of all strips of a split, `K` strips at a time: few queries alone are too few
/// sums to keep a processor busy. Meanwhile the strips that come next, `after` the last, are asked for: strips lie
/// apart, and each begins with lines that no processor foresees.
#[inline(always)]
unsafe fn score<S: Simd, E: Element, const R: usize, const K: usize>(
    shape: &KvShape,
    strips: Strips,
    after: *const u8,
    q: *const f32,
    q_stride: usize,
    scale: f32,
    to: *mut f32,
) {
    let next =
        |s: usize| strips.get(s).map_or(if s == strips.len() { after } else { std::ptr::null() }, |strip| strip.0);
    let mut s = 0;
    while s + K <= strips.len() {
        let now: [*const u8; K] = std::array::from_fn(|k| strips[s + k].0);
        let then: [*const u8; K] = std::array::from_fn(|k| next(s + K + k));
        score_some::<S, E, R, K>(shape, now, then, q, q_stride, scale, to.add(s * LANES));
        s += K;
    }
    while s < strips.len() {
        score_some::<S, E, R, 1>(shape, [strips[s].0], [next(s + 1)], q, q_stride, scale, to.add(s * LANES));
        s += 1;
    }
}

#[inline(always)]
unsafe fn score_some<S: Simd, E: Element, const R: usize, const K: usize>(
    shape: &KvShape,
    now: [*const u8; K],
    then: [*const u8; K],
    q: *const f32,
    q_stride: usize,
    scale: f32,
    to: *mut f32,
) {
    let step = shape.strip_bytes() / shape.head_dim;
    let mut y = [[S::splat(0.0); R]; K];
    for d in 0..shape.head_dim {
        let q = q.add(d * q_stride);
        unrolled!(few K, |k| {
            S::prefetch(then[k].wrapping_add(d * step));
            let keys = E::load::<S>(now[k], d * LANES);
            unrolled!(R, |r| {
                y[k][r] = S::fma(keys, S::splat(*q.add(r)), y[k][r]);
            });
        });
    }
    for (k, y) in y.into_iter().enumerate() {
        let mut by = S::splat(scale);
        if E::SCALED {
            by = S::mul(S::load(now[k].add(shape.scales_at()).cast()), by);
        }
        for (r, y) in y.into_iter().enumerate() {
            S::store(to.add(r * SPLIT * LANES + k * LANES), S::mul(y, by));
        }
    }
}

/// `R` weighted sums of values, `K` vectors of each at a time: `sums = sums * factor + weights * values`.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Element, const R: usize, const K: usize>(
    shape: &KvShape,
    strips: Strips,
    weights: *const f32,
    factor: *const f32,
    sums: *mut f32,
) {
    let vectors = shape.value_width() / LANES;
    let mut v = 0;
    while v + K <= vectors {
        weigh_some::<S, E, R, K>(shape, strips, v * LANES, weights, factor, sums.add(v * LANES));
        v += K;
    }
    while v < vectors {
        weigh_some::<S, E, R, 1>(shape, strips, v * LANES, weights, factor, sums.add(v * LANES));
        v += 1;
    }
}

#[inline(always)]
unsafe fn weigh_some<S: Simd, E: Element, const R: usize, const K: usize>(
    shape: &KvShape,
    strips: Strips,
    first: usize,
    weights: *const f32,
    factor: *const f32,
    sums: *mut f32,
) {
    let (width, values_at) = (shape.value_width(), shape.strip_keys() + first);
    let mut y = [[S::splat(0.0); R]; K];
    for (s, &(strip, lanes)) in strips.iter().enumerate() {
        for lane in 0..lanes {
            let weights = weights.add(s * LANES + lane);
            unrolled!(few K, |k| {
                let values = E::load::<S>(strip, values_at + lane * width + k * LANES);
                unrolled!(R, |r| {
                    y[k][r] = S::fma(S::splat(*weights.add(r * SPLIT * LANES)), values, y[k][r]);
                });
            });
        }
    }
    for (k, y) in y.into_iter().enumerate() {
        for (r, y) in y.into_iter().enumerate() {
            let to = sums.add(r * width + k * LANES);
            S::store(to, S::fma(S::load(to), S::splat(*factor.add(r)), y));
        }
    }
}

/// `$f::<S, E, R, K>` for all rows, as many at a time as there are, with a `K` that makes a dozen sums of them; `$row`
/// is the first of each.
macro_rules! by_rows {
    ($rows:expr, |$row:ident| $f:ident($($arg:expr),* $(,)?)) => {{
        let mut $row = 0;
        while $row < $rows {
            match $rows - $row {
                12.. => { $f::<S, E, 12, 1>($($arg),*); $row += 12; }
                6.. => { $f::<S, E, 6, 2>($($arg),*); $row += 6; }
                3.. => { $f::<S, E, 3, 4>($($arg),*); $row += 3; }
                _ => { $f::<S, E, 1, 4>($($arg),*); $row += 1; }
            }
        }
    }};
}

/// Transpose the queries, so that a dimension of all rows lies together.
unsafe fn take_queries(dim: usize, t: &Queries, queries: &mut Vec<f32>) {
    let rows = t.positions * t.group;
    queries.resize(rows * dim, 0.0);
    for p in 0..t.positions {
        for h in 0..t.group {
            let from = t.q.add(p * t.q_stride + h * dim);
            for d in 0..dim {
                queries[d * rows + p * t.group + h] = *from.add(d);
            }
        }
    }
}

/// What one chunk gives to each row.
#[inline(always)]
unsafe fn attend_chunk<S: Simd, E: Element>(
    cache: &KvCache,
    t: &Queries,
    chunk: usize,
    work: &mut Work,
    to: &mut Partial,
) {
    let Work { queries, scores, factor } = work;
    let shape = cache.shape;
    let (width, block_size) = (shape.value_width(), shape.block_size);
    let (scales_at, per_block) = (shape.scales_at(), shape.strips());
    let rows = t.positions * t.group;
    let row_len = SPLIT * LANES;
    scores.resize(rows * row_len, 0.0);
    factor.resize(rows, 0.0);
    to.reset(rows, width);

    // The strips that any of the queries sees; the first split begins where splits do.
    let end = t.start + t.positions; // one past the last key
    let lowest = (t.start + 1).saturating_sub(t.window);
    let last_strip = strip_of(&shape, end - 1).min((chunk + 1) * CHUNK - 1);
    let mut split = (strip_of(&shape, lowest) / SPLIT * SPLIT).max(chunk * CHUNK);
    let first_split = split;
    let strip_data = |strip: usize| {
        let block = *t.table.add(strip / per_block) as usize;
        cache.strip(t.layer, t.head, block, strip % per_block).cast_const()
    };
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
            *strip = (strip_data(split + s), if seen { lanes } else { 0 });
        }
        let strips = &strips[..count];
        if split == first_split {
            for at in (0..shape.strip_bytes()).step_by(64) {
                S::prefetch(strips[0].0.add(at));
            }
        }
        let after = if split + count <= last_strip { strip_data(split + count) } else { std::ptr::null() };

        by_rows!(rows, |row| score(
            &shape,
            strips,
            after,
            queries.as_ptr().add(row),
            rows,
            t.scale,
            scores.as_mut_ptr().add(row * row_len),
        ));
        for (row, factor) in factor.iter_mut().enumerate() {
            let position = t.start + row / t.group;
            let low = (position + 1).saturating_sub(t.window);
            let scores = scores.as_mut_ptr().add(row * row_len);
            let old = to.greatest[row];
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
                *factor = 1.0;
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
            *factor = if old == f32::NEG_INFINITY { 0.0 } else { first_lane::<S>(S::exp(S::splat(old - greatest))) };
            to.greatest[row] = greatest;
            to.total[row] = to.total[row].mul_add(*factor, S::sum(sum));
            if E::SCALED {
                for (s, &(strip, lanes)) in strips.iter().enumerate() {
                    if lanes > 0 {
                        let at = scores.add(s * LANES);
                        let scales = S::load(strip.add(scales_at).cast::<f32>().add(LANES));
                        S::store(at, S::mul(S::load(at), scales));
                    }
                }
            }
        }
        by_rows!(rows, |row| weigh(
            &shape,
            strips,
            scores.as_ptr().add(row * row_len),
            factor.as_ptr().add(row),
            to.sums.as_mut_ptr().add(row * width),
        ));
        split += SPLIT;
    }
}

/// The weighted means.
unsafe fn write_results(cache: &KvCache, t: &Queries, merged: &Partial) {
    let (dim, width) = (cache.shape.head_dim, cache.shape.value_width());
    for row in 0..t.positions * t.group {
        let by = 1.0 / merged.total[row];
        let out = t.out.add(row / t.group * t.out_stride + row % t.group * dim);
        for d in 0..dim {
            *out.add(d) = merged.sums[row * width + d] * by;
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
unsafe fn chunk_of_kind<S: Simd>(cache: &KvCache, t: &Queries, chunk: usize, work: &mut Work, to: &mut Partial) {
    match cache.shape.kind {
        KvType::F32 => attend_chunk::<S, Wide>(cache, t, chunk, work, to),
        KvType::F16 => attend_chunk::<S, Half>(cache, t, chunk, work, to),
        KvType::Bf16 => attend_chunk::<S, Brain>(cache, t, chunk, work, to),
        KvType::I8 => attend_chunk::<S, Byte>(cache, t, chunk, work, to),
    }
}

#[inline(always)]
unsafe fn merge_partials<S: Simd>(earlier: &mut Partial, later: &Partial) {
    earlier.merge::<S>(later);
}

dispatch!(fn compute_chunk = chunk_of_kind;
    (cache: &KvCache, t: &Queries, chunk: usize, work: &mut Work, to: &mut Partial));
dispatch!(fn merge_into = merge_partials; (earlier: &mut Partial, later: &Partial));

/// Attend.
///
/// # Safety
/// The path must be supported; the table must name blocks of the cache for all keys up to the last query, all written
/// by now and not being written; `q` and `out` must hold the queries.
pub unsafe fn attend(path: Path, cache: &KvCache, queries: &Queries, scratch: &mut Scratch) {
    let Scratch { work, chunk: partial, merged } = scratch;
    take_queries(cache.shape.head_dim, queries, &mut work.queries);
    let all = chunks(&cache.shape, queries.start, queries.positions, queries.window);
    compute_chunk(path, cache, queries, all.start, work, merged);
    for chunk in all.skip(1) {
        compute_chunk(path, cache, queries, chunk, work, partial);
        merge_into(path, merged, partial);
    }
    write_results(cache, queries, merged);
}

/// Attend to one of the [`chunks`] only, so that threads can share a long context; [`merge`] gives the results.
///
/// # Safety
/// See [`attend`].
pub unsafe fn attend_to(
    path: Path,
    cache: &KvCache,
    queries: &Queries,
    scratch: &mut Scratch,
    chunk: usize,
    to: &mut Partial,
) {
    take_queries(cache.shape.head_dim, queries, &mut scratch.work.queries);
    compute_chunk(path, cache, queries, chunk, &mut scratch.work, to);
}

/// Write the results from the parts of all chunks, in their order; the bits are those of [`attend`].
///
/// # Safety
/// See [`attend`]; each part must be [`attend_to`]'s of these queries.
pub unsafe fn merge(path: Path, cache: &KvCache, queries: &Queries, parts: &mut [Partial]) {
    if let Some((merged, later)) = parts.split_first_mut() {
        later.iter().for_each(|part| merge_into(path, merged, part));
        write_results(cache, queries, merged);
    }
}
