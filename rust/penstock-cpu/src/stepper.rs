//! Steps of a model: hidden states of any mix of decodes and prompt chunks, and scores of the tokens that follow.

use crate::activations::{Activations, Form, GROUP, Precision, View, add_norm_row, norm_row, round_groups};
use crate::attention::{Partial, Queries, Scratch, attend, attend_to, chunks, merge, positions_together};
use crate::gemm::{Output, Part, product};
use crate::kv_cache::KvCache;
use crate::lora::{Adapted, Adapter, LowRank, Place};
use crate::matrix::Matrix;
use crate::model::{Activation, Layer, Model, Sizes};
use crate::phases::{Phase, Stopwatch};
use crate::pointwise::{geglu, norm_head, swiglu};
use crate::pool::{Pool, SendPtr};
use crate::products::Products;
use crate::simd::{LANES, Path};
use crate::tuner::{MOST_ROWS, Plan, Tuner};
use std::ops::Range;
use std::sync::Arc;

/// With fewer tasks of attention than this for each thread, threads share long contexts.
const ENOUGH_TASKS: usize = 8;

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

/// A row of the step.
#[derive(Clone, Copy)]
struct Row {
    share: usize,
    token: u32,
    position: usize,
}

/// Attention of a few positions of a sequence over a KV head.
#[derive(Clone, Copy)]
struct Task {
    share: usize,
    head: usize,
    first: usize, // of the share's tokens
    count: usize,
    row: usize,
}

/// A part of a task whose context threads share.
#[derive(Clone, Copy)]
struct PartTask {
    task: Task,
    chunk: usize,
}

/// The attention of a step's rows in layers of one kind, with a window or without.
#[derive(Default)]
struct Attending {
    tasks: Vec<Task>,
    long_tasks: Vec<(Task, usize, usize)>, // with their first part and how many they have
    part_tasks: Vec<PartTask>,
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

