//! The rows of a step and whose adapter each takes.

use super::kernels::{expand_rows, shrink_rows};
use super::{Adapter, Place};
use crate::activations::View;
use crate::pool::{Pool, SendPtr};
use crate::simd::{LANES, Path};
use std::ops::Range;
use std::sync::Arc;

/// Rows of the step in one task of `A x`.
const PIECE: usize = 4;

/// Rows that follow each other, of one adapter.
struct Segment {
    adapter: Arc<Adapter>,
    pub(super) rows: Range<usize>,
}

/// What a step needs to know of its rows' adapters. Its buffers grow to the largest step seen and stay.
#[derive(Default)]
pub(crate) struct LowRank {
    segments: Vec<Segment>,
    pieces: Vec<(usize, Range<usize>)>, // segment, rows
    low: Vec<f32>,                      // [rows, stride]: `scale * A x`
    stride: usize,
}

/// A step's adapters, for its tasks to share.
#[derive(Clone, Copy)]
pub(crate) struct Adapted<'a> {
    segments: &'a [Segment],
    pieces: &'a [(usize, Range<usize>)],
    low: *mut f32,
    stride: usize,
}

// SAFETY: tasks write different rows or parts of them.
unsafe impl Send for Adapted<'_> {}
// SAFETY: see above.
unsafe impl Sync for Adapted<'_> {}

impl LowRank {
    /// Take the adapters of a step's shares; `first_rows` has each share's first row, and the number of rows.
    pub(crate) fn begin(&mut self, first_rows: &[usize], adapters: &[Option<Arc<Adapter>>]) {
        self.segments.clear();
        self.pieces.clear();
        self.stride = 0;
        for (share, adapter) in adapters.iter().enumerate() {
            let Some(adapter) = adapter else { continue };
            let rows = first_rows[share]..first_rows[share + 1];
            self.stride = self.stride.max(adapter.widest);
            match self.segments.last_mut() {
                Some(last) if last.rows.end == rows.start && Arc::ptr_eq(&last.adapter, adapter) => {
                    last.rows.end = rows.end;
                }
                _ => self.segments.push(Segment { adapter: Arc::clone(adapter), rows }),
            }
        }
        for (index, segment) in self.segments.iter().enumerate() {
            for first in segment.rows.clone().step_by(PIECE) {
                self.pieces.push((index, first..segment.rows.end.min(first + PIECE)));
            }
        }
        let size = self.segments.last().map_or(0, |last| last.rows.end) * self.stride;
        if self.low.len() < size {
            self.low.resize(size, 0.0);
        }
    }

    /// For the tasks of the step.
    pub(crate) fn adapted(&mut self) -> Adapted<'_> {
        let low = self.low.as_mut_ptr();
        Adapted { segments: &self.segments, pieces: &self.pieces, low, stride: self.stride }
    }

    /// Let the adapters go.
    pub(crate) fn end(&mut self) {
        self.segments.clear();
    }
}

impl Adapted<'_> {
    /// Whether no row has an adapter.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Compute `scale * A x` of all rows that have an adapter.
    pub(crate) fn shrink(&self, path: Path, pool: &Pool, layer: usize, place: Place, x: View) {
        // Where there are few pieces, threads share each one's rows of `A`.
        let parts = (2 * pool.threads()).div_ceil(self.pieces.len());
        let low = SendPtr(self.low);
        pool.run(self.pieces.len() * parts, &|task, _| {
            let (low, x) = (&low, &x);
            let (segment, rows) = &self.pieces[task / parts];
            let Some(site) = self.segments[*segment].adapter.site(layer, place) else { return };
            let part = task % parts;
            let groups = site.groups * part / parts..site.groups * (part + 1) / parts;
            debug_assert!(site.chunks * LANES <= x.width);
            // SAFETY: the rows are the step's; tasks write different rows or groups of them.
            unsafe {
                let from = x.wide.add(rows.start * x.width);
                let to = low.0.add(rows.start * self.stride);
                shrink_rows(path, site, groups, from, x.width, rows.len(), to, self.stride);
            }
        });
    }

    /// Add `B` times what was last computed of these rows to tiles of the product, whose first row and tile is at `to`.
    ///
    /// # Safety
    /// The path must be supported; there must be room for the rows and tiles, which nobody else may write.
    pub(crate) unsafe fn expand(
        &self,
        path: Path,
        layer: usize,
        place: Place,
        tiles: Range<usize>,
        rows: Range<usize>,
        to: *mut f32,
        stride: usize,
    ) {
        let first = self.segments.partition_point(|segment| segment.rows.end <= rows.start);
        for segment in self.segments[first..].iter().take_while(|segment| segment.rows.start < rows.end) {
            let Some(site) = segment.adapter.site(layer, place) else { continue };
            let (begin, end) = (segment.rows.start.max(rows.start), segment.rows.end.min(rows.end));
            let to = to.add((begin - rows.start) * stride);
            expand_rows(
                path,
                site,
                tiles.clone(),
                self.low.add(begin * self.stride),
                self.stride,
                end - begin,
                to,
                stride,
            );
        }
    }
}
