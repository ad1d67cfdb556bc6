//! A decoder-only transformer with RMSNorm, rotary positions and a gated feed-forward: its sizes and packed weights.

use crate::arena::{Arena, Tiles};
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Packing};
use crate::pointwise::Rotary;
use crate::quantize::Quantization;
use crate::stored::{Stored, read_f32};

/// What the feed-forward's gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU, as it is approximated by tanh.
    Gelu,
}

/// A model's sizes and switches.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub eps: f32,
    /// Tokens each query sees, itself included.
    pub window: Option<usize>,
    /// Layers that have no window all the same.
    pub global_layers: Vec<usize>,
    /// As the frequencies of [`Model::new`], for layers with a window; empty: the same.
    pub local_frequencies: Vec<f32>,
    /// Scores are divided by its square root; none: by that of `head_dim`.
    pub query_scalar: Option<f32>,
    /// What looked-up embeddings are multiplied with.
    pub embedding_scale: f32,
    pub activation: Activation,
    /// Whether what attention and the feed-forward give is normed before it is added.
    pub post_norms: bool,
    pub tied: bool,
    pub qkv_bias: bool,
    pub qk_norm: bool,
}

impl Sizes {
    /// What scores are multiplied with.
    pub(crate) fn attention_scale(&self) -> f32 {
        1.0 / self.query_scalar.unwrap_or(self.head_dim as f32).sqrt()
    }

    fn check(&self) -> Result<()> {
        let all = [self.vocab, self.hidden, self.ffn, self.layers, self.heads, self.kv_heads, self.head_dim];
        if all.contains(&0) || !self.heads.is_multiple_of(self.kv_heads) || !self.head_dim.is_multiple_of(2) {
            return Err(Error::Model(format!(
                "The native runner needs at least one of everything, query heads that KV heads divide, and an even \
                 head size; this model has {} query heads, {} KV heads and heads of {}.",
                self.heads, self.kv_heads, self.head_dim
            )));
        }
        Ok(())
    }
}

pub(crate) struct Layer {
    pub(crate) windowed: bool,
    pub(crate) attn_norm: Vec<f32>,
    pub(crate) qkv: Matrix,
    pub(crate) qkv_bias: Vec<f32>, // empty: none
    pub(crate) q_norm: Vec<f32>,   // empty: none
    pub(crate) k_norm: Vec<f32>,
    pub(crate) o: Matrix,
    pub(crate) attn_post_norm: Vec<f32>, // empty: none
    pub(crate) mlp_norm: Vec<f32>,
    pub(crate) gate_up: Matrix, // tiles in turn
    pub(crate) down: Matrix,
    pub(crate) mlp_post_norm: Vec<f32>, // empty: none
}

/// A model's weights, packed.
pub struct Model {
    /// Its sizes.
    pub sizes: Sizes,
    pub(crate) layers: Vec<Layer>,
    pub(crate) embed: Matrix,
    pub(crate) final_norm: Vec<f32>,
    head: Option<Matrix>, // none: the embeddings
    rotary: Rotary,
    local_rotary: Option<Rotary>, // none: the other
}

/// Gives tensors by their canonical names.
pub trait Tensors {
    /// The tensor of this name, one-dimensional ones as a single row.
    fn get(&self, name: &str) -> Result<Stored<'_>>;
}

