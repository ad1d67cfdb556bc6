//! A weight matrix in the layout that the kernels read: tiles of sixteen outputs, streamed from front to back.
//!
//! Quantized: for each group of inputs first the numbers, four inputs of each of the sixteen outputs at a time
//! (what an integer dot product takes), then sixteen scales, then sixteen offsets if the scheme has them. Four-bit
//! numbers share bytes: the low halves are those of the group's first half. Floats: sixteen outputs for each input,
//! bfloat16 for each pair of inputs, which lie side by side.
//!
//! The layout is the same on all paths. Inputs are padded to whole groups and outputs to whole tiles, with zeros.

use crate::activations::{Form, Precision};
use crate::arena::{Arena, Tiles};
use crate::error::{Error, Result};
use crate::format::{Format, INPUT_ALIGN};
use crate::ggml::BlockType;
use crate::half;
use crate::pool::{Pool, SendPtr};
use crate::simd::LANES;
use crate::stored::{Row, Stored};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the tiles of a model's matrices come from.
#[derive(Clone, Copy)]
pub enum Packing<'a> {
    /// Nowhere: only sizes are asked for.
    Planned,
    /// From the tensors, by these threads, into memory of their own.
    Fresh(&'a Pool),
    /// From the tensors, by these threads, one after the other into this memory.
    Into(&'a Pool, &'a Arena),
    /// From memory where an earlier start's lie one after the other; of the tensors only type and shape are looked at.
    Kept(&'a Arena),
}

impl Packing<'_> {
    /// Itself, once tensors whose bytes it reads are known to have as many as their sizes ask for.
    fn of(self, parts: &[Stored<'_>]) -> Result<Self> {
        if let Packing::Fresh(_) | Packing::Into(..) = self {
            parts.iter().try_for_each(|part| part.row_bytes().map(|_| ()))?;
        }
        Ok(self)
    }
}

impl<'a> From<&'a Pool> for Packing<'a> {
    fn from(pool: &'a Pool) -> Packing<'a> {
        Packing::Fresh(pool)
    }
}

/// A packed matrix.
pub struct Matrix {
    /// How its weights are stored.
    pub format: Format,
    /// Rows of the matrix, without padding.
    pub outputs: usize,
    /// Columns, without padding.
    pub inputs: usize,
    data: Tiles,
}

impl Matrix {
    /// Pack tensors one below the other: their outputs follow each other.
    pub fn stack<'a>(packing: impl Into<Packing<'a>>, parts: &[Stored<'_>]) -> Result<Matrix> {
        let packing = packing.into().of(parts)?;
        let outputs = parts.iter().map(|part| part.outputs).sum();
        Matrix::pack(packing, parts, outputs, |mut output| {
            let mut part = 0;
            while output >= parts[part].outputs {
                output -= parts[part].outputs;
                part += 1;
            }
            (part, output)
        })
    }

    /// Pack two tensors of the same shape tile by tile in turn, each padded to whole tiles: tile 2i is the first's
    /// tile i, tile 2i + 1 the second's.
    pub fn interleave<'a>(packing: impl Into<Packing<'a>>, first: Stored<'_>, second: Stored<'_>) -> Result<Matrix> {
        let packing = packing.into().of(&[first, second])?;
        let outputs = 2 * first.outputs.next_multiple_of(LANES);
        Matrix::pack(packing, &[first, second], outputs, |output| {
            let (tile, lane) = (output / LANES, output % LANES);
            (tile % 2, tile / 2 * LANES + lane)
        })
    }

    /// `row_of` names for each output the tensor and the row; rows past a tensor's end are zero.
    fn pack(
        packing: Packing<'_>,
        parts: &[Stored<'_>],
        outputs: usize,
        row_of: impl Fn(usize) -> (usize, usize) + Sync,
    ) -> Result<Matrix> {
        let inputs = parts[0].inputs;
        let mut format = parts[0].format()?;
        for part in parts {
            if part.inputs != inputs {
                return Err(Error::Model(format!("{} has {} inputs, not {inputs}.", part.name, part.inputs)));
            }
            format = format.with(part.format()?);
        }
        let mut matrix = Matrix { format, outputs, inputs, data: Tiles::default() };
        matrix.data = match packing {
            Packing::Planned => Tiles::default(),
            Packing::Fresh(_) => Arena::new(matrix.nbytes())?.take(matrix.nbytes())?,
            Packing::Into(_, arena) | Packing::Kept(arena) => arena.take(matrix.nbytes())?,
        };
        if let Packing::Fresh(pool) | Packing::Into(pool, _) = packing {
            matrix.write(pool, parts, row_of)?;
        }
        Ok(matrix)
    }

    /// Write all tiles, which are zeros.
    fn write(
        &mut self,
        pool: &Pool,
        parts: &[Stored<'_>],
        row_of: impl Fn(usize) -> (usize, usize) + Sync,
    ) -> Result<()> {
        let row_bytes = parts.iter().map(Stored::row_bytes).collect::<Result<Vec<usize>>>()?;
        let tile_bytes = self.tile_bytes();
        let data = SendPtr(self.data.start());
        let failed = AtomicUsize::new(usize::MAX); // the first part with a row that can't be rounded
        pool.run(self.tiles(), &|tile, _| {
            let data = &data;
            // SAFETY: each task has a tile of its own, and there is room for all of them.
            let tile_data = unsafe { std::slice::from_raw_parts_mut(data.0.add(tile * tile_bytes), tile_bytes) };
            let mut row = Row::new(self.inputs);
            for lane in 0..LANES.min(self.outputs - tile * LANES) {
                let (p, index) = row_of(tile * LANES + lane);
                if index < parts[p].outputs {
                    let bytes = &parts[p].bytes[index * row_bytes[p]..][..row_bytes[p]];
                    if !self.write_row(tile_data, lane, &parts[p], bytes, &mut row) {
                        failed.fetch_min(p, Ordering::Relaxed);
                    }
                }
            }
        });
        match parts.get(failed.into_inner()) {
            None => Ok(()),
            Some(part) => Err(Error::Model(format!(
                "{} has weights that are NaN, infinite, or beyond the range of half floats; they can't be quantized.",
                part.name
            ))),
        }
    }

    /// False if the part is to be quantized, and this row of it can't be.
    fn write_row(&self, tile: &mut [u8], lane: usize, part: &Stored<'_>, bytes: &[u8], row: &mut Row) -> bool {
        let group_bytes = self.format.group_bytes();
        let Format::Quantized(scheme) = self.format else {
            row.widen(part.dtype, bytes);
            let width = group_bytes / INPUT_ALIGN / LANES;
            for (k, &value) in row.wide[..self.inputs].iter().enumerate() {
                let at = self.float_at(k, lane) * width;
                match self.format {
                    Format::Bf16 => tile[at..at + 2].copy_from_slice(&((value.to_bits() >> 16) as u16).to_le_bytes()),
                    Format::F16 => tile[at..at + 2].copy_from_slice(&half::f32_to_f16(value).to_le_bytes()),
                    _ => tile[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                }
            }
            return true;
        };
        let own = match (BlockType::from_name(part.dtype), part.quantization) {
            (Some(block), _) => {
                row.take_apart(block, bytes);
                block.scheme()
            }
            (None, Some(quantization)) => {
                row.widen(part.dtype, bytes);
                if !quantization.round(&row.wide[..self.inputs], &mut row.q, &mut row.scale, &mut row.offset) {
                    return false;
                }
                quantization.scheme()
            }
            (None, None) => unreachable!("a quantized format only comes of quantized parts"),
        };
        let scales_at = LANES * scheme.group * scheme.bits as usize / 8;
        for g in 0..self.inputs.div_ceil(scheme.group) {
            let group = &mut tile[g * group_bytes..][..group_bytes];
            for (i, &q) in row.q[g * scheme.group..][..scheme.group].iter().enumerate() {
                if scheme.bits == 4 {
                    let half = scheme.group / 2;
                    let (i, shift) = (i % half, if i < half { 0 } else { 4 });
                    group[i / 4 * 64 + lane * 4 + i % 4] |= q << shift;
                } else {
                    group[i / 4 * 64 + lane * 4 + i % 4] = q;
                }
            }
            let from = g * scheme.group / own.group;
            let scale = row.scale[from];
            put_scale(&mut group[scales_at..], lane, scheme.half_scales, scale);
            if scheme.zero.is_none() {
                let offset = own.zero.map_or(row.offset[from], |zero| -scale * f32::from(zero));
                let width = if scheme.half_scales { 2 } else { 4 };
                put_scale(&mut group[scales_at + LANES * width..], lane, scheme.half_scales, offset);
            }
        }
        true
    }

    /// Where in a tile of floats an input of an output is.
    fn float_at(&self, input: usize, lane: usize) -> usize {
        match self.format {
            Format::Bf16 => (input / 2 * LANES + lane) * 2 + input % 2,
            _ => input * LANES + lane,
        }
    }

    /// What products read of activations.
    pub fn takes(&self, precision: Precision) -> Form {
        match (self.format, precision) {
            (Format::Quantized(_), Precision::Int8 | Precision::Bf16) => Form::Int8,
            (Format::Bf16, Precision::Bf16) => Form::Bf16,
            _ => Form::F32,
        }
    }

    /// Tiles of sixteen outputs.
    pub fn tiles(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// Groups of inputs in a tile.
    pub fn groups(&self) -> usize {
        self.inputs.next_multiple_of(INPUT_ALIGN) / self.format.group()
    }

    /// Bytes of a tile: a multiple of 64.
    pub fn tile_bytes(&self) -> usize {
        (self.groups() * self.format.group_bytes()).next_multiple_of(64)
    }

    /// Bytes of all tiles.
    pub fn nbytes(&self) -> usize {
        self.tiles() * self.tile_bytes()
    }

    /// Where its tiles lie.
    pub fn data(&self) -> &Tiles {
        &self.data
    }

    /// All tiles from this one on.
    pub fn bytes_from_tile(&self, index: usize) -> &[u8] {
        &self.data.bytes()[index * self.tile_bytes()..]
    }

    /// The beginning of a tile.
    pub fn tile(&self, index: usize) -> *const u8 {
        let bytes = self.bytes_from_tile(index);
        assert!(bytes.len() >= self.tile_bytes());
        bytes.as_ptr()
    }

    /// One row as float32 into `to`, which has room for `inputs`: an embedding.
    pub fn read_row(&self, output: usize, to: &mut [f32]) {
        assert!(output < self.outputs && to.len() >= self.inputs);
        // SAFETY: the tile is as long as that.
        let tile = unsafe { std::slice::from_raw_parts(self.tile(output / LANES), self.tile_bytes()) };
        let lane = output % LANES;
        let group_bytes = self.format.group_bytes();
        for (k, to) in to[..self.inputs].iter_mut().enumerate() {
            let (g, i) = (k / self.format.group(), k % self.format.group());
            let group = &tile[g * group_bytes..][..group_bytes];
            *to = match self.format {
                Format::F32 => float(group, self.float_at(i, lane)),
                Format::Bf16 => half::bf16_to_f32(short(group, self.float_at(i, lane))),
                Format::F16 => half::f16_to_f32(short(group, self.float_at(i, lane))),
                Format::Quantized(s) => {
                    let q = if s.bits == 4 {
                        let (j, shift) = (i % (s.group / 2), if i < s.group / 2 { 0 } else { 4 });
                        group[j / 4 * 64 + lane * 4 + j % 4] >> shift & 0x0F
                    } else {
                        group[i / 4 * 64 + lane * 4 + i % 4]
                    };
                    let scales = &group[LANES * s.group * s.bits as usize / 8..];
                    let read = |at| if s.half_scales { half::f16_to_f32(short(scales, at)) } else { float(scales, at) };
                    match s.zero {
                        Some(zero) => read(lane) * (f32::from(q) - f32::from(zero)),
                        None => read(lane).mul_add(f32::from(q), read(LANES + lane)),
                    }
                }
            };
        }
    }
}

fn put_scale(scales: &mut [u8], lane: usize, half_scales: bool, value: f32) {
    if half_scales {
        scales[lane * 2..lane * 2 + 2].copy_from_slice(&half::f32_to_f16(value).to_le_bytes());
    } else {
        scales[lane * 4..lane * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])
}

fn float(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]])
}
