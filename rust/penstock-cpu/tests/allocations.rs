//! A step takes no memory from the system once its buffers have grown to their sizes.

mod support;

use penstock_cpu::activations::Precision;
use penstock_cpu::kv_cache::{KvCache, KvShape, KvType};
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use penstock_cpu::stepper::{Share, Stepper};
use penstock_cpu::tuner::Plan;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Rng, small_model};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    steps_allocate_nothing_once_they_are_warm();
}

fn steps_allocate_nothing_once_they_are_warm() {
    let model = small_model(&mut Rng::new(1), "Q4_0", &Pool::new(2));
    let shape = KvShape { layers: 2, heads: 2, head_dim: 16, block_size: 16, kind: KvType::I8 };
    let cache = KvCache::new(shape, 200).unwrap();
    let mut stepper = Stepper::new(Path::best(), Precision::Int8, Pool::new(2));
    stepper.tuner().fix(Some(Plan::DEFAULT));
    let both = Barrier::new(2);
    stepper.pool().run(2, &|_, _| {
        both.wait(); // a thread that only now begins would allocate its name
    });

    // Decodes, one of them after a context that threads share, and chunks of prompts.
    let share = |tokens: usize, start: usize, first: u32| Share {
        tokens: vec![7; tokens],
        start,
        table: (first..first + (start + tokens).div_ceil(16) as u32).collect(),
    };
    let steps = [
        vec![share(1, 2050, 0)],
        (0..30).map(|i| share(1, 20 + i, 3 * i as u32)).collect(),
        vec![share(90, 0, 0), share(1, 40, 150), share(33, 10, 160)],
    ];
    let mut run = |counted: bool| {
        for shares in &steps {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            stepper.forward(&model, &cache, shares);
            let rows: Vec<usize> = (0..shares.len()).map(|share| stepper.last_row(share)).collect();
            stepper.score(&model, &rows);
            let taken = ALLOCATIONS.load(Ordering::Relaxed) - before - 1; // the list of rows is the test's
            assert!(!counted || taken == 0, "{taken} allocations in a step of {} shares", shares.len());
        }
    };
    run(false);
    run(true);
}
