//! Packed weights on disk: a header that says whose they are, then each matrix's tiles as they lie in memory. A later
//! start maps the file instead of packing again.

use crate::error::{Error, Result};
use crate::matrix::Tiles;
use memmap2::{Mmap, MmapOptions};
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Tiles begin where a page does.
const PAGE: usize = 4096;
/// The first line of a file; the number changes whenever tiles of the same weights would lie otherwise.
const MAGIC: &str = "Penstock packed weights 1";
/// Bytes that go to the system in one call.
const PIECE: usize = 1 << 20;

fn header(key: &str, bytes: usize) -> Vec<u8> {
    let mut header = format!("{MAGIC}\n{bytes}\n{key}\n").into_bytes();
    header.resize(header.len().next_multiple_of(PAGE), 0);
    header
}

/// A file that is being read, a matrix after the other in the order in which they were written.
pub struct KeptFile {
    map: Arc<Mmap>,
    next: Cell<usize>,
}

impl KeptFile {
    /// Map the file; `None` if it can't be read, or holds anything else than `bytes` of tiles of what `key` names.
    pub fn open(path: &Path, key: &str, bytes: usize) -> Option<KeptFile> {
        let expected = header(key, bytes);
        let mut file = File::open(path).ok()?;
        if file.metadata().ok()?.len() != (expected.len() + bytes) as u64 {
            return None;
        }
        let mut found = vec![0; expected.len()];
        file.read_exact(&mut found).ok()?;
        if found != expected {
            return None;
        }
        // SAFETY: a file of this name is complete when it gets it, and nobody writes to it afterwards.
        let map = unsafe { MmapOptions::new().populate().map(&file).ok()? };
        Some(KeptFile { map: Arc::new(map), next: Cell::new(expected.len()) })
    }

    /// The next matrix's tiles.
    pub(crate) fn take(&self, bytes: usize) -> Result<Tiles> {
        let at = self.next.get();
        if at + bytes > self.map.len() {
            return Err(Error::Internal("The file of packed weights ends before the model does.".into()));
        }
        self.next.set(at + bytes);
        Ok(Tiles::Mapped { file: Arc::clone(&self.map), at, bytes })
    }
}

/// Write tiles to a file, which gets its name only when all is on the disk: whoever opens it finds all or nothing.
///
/// # Errors
/// Whatever keeps a file from being written; nothing is left behind then.
pub fn write(path: &Path, key: &str, matrices: &[Tiles]) -> Result<()> {
    let bytes = matrices.iter().map(|tiles| tiles.bytes().len()).sum();
    let header = header(key, bytes);
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let written = (|| {
        let mut file = File::create(&partial)?;
        file.write_all(&header)?;
        for piece in matrices.iter().flat_map(|tiles| tiles.bytes().chunks(PIECE)) {
            file.write_all(piece)?;
        }
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    written.map_err(|error| {
        // It may not even have been made; what matters is the error before.
        let _ = fs::remove_file(&partial);
        Error::Config(format!("{}: the packed weights can't be kept: {error}.", path.display()))
    })
}