impl Model {
    /// Pack all weights, or take them as they were kept.
    ///
    /// `frequencies` are the radians per position of each rotated pair, `positions` the longest sequence. Matrices are
    /// rounded to `quantization`, and so have to be stored as floats; norms and biases never are.
    pub fn new<'a>(
        sizes: Sizes,
        frequencies: &[f32],
        positions: usize,
        tensors: &dyn Tensors,
        quantization: Option<Quantization>,
        packing: impl Into<Packing<'a>>,
    ) -> Result<Model> {
        match packing.into() {
            Packing::Fresh(pool) => {
                let bytes = Model::planned_bytes(sizes.clone(), frequencies, tensors, quantization)?;
                let packing = Packing::Into(pool, &Arena::new(bytes)?);
                Model::make(sizes, frequencies, positions, tensors, quantization, packing)
            }
            packing => Model::make(sizes, frequencies, positions, tensors, quantization, packing),
        }
    }

    /// What [`Model::nbytes`] would be, without packing anything; only types and shapes of the tensors are looked at.
    pub fn planned_bytes(
        sizes: Sizes,
        frequencies: &[f32],
        tensors: &dyn Tensors,
        quantization: Option<Quantization>,
    ) -> Result<usize> {
        Ok(Model::make(sizes, frequencies, 0, tensors, quantization, Packing::Planned)?.nbytes())
    }

    fn make(
        sizes: Sizes,
        frequencies: &[f32],
        positions: usize,
        tensors: &dyn Tensors,
        quantization: Option<Quantization>,
        packing: Packing<'_>,
    ) -> Result<Model> {
        sizes.check()?;
        let pairs = sizes.head_dim / 2;
        if frequencies.len() != pairs || ![0, pairs].contains(&sizes.local_frequencies.len()) {
            return Err(Error::Internal("There must be a frequency for each pair of a head.".into()));
        }
        let layers =
            (0..sizes.layers).map(|i| read_layer(&sizes, i, tensors, quantization, packing)).collect::<Result<_>>()?;
        let vocabulary = |name| {
            let stored = expect(tensors, name, sizes.vocab, sizes.hidden)?;
            Matrix::stack(packing, &[Stored { quantization: quantization.map(Quantization::for_vocabulary), ..stored }])
        };
        let embed = vocabulary("embed.weight")?;
        let head = match sizes.tied {
            true => None,
            false => Some(vocabulary("head.weight")?),
        };
        let final_norm = vector(tensors, "final_norm.weight", sizes.hidden, packing)?;
        let rotary = Rotary::new(frequencies, positions);
        let local_rotary =
            (!sizes.local_frequencies.is_empty()).then(|| Rotary::new(&sizes.local_frequencies, positions));
        Ok(Model { layers, embed, final_norm, head, rotary, local_rotary, sizes })
    }

    /// All matrices in the order in which they are packed.
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.o, &l.gate_up, &l.down]);
        layers.chain([&self.embed]).chain(&self.head)
    }

    /// Bytes of all packed matrices.
    pub fn nbytes(&self) -> usize {
        self.matrices().map(Matrix::nbytes).sum()
    }

    /// The packed matrices, to be [kept](crate::kept::write) while the model is in use.
    pub fn tiles(&self) -> Vec<Tiles> {
        self.matrices().map(|matrix| matrix.data().clone()).collect()
    }

    /// The longest sequence there are rotary tables for.
    pub fn positions(&self) -> usize {
        self.rotary.positions()
    }

    /// What rotates the heads of a layer.
    pub(crate) fn rotary(&self, layer: &Layer) -> &Rotary {
        self.local_rotary.as_ref().filter(|_| layer.windowed).unwrap_or(&self.rotary)
    }

    /// What scores the vocabulary.
    pub(crate) fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embed)
    }
}

fn expect<'a>(tensors: &'a dyn Tensors, name: &str, outputs: usize, inputs: usize) -> Result<Stored<'a>> {
    let stored = tensors.get(name)?;
    if (stored.outputs, stored.inputs) != (outputs, inputs) {
        return Err(Error::Model(format!(
            "{name} is {} x {}, but the model's sizes ask for {outputs} x {inputs}.",
            stored.outputs, stored.inputs
        )));
    }
    Ok(stored)
}

fn vector(tensors: &dyn Tensors, name: &str, size: usize, packing: Packing<'_>) -> Result<Vec<f32>> {
    let stored = expect(tensors, name, 1, size)?;
    if let Packing::Planned = packing { Ok(Vec::new()) } else { read_f32(&stored) }
}

fn read_layer(
    s: &Sizes,
    i: usize,
    tensors: &dyn Tensors,
    quantization: Option<Quantization>,
    packing: Packing<'_>,
) -> Result<Layer> {
    let name = |part: &str| format!("layers.{i}.{part}");
    let matrix = |part: &str, outputs, inputs| {
        let stored = expect(tensors, &name(&format!("{part}.weight")), outputs, inputs)?;
        Ok::<_, Error>(Stored { quantization, ..stored })
    };
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let mut qkv_bias = Vec::new();
    if s.qkv_bias {
        for (part, size) in [("q", q), ("k", kv), ("v", kv)] {
            qkv_bias.extend(vector(tensors, &name(&format!("{part}.bias")), size, packing)?);
        }
    }
    let norm = |part: &str| match s.qk_norm {
        true => vector(tensors, &name(part), s.head_dim, packing),
        false => Ok(Vec::new()),
    };
    let post_norm = |part: &str| match s.post_norms {
        true => vector(tensors, &name(part), s.hidden, packing),
        false => Ok(Vec::new()),
    };
    Ok(Layer {
        windowed: s.window.is_some() && !s.global_layers.contains(&i),
        attn_norm: vector(tensors, &name("attn_norm.weight"), s.hidden, packing)?,
        qkv: Matrix::stack(
            packing,
            &[matrix("q", q, s.hidden)?, matrix("k", kv, s.hidden)?, matrix("v", kv, s.hidden)?],
        )?,
        qkv_bias,
        q_norm: norm("q_norm.weight")?,
        k_norm: norm("k_norm.weight")?,
        o: Matrix::stack(packing, &[matrix("o", s.hidden, q)?])?,
        attn_post_norm: post_norm("attn_post_norm.weight")?,
        mlp_norm: vector(tensors, &name("mlp_norm.weight"), s.hidden, packing)?,
        gate_up: Matrix::interleave(packing, matrix("gate", s.ffn, s.hidden)?, matrix("up", s.ffn, s.hidden)?)?,
        down: Matrix::stack(packing, &[matrix("down", s.hidden, s.ffn)?])?,
        mlp_post_norm: post_norm("mlp_post_norm.weight")?,
    })
}
