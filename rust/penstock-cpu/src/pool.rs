//! Threads that share the tasks of one parallel region after the other.
//!
//! A region's tasks are claimed one by one from a counter, so a thread that the system keeps from running holds
//! nobody up but in the one task it may be at. Which thread takes which task never matters to a result.
//!
//! Between regions the threads spin for as long as the gaps within a step last, then they sleep.

use crate::affinity::{Seat, Set, may_interleave, run_on};
use crate::error::{Error, Result};
use crate::topology::Placement;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// What a thread spins for before it sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// Turns between two looks at the clock.
const TURNS: u32 = 64;
/// Turns that the caller waits for others' last tasks before it offers its core to them.
const PATIENCE: u32 = 4096;

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Most tasks of one region.
pub const MAX_TASKS: usize = COUNT_MASK as usize;

type Job<'a> = &'a (dyn Fn(usize, usize) + Sync);

struct Shared {
    /// Region number, its tasks, and the next of them to be claimed: 24, 20 and 20 bits.
    state: AtomicU64,
    /// The region's job, two words of a wide pointer. Read after a claim, which keeps the region from ending.
    job: [AtomicUsize; 2],
    done: AtomicUsize,
    panicked: AtomicBool,
    stopping: AtomicBool,
    asleep: Vec<AtomicBool>,
}

impl Shared {
    /// Claim a task and run it; false if there was none.
    fn run_one(&self, thread: usize) -> bool {
        let mut state = self.state.load(Ordering::SeqCst);
        loop {
            let (next, total) = (state & COUNT_MASK, state >> COUNT_BITS & COUNT_MASK);
            if next >= total {
                return false;
            }
            match self.state.compare_exchange_weak(state, state + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    let words = [self.job[0].load(Ordering::Relaxed), self.job[1].load(Ordering::Relaxed)];
                    // SAFETY: `run` put a job of this type there, and returns only when this task is done.
                    let job: Job<'_> = unsafe { std::mem::transmute(words) };
                    if catch_unwind(AssertUnwindSafe(|| job(next as usize, thread))).is_err() {
                        self.panicked.store(true, Ordering::Relaxed);
                    }
                    self.done.fetch_add(1, Ordering::Release);
                    return true;
                }
                Err(seen) => state = seen,
            }
        }
    }

    fn has_tasks(&self) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & COUNT_MASK < state >> COUNT_BITS & COUNT_MASK
    }

    fn work(&self, thread: usize) {
        let mut idle_since = Instant::now();
        let mut turns = 0u32;
        while !self.stopping.load(Ordering::Relaxed) {
            if self.run_one(thread) {
                turns = 0;
                continue;
            }
            if turns == 0 {
                idle_since = Instant::now();
            }
            turns = turns.wrapping_add(1).max(1);
            std::hint::spin_loop();
            if turns.is_multiple_of(TURNS) && idle_since.elapsed() > SPIN {
                let asleep = &self.asleep[thread - 1];
                asleep.store(true, Ordering::SeqCst);
                if !self.has_tasks() && !self.stopping.load(Ordering::SeqCst) {
                    thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
                turns = 0;
            }
        }
    }
}

/// The caller and `threads - 1` others.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    placement: Placement,
}

impl Pool {
    /// A pool of at least one thread, the caller; they run where the system puts them.
    pub fn new(threads: usize) -> Pool {
        Pool::start(Placement::anywhere(threads)).expect("nothing was asked of the system")
    }

    /// A pool whose threads run, and place memory, as was decided. Where the system refuses, they go on without, and
    /// [`Pool::placement`] says so.
    ///
    /// The caller is placed only while it holds a [`Pool::seat`].
    ///
    /// # Errors
    /// If the system refuses to pin threads although pinning was insisted on.
    pub fn placed(mut placement: Placement) -> Result<Pool> {
        if !placement.nodes().is_empty()
            && let Err(why) = may_interleave(&Set::of(placement.nodes()))
        {
            placement = placement.uneven(&why);
        }
        match Pool::start(placement.clone()) {
            Ok(pool) => Ok(pool),
            Err(why) => Pool::start(placement.refused(&why)?).map_err(|why| Error::Config(why.to_string())),
        }
    }

