//! Tensors as they lie in a file, read row by row.

use crate::error::{Error, Result};
use crate::format::Format;
use crate::ggml::BlockType;
use crate::half;
use crate::quantize::Quantization;

/// A tensor as it lies in a file: row-major, `[outputs, inputs]`.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// Its name, for errors.
    pub name: &'a str,
    /// GGML's name of its type, or safetensors'.
    pub dtype: &'a str,
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What a matrix of it rounds its floats to; none: it keeps them.
    pub quantization: Option<Quantization>,
}

impl Stored<'_> {
    /// How a matrix holds it.
    pub(crate) fn format(&self) -> Result<Format> {
        let own = match self.dtype {
            "F32" => Format::F32,
            "BF16" => Format::Bf16,
            "F16" => Format::F16,
            name => Format::Quantized(
                BlockType::from_name(name)
                    .ok_or_else(|| {
                        Error::Model(format!(
                            "{} is stored as {name}, which the native runner can't compute: it takes F32, F16, BF16, \
                             Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K.",
                            self.name
                        ))
                    })?
                    .scheme(),
            ),
        };
        match (self.quantization, own) {
            (None, _) => Ok(own),
            (Some(_), Format::Quantized(_)) => Err(Error::Config(format!(
                "{} is quantized already, as {}: serve the model as it is, without --quantization.",
                self.name, self.dtype
            ))),
            (Some(quantization), _) => Ok(Format::Quantized(quantization.scheme())),
        }
    }

    pub(crate) fn row_bytes(&self) -> Result<usize> {
        let (len, bytes) = match BlockType::from_name(self.dtype) {
            Some(block) => (block.block_len(), block.block_bytes()),
            None => (1, if self.dtype == "F32" { 4 } else { 2 }),
        };
        if self.outputs == 0 || self.inputs == 0 {
            return Err(Error::Model(format!("{} has no weights.", self.name)));
        }
        if !self.inputs.is_multiple_of(len) {
            let fitting = if self.inputs.is_multiple_of(32) { "Q8_0, or another type in blocks of 32" } else { "F16" };
            return Err(Error::Model(format!(
                "{} has rows of {} weights; {} comes in blocks of {len}. Such rows can be stored as {fitting}.",
                self.name, self.inputs, self.dtype
            )));
        }
        let row = (self.inputs / len).saturating_mul(bytes);
        let all = row.saturating_mul(self.outputs);
        if all != self.bytes.len() {
            return Err(Error::Model(format!(
                "{} has {} bytes; {} x {} weights of {} take {all}.",
                self.name,
                self.bytes.len(),
                self.outputs,
                self.inputs,
                self.dtype,
            )));
        }
        Ok(row)
    }
}

/// One row taken apart, widened, or rounded.
pub(crate) struct Row {
    pub(crate) q: Vec<u8>,
    pub(crate) scale: Vec<f32>,
    pub(crate) offset: Vec<f32>,
    pub(crate) wide: Vec<f32>,
}

impl Row {
    pub(crate) fn new(inputs: usize) -> Row {
        let padded = inputs.next_multiple_of(256);
        Row {
            q: vec![0; padded],
            scale: vec![0.0; padded / 16],
            offset: vec![0.0; padded / 16],
            wide: vec![0.0; padded],
        }
    }

    /// Read a row of blocks; scales and offsets come out a number for each group of its own scheme.
    pub(crate) fn take_apart(&mut self, block: BlockType, bytes: &[u8]) {
        let per_block = block.block_len() / block.scheme().group;
        for (i, block_bytes) in bytes.chunks_exact(block.block_bytes()).enumerate() {
            block.take_apart(
                block_bytes,
                &mut self.q[i * block.block_len()..],
                &mut self.scale[i * per_block..],
                &mut self.offset[i * per_block..],
            );
        }
    }

    /// Read a row of any type as float32.
    pub(crate) fn widen(&mut self, dtype: &str, bytes: &[u8]) {
        if let Some(block) = BlockType::from_name(dtype) {
            self.take_apart(block, bytes);
            let scheme = block.scheme();
            let count = bytes.len() / block.block_bytes() * block.block_len();
            for i in 0..count {
                let (q, g) = (f32::from(self.q[i]), i / scheme.group);
                self.wide[i] = match scheme.zero {
                    Some(zero) => self.scale[g] * (q - f32::from(zero)),
                    None => self.scale[g].mul_add(q, self.offset[g]),
                };
            }
            return;
        }
        match dtype {
            "F32" => {
                for (to, from) in self.wide.iter_mut().zip(bytes.chunks_exact(4)) {
                    *to = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
                }
            }
            _ => {
                let widen = if dtype == "BF16" { half::bf16_to_f32 } else { half::f16_to_f32 };
                for (to, from) in self.wide.iter_mut().zip(bytes.chunks_exact(2)) {
                    *to = widen(u16::from_le_bytes([from[0], from[1]]));
                }
            }
        }
    }
}

/// A tensor's values as float32, row-major.
pub fn read_f32(stored: &Stored<'_>) -> Result<Vec<f32>> {
    stored.format()?;
    let row_bytes = stored.row_bytes()?;
    let mut row = Row::new(stored.inputs);
    let mut values = Vec::with_capacity(stored.outputs * stored.inputs);
    for bytes in stored.bytes.chunks_exact(row_bytes) {
        row.widen(stored.dtype, bytes);
        values.extend_from_slice(&row.wide[..stored.inputs]);
    }
    Ok(values)
}
