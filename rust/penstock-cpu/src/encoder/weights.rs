//! An encoder's weights: tables as they are, matrices packed for the kernels.

use crate::activations::GROUP;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Packing};
use crate::model::Tensors;
use crate::pool::Pool;
use crate::simd::LANES;
use crate::stored::{Stored, read_f32};

/// What the model's configuration says.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Tokens there are.
    pub vocab: usize,
    /// Numbers of a hidden state.
    pub hidden: usize,
    /// Numbers between the products of the feed-forward.
    pub ffn: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads, which share `hidden`.
    pub heads: usize,
    /// What the norms add to a variance.
    pub eps: f32,
    /// The row of the position table that a text's first token takes.
    pub first_position: usize,
    /// Tokens of the longest text.
    pub longest: usize,
}

/// The names of a classifying head's two products.
#[derive(Clone, Debug)]
pub struct Head {
    /// Before the tanh: `[hidden, hidden]`.
    pub first: String,
    /// After it: `[classes, hidden]`.
    pub last: String,
    /// How many classes.
    pub classes: usize,
}

/// Rows of float32.
pub(super) struct Table {
    numbers: Vec<f32>,
    width: usize,
    pub(super) rows: usize,
}

impl Table {
    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.numbers[index * self.width..][..self.width]
    }
}

pub(super) struct Dense {
    pub(super) matrix: Matrix,
    pub(super) bias: Vec<f32>, // padded to whole tiles
}

pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

pub(super) struct Layer {
    pub(super) qkv: Dense,
    pub(super) attended: Dense,
    pub(super) attended_norm: Norm,
    pub(super) up: Dense,
    pub(super) down: Dense,
    pub(super) down_norm: Norm,
}

pub(super) struct ReadHead {
    pub(super) first: Dense,
    pub(super) last: Dense,
}

pub(super) struct Weights {
    pub(super) sizes: Sizes,
    pub(super) words: Table,
    pub(super) positions: Table,
    pub(super) types: Table,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
    pub(super) head: Option<ReadHead>,
    pub(super) width: usize,      // of a hidden state in the buffers
    pub(super) qkv_width: usize,  // of queries, keys and values
    pub(super) wide_width: usize, // of the feed-forward's
}

impl Weights {
    pub(super) fn read(sizes: Sizes, head: Option<Head>, tensors: &dyn Tensors, pool: &Pool) -> Result<Weights> {
        let Sizes { vocab, hidden, ffn, layers, heads, .. } = sizes;
        if [vocab, hidden, ffn, layers, heads].contains(&0) {
            return Err(Error::Model("config.json doesn't say all of the model's sizes.".into()));
        }
        if !hidden.is_multiple_of(heads) {
            return Err(Error::Model(format!("{heads} heads can't share {hidden} numbers.")));
        }
        let reader = Reader { tensors, pool };
        let mut positions = reader.table("embeddings.position_embeddings.weight", None, hidden)?;
        if positions.rows < sizes.first_position.saturating_add(sizes.longest) {
            return Err(Error::Model(format!(
                "there are {} positions, and a text of {} tokens begins at {}.",
                positions.rows, sizes.longest, sizes.first_position
            )));
        }
        positions.numbers.drain(..hidden * sizes.first_position);
        positions.rows -= sizes.first_position;
        Ok(Weights {
            words: reader.table("embeddings.word_embeddings.weight", Some(vocab), hidden)?,
            positions,
            types: reader.table("embeddings.token_type_embeddings.weight", None, hidden)?,
            norm: reader.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..layers).map(|index| reader.layer(index, hidden, ffn)).collect::<Result<_>>()?,
            head: head.map(|head| reader.head(&head, hidden)).transpose()?,
            width: hidden.next_multiple_of(GROUP),
            qkv_width: (3 * hidden).next_multiple_of(LANES),
            wide_width: ffn.next_multiple_of(GROUP),
            sizes,
        })
    }
}

struct Reader<'a> {
    tensors: &'a dyn Tensors,
    pool: &'a Pool,
}

impl<'a> Reader<'a> {
    /// A tensor of floats; no number of rows fits any.
    fn get(&self, name: &str, rows: Option<usize>, width: usize) -> Result<Stored<'a>> {
        let stored = self.tensors.get(name)?;
        if !["F32", "F16", "BF16"].contains(&stored.dtype) {
            return Err(Error::Model(format!("{name} is stored as {}, not as floats.", stored.dtype)));
        }
        if stored.inputs != width || rows.is_some_and(|rows| rows != stored.outputs) {
            let rows = rows.map_or("any".to_owned(), |rows| rows.to_string());
            return Err(Error::Model(format!(
                "{name} is {} x {}, and config.json says {rows} x {width}.",
                stored.outputs, stored.inputs
            )));
        }
        Ok(stored)
    }

    fn table(&self, name: &str, rows: Option<usize>, width: usize) -> Result<Table> {
        let stored = self.get(name, rows, width)?;
        Ok(Table { numbers: read_f32(&stored)?, width, rows: stored.outputs })
    }

    fn vector(&self, name: &str, size: usize) -> Result<Vec<f32>> {
        read_f32(&self.get(name, Some(1), size)?)
    }

    fn norm(&self, name: &str, size: usize) -> Result<Norm> {
        let vector = |part| self.vector(&format!("{name}.{part}"), size);
        Ok(Norm { weight: vector("weight")?, bias: vector("bias")? })
    }

    fn dense(&self, names: &[&str], outputs: usize, inputs: usize) -> Result<Dense> {
        let (mut parts, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            parts.push(self.get(&format!("{name}.weight"), Some(outputs), inputs)?);
            bias.extend(self.vector(&format!("{name}.bias"), outputs)?);
        }
        bias.resize(bias.len().next_multiple_of(LANES), 0.0);
        let widened = parts.iter().map(widen).collect::<Result<Vec<_>>>()?;
        for (part, bytes) in parts.iter_mut().zip(&widened) {
            *part = Stored { dtype: "F32", bytes: bytes.as_deref().unwrap_or(part.bytes), ..*part };
        }
        Ok(Dense { matrix: Matrix::stack(Packing::Fresh(self.pool), &parts)?, bias })
    }

    fn layer(&self, index: usize, hidden: usize, ffn: usize) -> Result<Layer> {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        Ok(Layer {
            qkv: self.dense(&qkv.each_ref().map(String::as_str), hidden, hidden)?,
            attended: self.dense(&[&name("attention.output.dense")], hidden, hidden)?,
            attended_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            up: self.dense(&[&name("intermediate.dense")], ffn, hidden)?,
            down: self.dense(&[&name("output.dense")], hidden, ffn)?,
            down_norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }

    fn head(&self, head: &Head, hidden: usize) -> Result<ReadHead> {
        Ok(ReadHead {
            first: self.dense(&[&head.first], hidden, hidden)?,
            last: self.dense(&[&head.last], head.classes, hidden)?,
        })
    }
}

/// The bytes of a matrix in float32, if they aren't that already.
fn widen(stored: &Stored<'_>) -> Result<Option<Vec<u8>>> {
    if stored.dtype == "F32" {
        return Ok(None);
    }
    Ok(Some(read_f32(stored)?.into_iter().flat_map(f32::to_le_bytes).collect()))
}
