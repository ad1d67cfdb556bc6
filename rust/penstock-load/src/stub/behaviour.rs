//! How the stub behaves.

use super::random::Random;
use crate::clock::{Nanos, SECOND};

/// A distribution of seconds or of counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same.
    Constant(f64),
    /// Between two values.
    Uniform(f64, f64),
    /// By its mean.
    Exponential(f64),
    /// By its median, and the deviation of its logarithm.
    Lognormal(f64, f64),
    /// By its smallest value and its exponent: the smaller, the heavier the tail.
    Pareto(f64, f64),
}

impl Distribution {
    /// One value.
    pub fn draw(&self, random: &mut Random) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Uniform(low, high) => low + (high - low) * random.uniform(),
            Self::Exponential(mean) => -mean * random.uniform().ln(),
            Self::Lognormal(median, sigma) => median * (sigma * random.normal()).exp(),
            Self::Pareto(smallest, alpha) => smallest * random.uniform().powf(-1.0 / alpha),
        }
    }
}

/// A way to answer badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With this status, and an error in OpenAI's form.
    Status(u16),
    /// Half of it, then the connection closes.
    Cut,
    /// An event that isn't JSON, half-way.
    Malformed,
    /// An error event half-way.
    InStream,
    /// Not at all.
    Hang,
}

/// Everything the stub does.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// From a request's start to its first token, s.
    pub first_token: Distribution,
    /// Between successive pieces, s.
    pub gap: Distribution,
    /// Tokens of an answer; `None`: as many as `max_tokens` asks for.
    pub tokens: Option<Distribution>,
    /// Tokens to a piece.
    pub tokens_per_piece: u32,
    /// Requests answered at once; the rest wait in order of arrival. `None`: no limit.
    pub slots: Option<usize>,
    /// Times after the first request at which everything stands still, and for how long, s.
    pub stalls: Vec<(f64, f64)>,
    /// Shares of requests that get a fault.
    pub faults: Vec<(f64, Fault)>,
    /// Tell token counts.
    pub usage: bool,
    /// Of all randomness.
    pub seed: u64,
}

/// One request's fate.
#[derive(Clone, Debug, PartialEq)]
pub struct Fate {
    /// From the start of service, in ns, one a piece.
    pub pieces: Vec<Nanos>,
    /// Tokens in all.
    pub tokens: u32,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

impl Behaviour {
    /// What becomes of the `n`-th request, which allows `max_tokens`.
    pub fn fate(&self, n: u64, max_tokens: u32) -> Fate {
        let mut random = Random::of(self.seed, n);
        let drawn = self.tokens.map_or(max_tokens, |tokens| tokens.draw(&mut random).round().clamp(1.0, 1e6) as u32);
        let tokens = drawn.min(max_tokens).max(1);
        let fault = self.fault(&mut random);
        let count = tokens.div_ceil(self.tokens_per_piece.max(1));
        let mut at = nanos(self.first_token.draw(&mut random));
        let pieces = (0..count).map(|i| {
            if i > 0 {
                at += nanos(self.gap.draw(&mut random));
            }
            at
        });
        Fate { pieces: pieces.collect(), tokens, fault }
    }

    fn fault(&self, random: &mut Random) -> Option<Fault> {
        let mut point = random.uniform();
        for &(share, fault) in &self.faults {
            if point < share {
                return Some(fault);
            }
            point -= share;
        }
        None
    }
}

fn nanos(seconds: f64) -> Nanos {
    (seconds.clamp(0.0, 1e6) * SECOND as f64) as Nanos
}
