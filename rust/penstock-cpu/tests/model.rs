//! A whole model against float64, and the independence of its scores of everything but their own sequence.

mod support;

use penstock_cpu::Error;
use penstock_cpu::activations::Precision;
use penstock_cpu::kept;
use penstock_cpu::kv_cache::{KvCache, KvShape, KvType};
use penstock_cpu::matrix::{Matrix, Packing};
use penstock_cpu::model::{Activation, Model, Sizes, Tensors};
use penstock_cpu::pool::Pool;
use penstock_cpu::quantize::Quantization;
use penstock_cpu::simd::Path;
use penstock_cpu::stepper::{Share, Stepper};
use penstock_cpu::stored::Stored;
use penstock_cpu::tuner::Plan;
use support::{Rng, Tensor, Weights, assert_same, precisions, small_sizes};

const POSITIONS: usize = 2600;

fn frequencies(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect()
}

/// Four models: blocks of 32 with biases, blocks of 256 with norms of heads and a window, odd sizes of floats, and one
/// whose layers differ, with all that Gemma has.
fn models(rng: &mut Rng) -> Vec<(Sizes, Weights)> {
    let base = small_sizes();
    let large = Sizes {
        hidden: 256,
        ffn: 256,
        heads: 8,
        kv_heads: 1,
        head_dim: 32,
        window: Some(37),
        tied: false,
        qkv_bias: false,
        qk_norm: true,
        ..base.clone()
    };
    let odd = Sizes { vocab: 33, hidden: 50, ffn: 37, heads: 3, kv_heads: 3, head_dim: 10, ..base.clone() };
    let mixed = Sizes {
        layers: 3,
        window: Some(37),
        global_layers: vec![1],
        local_frequencies: frequencies(16).iter().map(|f| f * 1.5).collect(),
        query_scalar: Some(7.0),
        embedding_scale: 96f32.sqrt(),
        activation: Activation::Gelu,
        post_norms: true,
        qkv_bias: false,
        qk_norm: true,
        ..base.clone()
    };
    [
        (base, &["Q4_0", "Q5_0", "Q8_0", "Q5_1"][..]),
        (large, &["Q4_K", "Q6_K", "Q2_K", "Q3_K", "Q4_K", "Q5_K"]),
        (odd, &["F32", "BF16", "F16"]),
        (mixed, &["Q5_0", "Q8_0"]),
    ]
    .into_iter()
    .map(|(sizes, dtypes)| {
        let weights = Weights::random(rng, &sizes, dtypes);
        (sizes, weights)
    })
    .collect()
}

fn pack(sizes: &Sizes, weights: &Weights) -> Model {
    Model::new(sizes.clone(), &frequencies(sizes.head_dim), POSITIONS, weights, None, &Pool::new(2)).unwrap()
}

fn new_cache(s: &Sizes, block_size: usize, blocks: usize) -> KvCache {
    let shape = KvShape { layers: s.layers, heads: s.kv_heads, head_dim: s.head_dim, block_size, kind: KvType::F16 };
    KvCache::new(shape, blocks).unwrap()
}

/// A shuffled table of blocks for each of some sequences.
fn tables(rng: &mut Rng, lengths: &[usize], block_size: usize, blocks: usize) -> Vec<Vec<u32>> {
    let mut all: Vec<u32> = (0..blocks as u32).collect();
    for i in (1..blocks).rev() {
        all.swap(i, rng.below(i + 1));
    }
    lengths.iter().map(|length| all.split_off(all.len() - length.div_ceil(block_size))).collect()
}

fn random_tokens(rng: &mut Rng, vocab: usize, count: usize) -> Vec<u32> {
    (0..count).map(|_| rng.below(vocab) as u32).collect()
}

/// All scores of a step's rows, one row after the other.
fn step(stepper: &mut Stepper, model: &Model, cache: &KvCache, shares: &[Share]) -> Vec<Vec<f32>> {
    stepper.forward(model, cache, shares);
    let rows: Vec<usize> = (0..=stepper.last_row(shares.len() - 1)).collect();
    stepper.score(model, &rows);
    rows.iter().map(|&row| stepper.scores(model, row).to_vec()).collect()
}

