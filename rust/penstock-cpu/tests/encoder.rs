//! An encoder against the same in float64, and its independence of company, threads and paths.

mod support;

use penstock_cpu::encoder::{Encoder, Head, Pooling, Sizes, Texts};
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use support::{Rng, Tensor, Weights, assert_same, paths};

const POOLINGS: [Pooling; 4] = [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::Max];
const TYPES: usize = 2;

fn weights(rng: &mut Rng, s: &Sizes, classes: usize) -> Weights {
    let mut all = Weights([].into());
    let dtype = rng.pick(&["F32", "F16", "BF16"]);
    let mut put = |name: &str, outputs, inputs, scale| {
        let dtype = if outputs == 1 { "F32" } else { dtype };
        let tensor = Tensor::random(rng, dtype, outputs, inputs, scale);
        all.0.insert(name.to_owned(), Tensor { name: name.to_owned(), ..tensor });
    };
    let (h, f) = (s.hidden, s.ffn);
    put("embeddings.word_embeddings.weight", s.vocab, h, 1.0);
    put("embeddings.position_embeddings.weight", s.first_position + s.longest, h, 1.0);
    put("embeddings.token_type_embeddings.weight", TYPES, h, 1.0);
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    let mut denses = vec![("pooler.dense".to_owned(), h, h), ("classifier".to_owned(), classes, h)];
    for i in 0..s.layers {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        for part in ["query", "key", "value"] {
            denses.push((name(&format!("attention.self.{part}")), h, h));
        }
        denses.push((name("attention.output.dense"), h, h));
        denses.push((name("intermediate.dense"), f, h));
        denses.push((name("output.dense"), h, f));
        norms.extend([name("attention.output.LayerNorm"), name("output.LayerNorm")]);
    }
    for (name, outputs, inputs) in denses {
        put(&format!("{name}.weight"), outputs, inputs, 1.0 / (inputs as f32).sqrt());
        put(&format!("{name}.bias"), 1, outputs, 0.3);
    }
    for name in norms {
        put(&format!("{name}.weight"), 1, h, 1.0);
        put(&format!("{name}.bias"), 1, h, 0.3);
    }
    all
}

/// The definition, one text at a time.
struct Reference<'a> {
    weights: &'a Weights,
    sizes: &'a Sizes,
}

impl Reference<'_> {
    /// `[rows, outputs]` of `[rows, inputs]`.
    fn dense(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (w, b) = (self.weights.values(&format!("{name}.weight")), self.weights.values(&format!("{name}.bias")));
        let of = |x: &Vec<f64>| {
            let sums = w.chunks(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>());
            sums.zip(&b).map(|(sum, b)| sum + b).collect()
        };
        x.iter().map(of).collect()
    }

    fn norm(&self, name: &str, x: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let (w, b) = (self.weights.values(&format!("{name}.weight")), self.weights.values(&format!("{name}.bias")));
        let of = |x: Vec<f64>| {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (variance + f64::from(self.sizes.eps)).sqrt();
            x.iter().zip(w.iter().zip(&b)).map(|(x, (w, b))| (x - mean) * scale * w + b).collect()
        };
        x.into_iter().map(of).collect()
    }

    fn hidden(&self, ids: &[i32], types: &[i32]) -> Vec<Vec<f64>> {
        let s = self.sizes;
        let table = |part: &str| self.weights.values(&format!("embeddings.{part}_embeddings.weight"));
        let (words, positions, kinds) = (table("word"), table("position"), table("token_type"));
        let embedded = (0..ids.len())
            .map(|at| {
                let rows =
                    [(&words, ids[at] as usize), (&positions, s.first_position + at), (&kinds, types[at] as usize)];
                (0..s.hidden).map(|i| rows.iter().map(|(table, row)| table[row * s.hidden + i]).sum()).collect()
            })
            .collect();
        let mut x = self.norm("embeddings.LayerNorm", embedded);
        for i in 0..s.layers {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let [q, k, v] =
                ["query", "key", "value"].map(|part| self.dense(&name(&format!("attention.self.{part}")), &x));
            let attended = self.dense(&name("attention.output.dense"), &attention(&q, &k, &v, s.heads));
            let between = self.norm(&name("attention.output.LayerNorm"), sum(&attended, &x));
            let mut wide = self.dense(&name("intermediate.dense"), &between);
            wide.iter_mut().flatten().for_each(|x| *x = *x / 2.0 * (1.0 + erf(*x / 2f64.sqrt())));
            x = self.norm(&name("output.LayerNorm"), sum(&self.dense(&name("output.dense"), &wide), &between));
        }
        x
    }

    fn vector(&self, ids: &[i32], types: &[i32], pooling: Pooling) -> Vec<f64> {
        let x = self.hidden(ids, types);
        let column = |i: usize| x.iter().map(move |row| row[i]);
        let of = |i: usize| match pooling {
            Pooling::Mean => column(i).sum::<f64>() / x.len() as f64,
            Pooling::Cls => x[0][i],
            Pooling::Last => x[x.len() - 1][i],
            Pooling::Max => column(i).fold(f64::NEG_INFINITY, f64::max),
        };
        (0..self.sizes.hidden).map(of).collect()
    }
}

