//! What the stub itself saw, for a client's figures to be held against.

use crate::clock::Nanos;
use std::fmt::Write;

/// One request, by the server's clock, which is the client's on the same machine.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `x-request-id`, if the client gave one.
    pub id: Option<String>,
    /// The request was there whole.
    pub received: Nanos,
    /// Service began.
    pub started: Nanos,
    /// The first piece was written.
    pub first: Nanos,
    /// The last piece was written.
    pub last: Nanos,
    /// Tokens written.
    pub tokens: u32,
    /// The answer was whole.
    pub whole: bool,
}

/// All answers so far.
#[derive(Default)]
pub struct Truth {
    /// In order of ending; the first million, for memory's sake.
    pub seen: Vec<Seen>,
    /// Whole answers.
    pub requests: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Their sums, s.
    pub ttft_sum: f64,
    /// Received to last piece.
    pub e2e_sum: f64,
    /// Received to service begun.
    pub queue_sum: f64,
    /// Requests being answered.
    pub running: usize,
    /// Requests waiting for a slot.
    pub waiting: usize,
}

const KEPT: usize = 1_000_000;

impl Truth {
    /// Count an answer.
    pub fn add(&mut self, seen: Seen) {
        if seen.whole {
            let seconds = |from: Nanos, to: Nanos| to.saturating_sub(from) as f64 / 1e9;
            self.requests += 1;
            self.tokens += u64::from(seen.tokens);
            self.ttft_sum += seconds(seen.received, seen.first);
            self.e2e_sum += seconds(seen.received, seen.last);
            self.queue_sum += seconds(seen.received, seen.started);
        }
        if self.seen.len() < KEPT {
            self.seen.push(seen);
        }
    }

    /// As JSON lines.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for seen in &self.seen {
            let id = serde_json::to_string(&seen.id).unwrap_or_default();
            let Seen { received, started, first, last, tokens, whole, .. } = seen;
            // Writing to a String can't fail.
            let _ = writeln!(
                text,
                r#"{{"id":{id},"received":{received},"started":{started},"first":{first},"last":{last},"tokens":{tokens},"whole":{whole}}}"#
            );
        }
        text
    }

    /// As a Prometheus page, under the names that vLLM gives them.
    pub fn metrics(&self) -> String {
        let (n, running, waiting) = (self.requests, self.running, self.waiting);
        let mut text = format!(
            "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running {running}\n\
             # TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting {waiting}\n\
             # TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total {}\n\
             # TYPE vllm:request_success counter\nvllm:request_success_total {n}\n",
            self.tokens
        );
        let sums = [
            ("time_to_first_token", self.ttft_sum),
            ("e2e_request_latency", self.e2e_sum),
            ("request_queue_time", self.queue_sum),
        ];
        for (name, sum) in sums {
            let _ = write!(
                text,
                "# TYPE vllm:{name}_seconds histogram\nvllm:{name}_seconds_bucket{{le=\"+Inf\"}} {n}\n\
                 vllm:{name}_seconds_sum {sum}\nvllm:{name}_seconds_count {n}\n"
            );
        }
        text
    }
}
