//! The native runner for Python.

use crate::adapters::{self, PairBuffers, PyPairs};
use crate::passed::{Buffers, PyAnswer, PyShare, PySizes, PyTensors, choice_from, plain};
use crate::{NativeConfigError, NativeError, detached, raise};
use penstock_cpu::activations::Precision;
use penstock_cpu::arena::Tiles;
use penstock_cpu::kept;
use penstock_cpu::kv_cache::{KvCache, KvShape, KvType};
use penstock_cpu::lora::Adapter;
use penstock_cpu::matrix::Packing;
use penstock_cpu::model::{Model, Sizes};
use penstock_cpu::pool::Pool;
use penstock_cpu::quantize::Quantization;
use penstock_cpu::sampler::{self, Choice, Chosen};
use penstock_cpu::simd::Path;
use penstock_cpu::stepper::{Share, Stepper};
use penstock_cpu::topology::{Pin, Placement, Topology, Wish};
use penstock_cpu::tuner::Plan;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Rows whose scores exist at a time.
const SCORED_ROWS: usize = 64;

/// How many threads an engine on this machine's processor has, and where they run.
#[pyclass(name = "Placement", module = "penstock._native", frozen)]
pub(crate) struct PyPlacement(pub(crate) Placement);

#[pymethods]
impl PyPlacement {
    /// Of `threads` (by default as many as there are cores but `reserve`), where this process gets the time of `quota`
    /// CPUs; `pin` is "auto", "on" or "off".
    #[new]
    #[pyo3(signature = (threads=None, reserve=0, pin="auto", quota=None))]
    fn new(threads: Option<usize>, reserve: usize, pin: &str, quota: Option<f64>) -> PyResult<PyPlacement> {
        let pin: Pin = pin.parse().map_err(raise)?;
        Topology::here().place(&Wish { threads, reserve, pin, quota }).map(PyPlacement).map_err(raise)
    }

    /// Threads.
    #[getter]
    fn threads(&self) -> usize {
        self.0.threads()
    }
}

/// The instruction path of this name; without one the best, and one that was never run on real hardware only if
/// `unverified`.
pub(crate) fn path_named(name: Option<&str>, unverified: bool) -> PyResult<Path> {
    let path = match name {
        None if unverified => Path::supported().next().unwrap_or(Path::Scalar),
        None => Path::best(),
        Some(name) => name.parse().map_err(|e| NativeConfigError::new_err(format!("{e}")))?,
    };
    if !path.is_supported() {
        let have: Vec<&str> = Path::supported().map(Path::name).collect();
        return Err(NativeConfigError::new_err(format!(
            "This processor lacks the instructions of the path {path}; it has {}.",
            have.join(", ")
        )));
    }
    Ok(path)
}

/// One model on this machine's processor.
#[pyclass(module = "penstock._native")]
pub(crate) struct Runner {
    stepper: Stepper,
    model: Option<Model>,
    cache: Option<KvCache>,
    adapters: HashMap<u32, Arc<Adapter>>,
}

#[pymethods]
impl Runner {
    /// `path` is an instruction path by name; without one the best is taken, and one that was never run on real
    /// hardware only if `unverified`. `precision` is "int8", "bfloat16" or "float32".
    #[new]
    #[pyo3(signature = (placement, precision, path=None, unverified=false))]
    fn new(placement: &PyPlacement, precision: &str, path: Option<&str>, unverified: bool) -> PyResult<Runner> {
        let path = path_named(path, unverified)?;
        let precision = match precision {
            "int8" => Precision::Int8,
            "bfloat16" => Precision::Bf16,
            "float32" => Precision::F32,
            other => {
                let known = "int8, bfloat16 or float32";
                return Err(NativeConfigError::new_err(format!("Unknown precision '{other}': {known}.")));
            }
        };
        if precision == Precision::Bf16 && !path.has_bf16_products() {
            return Err(NativeConfigError::new_err(format!(
                "bfloat16 products need AVX512-BF16 or AMX, which this processor's path {path} lacks: choose auto or \
                 float32."
            )));
        }
        let pool = Pool::placed(placement.0.clone()).map_err(raise)?;
        Ok(Runner { stepper: Stepper::new(path, precision, pool), model: None, cache: None, adapters: HashMap::new() })
    }

