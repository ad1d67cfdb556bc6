//! An encoder that reads texts whole: BERT (Devlin et al., 2019, arXiv:1810.04805), and its kin that differ in where
//! positions begin and in the classifying head (RoBERTa, XLM-RoBERTa).
//!
//! Texts of a batch lie one behind the other, `[tokens, hidden]`, without padding. Products are shared out by outputs
//! where rows are few, since then reading the weights takes the time, and by blocks of rows as well where they are many.
//! All arithmetic is float32, and a text's numbers depend neither on the texts beside it nor on the threads.

mod attend;
mod pointwise;
mod products;
mod weights;

use crate::error::{Error, Result};
use crate::model::Tensors;
use crate::pool::Pool;
use crate::simd::{LANES, Path};
use attend::{Heads, attend, scratch_len};
use pointwise::{bias_rows, gelu, layer_norm};
use products::{Piece, add_product};
use std::sync::Mutex;
use weights::{Dense, Layer, Norm, Weights};
pub use weights::{Head, Sizes};

/// Rows that go through a task's outputs before the next rows.
const ROW_BLOCK: usize = 96;
/// Bytes of weights that a task takes where rows are many: what stays in the second-level cache beside the rows.
const TASK_BYTES: usize = 256 << 10;
/// Tasks for each thread where rows are few: enough to end together.
const RUNS: usize = 4;
/// Tiles that the kernel likes to take together.
const FEW_TILES: usize = 4;
/// Rows that are normed sooner than threads are called together.
const FEW_ROWS: usize = 48;

/// How a text's hidden states become its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// The greatest of each number.
    Max,
}

/// Texts of a batch.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    /// Token ids, one text behind the other.
    pub ids: &'a [i32],
    /// For each token the text of a pair that it belongs to.
    pub types: &'a [i32],
    /// Tokens of each text.
    pub lengths: &'a [usize],
}

/// What a batch is computed in; it grows to the largest batch.
#[derive(Default)]
struct Scratch {
    x: Vec<f32>,    // [rows, width of hidden]: the residual stream
    y: Vec<f32>,    // the same: what a layer adds to it
    qkv: Vec<f32>,  // [rows, tiles of qkv]
    wide: Vec<f32>, // [rows, width of ffn]
    threads: Vec<Mutex<Vec<f32>>>,
}

/// One encoder, loaded.
pub struct Encoder {
    path: Path,
    pool: Pool,
    weights: Weights,
    scratch: Scratch,
}

impl Encoder {
    /// Pack the weights. `tensors` has them under the names of BERT's files, without a prefix.
    ///
    /// # Errors
    /// [`Error::Model`] for a tensor that is missing or of another shape than `sizes` say.
    pub fn new(path: Path, pool: Pool, sizes: Sizes, head: Option<Head>, tensors: &dyn Tensors) -> Result<Encoder> {
        let weights = Weights::read(sizes, head, tensors, &pool)?;
        let threads = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Ok(Encoder { path, pool, weights, scratch: Scratch { threads, ..Scratch::default() } })
    }

    /// Numbers of a text's vector: `hidden`, or the classes of the head.
    pub fn outputs(&self) -> usize {
        self.weights.head.as_ref().map_or(self.weights.sizes.hidden, |head| head.last.matrix.outputs)
    }

    /// Vectors `[texts, outputs]`; through the head, if there is one, go first tokens whatever the `pooling`.
    ///
    /// # Errors
    /// [`Error::Internal`] for ids, types or lengths that the model doesn't have.
    pub fn run(&mut self, texts: Texts<'_>, pooling: Pooling) -> Result<Vec<f32>> {
        self.check(texts)?;
        if texts.lengths.is_empty() {
            return Ok(Vec::new());
        }
        let Encoder { path, pool, weights, scratch } = self;
        let _seat = pool.seat();
        let pass = Pass { path: *path, pool, weights, texts, rows: texts.ids.len() };
        pass.prepare(scratch);
        pass.embed(scratch);
        for layer in &weights.layers {
            pass.layer(layer, scratch);
        }
        Ok(match &weights.head {
            None => pass.pool(&scratch.x, pooling),
            Some(_) => pass.head(scratch),
        })
    }

    fn check(&self, texts: Texts<'_>) -> Result<()> {
        let weights = &self.weights;
        let below = |ids: &[i32], end: usize| ids.iter().all(|&id| usize::try_from(id).is_ok_and(|id| id < end));
        let fits = texts.lengths.iter().all(|&length| 0 < length && length <= weights.sizes.longest);
        let whole = texts.lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
        if !fits || whole != Some(texts.ids.len()) || texts.types.len() != texts.ids.len() {
            return Err(Error::Internal("Texts don't have the lengths that were announced.".into()));
        }
        if !below(texts.ids, weights.words.rows) || !below(texts.types, weights.types.rows) {
            return Err(Error::Internal("A token id or a type id is not in the model's tables.".into()));
        }
        Ok(())
    }
}