    /// Threads begin with the CPUs and the memory policy of the one that starts them, so this takes each one's seat
    /// before it starts it: a refusal is seen here, and no thread ever runs elsewhere.
    fn start(placement: Placement) -> std::io::Result<Pool> {
        let others = placement.threads() - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: [AtomicUsize::new(0), AtomicUsize::new(0)],
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            asleep: (0..others).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut pool = Pool { shared, workers: Vec::new(), handles: Vec::new(), placement };
        let _seat = Seat::take(pool.placement.cpu(0), pool.placement.nodes())?;
        for index in 1..=others {
            if let Some(cpu) = pool.placement.cpu(index) {
                run_on(&Set::of(&[cpu]))?;
            }
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("penstock-cpu-{index}"))
                .spawn(move || shared.work(index))
                .expect("the system starts a thread");
            pool.handles.push(worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// The caller's place among the threads; none if its CPU is gone since. It is held for a step, not for good: what
    /// the caller does between steps and the threads it starts meanwhile are free to run on any CPU.
    pub fn seat(&self) -> Option<Seat> {
        Seat::take(self.placement.cpu(0), self.placement.nodes()).ok()
    }

    /// Where the threads are.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Run `job(task, thread)` for each task from 0 to `tasks - 1`, in any order and side by side; `thread` is below
    /// [`Pool::threads`], and no two tasks at a time have the same. One caller at a time, never from within a job.
    ///
    /// # Panics
    /// If a task does, once all are done; or if there are more than [`MAX_TASKS`].
    pub fn run(&self, tasks: usize, job: Job<'_>) {
        assert!(tasks <= MAX_TASKS, "{tasks} tasks in one region");
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| job(task, 0));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: a wide pointer is two words; its lifetime ends after this function has waited for all tasks.
        let words: [usize; 2] = unsafe { std::mem::transmute(job) };
        shared.job[0].store(words[0], Ordering::Relaxed);
        shared.job[1].store(words[1], Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        let region = (shared.state.load(Ordering::Relaxed) >> (2 * COUNT_BITS)).wrapping_add(1);
        shared.state.store(region << (2 * COUNT_BITS) | (tasks as u64) << COUNT_BITS, Ordering::SeqCst);
        for (asleep, handle) in shared.asleep.iter().zip(&self.handles) {
            if asleep.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        while shared.run_one(0) {}
        let mut turns = 0u32;
        while shared.done.load(Ordering::Acquire) < tasks {
            turns = turns.wrapping_add(1);
            if turns > PATIENCE {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        if shared.panicked.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a task of the thread pool panicked"));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for handle in &self.handles {
            handle.unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks throw, so it has nothing to tell.
            let _ = worker.join();
        }
    }
}

/// A pointer that tasks share; what each may touch is said where it is used.
pub(crate) struct SendPtr<T>(pub *mut T);
// SAFETY: see above.
unsafe impl<T> Send for SendPtr<T> {}
// SAFETY: see above.
unsafe impl<T> Sync for SendPtr<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_every_region() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100, 1000] {
                for _ in 0..50 {
                    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(tasks, &|task, thread| {
                        assert!(thread < threads);
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn threads_that_fell_asleep_are_woken() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            while !pool.shared.asleep[0].load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let both = std::sync::Barrier::new(2);
            pool.run(2, &|_, _| {
                both.wait();
            });
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pinned_threads_stay_on_their_cpus_and_the_caller_is_free_between_steps() {
        use crate::affinity::allowed;
        use crate::topology::{Pin, Topology, Wish};
        let before = allowed().unwrap();
        let wish = Wish { threads: Some(before.numbers().len()), reserve: 0, pin: Pin::On, quota: None };
        let placement = Topology::here().place(&wish).unwrap();
        let pool = Pool::placed(placement.clone()).unwrap();
        assert_eq!(pool.placement(), &placement);
        assert_eq!(allowed().unwrap(), before);
        let seat = pool.seat().unwrap();
        let together = std::sync::Barrier::new(pool.threads());
        pool.run(pool.threads(), &|_, thread| {
            together.wait();
            assert_eq!(allowed().unwrap().numbers(), [placement.cpu(thread).unwrap()]);
        });
        drop(seat);
        assert_eq!(allowed().unwrap(), before);
        drop(pool);
        assert_eq!(allowed().unwrap(), before);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn with_threads_on_two_nodes_every_thread_interleaves_and_the_caller_only_in_its_seat() {
        use crate::affinity::allowed;
        use crate::topology::{Pin, Topology, Wish};
        let before = allowed().unwrap().numbers();
        let node = Set::of(&[0]);
        if let Err(refused) = may_interleave(&node) {
            eprintln!("skipped: {refused}");
            return;
        }
        let [first, second, ..] = before[..] else { return };
        let root = std::env::temp_dir().join(format!("penstock-nodes-{}", std::process::id()));
        for (file, text) in
            [("online", "0-1"), ("node0/cpulist", &*first.to_string()), ("node1/cpulist", &*second.to_string())]
        {
            let path = root.join("sys/devices/system/node").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let topology = Topology::read(&root, &[first, second]);
        std::fs::remove_dir_all(&root).unwrap();
        let wish = Wish { threads: None, reserve: 0, pin: Pin::Off, quota: None };
        let pool = Pool::placed(topology.place(&wish).unwrap()).unwrap();
        assert!(pool.placement().to_string().ends_with("memory interleaved over nodes 0-1"));
        let seat = pool.seat().unwrap();
        let together = std::sync::Barrier::new(2);
        pool.run(2, &|_, _| {
            together.wait();
            assert!(may_interleave(&node).is_err(), "there is a policy already");
        });
        drop(seat);
        may_interleave(&node).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_that_the_system_refuses_to_pin_run_anywhere_unless_that_was_insisted_on() {
        use crate::affinity::{MAX, allowed};
        use crate::topology::{Pin, Topology, Wish};
        let before = allowed().unwrap();
        // A CPU that no machine has, kept for the runner by a kernel that keeps all of them.
        let root = std::env::temp_dir().join(format!("penstock-pool-{}", std::process::id()));
        let folder = root.join("sys/devices/system/cpu");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("isolated"), format!("0-{}", MAX - 1)).unwrap();
        let topology = Topology::read(&root, &[before.numbers()[0], MAX - 1]);
        std::fs::remove_dir_all(&root).unwrap();
        let wish = Wish { threads: None, reserve: 0, pin: Pin::Auto, quota: None };
        let pool = Pool::placed(topology.place(&wish).unwrap()).unwrap();
        assert_eq!((pool.threads(), pool.placement().cpu(0)), (2, None));
        assert!(pool.placement().to_string().starts_with("not pinned: the system refused"));
        assert!(Pool::placed(topology.place(&Wish { pin: Pin::On, ..wish }).unwrap()).is_err());
        assert_eq!(allowed().unwrap(), before);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for failing in [0, 5, 9] {
            let caught = catch_unwind(AssertUnwindSafe(|| pool.run(10, &|task, _| assert!(task != failing, "no"))));
            assert!(caught.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.run(10, &|_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}
