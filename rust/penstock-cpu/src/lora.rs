//! Low-rank adapters beside the products: `y += scale * B (A x)` for each row by its own sequence's adapter.
//!
//! Hu et al., LoRA (arXiv:2106.09685). Adapters of many sequences share a step as in Punica (Chen et al.,
//! arXiv:2310.18547) and S-LoRA (Sheng et al., arXiv:2311.03285): rows of one adapter that follow each other are a
//! segment, and rows without one cost nothing. `A x` is a region of its own, for the modules that take the same input
//! together; `B` is added by whoever computes a tile of the product, while the tile is in its cache.
//!
//! Products are with float32 activations, never with those rounded to int8. A row's sums go in an order that follows
//! from the adapter's shape alone, so they have the same bits in any company and on any path.

use crate::activations::{Form, Precision, View};
use crate::arena::{Arena, Tiles};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::half::f32_to_bf16;
use crate::matrix::Matrix;
use crate::model::Model;
use crate::pool::{Pool, SendPtr};
use crate::simd::{LANES, Path, Simd};
use crate::stored::{Stored, read_f32};
use crate::{dispatch, unrolled};
use std::ops::Range;
use std::sync::Arc;

/// Rows of `A` that are computed together, and lie together.
const TOGETHER: usize = 8;
/// Columns of `B` that are multiplied together.
const RUN: usize = 8;
/// Rows of the step in one task of `A x`.
const PIECE: usize = 4;
const HUGE_PAGE: usize = 2 << 20;
/// How far ahead of its arithmetic a product asks for weights.
const AHEAD: usize = 8192;

/// The products of a layer that adapters add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Queries, keys and values.
    Qkv,
    /// Attention's output.
    Out,
    /// Gate and up projection.
    GateUp,
    /// Down projection.
    Down,
}

/// One module's pair of matrices as they are stored.
pub struct Pair<'a> {
    /// `[rank, inputs]`
    pub a: Stored<'a>,
    /// `[outputs, rank]`
    pub b: Stored<'a>,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// Gives an adapter's pairs by their modules' canonical names, as `layers.0.q`.
pub trait Pairs {
    /// The module's pair; none if the adapter leaves it alone.
    fn get(&self, module: &str) -> Result<Option<Pair<'_>>>;
}

/// How weights are held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    Bf16,
    /// With a scale for each row of `A` and each tile of `B`.
    Int8,
}

impl Kind {
    /// For an adapter of this matrix.
    fn beside(matrix: &Matrix, precision: Precision) -> Kind {
        match (matrix.takes(precision), matrix.format) {
            (Form::Int8, _) => Kind::Int8,
            (Form::Bf16, _) => Kind::Bf16,
            (Form::F32, Format::Bf16) if precision != Precision::F32 => Kind::Bf16,
            (Form::F32, _) => Kind::F32,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::Bf16 => 2,
            Kind::Int8 => 1,
        }
    }
}

/// A module's `B`: for each tile of outputs `[rank, 16]`, the rank padded with zeros to whole runs.
struct Module {
    at: usize,         // bytes into `b`
    low: usize,        // the module's first row of `A x`
    runs: usize,       // of columns
    first_tile: usize, // of the product's
    every: usize,      // how many tiles of the product there are from one to the next
    steps: Vec<f32>,   // of each tile: what one step of its numbers is worth
}

impl Module {
    fn tile_bytes(&self, kind: Kind) -> usize {
        self.runs * RUN * LANES * kind.bytes()
    }

    /// Its own tiles among these of the product.
    fn own(&self, tiles: &Range<usize>) -> Range<usize> {
        let own = |tile: usize| tile.saturating_sub(self.first_tile).div_ceil(self.every).min(self.steps.len());
        own(tiles.start)..own(tiles.end)
    }
}

/// What an adapter adds to one product of a layer.
struct Site {
    kind: Kind,
    chunks: usize, // of sixteen inputs
    groups: usize, // of eight rows of `A`
    a: Tiles,      // [groups, chunks, 8, 16]
    scales: Vec<f32>,
    b: Tiles,
    modules: Vec<Module>,
}

