//! Memory for what a step reads by the megabyte.
//!
//! With pages of 4 KiB the processor's prefetchers stop at the end of each and begin anew after a page walk, so it is
//! asked for in huge pages, where the system has any.

use memmap2::{MmapMut, MmapRaw};

/// Zeros from the system, aligned to a page; what is never written takes no memory.
///
/// # Errors
/// If the system has no room for that many bytes.
pub fn zeros(bytes: usize) -> std::io::Result<MmapRaw> {
    let map = MmapMut::map_anon(bytes.max(1))?;
    #[cfg(target_os = "linux")]
    // A kernel without huge pages refuses; then they are small ones.
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(MmapRaw::from(map))
}
