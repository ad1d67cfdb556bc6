//! What the processor could do at most: arithmetic on registers alone, with the instructions of a path.

use crate::dispatch;
use crate::pool::Pool;
use crate::simd::{LANES, Path, Simd};
use std::time::Instant;

/// Independent chains: enough to hide an instruction's latency, few enough for sixteen registers of AVX2's pairs.
const CHAINS: usize = 6;
const TURNS: usize = 200_000;

/// Operations per second, a multiplication and an addition counting as two.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Of int8 products summed in int32.
    pub int8: f64,
    /// Of float32.
    pub float32: f64,
}

#[inline(always)]
unsafe fn float_chains<S: Simd>(turns: usize) -> f32 {
    let (a, b) = (S::splat(0.999_9), S::splat(1e-4));
    let mut sums = [S::splat(1.0); CHAINS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = S::fma(*sum, a, b);
        }
    }
    sums.into_iter().map(|sum| S::sum(sum)).sum()
}

#[inline(always)]
unsafe fn int_chains<S: Simd>(turns: usize) -> f32 {
    let bytes = S::load_bytes([3u8; 4 * LANES].as_ptr());
    let x = [1i8; 4];
    let mut sums = [S::zero_i(); CHAINS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = S::dot(*sum, bytes, std::hint::black_box(x.as_ptr()));
        }
    }
    sums.into_iter().map(|sum| S::sum(S::to_f32(sum))).sum()
}

dispatch!(fn run_floats = float_chains; (turns: usize) -> f32);
dispatch!(fn run_ints = int_chains; (turns: usize) -> f32);

/// Measure, on all threads of the pool: the best of `repeats`, each of some milliseconds.
///
/// # Panics
/// If the processor lacks the path.
pub fn measure(path: Path, pool: &Pool, repeats: usize) -> Peak {
    assert!(path.is_supported());
    let best = |operations: usize, run: &(dyn Fn() -> f32 + Sync)| {
        let mut best = 0f64;
        for _ in 0..repeats {
            let began = Instant::now();
            pool.run(pool.threads(), &|_, _| {
                std::hint::black_box(run());
            });
            best = best.max((pool.threads() * operations) as f64 / began.elapsed().as_secs_f64());
        }
        best
    };
    // SAFETY: the path is supported.
    unsafe {
        Peak {
            int8: best(2 * 4 * LANES * CHAINS * TURNS, &|| run_ints(path, TURNS)),
            float32: best(2 * LANES * CHAINS * TURNS, &|| run_floats(path, TURNS)),
        }
    }
}
