//! Steps of a model: hidden states of any mix of decodes and prompt chunks, and scores of the tokens that follow.

mod attend;
mod plan;
mod products;

use crate::activations::{Activations, Form, Precision, norm_row};
use crate::attention::{Partial, Scratch};
use crate::kv_cache::KvCache;
use crate::lora::{Adapter, LowRank, Place};
use crate::model::{Model, Sizes};
use crate::phases::{Phase, Stopwatch};
use crate::pool::{Pool, SendPtr};
use crate::products::Products;
use crate::simd::{LANES, Path};
use crate::tuner::{MOST_ROWS, Tuner};
use plan::{Attending, Row};
use products::{by_blocks, together};
use std::sync::Arc;

/// One sequence's share of a step: compute `tokens` at positions `start ..`.
#[derive(Clone, Debug)]
pub struct Share {
    /// Token ids, each in the vocabulary.
    pub tokens: Vec<u32>,
    /// The first one's position.
    pub start: usize,
    /// Blocks of the cache for all positions up to the last.
    pub table: Vec<u32>,
}

/// Runs steps. Its buffers grow to the largest step seen and stay.
pub struct Stepper {
    path: Path,
    precision: Precision,
    pool: Pool,
    products: Products,
    rows: Vec<Row>,
    first_rows: Vec<usize>,
    attending: [Attending; 2], // in layers without a window, and with one
    parts: Vec<Partial>,       // of each part task
    residual: Vec<f32>,        // [rows, hidden_stride]
    branch: Vec<f32>,          // the same, where what is added to it is normed first
    qkv: Vec<f32>,             // [rows, qkv_stride]
    normed: Activations,
    attended: Activations,
    gated: Activations,
    wanted: Activations,
    logits: Vec<f32>, // [rows, vocab_stride]
    low_rank: LowRank,
    scratch: Vec<ThreadScratch>,
    stopwatch: Stopwatch,
}

#[derive(Default)]
struct ThreadScratch {
    attention: Scratch,
    gate: Vec<f32>,
}

