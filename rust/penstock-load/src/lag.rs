//! How late the loop itself was: a histogram of 10 µs steps.

use crate::clock::Nanos;

const STEP: Nanos = 10_000;
const STEPS: usize = 10_000; // up to 100 ms; the last holds all above

/// Delays that the generator added.
#[derive(Clone, Debug)]
pub struct Lag {
    counts: Vec<u32>,
    total: u64,
    /// The longest.
    pub max: Nanos,
}

impl Default for Lag {
    fn default() -> Self {
        Self { counts: vec![0; STEPS], total: 0, max: 0 }
    }
}

impl Lag {
    /// Count one delay.
    pub fn add(&mut self, delay: Nanos) {
        self.counts[((delay / STEP) as usize).min(STEPS - 1)] += 1;
        self.total += 1;
        self.max = self.max.max(delay);
    }

    /// The smallest step's end that at least `share` of the delays don't pass; 0 without delays.
    pub fn quantile(&self, share: f64) -> Nanos {
        let wanted = (share * self.total as f64).ceil() as u64;
        let mut seen = 0;
        for (step, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted && seen > 0 {
                return ((step as Nanos + 1) * STEP).min(self.max);
            }
        }
        self.max
    }
}