/// Scores after each token of a sequence that is computed all alone, one token at a time.
fn alone(model: &Model, path: Path, precision: Precision, block_size: usize, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut stepper = Stepper::new(path, precision, Pool::new(1));
    let cache = new_cache(&model.sizes, block_size, POSITIONS / block_size);
    let table: Vec<u32> = (0..cache.blocks as u32).collect();
    (0..tokens.len())
        .flat_map(|start| {
            let share = Share { tokens: vec![tokens[start]], start, table: table.clone() };
            step(&mut stepper, model, &cache, &[share])
        })
        .collect()
}

#[test]
fn scores_have_the_same_bits_for_any_chunks_company_threads_blocks_and_path() {
    let mut rng = Rng::new(1);
    for (sizes, weights) in models(&mut rng) {
        let model = pack(&sizes, &weights);
        for (precision, paths) in precisions() {
            let sequences = [130, 57, 9, 1].map(|length| random_tokens(&mut rng, sizes.vocab, length));
            let block_size = rng.pick(&[16, 8, 5, 32]); // sums go by strips, and strips by blocks
            let wanted = sequences.each_ref().map(|tokens| alone(&model, paths[0], precision, block_size, tokens));
            for &path in &paths {
                for threads in [1, 2, 3] {
                    let mut stepper = Stepper::new(path, precision, Pool::new(threads));
                    let blocks = 250 / block_size + 20;
                    let cache = new_cache(&sizes, block_size, blocks);
                    let tables = tables(&mut rng, &sequences.each_ref().map(Vec::len), block_size, blocks);
                    let mut done = [0; 4];
                    let most = rng.pick(&[7, 40, 130]);
                    while (0..4).any(|i| done[i] < sequences[i].len()) {
                        let mut order: Vec<usize> = (0..4).filter(|&i| done[i] < sequences[i].len()).collect();
                        if rng.below(2) == 0 {
                            order.reverse();
                        }
                        let shares: Vec<Share> = order
                            .iter()
                            .map(|&i| {
                                let end = done[i] + rng.between(1, most.min(sequences[i].len() - done[i]));
                                let tokens = sequences[i][done[i]..end].to_vec();
                                Share { tokens, start: done[i], table: tables[i].clone() }
                            })
                            .collect();
                        let mut rows = step(&mut stepper, &model, &cache, &shares).into_iter();
                        for (&i, share) in order.iter().zip(&shares) {
                            for wanted in &wanted[i][done[i]..][..share.tokens.len()] {
                                let what = format!("{path}, {threads} threads, {precision:?}, {sizes:?}");
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

/// `x * w^T` of one row.
fn times(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn norm(x: &[f64], weight: &[f64], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean + f64::from(eps)).sqrt() * w).collect()
}

/// The model as its definition says, in float64: scores after each token.
fn reference(s: &Sizes, weights: &Weights, tokens: &[u32]) -> Vec<Vec<f64>> {
    let embed = weights.values("embed.weight");
    let scale = f64::from(s.embedding_scale);
    let embedding = |&t: &u32| embed[t as usize * s.hidden..][..s.hidden].iter().map(|x| x * scale).collect();
    let mut rows: Vec<Vec<f64>> = tokens.iter().map(embedding).collect();
    let (group, half) = (s.heads / s.kv_heads, s.head_dim / 2);
    let activate = |x: f64| match s.activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
    };
    for i in 0..s.layers {
        let window = if s.global_layers.contains(&i) { None } else { s.window };
        let turns = match window {
            Some(_) if !s.local_frequencies.is_empty() => s.local_frequencies.clone(),
            _ => frequencies(s.head_dim),
        };
        let get = |part: &str| weights.values(&format!("layers.{i}.{part}"));
        let attn_norm = get("attn_norm.weight");
        let project = |part: &str, rotated: bool| -> Vec<Vec<f64>> {
            let (w, bias) = (get(&format!("{part}.weight")), get(&format!("{part}.bias")));
            let head_norm = if rotated { get(&format!("{part}_norm.weight")) } else { Vec::new() };
            let one = |(position, row): (usize, &Vec<f64>)| {
                let mut y = times(&w, &norm(row, &attn_norm, s.eps));
                if s.qkv_bias {
                    y.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
                }
                for head in y.chunks_exact_mut(s.head_dim).filter(|_| rotated) {
                    if s.qk_norm {
                        head.copy_from_slice(&norm(head, &head_norm, s.eps));
                    }
                    for j in 0..half {
                        let (sin, cos) = (position as f64 * f64::from(turns[j])).sin_cos();
                        let (a, b) = (head[j], head[j + half]);
                        (head[j], head[j + half]) = (a * cos - b * sin, b * cos + a * sin);
                    }
                }
                y
            };
            rows.iter().enumerate().map(one).collect()
        };
        let (q, k, v) = (project("q", true), project("k", true), project("v", false));
        let (o, mlp_norm) = (get("o.weight"), get("mlp_norm.weight"));
        let (gate, up, down) = (get("gate.weight"), get("up.weight"), get("down.weight"));
        for (p, row) in rows.iter_mut().enumerate() {
            let first = (p + 1).saturating_sub(window.unwrap_or(usize::MAX));
            let mut attended = Vec::new();
            for h in 0..s.heads {
                let at = h / group * s.head_dim;
                let own = &q[p][h * s.head_dim..][..s.head_dim];
                let weight = |t: usize| {
                    let dot: f64 = own.iter().zip(&k[t][at..]).map(|(q, k)| q * k).sum();
                    (dot / f64::from(s.query_scalar.unwrap_or(s.head_dim as f32)).sqrt()).exp()
                };
                let weights: Vec<f64> = (first..=p).map(weight).collect();
                let total: f64 = weights.iter().sum();
                let value = |d: usize| weights.iter().zip(first..).map(|(w, t)| w * v[t][at + d]).sum::<f64>();
                attended.extend((0..s.head_dim).map(|d| value(d) / total));
            }
            let add = |row: &mut Vec<f64>, y: Vec<f64>, post_norm: &str| {
                let y = if s.post_norms { norm(&y, &get(post_norm), s.eps) } else { y };
                row.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            };
            add(row, times(&o, &attended), "attn_post_norm.weight");
            let x = norm(row, &mlp_norm, s.eps);
            let gated: Vec<f64> =
                times(&gate, &x).into_iter().zip(times(&up, &x)).map(|(g, u)| activate(g) * u).collect();
            add(row, times(&down, &gated), "mlp_post_norm.weight");
        }
    }
    let head = weights.values(if s.tied { "embed.weight" } else { "head.weight" });
    let final_norm = weights.values("final_norm.weight");
    rows.iter().map(|row| times(&head, &norm(row, &final_norm, s.eps))).collect()
}

#[test]
fn scores_after_long_contexts_have_the_same_bits_whether_or_not_threads_share_them() {
    let mut rng = Rng::new(7);
    let (sizes, weights) = models(&mut rng).swap_remove(0);
    let model = pack(&sizes, &weights);
    let tokens = random_tokens(&mut rng, sizes.vocab, 2500);
    let mut wanted: Option<Vec<Vec<f32>>> = None;
    for threads in [1, 2, 5] {
        let mut stepper = Stepper::new(Path::best(), Precision::Int8, Pool::new(threads));
        let cache = new_cache(&sizes, 16, 160);
        let table: Vec<u32> = (0..160).rev().collect();
        let mut rows = Vec::new();
        let mut start = 0;
        for count in [700, 700, 700, 397, 1, 2] {
            let share = Share { tokens: tokens[start..start + count].to_vec(), start, table: table.clone() };
            rows.push(step(&mut stepper, &model, &cache, &[share]).pop().unwrap());
            start += count;
        }
        match &wanted {
            None => wanted = Some(rows),
            Some(wanted) => (0..rows.len()).for_each(|i| assert_same(&rows[i], &wanted[i], &format!("{threads}"))),
        }
    }
}

#[test]
fn scores_are_those_of_the_models_definition_in_float64() {
    let mut rng = Rng::new(2);
    for (sizes, weights) in models(&mut rng) {
        let model = pack(&sizes, &weights);
        let tokens = random_tokens(&mut rng, sizes.vocab, 60);
        let wanted = reference(&sizes, &weights, &tokens);
        let squares: f64 = wanted.iter().flatten().map(|y| y * y).sum();
        let is_quantized = weights.0.values().any(|tensor| support::block(tensor.dtype).0 > 1);
        for (precision, paths) in precisions() {
            let tolerance = match precision {
                Precision::F32 => 2e-3, // half floats in the cache
                Precision::Bf16 if !is_quantized => 1e-2,
                Precision::Bf16 | Precision::Int8 => 5e-2,
            };
            let got = alone(&model, paths[0], precision, 16, &tokens);
            let pairs = got.iter().flatten().zip(wanted.iter().flatten());
            let errors: f64 = pairs.map(|(&y, wanted)| (f64::from(y) - wanted).powi(2)).sum();
            let error = (errors / squares).sqrt();
            assert!(error <= tolerance, "{precision:?} is off by {error:e}: {sizes:?}");
        }
    }
}

#[test]
fn a_float_model_rounded_as_it_is_packed_scores_nearly_as_it_did() {
    let mut rng = Rng::new(8);
    let (sizes, weights) = models(&mut rng).swap_remove(2);
    let untied = Sizes { tied: false, ..sizes.clone() };
    for sizes in [sizes, untied] {
        let tokens = random_tokens(&mut rng, sizes.vocab, 60);
        let wanted = reference(&sizes, &weights, &tokens);
        let squares: f64 = wanted.iter().flatten().map(|y| y * y).sum();
        // A weight of a normal distribution errs by some 0.6 % in 8 bits and 7 % in 4; of a few layers' errors, which
        // are independent, squares add up.
        for (quantization, tolerance) in [(Quantization::Int8, 0.02), (Quantization::Int4, 0.25)] {
            let (turns, pool) = (frequencies(sizes.head_dim), Pool::new(2));
            let rounded = Some(quantization);
            let model = Model::new(sizes.clone(), &turns, POSITIONS, &weights, rounded, &pool).unwrap();
            assert_eq!(Model::planned_bytes(sizes.clone(), &turns, &weights, rounded), Ok(model.nbytes()));
            let got = alone(&model, Path::best(), Precision::F32, 16, &tokens);
            let pairs = got.iter().flatten().zip(wanted.iter().flatten());
            let errors: f64 = pairs.map(|(&y, wanted)| (f64::from(y) - wanted).powi(2)).sum();
            let error = (errors / squares).sqrt();
            assert!(error > tolerance / 20.0 && error <= tolerance, "{quantization:?} is off by {error:e}");
        }
    }
}

#[test]
fn the_vocabulary_keeps_eight_bits_where_the_layers_have_four() {
    let mut rng = Rng::new(9);
    let (sizes, weights) = models(&mut rng).swap_remove(2);
    let sizes = Sizes { tied: false, ..sizes };
    let planned = |q| Model::planned_bytes(sizes.clone(), &frequencies(sizes.head_dim), &weights, Some(q)).unwrap();
    let bytes = |part: &str, quantization| {
        let stored = weights.get(part).unwrap();
        Matrix::stack(Packing::Planned, &[Stored { quantization: Some(quantization), ..stored }]).unwrap().nbytes()
    };
    let vocabulary = bytes("embed.weight", Quantization::Int8) + bytes("head.weight", Quantization::Int8);
    let layers = |q| planned(q) - vocabulary;
    let ratio = layers(Quantization::Int4) as f64 / layers(Quantization::Int8) as f64;
    assert!((ratio - 320.0 / 544.0).abs() < 0.03, "{ratio}");
}

#[test]
fn a_stepper_that_served_another_model_gives_the_same_bits() {
    let mut rng = Rng::new(3);
    let models: Vec<Model> = models(&mut rng).iter().map(|(sizes, weights)| pack(sizes, weights)).collect();
    for (precision, paths) in precisions() {
        let path = paths[0];
        let mut stepper = Stepper::new(path, precision, Pool::new(2));
        for index in [1, 2, 0, 2, 1] {
            let model = &models[index];
            let tokens = random_tokens(&mut rng, model.sizes.vocab, 20);
            let cache = new_cache(&model.sizes, 16, 2);
            let share = Share { tokens: tokens.clone(), start: 0, table: vec![1, 0] };
            let got = step(&mut stepper, model, &cache, &[share]);
            for (got, wanted) in got.iter().zip(alone(model, path, precision, 16, &tokens)) {
                assert_same(got, &wanted, &format!("{precision:?}, model {index}"));
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_is_reported_and_leaves_the_others_alone() {
    let mut rng = Rng::new(4);
    for (sizes, mut weights) in models(&mut rng) {
        // One token's embedding is NaN.
        let values = weights.values("embed.weight");
        let mut bytes: Vec<u8> = values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
        bytes[4 * 5 * sizes.hidden..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let (outputs, inputs) = (sizes.vocab, sizes.hidden);
        let embed = Tensor { name: "embed.weight".into(), dtype: "F32", outputs, inputs, bytes };
        weights.0.insert("embed.weight".into(), embed);
        let model = pack(&Sizes { tied: false, ..sizes.clone() }, &weights);
        let share = |token, block| Share { tokens: vec![1, token, 2], start: 0, table: vec![block] };
        for (precision, paths) in precisions() {
            let mut stepper = Stepper::new(paths[0], precision, Pool::new(2));
            let cache = new_cache(&sizes, 16, 3);
            let wanted = step(&mut stepper, &model, &cache, &[share(3, 0)]);
            let got = step(&mut stepper, &model, &cache, &[share(3, 0), share(5, 1), share(3, 2)]);
            for (i, wanted) in wanted.iter().enumerate() {
                assert_same(&got[i], wanted, "before the bad sequence");
                assert_same(&got[i + 6], wanted, "after the bad sequence");
            }
            let finite: Vec<bool> = (0..9).map(|row| stepper.is_finite(&model, row)).collect();
            assert_eq!((&finite[..3], &finite[4..]), (&[true; 3][..], &[false, false, true, true, true][..]));
            assert!(got[4..6].iter().flatten().all(|score| !score.is_finite()));
            // What it left behind in the buffers and in the cache doesn't matter to who comes next.
            let again = step(&mut stepper, &model, &cache, &[share(3, 1), share(3, 0)]);
            for (i, wanted) in wanted.iter().enumerate() {
                assert_same(&again[i], wanted, "in the bad sequence's block");
                assert_same(&again[i + 3], wanted, "in the bad sequence's rows");
            }
        }
    }
}

#[test]
fn models_whose_tensors_do_not_fit_are_refused_by_name() {
    let mut rng = Rng::new(5);
    let (sizes, weights) = models(&mut rng).remove(0);
    let refuse = |sizes: &Sizes, weights: &Weights| {
        let result = Model::new(sizes.clone(), &frequencies(sizes.head_dim), 8, weights, None, &Pool::new(1));
        let Err(Error::Model(text)) = result.map(|_| ()) else { panic!("{sizes:?} was taken") };
        text
    };
    assert!(refuse(&Sizes { vocab: 71, ..sizes.clone() }, &weights).contains("embed.weight"));
    assert!(refuse(&Sizes { layers: 3, ..sizes.clone() }, &weights).contains("layers.2."));
    assert!(refuse(&Sizes { ffn: 32, ..sizes.clone() }, &weights).contains("layers.0.gate.weight"));
    assert!(refuse(&Sizes { kv_heads: 4, ..sizes.clone() }, &weights).contains("KV heads"));
    assert!(refuse(&Sizes { kv_heads: 0, ..sizes.clone() }, &weights).contains("KV heads"));
    let mut short = weights;
    short.0.get_mut("layers.1.down.weight").unwrap().bytes.pop();
    assert!(refuse(&sizes, &short).contains("layers.1.down.weight"));
}

#[test]
fn every_plan_gives_the_same_bits() {
    let mut rng = Rng::new(9);
    for (sizes, weights) in models(&mut rng) {
        let model = pack(&sizes, &weights);
        for (precision, paths) in precisions() {
            for count in [1, 20, 210] {
                let tokens = random_tokens(&mut rng, sizes.vocab, count);
                let scores = |plan| {
                    let mut stepper = Stepper::new(paths[0], precision, Pool::new(3));
                    stepper.tuner().fix(Some(plan));
                    let share = Share { tokens: tokens.clone(), start: 0, table: (0..14).collect() };
                    step(&mut stepper, &model, &new_cache(&sizes, 16, 14), &[share])
                };
                let wanted = scores(Plan { together: 4, block: 16, runs: 1 });
                for rows in [1, 8, 100] {
                    for &plan in Plan::candidates(rows) {
                        for (got, wanted) in scores(plan).iter().zip(&wanted) {
                            assert_same(got, wanted, &format!("{plan:?}, {count} tokens, {precision:?}"));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn kept_weights_give_the_same_bits_and_anything_else_is_packed_again() {
    let mut rng = Rng::new(8);
    let folder = std::env::temp_dir().join(format!("penstock-kept-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (index, (sizes, weights)) in models(&mut rng).into_iter().enumerate() {
        let (path, frequencies) = (folder.join(format!("{index}.packed")), frequencies(sizes.head_dim));
        let packed = pack(&sizes, &weights);
        kept::write(&path, "this model", &packed.tiles()).unwrap();
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left.len(), index + 1, "nothing partial is left: {left:?}");

        // Of the matrices only type and shape are needed.
        let mut vectors = Weights(weights.0);
        for tensor in vectors.0.values_mut().filter(|tensor| tensor.outputs > 1) {
            tensor.bytes.clear();
        }
        let bytes = Model::planned_bytes(sizes.clone(), &frequencies, &vectors, None).unwrap();
        assert_eq!(bytes, packed.nbytes());
        let pool = Pool::new(3);
        let open = |path: &std::path::Path, key, bytes| kept::read(path, key, bytes, &pool).unwrap();
        let arena = open(&path, "this model", bytes).unwrap();
        let read = Model::new(sizes.clone(), &frequencies, POSITIONS, &vectors, None, Packing::Kept(&arena)).unwrap();
        drop(arena);
        let tokens = random_tokens(&mut rng, sizes.vocab, 9);
        let wanted = alone(&packed, Path::best(), Precision::Int8, 16, &tokens);
        for (got, wanted) in alone(&read, Path::best(), Precision::Int8, 16, &tokens).iter().zip(&wanted) {
            assert_same(got, wanted, "from the file");
        }

        assert!(open(&path, "another model", bytes).is_none());
        assert!(open(&path, "this model", bytes + 64).is_none());
        assert!(open(&folder.join("nothing"), "this model", bytes).is_none());
        let whole = std::fs::read(&path).unwrap();
        for end in [0, 10, whole.len() / 2, whole.len() - 1] {
            let cut = folder.join("cut");
            std::fs::write(&cut, &whole[..end]).unwrap();
            assert!(open(&cut, "this model", bytes).is_none(), "cut after {end} bytes");
            std::fs::remove_file(cut).unwrap();
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let error = kept::write(&folder.join("x.packed"), "", &[]).unwrap_err();
    assert!(error.to_string().contains("can't be kept"), "{error}");
}
