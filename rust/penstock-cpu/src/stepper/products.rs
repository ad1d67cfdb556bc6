//! The products of a layer, and what is done to their outputs while these are in a cache.

use super::{Stepper, run_rows};
use crate::activations::{Precision, View, add_norm_row, round_groups};
use crate::gemm::{Output, Part, product};
use crate::lora::{Adapted, Place};
use crate::matrix::Matrix;
use crate::model::{Activation, Layer, Sizes};
use crate::phases::Phase;
use crate::pointwise::{geglu, swiglu};
use crate::pool::SendPtr;
use crate::simd::{LANES, Path};
use crate::tuner::Plan;
use std::ops::Range;

impl Stepper {
    /// Where adapters' own products begin: `A x` of what the place's product takes.
    pub(super) fn shrink(&mut self, lora: Adapted<'_>, index: usize, place: Place) {
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

    pub(super) fn multiply_qkv(&mut self, layer: &Layer, rows: usize, lora: Adapted<'_>, index: usize) {
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
    /// `activation(gate) * up`, two tiles of each at a time so that whole groups can be rounded.
    pub(super) fn gate(&mut self, layer: &Layer, activation: Activation, rows: usize, lora: Adapted<'_>, index: usize) {
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
    pub(super) fn add_product(
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

/// A product of some tiles with all rows, a block of rows after the other.
pub(super) unsafe fn by_blocks(
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
pub(super) fn together(lora: Adapted<'_>, rows: usize) -> usize {
    const FEW: usize = 16;
    if lora.is_empty() || rows > FEW { 4 } else { 16 }
}