    fn plan(&mut self, model: &Model, cache: &KvCache, shares: &[Share]) {
        let s = &model.sizes;
        self.rows.clear();
        self.first_rows.clear();
        let kinds = [false, true].map(|windowed| model.layers.iter().any(|layer| layer.windowed == windowed));
        let [global, windowed] = &mut self.attending;
        let (first, second) = if kinds[0] { (global, windowed) } else { (windowed, global) };
        let tasks = &mut first.tasks;
        tasks.clear();
        let together = positions_together(s.heads / s.kv_heads);
        for (index, share) in shares.iter().enumerate() {
            let end = share.start + share.tokens.len();
            assert!(!share.tokens.is_empty() && end <= model.positions());
            assert!(share.table.len() * cache.shape.block_size >= end);
            assert!(share.table.iter().all(|&block| (block as usize) < cache.blocks));
            let row = self.rows.len();
            self.first_rows.push(row);
            for (i, &token) in share.tokens.iter().enumerate() {
                assert!((token as usize) < s.vocab);
                self.rows.push(Row { share: index, token, position: share.start + i });
            }
            for first in (0..share.tokens.len()).step_by(together) {
                let count = together.min(share.tokens.len() - first);
                tasks.extend((0..s.kv_heads).map(|head| Task { share: index, head, first, count, row: row + first }));
            }
        }
        self.first_rows.push(self.rows.len());
        // The longest first, so that the threads end together.
        tasks.sort_unstable_by_key(|t| (std::cmp::Reverse(shares[t.share].start + t.first), t.share, t.first, t.head));
        second.tasks.clone_from(if kinds == [true; 2] { tasks } else { const { &Vec::new() } });
        let windows = [usize::MAX, s.window.unwrap_or(usize::MAX)];
        for (attending, window) in self.attending.iter_mut().zip(windows) {
            attending.split_long_tasks(cache, shares, window, self.pool.threads());
            if self.parts.len() < attending.part_tasks.len() {
                self.parts.resize_with(attending.part_tasks.len(), Partial::default);
            }
        }
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

    /// Where adapters' own products begin: `A x` of what the place's product takes.
    fn shrink(&mut self, lora: Adapted<'_>, index: usize, place: Place) {
        if lora.is_empty() {
            return;
        }
        let x = match place {
            Place::Qkv | Place::GateUp => self.normed.view(),
            Place::Out => self.attended.view(),
            Place::Down => self.gated.view(),
        };
        lora.shrink(self.path, &self.pool, index, place, x);
        self.stopwatch.lap(Phase::Adapt);
    }

    fn multiply_qkv(&mut self, layer: &Layer, rows: usize, lora: Adapted<'_>, index: usize) {
        let (path, precision) = (self.path, self.precision);
        let view = self.normed.view();
        let stride = layer.qkv.tiles() * LANES;
        let out = SendPtr(self.qkv.as_mut_ptr());
        self.products.run(&self.pool, &layer.qkv, Some(&layer.o), 1, rows, |tiles, plan, _| {
            let (out, first) = (&out, tiles.start * LANES);
            let last = (tiles.end * LANES).min(layer.qkv_bias.len());
            // SAFETY: tasks write different tiles.
            unsafe {
                by_blocks(path, precision, &layer.qkv, view, tiles.clone(), plan, rows, out.0, stride, false);
                lora.expand(path, index, Place::Qkv, tiles, 0..rows, out.0.add(first), stride);
            }
            if !layer.qkv_bias.is_empty() {
                for row in 0..rows {
                    for (o, bias) in layer.qkv_bias[first..last].iter().enumerate() {
                        // SAFETY: see above.
                        unsafe { *out.0.add(row * stride + first + o) += bias };
                    }
                }
            }
        });
    }

    /// Rotate queries and keys, and write keys and values to the cache.
    fn rotate(&mut self, model: &Model, layer: &Layer, index: usize, cache: &KvCache, shares: &[Share]) {
        let s = &model.sizes;
        let stride = layer.qkv.tiles() * LANES;
        let qkv = SendPtr(self.qkv.as_mut_ptr());
        let (rows, path) = (&self.rows, self.path);
        let block_size = cache.shape.block_size;
        run_rows(&self.pool, rows.len(), |r| {
            let qkv = &qkv;
            let row = rows[r];
            // SAFETY: every row is one task's, and so is its slot in the cache.
            let all = unsafe { std::slice::from_raw_parts_mut(qkv.0.add(r * stride), stride) };
            let rotated = &mut all[..(s.heads + s.kv_heads) * s.head_dim];
            if s.qk_norm {
                for (h, head) in rotated.chunks_exact_mut(s.head_dim).enumerate() {
                    norm_head(head, if h < s.heads { &layer.q_norm } else { &layer.k_norm }, s.eps);
                }
            }
            // SAFETY: the stepper's path is supported.
            unsafe { model.rotary(layer).rotate(path, rotated, row.position) };
            let block = shares[row.share].table[row.position / block_size] as usize;
            for head in 0..s.kv_heads {
                let key = (s.heads + head) * s.head_dim;
                let value = key + s.kv_heads * s.head_dim;
                // SAFETY: see above.
                unsafe {
                    let (key, value) = (all.as_ptr().add(key), all.as_ptr().add(value));
                    cache.write(path, index, head, block, row.position % block_size, key, value);
                }
            }
        });
    }

    fn attend(&mut self, model: &Model, layer: &Layer, index: usize, cache: &KvCache, shares: &[Share]) {
        let s = &model.sizes;
        let (path, form) = (self.path, layer.o.takes(self.precision));
        let (stride, group) = (layer.qkv.tiles() * LANES, s.heads / s.kv_heads);
        let (qkv, view) = (SendPtr(self.qkv.as_mut_ptr()), self.attended.view());
        let scratch = SendPtr(self.scratch.as_mut_ptr());
        // Where a KV head's queries fill whole groups, its task rounds its own results.
        let own_groups = (group * s.head_dim).is_multiple_of(GROUP);
        let window = s.window.filter(|_| layer.windowed).unwrap_or(usize::MAX);
        let scale = s.attention_scale();
        // SAFETY: the first query and result of a task are within the buffers.
        let queries = |task: Task| unsafe {
            let (qkv, view) = (&qkv, &view);
            let at = task.head * group * s.head_dim;
            Queries {
                layer: index,
                head: task.head,
                table: shares[task.share].table.as_ptr(),
                start: shares[task.share].start + task.first,
                positions: task.count,
                group,
                q: qkv.0.add(task.row * stride + at),
                q_stride: stride,
                out: view.wide.add(task.row * view.width + at),
                out_stride: view.width,
                window,
                scale,
            }
        };
        // SAFETY: tasks write different heads or rows.
        let round = |task: Task| unsafe {
            if own_groups {
                for row in task.row..task.row + task.count {
                    let count = group * s.head_dim / GROUP;
                    round_groups(path, view, row, task.head * count, count, form);
                }
            }
        };
        let Attending { tasks, part_tasks, long_tasks } = &self.attending[usize::from(layer.windowed)];
        let parts = SendPtr(self.parts.as_mut_ptr());
        self.pool.run(part_tasks.len() + tasks.len(), &|t, thread| {
            let (scratch, parts) = (&scratch, &parts);
            // SAFETY: a thread's scratch is its own; tasks write different heads, rows or parts; the cache is only
            // read.
            unsafe {
                let scratch = &mut (*scratch.0.add(thread)).attention;
                if let Some(p) = part_tasks.get(t) {
                    attend_to(path, cache, &queries(p.task), scratch, p.chunk, &mut *parts.0.add(t));
                } else {
                    let task = tasks[t - part_tasks.len()];
                    attend(path, cache, &queries(task), scratch);
                    round(task);
                }
            }
        });
        self.pool.run(long_tasks.len(), &|t, _| {
            let parts = &parts;
            let (task, first, count) = long_tasks[t];
            // SAFETY: tasks have different parts, and write different heads or rows.
            unsafe {
                merge(path, cache, &queries(task), std::slice::from_raw_parts_mut(parts.0.add(first), count));
            }
            round(task);
        });
        if !own_groups && form != Form::F32 {
            run_rows(&self.pool, self.rows.len(), |row| {
                // SAFETY: every row is one task's.
                unsafe { round_groups(path, view, row, 0, view.width / GROUP, form) };
            });
        }
    }

    /// `activation(gate) * up`, two tiles of each at a time so that whole groups can be rounded.
    fn gate(&mut self, layer: &Layer, activation: Activation, rows: usize, lora: Adapted<'_>, index: usize) {
        let gated = match activation {
            Activation::Silu => swiglu,
            Activation::Gelu => geglu,
        };
        let (path, precision, form) = (self.path, self.precision, layer.down.takes(self.precision));
        let (from, to) = (self.normed.view(), self.gated.view());
        let scratch = SendPtr(self.scratch.as_mut_ptr());
        let width = together(lora, rows);
        self.products.run(&self.pool, &layer.gate_up, Some(&layer.down), 4, rows, |tiles, plan, thread| {
            let (scratch, block) = (&scratch, usize::from(plan.block));
            // SAFETY: a thread's scratch is its own; tasks write different groups.
            unsafe {
                let gate = &mut (*scratch.0.add(thread)).gate;
                debug_assert!(gate.len() >= block.min(rows) * width * LANES);
                for first_tile in tiles.clone().step_by(width) {
                    let count = width.min(tiles.end - first_tile);
                    for first_row in (0..rows).step_by(block) {
                        let block_rows = block.min(rows - first_row);
                        let out = Output { to: gate.as_mut_ptr(), stride: width * LANES, accumulate: false };
                        let together = usize::from(plan.together);
                        let part = Part { first_tile, tiles: count, first_row, rows: block_rows, together };
                        product(path, &layer.gate_up, from, precision, part, out);
                        let (own_tiles, own_rows) = (first_tile..first_tile + count, first_row..first_row + block_rows);
                        lora.expand(path, index, Place::GateUp, own_tiles, own_rows, out.to, out.stride);
                        for pair in 0..count / 2 {
                            let gates = gate.as_ptr().add(2 * pair * LANES);
                            let wide = to.wide.add(first_row * to.width + (first_tile / 2 + pair) * LANES);
                            gated(path, gates, gates.add(LANES), width * LANES, block_rows, wide, to.width);
                        }
                        for row in first_row..first_row + block_rows {
                            round_groups(path, to, row, first_tile / 4, count.div_ceil(4), form);
                        }
                    }
                }
            }
        });
    }

    /// Add a product to the residual stream, normed first if there is a `post_norm`.
    fn add_product(
        &mut self,
        s: &Sizes,
        matrix: &Matrix,
        next: &Matrix,
        place: Place,
        post_norm: &[f32],
        rows: usize,
        lora: Adapted<'_>,
        index: usize,
    ) {
        let stride = s.hidden.next_multiple_of(LANES);
        let (path, precision) = (self.path, self.precision);
        let view = if place == Place::Out { self.attended.view() } else { self.gated.view() };
        let residual = SendPtr(self.residual.as_mut_ptr());
        let adds = post_norm.is_empty();
        let out = if adds { SendPtr(self.residual.as_mut_ptr()) } else { SendPtr(self.branch.as_mut_ptr()) };
        self.products.run(&self.pool, matrix, Some(next), 1, rows, |tiles, plan, _| {
            let (out, first) = (&out, tiles.start * LANES);
            // SAFETY: tasks write different tiles.
            unsafe {
                by_blocks(path, precision, matrix, view, tiles.clone(), plan, rows, out.0, stride, adds);
                lora.expand(path, index, place, tiles, 0..rows, out.0.add(first), stride);
            }
        });
        if !adds {
            run_rows(&self.pool, rows, |row| {
                let (residual, out) = (&residual, &out);
                // SAFETY: every row is one task's.
                unsafe {
                    let (from, to) = (out.0.add(row * stride), residual.0.add(row * stride));
                    add_norm_row(path, from, post_norm.as_ptr(), s.hidden, s.eps, to);
                }
            });
        }
    }
}

impl Attending {
    /// Where there are few tasks for each thread, cut those with long contexts into their chunks.
    fn split_long_tasks(&mut self, cache: &KvCache, shares: &[Share], window: usize, threads: usize) {
        self.long_tasks.clear();
        self.part_tasks.clear();
        if threads == 1 || self.tasks.len() >= ENOUGH_TASKS * threads {
            return;
        }
        let (long_tasks, part_tasks) = (&mut self.long_tasks, &mut self.part_tasks);
        self.tasks.retain(|&task| {
            let chunks = chunks(&cache.shape, shares[task.share].start + task.first, task.count, window);
            if chunks.len() == 1 {
                return true;
            }
            long_tasks.push((task, part_tasks.len(), chunks.len()));
            part_tasks.extend(chunks.map(|chunk| PartTask { task, chunk }));
            false
        });
    }
}

/// A product of some tiles with all rows, a block of rows after the other.
unsafe fn by_blocks(
    path: Path,
    precision: Precision,
    matrix: &Matrix,
    x: View,
    tiles: Range<usize>,
    plan: Plan,
    rows: usize,
    to: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let block = usize::from(plan.block);
    for first_row in (0..rows).step_by(block) {
        let part = Part {
            first_tile: tiles.start,
            tiles: tiles.len(),
            first_row,
            rows: block.min(rows - first_row),
            together: usize::from(plan.together),
        };
        let out = Output { to: to.add(first_row * stride + tiles.start * LANES), stride, accumulate };
        product(path, matrix, x, precision, part, out);
    }
}

/// Tiles of gate and up projection that are made before they are combined: whole groups. Of adapters' weights each takes
/// a piece, which are better fewer and longer where rows are few.
fn together(lora: Adapted<'_>, rows: usize) -> usize {
    const FEW: usize = 16;
    if lora.is_empty() || rows > FEW { 4 } else { 16 }
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
