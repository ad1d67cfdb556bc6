//! Packed weights on disk: a header that says whose they are, then each matrix's tiles as they lie in memory. A later
//! start reads the file instead of packing again.
//!
//! It is read, not mapped: files have small pages, and reading once what the system still has in memory takes less
//! time than a handful of steps lose by them (see [`arena`](crate::arena)).

use crate::arena::{Arena, Tiles};
use crate::error::{Error, Result};
use crate::pool::{Pool, SendPtr};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tiles begin where a page does.
const PAGE: usize = 4096;
/// The first line of a file; the number changes whenever tiles of the same weights would lie otherwise.
pub const MAGIC: &str = "Penstock packed weights 1";
/// Bytes that go from or to the system in one call.
const PIECE: usize = 1 << 20;

fn header(key: &str, bytes: usize) -> Vec<u8> {
    let mut header = format!("{MAGIC}\n{bytes}\n{key}\n").into_bytes();
    header.resize(header.len().next_multiple_of(PAGE), 0);
    header
}

/// Read a file; `None` if it can't be read, or holds anything else than `bytes` of tiles of what `key` names.
///
/// # Errors
/// [`Error::Config`] if there is no memory for it.
pub fn read(path: &Path, key: &str, bytes: usize, pool: &Pool) -> Result<Option<Arena>> {
    let expected = header(key, bytes);
    let Some(file) = open(path, &expected, bytes) else { return Ok(None) };
    let arena = Arena::new(bytes)?;
    let (to, failed) = (SendPtr(arena.start()), AtomicBool::new(false));
    pool.run(bytes.div_ceil(PIECE), &|piece, _| {
        let (to, at) = (&to, piece * PIECE);
        // SAFETY: each task has a piece of its own of memory that nobody else knows yet.
        let piece = unsafe { std::slice::from_raw_parts_mut(to.0.add(at), PIECE.min(bytes - at)) };
        if file.read_exact_at(piece, (expected.len() + at) as u64).is_err() {
            failed.store(true, Ordering::Relaxed);
        }
    });
    Ok((!failed.into_inner()).then_some(arena))
}

fn open(path: &Path, header: &[u8], bytes: usize) -> Option<File> {
    let mut file = File::open(path).ok()?;
    if file.metadata().ok()?.len() != (header.len() + bytes) as u64 {
        return None;
    }
    let mut found = vec![0; header.len()];
    file.read_exact(&mut found).ok()?;
    (found == header).then_some(file)
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
