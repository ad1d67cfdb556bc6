//! One piece of memory for all packed weights of a model.
//!
//! A step reads every weight once, from front to back. With pages of 4 KiB the processor's prefetchers stop at the end
//! of each and begin anew after a page walk, so the memory is asked for in huge pages, where the system has any.

use crate::error::{Error, Result};
use memmap2::{MmapMut, MmapRaw};
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
        let map = MmapMut::map_anon(bytes.max(1))
            .map_err(|error| Error::Config(format!("There is no room for {bytes} bytes of weights: {error}.")))?;
        #[cfg(target_os = "linux")]
        // A kernel without huge pages refuses; then they are small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Arena { map: Arc::new(MmapRaw::from(map)), next: Cell::new(0) })
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
