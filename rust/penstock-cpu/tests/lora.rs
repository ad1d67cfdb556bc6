//! Adapters against models with merged weights, and the independence of their rows of all company.

mod support;

use penstock_cpu::Error;
use penstock_cpu::activations::Precision;
use penstock_cpu::kv_cache::{KvCache, KvShape, KvType};
use penstock_cpu::lora::{Adapter, Pair, Pairs};
use penstock_cpu::model::{Activation, Model, Sizes};
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use penstock_cpu::stepper::{Share, Stepper};
use std::collections::HashMap;
use std::sync::Arc;
use support::{Rng, Tensor, Weights, assert_same, precisions, small_sizes};

const POSITIONS: usize = 200;
const MODULES: [&str; 7] = ["q", "k", "v", "o", "gate", "up", "down"];

/// Pairs by their modules, and what each is multiplied by.
struct Tensors(HashMap<String, (f32, Tensor, Tensor)>);

impl Pairs for Tensors {
    fn get(&self, module: &str) -> Result<Option<Pair<'_>>, Error> {
        Ok(self.0.get(module).map(|(scale, a, b)| Pair { a: a.stored(), b: b.stored(), scale: *scale }))
    }
}

impl Tensors {
    /// Of these modules in each layer, with ranks of up to 20; a module is left out of a layer now and then.
    fn random(rng: &mut Rng, sizes: &Sizes, modules: &[&str]) -> Tensors {
        let mut pairs = HashMap::new();
        for layer in 0..sizes.layers {
            for module in modules.iter().filter(|_| layer == 0 || rng.below(6) > 0).copied().collect::<Vec<_>>() {
                let (inputs, outputs) = shape(sizes, module);
                let (rank, dtype) = (rng.between(1, 20), rng.pick(&["F32", "BF16", "F16"]));
                let a = Tensor::random(rng, dtype, rank, inputs, 1.0 / (inputs as f32).sqrt());
                let b = Tensor::random(rng, dtype, outputs, rank, 1.0 / (rank as f32).sqrt());
                pairs.insert(format!("layers.{layer}.{module}"), (rng.uniform(0.2, 1.5), a, b));
            }
        }
        Tensors(pairs)
    }
}

fn shape(s: &Sizes, module: &str) -> (usize, usize) {
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    match module {
        "q" => (s.hidden, q),
        "k" | "v" => (s.hidden, kv),
        "o" => (q, s.hidden),
        "down" => (s.ffn, s.hidden),
        _ => (s.hidden, s.ffn),
    }
}

/// Sizes that are whole tiles, and sizes whose heads, tiles and groups of inputs all end elsewhere, with what Gemma does
/// after a product.
fn all_sizes() -> [Sizes; 2] {
    let whole = small_sizes();
    let odd = Sizes {
        vocab: 33,
        hidden: 50,
        ffn: 37,
        heads: 3,
        kv_heads: 3,
        head_dim: 10,
        activation: Activation::Gelu,
        post_norms: true,
        ..whole.clone()
    };
    [whole, odd]
}

fn pack(sizes: &Sizes, weights: &Weights) -> Model {
    let turns: Vec<f32> = (0..sizes.head_dim / 2).map(|i| 0.3f32.powi(i as i32)).collect();
    Model::new(sizes.clone(), &turns, POSITIONS, weights, None, &Pool::new(2)).unwrap()
}

fn new_cache(s: &Sizes, blocks: usize) -> KvCache {
    let shape = KvShape { layers: s.layers, heads: s.kv_heads, head_dim: s.head_dim, block_size: 8, kind: KvType::F32 };
    KvCache::new(shape, blocks).unwrap()
}

/// Scores of all rows of a step.
fn step(
    stepper: &mut Stepper,
    model: &Model,
    cache: &KvCache,
    shares: &[Share],
    adapters: &[Option<Arc<Adapter>>],
) -> Vec<Vec<f32>> {
    stepper.forward_adapted(model, cache, shares, adapters);
    let rows: Vec<usize> = (0..=stepper.last_row(shares.len() - 1)).collect();
    stepper.score(model, &rows);
    rows.iter().map(|&row| stepper.scores(model, row).to_vec()).collect()
}

