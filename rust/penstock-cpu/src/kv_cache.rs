//! The paged KV cache: for each block, layer and KV head, the keys and the values of `block_size` tokens. A block's lie
//! together, so that huge pages hold what is in use and little else.
//!
//! Sixteen tokens make a strip. A strip's keys lie dimension by dimension, so that one vector holds the same
//! dimension of sixteen keys and scores need no sums across lanes; its values lie token by token. Blocks that are no
//! multiple of sixteen tokens leave lanes of their last strip unused. Strips of int8 end with a float32 scale for each
//! key, then one for each value.

use crate::dispatch;
use crate::error::{Error, Result};
use crate::half::f32_to_bf16;
use crate::memory::zeros;
use crate::simd::{LANES, Path, Simd};
use memmap2::MmapRaw;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// float32.
    F32,
    /// IEEE half floats.
    F16,
    /// bfloat16.
    Bf16,
    /// int8, with one scale for a token's key and one for its value, of each head.
    I8,
}

impl KvType {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 | KvType::Bf16 => 2,
            KvType::I8 => 1,
        }
    }
}

/// The sizes of a cache.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// KV heads of a layer.
    pub heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// How they are stored.
    pub kind: KvType,
}

impl KvShape {
    /// Strips of a block.
    pub fn strips(&self) -> usize {
        self.block_size.div_ceil(LANES)
    }

    /// Numbers of a value, padded to whole vectors.
    pub fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Numbers of a strip's keys.
    pub fn strip_keys(&self) -> usize {
        self.head_dim * LANES
    }

    /// Numbers of a strip: keys, then values.
    pub fn strip_len(&self) -> usize {
        self.strip_keys() + LANES * self.value_width()
    }

    /// Bytes of a strip.
    pub fn strip_bytes(&self) -> usize {
        let scales = if self.kind == KvType::I8 { 2 * LANES * size_of::<f32>() } else { 0 };
        self.strip_len() * self.kind.bytes() + scales
    }

    /// Where in a strip of int8 the scales of its keys are, in bytes; those of its values follow.
    pub fn scales_at(&self) -> usize {
        self.strip_len() * self.kind.bytes()
    }

    /// Bytes of one block over all layers and heads.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.heads * self.strips() * self.strip_bytes()
    }
}

/// Memory from the system, zero until it is written; pages never written take no room.
pub struct KvCache {
    /// Its sizes.
    pub shape: KvShape,
    /// How many blocks.
    pub blocks: usize,
    data: MmapRaw,
}

// SAFETY: tasks write strips of different heads or sequences, and read what no other writes in the same region.
unsafe impl Send for KvCache {}
// SAFETY: see above.
unsafe impl Sync for KvCache {}

impl KvCache {
    /// Reserve a cache.
    pub fn new(shape: KvShape, blocks: usize) -> Result<KvCache> {
        let bytes = shape.block_bytes().checked_mul(blocks).filter(|&bytes| bytes <= isize::MAX as usize);
        let refused = || Error::Config(format!("There is no memory for a KV cache of {blocks} blocks."));
        let data = zeros(bytes.ok_or_else(refused)?).map_err(|_| refused())?;
        Ok(KvCache { shape, blocks, data })
    }

    /// A strip of a head in a layer and block: its keys and after them its values.
    ///
    /// # Panics
    /// If there is no such strip.
    #[inline]
    pub fn strip(&self, layer: usize, head: usize, block: usize, strip: usize) -> *mut u8 {
        let s = &self.shape;
        assert!(layer < s.layers && head < s.heads && block < self.blocks && strip < s.strips());
        let index = ((block * s.layers + layer) * s.heads + head) * s.strips() + strip;
        // SAFETY: the index is within what was reserved.
        unsafe { self.data.as_mut_ptr().add(index * s.strip_bytes()) }
    }

    /// Write a token's key and value, `head_dim` numbers each, of one head.
    ///
    /// As int8, numbers are rounded to the nearest of 255 steps up to the greatest of them; a key or value that isn't
    /// finite becomes NaN throughout.
    ///
    /// # Safety
    /// The path must be supported, `key` and `value` must hold `head_dim` numbers, and nobody else use the token's
    /// strip at the same time.
    pub unsafe fn write(
        &self,
        path: Path,
        layer: usize,
        head: usize,
        block: usize,
        offset: usize,
        key: *const f32,
        value: *const f32,
    ) {
        let strip = self.strip(layer, head, block, offset / LANES);
        write(path, self.shape, strip, offset % LANES, key, value);
    }
}

/// A key and a value into their places in a strip, sixteen numbers at a time.
#[inline(always)]
unsafe fn write_lane<S: Simd>(shape: KvShape, strip: *mut u8, lane: usize, key: *const f32, value: *const f32) {
    let values_at = shape.strip_keys() + lane * shape.value_width();
    let mut steps = [(0.0, 0.0); 2];
    if shape.kind == KvType::I8 {
        steps = [key, value].map(|numbers| step(std::slice::from_raw_parts(numbers, shape.head_dim)));
        let scales = strip.add(shape.scales_at()).cast::<f32>().add(lane);
        scales.write_unaligned(steps[0].0);
        scales.add(LANES).write_unaligned(steps[1].0);
    }
    for first in (0..shape.head_dim).step_by(LANES) {
        let count = LANES.min(shape.head_dim - first);
        for (numbers, is_key, inverse) in [(key, true, steps[0].1), (value, false, steps[1].1)] {
            let mut wide = [0f32; LANES];
            std::ptr::copy_nonoverlapping(numbers.add(first), wide.as_mut_ptr(), count);
            match shape.kind {
                KvType::F32 => place(strip, wide, is_key, first, count, lane, values_at),
                KvType::F16 => {
                    let mut narrow = [0u16; LANES];
                    S::store_f16(narrow.as_mut_ptr(), S::load(wide.as_ptr()));
                    place(strip, narrow, is_key, first, count, lane, values_at);
                }
                KvType::Bf16 => place(strip, wide.map(f32_to_bf16), is_key, first, count, lane, values_at),
                KvType::I8 => {
                    let mut narrow = [0i8; LANES];
                    let scaled = S::mul(S::load(wide.as_ptr()), S::splat(inverse));
                    S::store_i8(narrow.as_mut_ptr(), S::round(scaled));
                    place(strip, narrow, is_key, first, count, lane, values_at);
                }
            }
        }
    }
}

/// Numbers `first ..` of a key, into its lane, or of a value, into its row.
#[inline(always)]
unsafe fn place<T: Copy>(
    strip: *mut u8,
    numbers: [T; LANES],
    is_key: bool,
    first: usize,
    count: usize,
    lane: usize,
    values_at: usize,
) {
    let strip = strip.cast::<T>();
    for (i, &number) in numbers.iter().enumerate().take(count) {
        *strip.add(if is_key { (first + i) * LANES + lane } else { values_at + first + i }) = number;
    }
}

dispatch!(fn write = write_lane;
    (shape: KvShape, strip: *mut u8, lane: usize, key: *const f32, value: *const f32));

/// The step between two int8 of these numbers, and what to multiply them with to get int8.
#[inline(always)]
fn step(numbers: &[f32]) -> (f32, f32) {
    if !numbers.iter().fold(true, |all, x| all & x.is_finite()) {
        return (f32::NAN, 0.0);
    }
    let greatest = numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
    // The inverse of what is too small to have one is infinite: such numbers are as good as zero.
    let inverse = 127.0 / greatest;
    if inverse.is_finite() { (greatest / 127.0, inverse) } else { (0.0, 0.0) }
}