/// One batch on its way through.
struct Pass<'a> {
    path: Path,
    pool: &'a Pool,
    weights: &'a Weights,
    texts: Texts<'a>,
    rows: usize,
}

/// What becomes of a product's outputs, and of what was in their place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// They replace it.
    Nothing,
    /// They replace it, and go through GELU.
    Bent,
    /// They are added to it.
    Kept,
}

/// Rows of numbers with a stride.
#[derive(Clone, Copy)]
struct Rows {
    at: *mut f32,
    stride: usize,
}

// SAFETY: tasks that share one write different rows or columns.
unsafe impl Send for Rows {}
// SAFETY: see above.
unsafe impl Sync for Rows {}

impl Rows {
    fn of(numbers: &mut [f32], stride: usize) -> Rows {
        Rows { at: numbers.as_mut_ptr(), stride }
    }

    unsafe fn row(self, index: usize) -> *mut f32 {
        self.at.add(index * self.stride)
    }
}

impl Pass<'_> {
    /// Room for the batch. What pads a row is zero: products read it. Zero weights leave it so, but for a row with a
    /// number that isn't finite.
    fn prepare(&self, scratch: &mut Scratch) {
        let Weights { width, wide_width, qkv_width, ref sizes, .. } = *self.weights;
        let grow = |buffer: &mut Vec<f32>, width: usize| {
            if buffer.len() < self.rows * width {
                buffer.resize(self.rows * width, 0.0);
            }
        };
        grow(&mut scratch.x, width);
        grow(&mut scratch.y, width);
        grow(&mut scratch.qkv, qkv_width);
        grow(&mut scratch.wide, wide_width);
        for buffer in [&mut scratch.x, &mut scratch.y] {
            for row in buffer.chunks_exact_mut(width).take(self.rows) {
                row[sizes.hidden..].fill(0.0);
            }
        }
        let longest = self.texts.lengths.iter().copied().max().unwrap_or(0);
        let needed = scratch_len(longest, sizes.hidden / sizes.heads);
        for own in &mut scratch.threads {
            let own = own.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            if own.len() < needed {
                own.resize(needed, 0.0);
            }
        }
    }

    /// Blocks of rows side by side.
    fn over_rows(&self, job: impl Fn(usize, usize) + Sync) {
        if self.rows <= FEW_ROWS {
            job(0, self.rows);
            return;
        }
        let block = (self.rows.div_ceil(RUNS * self.pool.threads())).clamp(8, ROW_BLOCK);
        self.pool.run(self.rows.div_ceil(block), &|task, _| {
            let first = task * block;
            job(first, block.min(self.rows - first));
        });
    }

    /// Words, positions and types, normed.
    fn embed(&self, scratch: &mut Scratch) {
        let w = self.weights;
        let x = Rows::of(&mut scratch.x, w.width);
        let mut positions = Vec::with_capacity(self.rows);
        self.texts.lengths.iter().for_each(|&length| positions.extend(0..length));
        self.over_rows(|first, rows| {
            for (row, &position) in positions.iter().enumerate().skip(first).take(rows) {
                let word = w.words.row(self.texts.ids[row] as usize);
                let kind = w.types.row(self.texts.types[row] as usize);
                let position = w.positions.row(position);
                // SAFETY: the row is this task's, and as wide as the tables.
                let to = unsafe { std::slice::from_raw_parts_mut(x.row(row), word.len()) };
                for (((to, word), kind), position) in to.iter_mut().zip(word).zip(kind).zip(position) {
                    *to = word + kind + position;
                }
            }
            self.norm(&w.norm, x, first, rows);
        });
    }

    fn norm(&self, norm: &Norm, x: Rows, first: usize, rows: usize) {
        // SAFETY: the path is supported, and the rows are the caller's.
        unsafe { layer_norm(self.path, x.row(first), x.stride, rows, &norm.weight, &norm.bias, self.weights.sizes.eps) }
    }

    fn layer(&self, layer: &Layer, scratch: &mut Scratch) {
        let w = self.weights;
        let x = Rows::of(&mut scratch.x, w.width);
        let y = Rows::of(&mut scratch.y, w.width);
        let qkv = Rows::of(&mut scratch.qkv, w.qkv_width);
        let wide = Rows::of(&mut scratch.wide, w.wide_width);
        self.dense(&layer.qkv, x, self.rows, qkv, Then::Nothing);
        self.attention(qkv, y, &scratch.threads);
        self.dense(&layer.attended, y, self.rows, x, Then::Kept);
        self.over_rows(|first, rows| self.norm(&layer.attended_norm, x, first, rows));
        self.dense(&layer.up, x, self.rows, wide, Then::Bent);
        self.dense(&layer.down, wide, self.rows, x, Then::Kept);
        self.over_rows(|first, rows| self.norm(&layer.down_norm, x, first, rows));
    }

    /// `to = x * weight + bias`, or added to it.
    fn dense(&self, dense: &Dense, x: Rows, count: usize, to: Rows, then: Then) {
        let matrix = &dense.matrix;
        let (tiles, threads) = (matrix.tiles(), self.pool.threads());
        let (block, group) = if count <= ROW_BLOCK {
            let group = tiles.div_ceil(RUNS * threads);
            (count, if tiles < FEW_TILES * threads { group } else { group.next_multiple_of(FEW_TILES) })
        } else {
            (ROW_BLOCK, (TASK_BYTES / matrix.tile_bytes()).clamp(1, tiles))
        };
        let blocks = count.div_ceil(block);
        self.pool.run(blocks * tiles.div_ceil(group), &|task, _| {
            let (first_row, first_tile) = (task % blocks * block, task / blocks * group);
            let (rows, tiles) = (block.min(count - first_row), group.min(tiles - first_tile));
            let bias = &dense.bias[first_tile * LANES..][..tiles * LANES];
            // SAFETY: rows and columns are this task's; the buffers have room for whole tiles.
            unsafe {
                let at = to.row(first_row).add(first_tile * LANES);
                bias_rows(self.path, at, to.stride, rows, bias, then == Then::Kept);
                let piece = Piece {
                    x: x.row(first_row),
                    x_stride: x.stride,
                    rows,
                    first_tile,
                    tiles,
                    to: at,
                    to_stride: to.stride,
                };
                add_product(self.path, matrix, piece);
                if then == Then::Bent {
                    gelu(self.path, at, to.stride, rows, tiles);
                }
            }
        });
    }

    /// What each head sees of each text.
    fn attention(&self, qkv: Rows, to: Rows, threads: &[Mutex<Vec<f32>>]) {
        let Sizes { hidden, heads, .. } = self.weights.sizes;
        let dim = hidden / heads;
        let mut starts = Vec::with_capacity(self.texts.lengths.len());
        let mut start = 0;
        for &length in self.texts.lengths {
            starts.push(start);
            start += length;
        }
        self.pool.run(starts.len() * heads, &|task, thread| {
            let (text, head) = (task / heads, task % heads);
            let mut scratch = threads[thread].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // SAFETY: the head's columns of the text's rows are this task's.
            unsafe {
                let q = qkv.row(starts[text]).add(head * dim);
                let heads = Heads {
                    q,
                    k: q.add(hidden),
                    v: q.add(2 * hidden),
                    stride: qkv.stride,
                    length: self.texts.lengths[text],
                    dim,
                    to: to.row(starts[text]).add(head * dim),
                    to_stride: to.stride,
                };
                attend(self.path, heads, scratch.as_mut_slice());
            }
        });
    }

    fn pool(&self, x: &[f32], pooling: Pooling) -> Vec<f32> {
        let Weights { width, ref sizes, .. } = *self.weights;
        let mut vectors = Vec::with_capacity(self.texts.lengths.len() * sizes.hidden);
        let mut first = 0;
        for &length in self.texts.lengths {
            let row = |index: usize| &x[(first + index) * width..][..sizes.hidden];
            match pooling {
                Pooling::Cls => vectors.extend_from_slice(row(0)),
                Pooling::Last => vectors.extend_from_slice(row(length - 1)),
                Pooling::Mean | Pooling::Max => {
                    let at = vectors.len();
                    vectors.extend_from_slice(row(0));
                    let vector = &mut vectors[at..];
                    for index in 1..length {
                        for (to, &number) in vector.iter_mut().zip(row(index)) {
                            *to = if pooling == Pooling::Mean { *to + number } else { greater(*to, number) };
                        }
                    }
                    if pooling == Pooling::Mean {
                        vector.iter_mut().for_each(|number| *number /= length as f32);
                    }
                }
            }
            first += length;
        }
        vectors
    }

    /// First tokens through the classifying head.
    fn head(&self, scratch: &mut Scratch) -> Vec<f32> {
        let w = self.weights;
        let Some(head) = &w.head else { return Vec::new() };
        let (texts, classes) = (self.texts.lengths.len(), head.last.matrix.outputs);
        let mut first = 0;
        for (text, &length) in self.texts.lengths.iter().enumerate() {
            scratch.x.copy_within(first * w.width..(first + 1) * w.width, text * w.width);
            first += length;
        }
        let x = Rows::of(&mut scratch.x, w.width);
        self.dense(&head.first, x, texts, Rows::of(&mut scratch.y, w.width), Then::Nothing);
        scratch.y[..texts * w.width].iter_mut().for_each(|number| *number = number.tanh());
        let padded = head.last.matrix.tiles() * LANES;
        let mut logits = vec![0.0; texts * padded];
        let y = Rows::of(&mut scratch.y, w.width);
        self.dense(&head.last, y, texts, Rows::of(&mut logits, padded), Then::Nothing);
        logits.chunks_exact(padded).flat_map(|row| &row[..classes]).copied().collect()
    }
}

/// NaN if either is.
fn greater(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}