fn sum(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
}

fn attention(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>], heads: usize) -> Vec<Vec<f64>> {
    let dim = q[0].len() / heads;
    let mut out = vec![vec![0.0; dim * heads]; q.len()];
    for head in 0..heads {
        let own = head * dim..(head + 1) * dim;
        for (q, out) in q.iter().zip(&mut out) {
            let dot = |k: &Vec<f64>| q[own.clone()].iter().zip(&k[own.clone()]).map(|(q, k)| q * k).sum::<f64>();
            let powers: Vec<f64> = k.iter().map(|k| (dot(k) / (dim as f64).sqrt()).exp()).collect();
            let total: f64 = powers.iter().sum();
            for (power, v) in powers.iter().zip(v) {
                out[own.clone()].iter_mut().zip(&v[own.clone()]).for_each(|(out, v)| *out += power / total * v);
            }
        }
    }
    out
}

/// Taylor's series (Abramowitz and Stegun, 7.1.6), which converges everywhere.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / (2 * n + 1) as f64;
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

struct Case {
    sizes: Sizes,
    weights: Weights,
    ids: Vec<i32>,
    types: Vec<i32>,
    lengths: Vec<usize>,
}

impl Case {
    fn new(rng: &mut Rng, lengths: Vec<usize>) -> Case {
        let (heads, dim) = (rng.between(1, 5), rng.between(1, 40));
        let sizes = Sizes {
            vocab: rng.between(1, 50),
            hidden: heads * dim,
            ffn: rng.between(1, 100),
            layers: rng.between(1, 3),
            heads,
            eps: 1e-5,
            first_position: rng.below(3),
            longest: *lengths.iter().max().unwrap(),
        };
        let weights = weights(rng, &sizes, 3);
        let tokens = lengths.iter().sum();
        let ids = (0..tokens).map(|_| rng.below(sizes.vocab) as i32).collect();
        let types = (0..tokens).map(|_| rng.below(TYPES) as i32).collect();
        Case { sizes, weights, ids, types, lengths }
    }

    fn encoder(&self, path: Path, threads: usize) -> Encoder {
        Encoder::new(path, Pool::new(threads), self.sizes.clone(), None, &self.weights).unwrap()
    }

    fn texts(&self) -> Texts<'_> {
        Texts { ids: &self.ids, types: &self.types, lengths: &self.lengths }
    }

    /// Each text alone.
    fn each(&self) -> impl Iterator<Item = (&[i32], &[i32])> {
        let mut end = 0;
        self.lengths.iter().map(move |&length| {
            end += length;
            (&self.ids[end - length..end], &self.types[end - length..end])
        })
    }
}

#[test]
fn vectors_are_those_of_the_definition() {
    let mut rng = Rng::new(1);
    for round in 0..24 {
        let lengths = (0..rng.between(1, 4)).map(|_| rng.between(1, 40)).collect();
        let case = Case::new(&mut rng, lengths);
        let pooling = POOLINGS[round % 4];
        let got = case.encoder(Path::best(), 2).run(case.texts(), pooling).unwrap();
        let reference = Reference { weights: &case.weights, sizes: &case.sizes };
        let wanted = case.each().flat_map(|(ids, types)| reference.vector(ids, types, pooling));
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((f64::from(*got) - wanted).abs() < 2e-5 * (1.0 + wanted.abs()), "{got} for {wanted}, {pooling:?}");
        }
    }
}

#[test]
fn a_texts_vector_depends_on_no_company_no_threads_and_no_path() {
    let mut rng = Rng::new(2);
    for _ in 0..6 {
        let lengths = (0..rng.between(2, 9)).map(|_| rng.between(1, 90)).collect();
        let case = Case::new(&mut rng, lengths);
        let wanted = case.encoder(Path::Scalar, 1).run(case.texts(), Pooling::Mean).unwrap();
        for path in paths() {
            for threads in [1, 3] {
                let mut encoder = case.encoder(path, threads);
                let together = encoder.run(case.texts(), Pooling::Mean).unwrap();
                assert_same(&together, &wanted, &format!("together, {path}, {threads} threads"));
                let mut alone = Vec::new();
                for (ids, types) in case.each() {
                    let one = Texts { ids, types, lengths: &[ids.len()] };
                    alone.extend(encoder.run(one, Pooling::Mean).unwrap());
                }
                assert_same(&alone, &wanted, &format!("alone, {path}, {threads} threads"));
            }
        }
    }
}

