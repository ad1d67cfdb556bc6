//! What an adapter's files say, packed as the kernels read it.

use super::{Kind, Module, Pair, Pairs, RUN, Site, TOGETHER};
use crate::activations::Precision;
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::half::f32_to_bf16;
use crate::matrix::Matrix;
use crate::model::Model;
use crate::simd::LANES;
use crate::stored::read_f32;

/// A site before it is packed: its pairs, each with where the module's outputs are among the product's.
pub(super) struct SitePlan<'a> {
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

pub(super) fn plan_layer<'a>(
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
    pub(super) fn groups(&self) -> usize {
        self.modules().last().map_or(0, |last| (last.low + last.runs * RUN).div_ceil(TOGETHER))
    }

    fn chunks(&self) -> usize {
        self.inputs.div_ceil(LANES)
    }

    pub(super) fn a_bytes(&self) -> usize {
        self.groups() * self.chunks() * TOGETHER * LANES * self.kind.bytes()
    }

    pub(super) fn b_bytes(&self) -> usize {
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

    pub(super) fn pack(self, arena: &Arena) -> Result<Site> {
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
