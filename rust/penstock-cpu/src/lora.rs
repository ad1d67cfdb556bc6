//! Low-rank adapters beside the products: `y += scale * B (A x)` for each row by its own sequence's adapter.
//!
//! Hu et al., LoRA (arXiv:2106.09685). Adapters of many sequences share a step as in Punica (Chen et al.,
//! arXiv:2310.18547) and S-LoRA (Sheng et al., arXiv:2311.03285): rows of one adapter that follow each other are a
//! segment, and rows without one cost nothing. `A x` is a region of its own, for the modules that take the same input
//! together; `B` is added by whoever computes a tile of the product, while the tile is in its cache.
//!
//! Products are with float32 activations, never with those rounded to int8. A row's sums go in an order that follows
//! from the adapter's shape alone, so they have the same bits in any company and on any path.

mod kernels;
mod pack;
mod rows;

use crate::activations::{Form, Precision};
use crate::arena::{Arena, Tiles};
use crate::error::Result;
use crate::format::Format;
use crate::matrix::Matrix;
use crate::model::Model;
use crate::simd::LANES;
use crate::stored::Stored;
use pack::{SitePlan, plan_layer};
pub(crate) use rows::{Adapted, LowRank};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows of `A` that are computed together, and lie together.
const TOGETHER: usize = 8;
/// Columns of `B` that are multiplied together.
const RUN: usize = 8;
const HUGE_PAGE: usize = 2 << 20;
/// What adapters begin apart: a page, so that they share no lines of a second-level cache, and some lines of the first.
const COLOUR: usize = 4096 + 256;
/// Of a second-level cache's way.
const COLOURS: usize = 16;
/// Adapters that were ever packed.
static LOADED: AtomicUsize = AtomicUsize::new(0);

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
        // Whole huge pages are where the system gives them. Adapters that began at the same place of theirs would have
        // all weights of a tile in the same few lines of a cache, where a step with many of them has no room for all.
        let skipped = LOADED.fetch_add(1, Ordering::Relaxed) % COLOURS * COLOUR;
        let arena = Arena::new((skipped + nbytes).next_multiple_of(HUGE_PAGE))?;
        arena.take(skipped)?;
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