/// Scores after each token of a sequence that is computed all alone, one token at a time.
fn alone(
    model: &Model,
    path: Path,
    precision: Precision,
    tokens: &[u32],
    adapter: &Option<Arc<Adapter>>,
) -> Vec<Vec<f32>> {
    let mut stepper = Stepper::new(path, precision, Pool::new(1));
    let cache = new_cache(&model.sizes, POSITIONS / 8);
    let table: Vec<u32> = (0..cache.blocks as u32).collect();
    (0..tokens.len())
        .flat_map(|start| {
            let share = Share { tokens: vec![tokens[start]], start, table: table.clone() };
            step(&mut stepper, model, &cache, &[share], std::slice::from_ref(adapter))
        })
        .collect()
}

fn random_tokens(rng: &mut Rng, vocab: usize, count: usize) -> Vec<u32> {
    (0..count).map(|_| rng.below(vocab) as u32).collect()
}

fn distance(got: &[Vec<f32>], wanted: &[Vec<f32>]) -> f64 {
    let pairs = || got.iter().flatten().zip(wanted.iter().flatten());
    let squares: f64 = pairs().map(|(_, y)| f64::from(*y).powi(2)).sum();
    (pairs().map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / squares).sqrt()
}

#[test]
fn an_adapted_model_scores_as_one_into_whose_weights_the_adapter_was_merged() {
    let mut rng = Rng::new(1);
    for sizes in all_sizes() {
        let mut weights = Weights::random(&mut rng, &sizes, &["F32"]);
        let model = pack(&sizes, &weights);
        for modules in [&MODULES[..], &["q", "v"], &["up"]] {
            let pairs = Tensors::random(&mut rng, &sizes, modules);
            let adapter = Some(Arc::new(Adapter::new(&model, Precision::F32, &pairs).unwrap()));
            let before: Vec<(String, Vec<u8>)> =
                weights.0.iter().map(|(name, tensor)| (name.clone(), tensor.bytes.clone())).collect();
            for (module, (scale, a, b)) in &pairs.0 {
                let base = weights.0.get_mut(&format!("{module}.weight")).unwrap();
                let (rank, a, b) = (a.outputs, a.values(), b.values());
                let merged = base.values().into_iter().enumerate().map(|(at, w)| {
                    let (o, i) = (at / base.inputs, at % base.inputs);
                    let change: f64 = (0..rank).map(|r| b[o * rank + r] * a[r * base.inputs + i]).sum();
                    (w + f64::from(*scale) * change) as f32
                });
                base.bytes = merged.flat_map(f32::to_le_bytes).collect();
            }
            let tokens = random_tokens(&mut rng, sizes.vocab, 40);
            let wanted = alone(&pack(&sizes, &weights), Path::best(), Precision::F32, &tokens, &None);
            let got = alone(&model, Path::best(), Precision::F32, &tokens, &adapter);
            assert!(distance(&got, &wanted) < 1e-4, "{modules:?}: {}", distance(&got, &wanted));
            let without = alone(&model, Path::best(), Precision::F32, &tokens, &None);
            assert!(distance(&without, &wanted) > 0.02, "{modules:?} change next to nothing");
            before.into_iter().for_each(|(name, bytes)| weights.0.get_mut(&name).unwrap().bytes = bytes);
        }
    }
}

