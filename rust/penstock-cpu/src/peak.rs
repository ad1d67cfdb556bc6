//! What the processor could do at most: arithmetic on registers alone, with the instructions of a path.

use crate::pool::Pool;
use crate::simd::{LANES, Path, Simd};
use crate::{dispatch, unrolled};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const TURNS: usize = 200_000;

/// Operations per second, a multiplication and an addition counting as two.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Of int8 products summed in int32.
    pub int8: f64,
    /// Of float32.
    pub float32: f64,
}

/// Independent chains of additions: enough to hide an instruction's latency, few enough for the registers.
const fn chains<S: Simd>() -> usize {
    if S::ROWS >= 12 { 12 } else { 6 }
}

/// Operations done.
#[inline(always)]
unsafe fn floats<S: Simd, const CHAINS: usize>() -> usize {
    let (a, b) = (S::splat(black_box(0.999)), S::splat(black_box(0.5)));
    let mut sums = [S::splat(black_box(1.0)); CHAINS];
    for _ in 0..TURNS {
        unrolled!(CHAINS, |i| {
            sums[i] = S::fma(sums[i], a, b);
        });
    }
    black_box(sums.into_iter().map(|sum| S::sum(sum)).sum::<f32>());
    2 * LANES * CHAINS * TURNS
}

#[inline(always)]
unsafe fn ints<S: Simd, const CHAINS: usize>() -> usize {
    let bytes = S::load_bytes(black_box([3u8; 4 * LANES]).as_ptr());
    let x = black_box([1i8; 4 * (32 + 12)]);
    let mut sums = [S::zero_i(); CHAINS];
    for turn in 0..TURNS {
        // Other numbers each turn, lest the products be taken out of the loop.
        let x = x.as_ptr().add(4 * (turn % 32));
        unrolled!(CHAINS, |i| {
            sums[i] = S::dot(sums[i], bytes, x.add(4 * i));
        });
    }
    black_box(sums.into_iter().map(|sum| S::sum(S::to_f32(sum))).sum::<f32>());
    2 * 4 * LANES * CHAINS * TURNS
}

#[inline(always)]
unsafe fn all_floats<S: Simd>() -> usize {
    if chains::<S>() == 12 { floats::<S, 12>() } else { floats::<S, 6>() }
}

#[inline(always)]
unsafe fn all_ints<S: Simd>() -> usize {
    if chains::<S>() == 12 { ints::<S, 12>() } else { ints::<S, 6>() }
}

dispatch!(fn run_floats = all_floats; () -> usize);
dispatch!(fn run_ints = all_ints; () -> usize);

/// Measure, on all threads of the pool: the best of `repeats`, each of some milliseconds.
///
/// # Panics
/// If the processor lacks the path.
pub fn measure(path: Path, pool: &Pool, repeats: usize) -> Peak {
    assert!(path.is_supported());
    let best = |run: &(dyn Fn() -> usize + Sync)| {
        let mut best = 0f64;
        for _ in 0..repeats {
            let done = AtomicUsize::new(0);
            let began = Instant::now();
            pool.run(pool.threads(), &|_, _| {
                done.fetch_add(run(), Ordering::Relaxed);
            });
            best = best.max(done.into_inner() as f64 / began.elapsed().as_secs_f64());
        }
        best
    };
    // SAFETY: the path is supported.
    unsafe { Peak { int8: best(&|| run_ints(path)), float32: best(&|| run_floats(path)) } }
}