#[test]
fn a_head_sees_each_texts_first_token() {
    let mut rng = Rng::new(3);
    let case = Case::new(&mut rng, vec![7, 1, 30]);
    let head = Head { first: "pooler.dense".into(), last: "classifier".into(), classes: 3 };
    let mut encoder = Encoder::new(Path::best(), Pool::new(2), case.sizes.clone(), Some(head), &case.weights).unwrap();
    let got = encoder.run(case.texts(), Pooling::Mean).unwrap();
    let reference = Reference { weights: &case.weights, sizes: &case.sizes };
    let firsts: Vec<Vec<f64>> = case.each().map(|(ids, types)| reference.vector(ids, types, Pooling::Cls)).collect();
    let mut bent = reference.dense("pooler.dense", &firsts);
    bent.iter_mut().flatten().for_each(|x| *x = x.tanh());
    let wanted = reference.dense("classifier", &bent).concat();
    assert_eq!((got.len(), encoder.outputs()), (9, 3));
    for (got, wanted) in got.iter().zip(wanted) {
        assert!((f64::from(*got) - wanted).abs() < 2e-5 * (1.0 + wanted.abs()), "{got} for {wanted}");
    }
}

#[test]
fn what_is_not_finite_reaches_the_vector() {
    let mut rng = Rng::new(4);
    let mut case = Case::new(&mut rng, vec![5, 4]);
    case.ids.fill(0);
    case.sizes.vocab = 1;
    let words = case.weights.0.get_mut("embeddings.word_embeddings.weight").unwrap();
    words.dtype = "F32";
    words.outputs = 1;
    words.bytes = vec![0; 4 * case.sizes.hidden];
    words.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    for pooling in POOLINGS {
        let got = case.encoder(Path::best(), 2).run(case.texts(), pooling).unwrap();
        assert!(got.iter().all(|number| number.is_nan()), "{pooling:?}");
    }
}

#[test]
fn what_is_not_finite_is_forgotten_with_its_batch() {
    let mut rng = Rng::new(6);
    for _ in 0..8 {
        let mut case = Case::new(&mut rng, vec![5, 4]);
        case.sizes.vocab = 2;
        let words = case.weights.0.get_mut("embeddings.word_embeddings.weight").unwrap();
        let name = words.name.clone();
        *words = Tensor { name, ..Tensor::random(&mut rng, "F32", 2, case.sizes.hidden, 1.0) };
        words.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let head = Head { first: "pooler.dense".into(), last: "classifier".into(), classes: 3 };
        for head in [None, Some(head)] {
            let sizes = case.sizes.clone();
            let mut encoder = Encoder::new(Path::best(), Pool::new(2), sizes, head, &case.weights).unwrap();
            case.ids.fill(1);
            let wanted = encoder.run(case.texts(), Pooling::Mean).unwrap();
            case.ids.fill(0);
            assert!(encoder.run(case.texts(), Pooling::Mean).unwrap().iter().all(|number| number.is_nan()));
            case.ids.fill(1);
            let got = encoder.run(case.texts(), Pooling::Mean).unwrap();
            assert_same(&got, &wanted, &format!("{} numbers", case.sizes.hidden));
        }
    }
}

#[test]
fn of_no_texts_there_are_no_vectors() {
    let case = Case::new(&mut Rng::new(7), vec![5]);
    let nothing = Texts { ids: &[], types: &[], lengths: &[] };
    assert!(case.encoder(Path::best(), 2).run(nothing, Pooling::Mean).unwrap().is_empty());
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut rng = Rng::new(5);
    let case = Case::new(&mut rng, vec![5, 4]);
    let mut encoder = case.encoder(Path::best(), 1);
    let texts = case.texts();
    let vocab = case.sizes.vocab as i32;
    for (ids, types, lengths) in [
        (&[vocab][..], &[0][..], &[1][..]),
        (&[-1], &[0], &[1]),
        (&[0], &[TYPES as i32], &[1]),
        (&[0], &[0], &[2]),
        (&[0], &[0], &[1, 0]),
        (&[0], &[0], &[usize::MAX, 2]),
        (&[0, 0], &[0], &[2]),
        (&[0; 6], &[0; 6], &[6]),
    ] {
        assert!(encoder.run(Texts { ids, types, lengths }, Pooling::Mean).is_err(), "{ids:?} {types:?} {lengths:?}");
    }
    assert!(encoder.run(texts, Pooling::Mean).is_ok());
    for name in case.weights.0.keys() {
        let mut other = Weights(weights(&mut Rng::new(5), &case.sizes, 3).0);
        let tensor = other.0.get_mut(name).unwrap();
        tensor.inputs += 1;
        let head = Head { first: "pooler.dense".into(), last: "classifier".into(), classes: 3 };
        let made = Encoder::new(Path::best(), Pool::new(1), case.sizes.clone(), Some(head), &other);
        assert!(made.is_err_and(|why| why.to_string().contains(name)), "{name}");
    }
    let sizes = Sizes { longest: case.sizes.longest + 1, ..case.sizes.clone() };
    assert!(Encoder::new(Path::best(), Pool::new(1), sizes, None, &case.weights).is_err());
    let sizes = Sizes { layers: 0, ..case.sizes.clone() };
    let made = Encoder::new(Path::best(), Pool::new(1), sizes, None, &case.weights);
    assert!(made.is_err_and(|why| why.to_string().contains("sizes")));
}