/// An adapter's weights, packed.
pub struct Adapter {
    layers: Vec<[Option<Site>; 4]>,
    widest: usize,
    nbytes: usize,
}

impl Adapter {
    /// Pack an adapter of this model. Where products take the model's weights in int8 its own are rounded to that too,
    /// beside bfloat16 to bfloat16, unless `precision` asks for float32.
    ///
    /// # Errors
    /// [`Error::Model`] for shapes that aren't the model's, [`Error::Config`] without memory.
    pub fn new(model: &Model, precision: Precision, pairs: &dyn Pairs) -> Result<Adapter> {
        let plans = (0..model.layers.len())
            .map(|layer| plan_layer(model, layer, precision, pairs))
            .collect::<Result<Vec<_>>>()?;
        let sites = || plans.iter().flatten().flatten();
        let nbytes: usize = sites().map(|plan| plan.a_bytes() + plan.b_bytes()).sum();
        let widest = sites().map(|plan| plan.groups() * TOGETHER).max().unwrap_or(0);
        // Whole huge pages are where the system gives them.
        let arena = Arena::new(nbytes.next_multiple_of(HUGE_PAGE))?;
        let pack = |plan: Option<SitePlan<'_>>| plan.map(|plan| plan.pack(&arena)).transpose();
        let mut layers = Vec::new();
        for [qkv, out, gate_up, down] in plans {
            layers.push([pack(qkv)?, pack(out)?, pack(gate_up)?, pack(down)?]);
        }
        Ok(Adapter { layers, widest, nbytes })
    }

    /// Bytes of its weights.
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }

    fn site(&self, layer: usize, place: Place) -> Option<&Site> {
        self.layers[layer][place as usize].as_ref()
    }
}

/// A site before it is packed: its pairs, each with where the module's outputs are among the product's.
struct SitePlan<'a> {
    kind: Kind,
    inputs: usize,
    pairs: Vec<(Pair<'a>, Outputs)>,
}

/// Where a module's outputs go: they begin at output `first` of the product, and fill each `every`th of its tiles.
#[derive(Clone, Copy)]
struct Outputs {
    first: usize,
    every: usize,
}

fn plan_layer<'a>(
    model: &Model,
    layer: usize,
    precision: Precision,
    pairs: &'a dyn Pairs,
) -> Result<[Option<SitePlan<'a>>; 4]> {
    let (sizes, matrices) = (&model.sizes, &model.layers[layer]);
    let (q, kv) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    let site = |modules: &[(&str, usize)], matrix: &Matrix| -> Result<Option<SitePlan<'a>>> {
        let (kind, inputs, interleaved) = (Kind::beside(matrix, precision), matrix.inputs, modules[0].0 == "gate");
        let mut found = Vec::new();
        let mut first = 0;
        for &(module, outputs) in modules {
            let name = format!("layers.{layer}.{module}");
            let at = Outputs { first, every: if interleaved { modules.len() } else { 1 } };
            first += if interleaved { LANES } else { outputs };
            let Some(pair) = pairs.get(&name)? else { continue };
            let (a, b) = (&pair.a, &pair.b);
            let rank = a.outputs;
            if rank == 0 || (a.inputs, b.outputs, b.inputs) != (inputs, outputs, rank) {
                return Err(Error::Model(format!(
                    "{name} is {inputs} to {outputs} in this model; the adapter's pair for it is {} x {} and {} x {}.",
                    a.outputs, a.inputs, b.outputs, b.inputs
                )));
            }
            found.push((pair, at));
        }
        Ok((!found.is_empty()).then_some(SitePlan { kind, inputs, pairs: found }))
    };
    Ok([
        site(&[("q", q), ("k", kv), ("v", kv)], &matrices.qkv)?,
        site(&[("o", sizes.hidden)], &matrices.o)?,
        site(&[("gate", sizes.ffn), ("up", sizes.ffn)], &matrices.gate_up)?,
        site(&[("down", sizes.hidden)], &matrices.down)?,
    ])
}