    /// Bytes that `load` would take for the packed weights; of the tensors only types and shapes are looked at.
    #[staticmethod]
    #[pyo3(signature = (sizes, frequencies, tensors, quantization=None))]
    fn planned_bytes(
        py: Python<'_>,
        sizes: PySizes,
        frequencies: Vec<f32>,
        tensors: PyTensors,
        quantization: Option<&str>,
    ) -> PyResult<usize> {
        let (tensors, quantization) = (Buffers::new(tensors)?, quantization_from(quantization)?);
        detached(py, || Model::planned_bytes(sizes.into(), &frequencies, &tensors, quantization))
    }

    /// Pack the weights, rounded to `quantization` ("int8", "int4") if that is given.
    #[pyo3(signature = (sizes, frequencies, positions, tensors, quantization=None))]
    fn load(
        &mut self,
        py: Python<'_>,
        sizes: PySizes,
        frequencies: Vec<f32>,
        positions: usize,
        tensors: PyTensors,
        quantization: Option<&str>,
    ) -> PyResult<()> {
        let (tensors, quantization) = (Buffers::new(tensors)?, quantization_from(quantization)?);
        let pool = self.stepper.pool();
        let model = detached(py, || {
            let _seat = pool.seat();
            Model::new(sizes.into(), &frequencies, positions, &tensors, quantization, pool)
        })?;
        self.model = Some(model);
        Ok(())
    }

    /// Take weights that were kept under this key; false if the file isn't there or holds anything else. Matrices need
    /// no bytes in `tensors`, only vectors do.
    #[pyo3(signature = (sizes, frequencies, positions, tensors, path, key, quantization=None))]
    fn load_kept(
        &mut self,
        py: Python<'_>,
        sizes: PySizes,
        frequencies: Vec<f32>,
        positions: usize,
        tensors: PyTensors,
        path: PathBuf,
        key: String,
        quantization: Option<&str>,
    ) -> PyResult<bool> {
        let (tensors, quantization) = (Buffers::new(tensors)?, quantization_from(quantization)?);
        let sizes = Sizes::from(sizes);
        let pool = self.stepper.pool();
        self.model = detached(py, || {
            let _seat = pool.seat();
            let bytes = Model::planned_bytes(sizes.clone(), &frequencies, &tensors, quantization)?;
            let arena = kept::read(&path, &key, bytes, pool)?;
            arena
                .map(|kept| Model::new(sizes, &frequencies, positions, &tensors, quantization, Packing::Kept(&kept)))
                .transpose()
        })?;
        Ok(self.model.is_some())
    }

    /// The packed weights, to be written while the runner works.
    fn packed_weights(&self) -> PyResult<PackedWeights> {
        Ok(PackedWeights(self.loaded()?.tiles()))
    }

    /// Bytes of the packed weights.
    fn weight_bytes(&self) -> PyResult<usize> {
        Ok(self.loaded()?.nbytes())
    }

    /// Bytes of one KV block.
    fn block_bytes(&self, block_size: usize, kv_type: &str) -> PyResult<usize> {
        Ok(kv_shape(self.loaded()?, block_size, kv_type)?.block_bytes())
    }

    /// Reserve the KV cache.
    fn allocate(&mut self, blocks: usize, block_size: usize, kv_type: &str) -> PyResult<()> {
        let shape = kv_shape(self.loaded()?, block_size, kv_type)?;
        self.cache = Some(KvCache::new(shape, blocks).map_err(raise)?);
        Ok(())
    }

    /// Give the memory back.
    fn close(&mut self) {
        self.cache = None;
        self.adapters.clear();
        self.model = None;
    }

