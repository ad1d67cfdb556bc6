//! `A x` and `B (A x)` of a site, for a few rows at a time.

use super::{Kind, RUN, Site, TOGETHER};
use crate::simd::{LANES, Simd};
use crate::{dispatch, unrolled};
use std::ops::Range;

/// How far ahead of its arithmetic a product asks for weights.
const AHEAD: usize = 8192;

const F32: u8 = 0;
const BF16: u8 = 1;
const INT8: u8 = 2;

const fn width(kind: u8) -> usize {
    match kind {
        F32 => 4,
        BF16 => 2,
        _ => 1,
    }
}

/// Of so many rows, those that are computed together.
const fn together(rows: usize) -> usize {
    match rows {
        4.. => 4,
        2.. => 2,
        few => few,
    }
}

/// Sixteen weights, from number `at` on.
#[inline(always)]
unsafe fn weights<S: Simd, const KIND: u8>(from: *const u8, at: usize) -> S::F {
    match KIND {
        F32 => S::load(from.cast::<f32>().add(at)),
        BF16 => S::load_bf16(from.cast::<u16>().add(at)),
        _ => S::load_i8(from.cast::<i8>().add(at)),
    }
}

/// `R` rows' products with groups of eight rows of `A`, `J` of them at a time.
#[inline(always)]
unsafe fn shrink_some<S: Simd, const KIND: u8, const R: usize, const J: usize>(
    site: &Site,
    groups: Range<usize>,
    x: *const f32,
    x_stride: usize,
    low: *mut f32,
    low_stride: usize,
) {
    let from = site.a.start().cast_const();
    for first in groups.flat_map(|group| (0..TOGETHER).step_by(J).map(move |j| group * TOGETHER + j)) {
        let mut sums = [[S::splat(0.0); J]; R];
        for chunk in 0..site.chunks {
            let at = ((first / TOGETHER * site.chunks + chunk) * TOGETHER + first % TOGETHER) * LANES;
            for line in (0..J * LANES * width(KIND)).step_by(64) {
                S::prefetch(from.wrapping_add(at * width(KIND) + AHEAD + line));
            }
            let mut numbers = [S::splat(0.0); R];
            unrolled!(R, |r| {
                numbers[r] = S::load(x.add(r * x_stride + chunk * LANES));
            });
            unrolled!(J, |j| {
                let w = weights::<S, KIND>(from, at + j * LANES);
                unrolled!(R, |r| {
                    sums[r][j] = S::fma(w, numbers[r], sums[r][j]);
                });
            });
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (out, sum) in (first..).zip(sums) {
                *low.add(r * low_stride + out) = S::sum(sum) * site.scales[out];
            }
        }
    }
}

#[inline(always)]
unsafe fn shrink_kind<S: Simd, const KIND: u8>(
    site: &Site,
    groups: Range<usize>,
    x: *const f32,
    x_stride: usize,
    rows: usize,
    low: *mut f32,
    low_stride: usize,
) {
    let mut row = 0;
    while row < rows {
        let (x, low, groups) = (x.add(row * x_stride), low.add(row * low_stride), groups.clone());
        match together(rows - row) {
            4 => shrink_some::<S, KIND, 4, 4>(site, groups, x, x_stride, low, low_stride),
            2 => shrink_some::<S, KIND, 2, 8>(site, groups, x, x_stride, low, low_stride),
            _ => shrink_some::<S, KIND, 1, 8>(site, groups, x, x_stride, low, low_stride),
        }
        row += together(rows - row);
    }
}

#[inline(always)]
unsafe fn shrink_generic<S: Simd>(
    site: &Site,
    groups: Range<usize>,
    x: *const f32,
    x_stride: usize,
    rows: usize,
    low: *mut f32,
    low_stride: usize,
) {
    match site.kind {
        Kind::F32 => shrink_kind::<S, F32>(site, groups, x, x_stride, rows, low, low_stride),
        Kind::Bf16 => shrink_kind::<S, BF16>(site, groups, x, x_stride, rows, low, low_stride),
        Kind::Int8 => shrink_kind::<S, INT8>(site, groups, x, x_stride, rows, low, low_stride),
    }
}

