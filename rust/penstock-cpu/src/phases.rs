//! Where a step's time goes.

use std::time::{Duration, Instant};

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking up embeddings.
    Embed,
    /// Norms, and rounding to int8.
    Norm,
    /// The product that gives queries, keys and values.
    Qkv,
    /// Rotating them and writing to the KV cache.
    Rotate,
    /// Attention.
    Attend,
    /// The product with attention's results.
    Out,
    /// The gate's and the up projection's product, with SwiGLU.
    Gate,
    /// The down projection's product.
    Down,
    /// Scores of the vocabulary.
    Head,
    /// What adapters compute apart from the products: `A x`.
    Adapt,
}

impl Phase {
    /// All of them, in the order of a step.
    pub const ALL: [Phase; 10] = [
        Phase::Embed,
        Phase::Norm,
        Phase::Qkv,
        Phase::Rotate,
        Phase::Attend,
        Phase::Out,
        Phase::Gate,
        Phase::Down,
        Phase::Head,
        Phase::Adapt,
    ];

    /// As it is written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Embed => "embed",
            Phase::Norm => "norm",
            Phase::Qkv => "qkv",
            Phase::Rotate => "rotate",
            Phase::Attend => "attend",
            Phase::Out => "out",
            Phase::Gate => "gate",
            Phase::Down => "down",
            Phase::Head => "head",
            Phase::Adapt => "adapt",
        }
    }
}

/// A stopwatch whose laps belong to phases.
pub struct Stopwatch {
    since: Instant,
    spent: [Duration; Phase::ALL.len()],
}

impl Default for Stopwatch {
    fn default() -> Stopwatch {
        Stopwatch { since: Instant::now(), spent: Default::default() }
    }
}

impl Stopwatch {
    /// A lap begins.
    pub fn start(&mut self) {
        self.since = Instant::now();
    }

    /// The lap ends, and the next begins.
    pub fn lap(&mut self, phase: Phase) {
        let now = Instant::now();
        self.spent[phase as usize] += now - self.since;
        self.since = now;
    }

    /// Time spent in each phase since this was last asked.
    pub fn take(&mut self) -> [(Phase, Duration); Phase::ALL.len()] {
        let spent = std::mem::take(&mut self.spent);
        Phase::ALL.map(|phase| (phase, spent[phase as usize]))
    }
}