impl SitePlan<'_> {
    fn groups(&self) -> usize {
        self.modules().last().map_or(0, |last| (last.low + last.runs * RUN).div_ceil(TOGETHER))
    }

    fn chunks(&self) -> usize {
        self.inputs.div_ceil(LANES)
    }

    fn a_bytes(&self) -> usize {
        self.groups() * self.chunks() * TOGETHER * LANES * self.kind.bytes()
    }

    fn b_bytes(&self) -> usize {
        self.modules().last().map_or(0, |last| last.at + last.steps.len() * last.tile_bytes(self.kind))
    }

    /// The modules, where their weights have not been written yet.
    fn modules(&self) -> Vec<Module> {
        let (mut at, mut low) = (0, 0);
        let module = |(pair, outputs): &(Pair<'_>, Outputs)| {
            let first_tile = outputs.first / LANES;
            let tiles = (outputs.first % LANES + pair.b.outputs).div_ceil(LANES);
            let runs = pair.a.outputs.div_ceil(RUN);
            let module = Module { at, low, runs, first_tile, every: outputs.every, steps: vec![1.0; tiles] };
            at += tiles * module.tile_bytes(self.kind);
            low += runs * RUN;
            module
        };
        self.pairs.iter().map(module).collect()
    }

    fn pack(self, arena: &Arena) -> Result<Site> {
        let (kind, chunks, groups) = (self.kind, self.chunks(), self.groups());
        let (a, b) = (arena.take(self.a_bytes())?, arena.take(self.b_bytes())?);
        let mut scales = vec![0.0; groups * TOGETHER];
        let mut modules = self.modules();
        for ((pair, outputs), module) in self.pairs.iter().zip(&mut modules) {
            for (row, values) in read_f32(&pair.a)?.chunks_exact(self.inputs).enumerate() {
                let out = module.low + row;
                let step = step_of(kind, values);
                scales[out] = pair.scale * step;
                for (k, &w) in values.iter().enumerate() {
                    let at = ((out / TOGETHER * chunks + k / LANES) * TOGETHER + out % TOGETHER) * LANES + k % LANES;
                    // SAFETY: the place is one of the site's.
                    unsafe { put(kind, a.start(), at, w, step) };
                }
            }
            let (rank, values, skipped) = (pair.a.outputs, read_f32(&pair.b)?, outputs.first % LANES);
            let tile_bytes = module.tile_bytes(kind);
            for (tile, step) in module.steps.iter_mut().enumerate() {
                let lanes = if tile == 0 { skipped } else { 0 }..LANES.min(skipped + pair.b.outputs - tile * LANES);
                let of = |lane: usize| &values[(tile * LANES + lane - skipped) * rank..][..rank];
                *step = lanes.clone().map(|lane| step_of(kind, of(lane))).fold(0.0, f32::max);
                for lane in lanes {
                    for (k, &w) in of(lane).iter().enumerate() {
                        let at = (module.at + tile * tile_bytes) / kind.bytes() + k * LANES + lane;
                        // SAFETY: see above.
                        unsafe { put(kind, b.start(), at, w, *step) };
                    }
                }
            }
        }
        Ok(Site { kind, chunks, groups, a, scales, b, modules })
    }
}

/// What one step of the stored numbers is worth.
fn step_of(kind: Kind, values: &[f32]) -> f32 {
    match kind {
        Kind::Int8 => values.iter().fold(0f32, |most, w| most.max(w.abs())) / 127.0,
        _ => 1.0,
    }
}

/// # Safety
/// There must be room for number `at`.
unsafe fn put(kind: Kind, to: *mut u8, at: usize, value: f32, step: f32) {
    match kind {
        Kind::F32 => to.cast::<f32>().add(at).write(value),
        Kind::Bf16 => to.cast::<u16>().add(at).write(f32_to_bf16(value)),
        Kind::Int8 => {
            let q = if step > 0.0 { (value / step).round_ties_even() } else { 0.0 };
            to.cast::<i8>().add(at).write(q as i8);
        }
    }
}