#[test]
fn scores_have_the_same_bits_for_any_mix_of_adapters_chunks_threads_and_path() {
    let mut rng = Rng::new(2);
    for (sizes, dtypes) in all_sizes().iter().zip([&["Q4_0", "Q8_0"][..], &["F32", "BF16"]]) {
        let weights = Weights::random(&mut rng, sizes, dtypes);
        let model = pack(sizes, &weights);
        for (precision, paths) in precisions() {
            let mut adapters: Vec<Option<Arc<Adapter>>> = [&MODULES[..], &["q", "v"], &["gate", "down"]]
                .iter()
                .map(|modules| {
                    let pairs = Tensors::random(&mut rng, sizes, modules);
                    Some(Arc::new(Adapter::new(&model, precision, &pairs).unwrap()))
                })
                .collect();
            // Two sequences of one adapter side by side, one without any.
            adapters.insert(1, adapters[0].clone());
            adapters.insert(3, None);
            let sequences: Vec<Vec<u32>> =
                [60, 33, 45, 20, 1].map(|length| random_tokens(&mut rng, sizes.vocab, length)).into();
            let wanted: Vec<Vec<Vec<f32>>> =
                (0..sequences.len()).map(|i| alone(&model, paths[0], precision, &sequences[i], &adapters[i])).collect();
            for &path in &paths {
                for threads in [1, 3] {
                    let mut stepper = Stepper::new(path, precision, Pool::new(threads));
                    let cache = new_cache(sizes, 60);
                    let mut done = [0; 5];
                    let most = rng.pick(&[1, 7, 60]);
                    while (0..5).any(|i| done[i] < sequences[i].len()) {
                        let order: Vec<usize> = (0..5).filter(|&i| done[i] < sequences[i].len()).collect();
                        let shares: Vec<Share> = order
                            .iter()
                            .map(|&i| {
                                let end = done[i] + rng.between(1, most.min(sequences[i].len() - done[i]));
                                let table = (0..8).map(|block| (12 * i + block) as u32).collect();
                                Share { tokens: sequences[i][done[i]..end].to_vec(), start: done[i], table }
                            })
                            .collect();
                        let own: Vec<_> = order.iter().map(|&i| adapters[i].clone()).collect();
                        let mut rows = step(&mut stepper, &model, &cache, &shares, &own).into_iter();
                        for (&i, share) in order.iter().zip(&shares) {
                            for wanted in &wanted[i][done[i]..][..share.tokens.len()] {
                                let what = format!("{path}, {threads} threads, {precision:?}, sequence {i}");
                                assert_same(&rows.next().unwrap(), wanted, &what);
                            }
                            done[i] += share.tokens.len();
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn an_adapter_of_numbers_in_few_bits_does_nearly_what_its_floats_do() {
    let mut rng = Rng::new(3);
    let [sizes, _] = all_sizes();
    for (dtype, precision, tolerance) in [("Q8_0", Precision::Int8, 0.04), ("BF16", Precision::Int8, 0.01)] {
        let weights = Weights::random(&mut rng, &sizes, &[dtype]);
        let model = pack(&sizes, &weights);
        let pairs = Tensors::random(&mut rng, &sizes, &MODULES);
        let tokens = random_tokens(&mut rng, sizes.vocab, 40);
        let [exact, rounded] = [Precision::F32, precision].map(|precision| {
            let adapter = Adapter::new(&model, precision, &pairs).unwrap();
            (adapter.nbytes(), alone(&model, Path::best(), precision, &tokens, &Some(Arc::new(adapter))))
        });
        assert!(rounded.0 < exact.0);
        let error = distance(&rounded.1, &exact.1);
        assert!(error > 0.0 && error < tolerance, "{dtype}: {error}");
    }
}

#[test]
fn an_adapter_of_other_shapes_is_refused_by_the_module_that_does_not_fit() {
    let mut rng = Rng::new(4);
    let [sizes, other] = all_sizes();
    let model = pack(&sizes, &Weights::random(&mut rng, &sizes, &["F32"]));
    let mut tensor = |outputs, inputs| Tensor::random(&mut rng, "F32", outputs, inputs, 1.0);
    let wrong = [
        (tensor(4, other.hidden), tensor(96, 4)),
        (tensor(4, sizes.hidden), tensor(95, 4)),
        (tensor(4, sizes.hidden), tensor(96, 5)),
    ];
    for (a, b) in wrong {
        let pairs = Tensors(HashMap::from([("layers.1.q".to_owned(), (1.0, a, b))]));
        match Adapter::new(&model, Precision::F32, &pairs).err() {
            Some(Error::Model(text)) => assert!(text.contains("layers.1.q"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