    /// The instruction path taken.
    fn path(&self) -> &'static str {
        self.stepper.path().name()
    }

    /// Whether it was ever run on real hardware.
    fn path_is_verified(&self) -> bool {
        self.stepper.path().is_verified()
    }

    /// Whether threads are pinned and memory is interleaved, or why not.
    fn placement(&self) -> String {
        self.stepper.pool().placement().to_string()
    }

    /// Take an adapter of the model, to be called by this number, which is not in use. Its bytes in memory.
    fn load_adapter(&mut self, py: Python<'_>, number: u32, pairs: PyPairs) -> PyResult<usize> {
        let pairs = PairBuffers::new(pairs)?;
        let (model, precision) = (self.loaded()?, self.stepper.precision());
        let adapter = detached(py, || Adapter::new(model, precision, &pairs))?;
        let nbytes = adapter.nbytes();
        match self.adapters.insert(number, Arc::new(adapter)) {
            None => Ok(nbytes),
            Some(_) => Err(NativeError::new_err(format!("There was an adapter {number} already."))),
        }
    }

    /// Forget an adapter.
    fn unload_adapter(&mut self, number: u32) {
        self.adapters.remove(&number);
    }

    /// Compute one step. `adapters` has the number of each share's adapter, 0 for none; or is empty.
    #[pyo3(signature = (shares, adapters=Vec::new()))]
    fn execute(&mut self, py: Python<'_>, shares: Vec<PyShare>, adapters: Vec<u32>) -> PyResult<Vec<PyAnswer>> {
        let Runner { stepper, model: Some(model), cache: Some(cache), adapters: loaded } = self else {
            return Err(NativeError::new_err("A step came before the weights and the KV cache were there."));
        };
        let adapters = adapters::find(loaded, &adapters, shares.len())?;
        let (model, cache) = (&*model, &*cache);
        detached(py, || {
            let _seat = stepper.pool().seat();
            Ok(step(stepper, model, cache, shares, &adapters))
        })
    }

    /// The normalized final hidden state of the last token of the last step's `share`th share, or the sum of those of
    /// all its tokens if `whole`: float32 bytes.
    fn pooled<'py>(&self, py: Python<'py>, share: usize, whole: bool) -> PyResult<Bound<'py, PyBytes>> {
        let pooled = self.stepper.pooled(self.loaded()?, share, whole);
        Ok(PyBytes::new(py, &pooled.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>()))
    }

    /// Seconds that the steps since this was last asked spent in each phase, by its name.
    fn phases(&mut self) -> HashMap<&'static str, f64> {
        self.stepper.stopwatch().take().into_iter().map(|(phase, spent)| (phase.name(), spent.as_secs_f64())).collect()
    }

    /// How products are cut up, as far as it was chosen: by a sentence that says for what, the fields of `Plan`.
    fn plans(&mut self) -> BTreeMap<String, (u8, u16, u8)> {
        let plain = |(case, plan): (&String, &Plan)| (case.clone(), (plan.together, plan.block, plan.runs));
        self.stepper.tuner().choices().iter().map(plain).collect()
    }

    /// How many of `plans` there are.
    fn count_plans(&mut self) -> usize {
        self.stepper.tuner().choices().len()
    }

    /// Take plans that were chosen before; those that can't be are left out.
    fn know_plans(&mut self, plans: HashMap<String, (u8, u16, u8)>) {
        let plans = plans.into_iter().map(|(case, (together, block, runs))| (case, Plan { together, block, runs }));
        self.stepper.tuner().know(plans);
    }

    /// Operations per second of which the threads are capable: int8 products, float32.
    fn peak(&self, py: Python<'_>) -> PyResult<(f64, f64)> {
        let (path, pool) = (self.stepper.path(), self.stepper.pool());
        let peak = detached(py, || {
            let _seat = pool.seat();
            Ok(penstock_cpu::peak::measure(path, pool, 20))
        })?;
        Ok((peak.int8, peak.float32))
    }

    /// Scores of the token after each of the given ones, `[len(tokens), vocab]` in rows; for comparisons.
    #[pyo3(signature = (tokens, start, table, adapter=0))]
    fn logits(
        &mut self,
        py: Python<'_>,
        tokens: Vec<u32>,
        start: usize,
        table: Vec<u32>,
        adapter: u32,
    ) -> PyResult<Vec<Vec<f32>>> {
        let Runner { stepper, model: Some(model), cache: Some(cache), adapters: loaded } = self else {
            return Err(NativeError::new_err("Scores were asked for before the weights and the KV cache were there."));
        };
        let (model, cache) = (&*model, &*cache);
        let adapters = adapters::find(loaded, &[adapter], 1)?;
        detached(py, || {
            let _seat = stepper.pool().seat();
            let rows: Vec<usize> = (0..tokens.len()).collect();
            stepper.forward_adapted(model, cache, &[Share { tokens, start, table }], &adapters);
            stepper.score(model, &rows);
            Ok(rows.iter().map(|&row| stepper.scores(model, row).to_vec()).collect())
        })
    }
}