impl Stepper {
    /// A stepper with threads of its own.
    ///
    /// # Panics
    /// If the path can't multiply with this precision.
    pub fn new(path: Path, precision: Precision, pool: Pool) -> Stepper {
        assert!(precision != Precision::Bf16 || path.has_bf16_products());
        let scratch = (0..pool.threads()).map(|_| ThreadScratch::default()).collect();
        Stepper {
            path,
            precision,
            products: Products::new(pool.threads()),
            pool,
            rows: Vec::new(),
            first_rows: Vec::new(),
            attending: Default::default(),
            parts: Vec::new(),
            residual: Vec::new(),
            branch: Vec::new(),
            qkv: Vec::new(),
            normed: Activations::default(),
            attended: Activations::default(),
            gated: Activations::default(),
            wanted: Activations::default(),
            logits: Vec::new(),
            low_rank: LowRank::default(),
            scratch,
            stopwatch: Stopwatch::default(),
        }
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The instruction path.
    pub fn path(&self) -> Path {
        self.path
    }

    /// How products take their activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What chooses how products are cut up.
    pub fn tuner(&mut self) -> &mut Tuner {
        self.products.tuner()
    }

    /// Where the time of the steps went.
    pub fn stopwatch(&mut self) -> &mut Stopwatch {
        &mut self.stopwatch
    }

    /// The step's row of a share's last token.
    pub fn last_row(&self, share: usize) -> usize {
        self.first_rows[share + 1] - 1
    }

    /// The step's row of a share's first token.
    pub fn first_row(&self, share: usize) -> usize {
        self.first_rows[share]
    }

    /// Whether all of a row's hidden state is finite after the last step.
    pub fn is_finite(&self, model: &Model, row: usize) -> bool {
        let stride = model.sizes.hidden.next_multiple_of(LANES);
        let hidden = &self.residual[row * stride..][..model.sizes.hidden];
        hidden.iter().fold(true, |all, x| all & x.is_finite())
    }

    /// The normalized final hidden state of a share's last token after the last step; if `whole`, the sum of those of
    /// all its tokens.
    pub fn pooled(&self, model: &Model, share: usize, whole: bool) -> Vec<f32> {
        let s = &model.sizes;
        let stride = s.hidden.next_multiple_of(LANES);
        let first = if whole { self.first_row(share) } else { self.last_row(share) };
        let mut sum = vec![0.0; s.hidden];
        for row in first..=self.last_row(share) {
            let hidden = &self.residual[row * stride..][..s.hidden];
            let squares: f32 = hidden.iter().map(|x| x * x).sum();
            let scale = 1.0 / (squares / s.hidden as f32 + s.eps).sqrt();
            for ((sum, x), w) in sum.iter_mut().zip(hidden).zip(&model.final_norm) {
                *sum += x * scale * w;
            }
        }
        sum
    }

    /// Compute the hidden states of all shares' tokens, and write their keys and values to the cache.
    ///
    /// # Panics
    /// If a share has no token, one outside of the vocabulary, or a table that doesn't cover it.
    pub fn forward(&mut self, model: &Model, cache: &KvCache, shares: &[Share]) {
        self.forward_adapted(model, cache, shares, &[]);
    }

    /// [`Stepper::forward`] where shares have adapters of the model: one for each, or none at all for all of them.
    ///
    /// # Panics
    /// As that, or if the adapters are neither none nor as many as the shares.
    pub fn forward_adapted(
        &mut self,
        model: &Model,
        cache: &KvCache,
        shares: &[Share],
        adapters: &[Option<Arc<Adapter>>],
    ) {
        assert!(adapters.is_empty() || adapters.len() == shares.len());
        self.stopwatch.start();
        self.plan(model, cache, shares);
        let mut low_rank = std::mem::take(&mut self.low_rank);
        low_rank.begin(&self.first_rows, adapters);
        let lora = low_rank.adapted();
        let rows = self.rows.len();
        let s = &model.sizes;
        let stride = s.hidden.next_multiple_of(LANES);
        grow(&mut self.residual, rows * stride);
        let (residual, all) = (SendPtr(self.residual.as_mut_ptr()), &self.rows);
        run_rows(&self.pool, rows, |r| {
            let residual = &residual;
            // SAFETY: every row is one task's.
            let to = unsafe { std::slice::from_raw_parts_mut(residual.0.add(r * stride), s.hidden) };
            model.embed.read_row(all[r].token as usize, to);
            if s.embedding_scale != 1.0 {
                to.iter_mut().for_each(|x| *x *= s.embedding_scale);
            }
        });
        grow(&mut self.branch, if s.post_norms { rows * stride } else { 0 });
        grow(&mut self.qkv, rows * model.layers[0].qkv.tiles() * LANES);
        self.normed.resize(rows, s.hidden);
        self.attended.resize(rows, s.heads * s.head_dim);
        self.gated.resize(rows, s.ffn);
        // Whichever thread or place a task comes to, there is room for it.
        let group = s.heads / s.kv_heads;
        for scratch in &mut self.scratch {
            scratch.attention.reserve(&cache.shape, group);
            grow(&mut scratch.gate, rows.min(MOST_ROWS) * together(lora, rows) * LANES);
        }
        let parts = self.attending.iter().map(|attending| attending.part_tasks.len()).max().unwrap_or(0);
        self.parts[..parts].iter_mut().for_each(|part| part.reserve(&cache.shape, group));
        self.stopwatch.lap(Phase::Embed);
        for (i, layer) in model.layers.iter().enumerate() {
            let next = model.layers.get(i + 1).map_or(model.head(), |layer| &layer.qkv);
            self.norm(rows, &layer.attn_norm, s, layer.qkv.takes(self.precision));
            self.stopwatch.lap(Phase::Norm);
            self.shrink(lora, i, Place::Qkv);
            self.multiply_qkv(layer, rows, lora, i);
            self.stopwatch.lap(Phase::Qkv);
            self.rotate(model, layer, i, cache, shares);
            self.stopwatch.lap(Phase::Rotate);
            self.attend(model, layer, i, cache, shares);
            self.stopwatch.lap(Phase::Attend);
            self.shrink(lora, i, Place::Out);
            self.add_product(s, &layer.o, &layer.gate_up, Place::Out, &layer.attn_post_norm, rows, lora, i);
            self.stopwatch.lap(Phase::Out);
            self.norm(rows, &layer.mlp_norm, s, layer.gate_up.takes(self.precision));
            self.stopwatch.lap(Phase::Norm);
            self.shrink(lora, i, Place::GateUp);
            self.gate(layer, s.activation, rows, lora, i);
            self.stopwatch.lap(Phase::Gate);
            self.shrink(lora, i, Place::Down);
            self.add_product(s, &layer.down, next, Place::Down, &layer.mlp_post_norm, rows, lora, i);
            self.stopwatch.lap(Phase::Down);
        }
        low_rank.end();
        self.low_rank = low_rank;
    }

    /// Scores of the tokens that follow the given rows of the last step, `[rows.len(), vocab]` with a stride that
    /// [`Stepper::scores`] knows.
    pub fn score(&mut self, model: &Model, rows: &[usize]) {
        self.stopwatch.start();
        let s = &model.sizes;
        let (path, head) = (self.path, model.head());
        let form = head.takes(self.precision);
        let stride = s.hidden.next_multiple_of(LANES);
        self.wanted.resize(rows.len(), s.hidden);
        let (view, residual) = (self.wanted.view(), self.residual.as_ptr());
        for (i, &row) in rows.iter().enumerate() {
            assert!(row < self.rows.len());
            // SAFETY: the row is one of the last step's; the view has room for it.
            unsafe {
                norm_row(path, residual.add(row * stride), model.final_norm.as_ptr(), s.hidden, s.eps, view, i, form)
            };
        }
        let out_stride = head.tiles() * LANES;
        grow(&mut self.logits, rows.len() * out_stride);
        let out = SendPtr(self.logits.as_mut_ptr());
        let precision = self.precision;
        self.products.run(&self.pool, head, None, 1, rows.len(), |tiles, plan, _| {
            let out = &out;
            // SAFETY: tasks write different tiles of the rows that were made room for.
            unsafe { by_blocks(path, precision, head, view, tiles, plan, rows.len(), out.0, out_stride, false) };
        });
        self.stopwatch.lap(Phase::Head);
    }

    /// The scores of one of the rows that [`Stepper::score`] was given.
    pub fn scores(&mut self, model: &Model, index: usize) -> &mut [f32] {
        let stride = model.head().tiles() * LANES;
        &mut self.logits[index * stride..][..model.sizes.vocab]
    }

    /// Run `job` on the scores of rows `0 .. count`, side by side.
    pub fn with_scores(&mut self, model: &Model, count: usize, job: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let stride = model.head().tiles() * LANES;
        assert!(count * stride <= self.logits.len());
        let logits = SendPtr(self.logits.as_mut_ptr());
        let vocab = model.sizes.vocab;
        self.pool.run(count, &|index, _| {
            let logits = &logits;
            // SAFETY: every task has a row of its own.
            job(index, unsafe { std::slice::from_raw_parts_mut(logits.0.add(index * stride), vocab) });
        });
    }

    fn norm(&mut self, rows: usize, weight: &[f32], s: &Sizes, form: Form) {
        let path = self.path;
        let stride = s.hidden.next_multiple_of(LANES);
        let view = self.normed.view();
        let residual = SendPtr(self.residual.as_mut_ptr());
        run_rows(&self.pool, rows, |row| {
            let residual = &residual;
            // SAFETY: every row is written by one task.
            unsafe { norm_row(path, residual.0.add(row * stride), weight.as_ptr(), s.hidden, s.eps, view, row, form) };
        });
    }
}

/// Share rows out, if there are enough of them to be worth it.
fn run_rows(pool: &Pool, rows: usize, job: impl Fn(usize) + Sync) {
    const EACH: usize = 4;
    if rows <= EACH {
        (0..rows).for_each(job);
        return;
    }
    pool.run(rows.div_ceil(EACH), &|task, _| (task * EACH..rows.min((task + 1) * EACH)).for_each(&job));
}

fn grow(buffer: &mut Vec<f32>, size: usize) {
    if buffer.len() < size {
        buffer.resize(size, 0.0);
    }
}