/// Rows that follow each other, of one adapter.
struct Segment {
    adapter: Arc<Adapter>,
    rows: Range<usize>,
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

const F32: u8 = 0;
const BF16: u8 = 1;
const INT8: u8 = 2;

const fn width(kind: u8) -> usize {
    match kind {
        F32 => 4,
        BF16 => 2,
        _ => 1,
    }
}

/// Of so many rows, those that are computed together.
const fn together(rows: usize) -> usize {
    match rows {
        4.. => 4,
        2.. => 2,
        few => few,
    }
}

/// Sixteen weights, from number `at` on.
#[inline(always)]
unsafe fn weights<S: Simd, const KIND: u8>(from: *const u8, at: usize) -> S::F {
    match KIND {
        F32 => S::load(from.cast::<f32>().add(at)),
        BF16 => S::load_bf16(from.cast::<u16>().add(at)),
        _ => S::load_i8(from.cast::<i8>().add(at)),
    }
}

/// `R` rows' products with groups of eight rows of `A`, `J` of them at a time.
#[inline(always)]
unsafe fn shrink_some<S: Simd, const KIND: u8, const R: usize, const J: usize>(
    site: &Site,
    groups: Range<usize>,
    x: *const f32,
    x_stride: usize,
    low: *mut f32,
    low_stride: usize,
) {
    let from = site.a.start().cast_const();
    for first in groups.flat_map(|group| (0..TOGETHER).step_by(J).map(move |j| group * TOGETHER + j)) {
        let mut sums = [[S::splat(0.0); J]; R];
        for chunk in 0..site.chunks {
            let at = ((first / TOGETHER * site.chunks + chunk) * TOGETHER + first % TOGETHER) * LANES;
            for line in (0..J * LANES * width(KIND)).step_by(64) {
                S::prefetch(from.wrapping_add(at * width(KIND) + AHEAD + line));
            }
            let mut numbers = [S::splat(0.0); R];
            unrolled!(R, |r| {
                numbers[r] = S::load(x.add(r * x_stride + chunk * LANES));
            });
            unrolled!(J, |j| {
                let w = weights::<S, KIND>(from, at + j * LANES);
                unrolled!(R, |r| {
                    sums[r][j] = S::fma(w, numbers[r], sums[r][j]);
                });
            });
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (out, sum) in (first..).zip(sums) {
                *low.add(r * low_stride + out) = S::sum(sum) * site.scales[out];
            }
        }
    }
}

#[inline(always)]
unsafe fn shrink_kind<S: Simd, const KIND: u8>(
    site: &Site,
    groups: Range<usize>,
    x: *const f32,
    x_stride: usize,
    rows: usize,
    low: *mut f32,
    low_stride: usize,
) {
    let mut row = 0;
    while row < rows {
        let (x, low, groups) = (x.add(row * x_stride), low.add(row * low_stride), groups.clone());
        match together(rows - row) {
            4 => shrink_some::<S, KIND, 4, 4>(site, groups, x, x_stride, low, low_stride),
            2 => shrink_some::<S, KIND, 2, 8>(site, groups, x, x_stride, low, low_stride),
            _ => shrink_some::<S, KIND, 1, 8>(site, groups, x, x_stride, low, low_stride),
        }
        row += together(rows - row);
    }
}

#[inline(always)]
unsafe fn shrink_generic<S: Simd>(
    site: &Site,
    groups: Range<usize>,
    x: *const f32,
    x_stride: usize,
    rows: usize,
    low: *mut f32,
    low_stride: usize,
) {
    match site.kind {
        Kind::F32 => shrink_kind::<S, F32>(site, groups, x, x_stride, rows, low, low_stride),
        Kind::Bf16 => shrink_kind::<S, BF16>(site, groups, x, x_stride, rows, low, low_stride),
        Kind::Int8 => shrink_kind::<S, INT8>(site, groups, x, x_stride, rows, low, low_stride),
    }
}

/// A run of a module's columns times `R` rows, added to tiles; `low` and `to` are the first row's.
#[inline(always)]
unsafe fn expand_run<S: Simd, const KIND: u8, const R: usize>(
    weights_of: impl Fn(usize) -> *const u8,
    steps: &[f32],
    low: *const f32,
    low_stride: usize,
    to: *mut f32,
    every: usize,
    stride: usize,
) {
    let mut held = [[S::splat(0.0); RUN]; R];
    unrolled!(R, |r| {
        unrolled!(RUN, |k| {
            held[r][k] = S::splat(*low.add(r * low_stride + k));
        });
    });
    for (tile, &step) in steps.iter().enumerate() {
        let from = weights_of(tile);
        for line in (0..RUN * LANES * width(KIND)).step_by(64) {
            S::prefetch(from.wrapping_add(AHEAD + line));
        }
        let mut sums = [S::splat(0.0); R];
        unrolled!(RUN, |k| {
            let w = weights::<S, KIND>(from, k * LANES);
            unrolled!(R, |r| {
                sums[r] = S::fma(w, held[r][k], sums[r]);
            });
        });
        let step = S::splat(step);
        unrolled!(R, |r| {
            let to = to.add(tile * every + r * stride);
            S::store(to, S::fma(sums[r], step, S::load(to)));
        });
    }
}

#[inline(always)]
unsafe fn expand_kind<S: Simd, const KIND: u8>(
    site: &Site,
    tiles: Range<usize>,
    low: *const f32,
    low_stride: usize,
    rows: usize,
    to: *mut f32,
    stride: usize,
) {
    for module in &site.modules {
        let own = module.own(&tiles);
        if own.is_empty() {
            continue;
        }
        let (tile_bytes, every) = (module.runs * RUN * LANES * width(KIND), module.every * LANES);
        let from = site.b.start().cast_const().add(module.at + own.start * tile_bytes);
        let to = to.add((module.first_tile + own.start * module.every - tiles.start) * LANES);
        let steps = &module.steps[own];
        let mut row = 0;
        while row < rows {
            let (low, to) = (low.add(row * low_stride + module.low), to.add(row * stride));
            for run in 0..module.runs {
                let weights_of = |tile: usize| from.add(tile * tile_bytes + run * RUN * LANES * width(KIND));
                let low = low.add(run * RUN);
                match together(rows - row) {
                    4 => expand_run::<S, KIND, 4>(weights_of, steps, low, low_stride, to, every, stride),
                    2 => expand_run::<S, KIND, 2>(weights_of, steps, low, low_stride, to, every, stride),
                    _ => expand_run::<S, KIND, 1>(weights_of, steps, low, low_stride, to, every, stride),
                }
            }
            row += together(rows - row);
        }
    }
}

#[inline(always)]
unsafe fn expand_generic<S: Simd>(
    site: &Site,
    tiles: Range<usize>,
    low: *const f32,
    low_stride: usize,
    rows: usize,
    to: *mut f32,
    stride: usize,
) {
    match site.kind {
        Kind::F32 => expand_kind::<S, F32>(site, tiles, low, low_stride, rows, to, stride),
        Kind::Bf16 => expand_kind::<S, BF16>(site, tiles, low, low_stride, rows, to, stride),
        Kind::Int8 => expand_kind::<S, INT8>(site, tiles, low, low_stride, rows, to, stride),
    }
}

dispatch!(fn shrink_rows = shrink_generic; (
    site: &Site, groups: Range<usize>, x: *const f32, x_stride: usize, rows: usize, low: *mut f32, low_stride: usize
));
dispatch!(fn expand_rows = expand_generic; (
    site: &Site, tiles: Range<usize>, low: *const f32, low_stride: usize, rows: usize, to: *mut f32, stride: usize
));