impl Runner {
    fn loaded(&self) -> PyResult<&Model> {
        self.model.as_ref().ok_or_else(|| NativeError::new_err("The runner was asked for what only a model has."))
    }
}

/// A model's packed matrices.
#[pyclass(module = "penstock._native", frozen)]
pub(crate) struct PackedWeights(Vec<Tiles>);

#[pymethods]
impl PackedWeights {
    /// Write them to a file for `Runner.load_kept`.
    fn write(&self, py: Python<'_>, path: PathBuf, key: String) -> PyResult<()> {
        detached(py, || kept::write(&path, &key, &self.0))
    }
}

fn quantization_from(name: Option<&str>) -> PyResult<Option<Quantization>> {
    name.map(str::parse).transpose().map_err(raise)
}

fn kv_shape(model: &Model, block_size: usize, kv_type: &str) -> PyResult<KvShape> {
    let kind = match kv_type {
        "float32" => KvType::F32,
        "float16" => KvType::F16,
        "bfloat16" => KvType::Bf16,
        "int8" => KvType::I8,
        other => {
            let known = "float32, float16, bfloat16 or int8";
            return Err(NativeConfigError::new_err(format!("Unknown KV type '{other}': {known}.")));
        }
    };
    let s = &model.sizes;
    Ok(KvShape { layers: s.layers, heads: s.kv_heads, head_dim: s.head_dim, block_size, kind })
}

fn step(
    stepper: &mut Stepper,
    model: &Model,
    cache: &KvCache,
    asked: Vec<PyShare>,
    adapters: &[Option<Arc<Adapter>>],
) -> Vec<PyAnswer> {
    let mut shares = Vec::with_capacity(asked.len());
    let mut wishes = Vec::with_capacity(asked.len());
    for (tokens, start, table, choices, next, top) in asked {
        let choices: Vec<Choice> = choices.into_iter().take(tokens.len()).map(choice_from).collect();
        shares.push(Share { tokens, start, table });
        wishes.push((choices, next, top));
    }
    stepper.forward_adapted(model, cache, &shares, adapters);
    let mut answers: Vec<PyAnswer> = (0..shares.len())
        .map(|i| {
            let finite = (stepper.first_row(i)..=stepper.last_row(i)).all(|row| stepper.is_finite(model, row));
            (finite, Vec::new(), Vec::new())
        })
        .collect();

    // The row of each choice, with the share it is for.
    let chosen: Vec<(usize, usize, &Choice)> = wishes
        .iter()
        .enumerate()
        .filter(|&(i, _)| answers[i].0)
        .flat_map(|(i, (choices, ..))| {
            let first = stepper.last_row(i) + 1 - choices.len();
            choices.iter().enumerate().map(move |(n, choice)| (i, first + n, choice))
        })
        .collect();
    for part in chosen.chunks(SCORED_ROWS) {
        let rows: Vec<usize> = part.iter().map(|&(_, row, _)| row).collect();
        stepper.score(model, &rows);
        let results: Vec<Mutex<Chosen>> = part.iter().map(|_| Mutex::new((None, None))).collect();
        let path = stepper.path();
        stepper.with_scores(model, part.len(), &|at, scores| {
            // SAFETY: the stepper's path is supported.
            *results[at].lock().expect("no task panics with it") = unsafe { sampler::choose(path, scores, part[at].2) };
        });
        for (&(i, ..), result) in part.iter().zip(results) {
            let (token, logprobs) = result.into_inner().expect("no task panics with it");
            answers[i].1.push((token, logprobs.map(plain)));
        }
    }

    for (i, (_, next, top)) in wishes.iter().enumerate() {
        if !answers[i].0 {
            continue;
        }
        for (n, part) in next.chunks(SCORED_ROWS).enumerate() {
            let first = stepper.first_row(i) + n * SCORED_ROWS;
            let rows: Vec<usize> = (first..first + part.len()).collect();
            stepper.score(model, &rows);
            for (at, &token) in part.iter().enumerate() {
                answers[i].2.push(plain(sampler::logprobs(stepper.scores(model, at), token, *top)));
            }
        }
    }
    answers
}
