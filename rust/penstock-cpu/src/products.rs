//! One product shared out to the threads.
//!
//! Each thread has a stretch of the matrix of its own, which it reads from front to back as memory likes it; one that
//! is done takes from the others' what is left. Which thread computes what never matters to a result.

use crate::matrix::Matrix;
use crate::pool::Pool;
use crate::simd::prefetch;
use crate::tuner::{Plan, Tuner};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Of the next product's matrix a thread asks for this much of its own stretch when it is done with this one: memory
/// then works on while threads wait for each other and norms are computed. Only for few rows, where memory binds.
const AHEAD: usize = 16 << 10;
const FEW_ROWS: usize = 4;

/// How many runs of a thread's stretch are taken. A cache line each, so that threads don't wait for each other's.
#[derive(Default)]
#[repr(align(64))]
struct Taken(AtomicUsize);

/// Shares products out.
pub struct Products {
    taken: Vec<Taken>, // of each thread
    tuner: Tuner,
}

/// Tiles that threads take in units, which stay together.
#[derive(Clone, Copy)]
struct Stretches {
    units: usize,
    threads: usize,
    run: usize, // units
}

impl Stretches {
    fn of(self, thread: usize) -> Range<usize> {
        self.units * thread / self.threads..self.units * (thread + 1) / self.threads
    }

    fn runs_of(self, thread: usize) -> usize {
        self.of(thread).len().div_ceil(self.run)
    }
}

impl Products {
    /// For a pool of so many threads.
    pub fn new(threads: usize) -> Products {
        Products { taken: (0..threads).map(|_| Taken::default()).collect(), tuner: Tuner::default() }
    }

    /// What chooses the plans.
    pub fn tuner(&mut self) -> &mut Tuner {
        &mut self.tuner
    }

    /// Run `job(tiles, plan, thread)` for all tiles of a matrix, `unit` of them at a time staying together, side by
    /// side. `next` is the matrix of the product that follows.
    pub fn run(
        &mut self,
        pool: &Pool,
        matrix: &Matrix,
        next: Option<&Matrix>,
        unit: usize,
        rows: usize,
        job: impl Fn(Range<usize>, Plan, usize) + Sync,
    ) {
        let trial = self.tuner.plan(matrix, rows);
        let (plan, tiles, threads) = (trial.plan, matrix.tiles(), pool.threads());
        let began = trial.is_timed().then(Instant::now);
        let units = tiles.div_ceil(unit);
        // Alone, a thread has nothing to share and nobody to end together with.
        let runs = if threads == 1 { 1 } else { usize::from(plan.runs) * threads };
        let stretches = Stretches { units, threads, run: units.div_ceil(runs).max(1) };
        self.taken.iter().for_each(|taken| taken.0.store(0, Ordering::Relaxed));
        let taken = &self.taken;
        let ahead = next.filter(|_| rows <= FEW_ROWS);
        pool.run((0..threads).map(|thread| stretches.runs_of(thread)).sum(), &|_, thread| {
            // There are as many tasks as runs, so each task finds one.
            for owner in (thread..threads).chain(0..thread) {
                let run = taken[owner].0.fetch_add(1, Ordering::Relaxed);
                if run >= stretches.runs_of(owner) {
                    continue;
                }
                let all = stretches.of(owner);
                let first = all.start + run * stretches.run;
                let end = (first + stretches.run).min(all.end);
                job(first * unit..(end * unit).min(tiles), plan, thread);
                if let Some(next) = ahead
                    && owner == thread
                    && end == all.end
                {
                    let stretch = next.bytes_from_tile(next.tiles() * thread / threads);
                    prefetch(&stretch[..stretch.len().min(AHEAD)]);
                }
                return;
            }
        });
        if let Some(began) = began {
            self.tuner.took(trial, rows, began.elapsed());
        }
    }
}
