//! The paged KV cache: for each layer, block and KV head, the keys and the values of `block_size` tokens.
//!
//! Sixteen tokens make a strip. A strip's keys lie dimension by dimension, so that one vector holds the same
//! dimension of sixteen keys and scores need no sums across lanes; its values lie token by token. Blocks that are no
//! multiple of sixteen tokens leave lanes of their last strip unused.

use crate::error::{Error, Result};
use crate::half::f32_to_f16;
use crate::simd::LANES;
use std::alloc::Layout;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// IEEE half floats.
    F16,
    /// float32.
    F32,
}

impl KvType {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
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

    /// Bytes of one block over all layers and heads.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.heads * self.strips() * self.strip_len() * self.kind.bytes()
    }
}

/// Bytes that a system's allocator aligns to by itself. Asked for more it would not take zeroed pages from the system
/// but write the zeros, and so take all the memory at once.
const OWN_ALIGN: usize = 16;
/// A cache line.
const ALIGN: usize = 64;

/// Memory from the system, zero until it is written; pages never written take no room.
pub struct KvCache {
    /// Its sizes.
    pub shape: KvShape,
    /// How many blocks.
    pub blocks: usize,
    data: *mut u8,
    reserved: *mut u8,
    layout: Layout,
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
        let bytes = bytes.ok_or_else(refused)?.max(1);
        let layout = Layout::from_size_align(bytes + ALIGN, OWN_ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout is not empty.
        let reserved = unsafe { std::alloc::alloc_zeroed(layout) };
        if reserved.is_null() {
            return Err(refused());
        }
        // SAFETY: there are as many bytes more than are used.
        let data = unsafe { reserved.add(reserved.align_offset(ALIGN)) };
        Ok(KvCache { shape, blocks, data, reserved, layout })
    }

    /// A strip of a head in a layer and block: its keys and after them its values.
    ///
    /// # Panics
    /// If there is no such strip.
    #[inline]
    pub fn strip(&self, layer: usize, head: usize, block: usize, strip: usize) -> *mut u8 {
        let s = &self.shape;
        assert!(layer < s.layers && head < s.heads && block < self.blocks && strip < s.strips());
        let index = ((layer * self.blocks + block) * s.heads + head) * s.strips() + strip;
        // SAFETY: the index is within what was reserved.
        unsafe { self.data.add(index * s.strip_len() * s.kind.bytes()) }
    }

    /// Write a token's key and value, `head_dim` numbers each, of one head.
    ///
    /// # Safety
    /// `key` and `value` must hold `head_dim` numbers, and nobody else use the token's strip at the same time.
    pub unsafe fn write(
        &self,
        layer: usize,
        head: usize,
        block: usize,
        offset: usize,
        key: *const f32,
        value: *const f32,
    ) {
        let s = self.shape;
        let strip = self.strip(layer, head, block, offset / LANES);
        let lane = offset % LANES;
        let values = s.strip_keys() + lane * s.value_width();
        for d in 0..s.head_dim {
            let (k, v) = (*key.add(d), *value.add(d));
            match s.kind {
                KvType::F16 => {
                    *strip.cast::<u16>().add(d * LANES + lane) = f32_to_f16(k);
                    *strip.cast::<u16>().add(values + d) = f32_to_f16(v);
                }
                KvType::F32 => {
                    *strip.cast::<f32>().add(d * LANES + lane) = k;
                    *strip.cast::<f32>().add(values + d) = v;
                }
            }
        }
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        // SAFETY: it was reserved with this layout.
        unsafe { std::alloc::dealloc(self.reserved, self.layout) };
    }
}
