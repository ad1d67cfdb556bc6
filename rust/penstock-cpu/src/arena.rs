//! One piece of memory for all packed weights of a model, which a step reads from front to back.

use crate::error::{Error, Result};
use crate::memory::zeros;
use memmap2::MmapRaw;
use std::cell::Cell;
use std::sync::Arc;

/// Memory that is given out a matrix after the other.
pub struct Arena {
    map: Arc<MmapRaw>,
    next: Cell<usize>,
}

impl Arena {
    /// Zeros, which take memory only once they are written to.
    ///
    /// # Errors
    /// [`Error::Config`] if the system has no room for that many bytes.
    pub fn new(bytes: usize) -> Result<Arena> {
        let map = zeros(bytes)
            .map_err(|error| Error::Config(format!("There is no room for {bytes} bytes of weights: {error}.")))?;
        Ok(Arena { map: Arc::new(map), next: Cell::new(0) })
    }

    /// The beginning of it all.
    pub(crate) fn start(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// The next matrix's share.
    pub(crate) fn take(&self, bytes: usize) -> Result<Tiles> {
        let at = self.next.get();
        if at + bytes > self.map.len() {
            return Err(Error::Internal("A model's weights are larger than was planned.".into()));
        }
        self.next.set(at + bytes);
        Ok(Tiles { map: Some(Arc::clone(&self.map)), at, len: bytes })
    }
}

/// A matrix's share of an arena, which stays as long as the share does; nothing, for a matrix that is only planned.
#[derive(Clone, Default)]
pub struct Tiles {
    map: Option<Arc<MmapRaw>>,
    at: usize, // a multiple of 64, as all shares are as long
    len: usize,
}

impl Tiles {
    /// Where they lie: aligned to a cache line, `bytes().len()` long.
    pub(crate) fn start(&self) -> *mut u8 {
        // SAFETY: the share was cut from the map.
        self.map.as_ref().map_or(std::ptr::null_mut(), |map| unsafe { map.as_mut_ptr().add(self.at) })
    }

    /// Their bytes. While threads write them nobody may hold this.
    pub fn bytes(&self) -> &[u8] {
        match &self.map {
            None => &[],
            // SAFETY: the share was cut from the map; whoever writes to it is its only owner.
            Some(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().add(self.at), self.len) },
        }
    }
}