/// `W` runs of a module's columns times `R` rows, added to tiles one run after the other; `low` and `to` are the first
/// row's.
#[inline(always)]
unsafe fn expand_runs<S: Simd, const KIND: u8, const R: usize, const W: usize>(
    weights_of: impl Fn(usize) -> *const u8,
    steps: &[f32],
    low: *const f32,
    low_stride: usize,
    to: *mut f32,
    every: usize,
    stride: usize,
) {
    let mut held = [[[S::splat(0.0); RUN]; R]; W];
    unrolled!(few W, |w| {
        unrolled!(R, |r| {
            unrolled!(RUN, |k| {
                held[w][r][k] = S::splat(*low.add(r * low_stride + w * RUN + k));
            });
        });
    });
    for (tile, &step) in steps.iter().enumerate() {
        let from = weights_of(tile);
        for line in (0..W * RUN * LANES * width(KIND)).step_by(64) {
            S::prefetch(from.wrapping_add(AHEAD + line));
        }
        let step = S::splat(step);
        let to = to.add(tile * every);
        unrolled!(few W, |w| {
            let mut sums = [S::splat(0.0); R];
            unrolled!(RUN, |k| {
                let weights = weights::<S, KIND>(from, (w * RUN + k) * LANES);
                unrolled!(R, |r| {
                    sums[r] = S::fma(weights, held[w][r][k], sums[r]);
                });
            });
            unrolled!(R, |r| {
                let to = to.add(r * stride);
                S::store(to, S::fma(sums[r], step, S::load(to)));
            });
        });
    }
}

#[inline(always)]
unsafe fn expand_kind<S: Simd, const KIND: u8>(
    site: &Site,
    tiles: Range<usize>,
    low: *const f32,
    low_stride: usize,
    rows: usize,
    to: *mut f32,
    stride: usize,
) {
    for module in &site.modules {
        let own = module.own(&tiles);
        if own.is_empty() {
            continue;
        }
        let (tile_bytes, every) = (module.runs * RUN * LANES * width(KIND), module.every * LANES);
        let from = site.b.start().cast_const().add(module.at + own.start * tile_bytes);
        let to = to.add((module.first_tile + own.start * module.every - tiles.start) * LANES);
        let steps = &module.steps[own];
        let mut row = 0;
        while row < rows {
            let (low, to) = (low.add(row * low_stride + module.low), to.add(row * stride));
            let mut run = 0;
            while run < module.runs {
                let weights_of = |tile: usize| from.add(tile * tile_bytes + run * RUN * LANES * width(KIND));
                let low = low.add(run * RUN);
                // A row alone leaves registers for two runs: its weights are then read as they lie.
                let pair = module.runs - run > 1;
                match together(rows - row) {
                    4 => expand_runs::<S, KIND, 4, 1>(weights_of, steps, low, low_stride, to, every, stride),
                    2 => expand_runs::<S, KIND, 2, 1>(weights_of, steps, low, low_stride, to, every, stride),
                    _ if pair => expand_runs::<S, KIND, 1, 2>(weights_of, steps, low, low_stride, to, every, stride),
                    _ => expand_runs::<S, KIND, 1, 1>(weights_of, steps, low, low_stride, to, every, stride),
                }
                run += if pair && together(rows - row) == 1 { 2 } else { 1 };
            }
            row += together(rows - row);
        }
    }
}

#[inline(always)]
unsafe fn expand_generic<S: Simd>(
    site: &Site,
    tiles: Range<usize>,
    low: *const f32,
    low_stride: usize,
    rows: usize,
    to: *mut f32,
    stride: usize,
) {
    match site.kind {
        Kind::F32 => expand_kind::<S, F32>(site, tiles, low, low_stride, rows, to, stride),
        Kind::Bf16 => expand_kind::<S, BF16>(site, tiles, low, low_stride, rows, to, stride),
        Kind::Int8 => expand_kind::<S, INT8>(site, tiles, low, low_stride, rows, to, stride),
    }
}

dispatch!(pub(super) fn shrink_rows = shrink_generic; (
    site: &Site, groups: Range<usize>, x: *const f32, x_stride: usize, rows: usize, low: *mut f32, low_stride: usize
));
dispatch!(pub(super) fn expand_rows = expand_generic; (
    site: &Site, tiles: Range<usize>, low: *const f32, low_stride: usize, rows: usize, to: *mut f32, stride: usize
));
