//! What reading a vocabulary would take too long for in Python: hundreds of thousands of short strings.

use crate::{NativeError, contents, detached};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use std::collections::HashMap;

/// Bytes of a GGUF string's length, which stands before it.
const LENGTH: usize = 8;

/// The bytes of the string at `start` of `data`; None if it runs past the end.
fn string_at(data: &[u8], start: usize) -> Option<&[u8]> {
    let (length, rest) = data.get(start..)?.split_first_chunk::<LENGTH>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// Where the array of `count` GGUF strings that starts at `start` of `data` ends; None if it runs past the end.
#[pyfunction]
pub fn end_of_strings(data: PyBuffer<u8>, start: usize, count: usize) -> PyResult<Option<usize>> {
    let bytes = whole(&data)?;
    Ok((0..count).try_fold(start, |at, _| Some(at + LENGTH + string_at(bytes, at)?.len())))
}

/// The first `count` GGUF strings of `data`, or those before the first that isn't UTF-8 or runs past the end.
#[pyfunction]
pub fn read_strings<'py>(py: Python<'py>, data: PyBuffer<u8>, count: usize) -> PyResult<Bound<'py, PyList>> {
    let bytes = whole(&data)?;
    let mut at = 0;
    let strings = (0..count).map_while(|_| {
        let string = string_at(bytes, at)?;
        at += LENGTH + string.len();
        std::str::from_utf8(string).ok()
    });
    PyList::new(py, strings.map(|string| PyString::new(py, string)).collect::<Vec<_>>())
}

/// Every way to make one of `tokens` that is `made` of two others: the token of the best score first; of equal scores,
/// that with the longer left half, then with the longer right half, then the earlier token.
#[pyfunction]
pub fn merges_by_score<'py>(
    py: Python<'py>,
    tokens: &Bound<'py, PyList>,
    scores: Vec<f64>,
    made: Vec<bool>,
) -> PyResult<Bound<'py, PyList>> {
    let objects: Vec<Bound<'py, PyString>> =
        tokens.iter().map(|token| Ok(token.cast_into::<PyString>()?)).collect::<PyResult<_>>()?;
    if scores.len() != objects.len() || made.len() != objects.len() {
        return Err(NativeError::new_err("Each token has a score, and is made or not."));
    }
    let texts: Vec<&str> = objects.iter().map(|object| object.to_str()).collect::<PyResult<_>>()?;
    let halves = detached(py, || Ok(halves_by_score(&texts, &scores, &made)))?;
    let pair = |(left, right): (u32, u32)| PyTuple::new(py, [&objects[left as usize], &objects[right as usize]]);
    PyList::new(py, halves.into_iter().map(pair).collect::<PyResult<Vec<_>>>()?)
}

/// Positions of both halves of each merge, in order.
fn halves_by_score(texts: &[&str], scores: &[f64], made: &[bool]) -> Vec<(u32, u32)> {
    let places: HashMap<&str, u32> = texts.iter().copied().zip(0..).collect();
    let mut merges = Vec::new();
    for (whole, text) in texts.iter().enumerate().filter(|&(whole, _)| made[whole]) {
        let length = text.chars().count() as i64;
        for (before, (at, _)) in (0_i64..).zip(text.char_indices()).skip(1) {
            let (left, right) = text.split_at(at);
            // The right half first: long ends of words are rarer among tokens than their beginnings.
            if let Some((&right, &left)) = places.get(right).and_then(|right| Some((right, places.get(left)?))) {
                merges.push((0.0 - scores[whole], -before, before - length, (left, right)));
            }
        }
    }
    merges.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    merges.into_iter().map(|(.., halves)| halves).collect()
}

fn whole(data: &PyBuffer<u8>) -> PyResult<&[u8]> {
    if !data.is_c_contiguous() {
        return Err(NativeError::new_err("The bytes of the strings are not in one piece."));
    }
    // SAFETY: it was just checked.
    Ok(unsafe { contents(data) })
}
