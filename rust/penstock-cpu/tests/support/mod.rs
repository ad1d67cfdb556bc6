//! What the tests share: a seeded generator, tensors of every storable type, and their values by the formats'
//! definitions, written without the crate's own readers.

#![allow(dead_code)] // each test file uses a part of it

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod tiles;

use penstock_cpu::Error;
use penstock_cpu::activations::{Activations, Form, Precision, View, round_groups};
use penstock_cpu::gemm::{Output, Part, product};
use penstock_cpu::half::f32_to_f16;
use penstock_cpu::matrix::Matrix;
use penstock_cpu::model::{Activation, Model, Sizes, Tensors};
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use penstock_cpu::stored::Stored;
use std::collections::HashMap;

/// Types of floats, then all quantized ones.
pub const DTYPES: [&str; 13] =
    ["F32", "BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];

/// Of activations.
pub const PRECISIONS: [Precision; 2] = [Precision::Int8, Precision::F32];

/// Xorshift64* (Vigna, arXiv:1402.6246).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((self.bits() >> 11) % end as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit() as f32
    }

    pub fn normal(&mut self) -> f32 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }

    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.bits() >> 32) as u8).collect()
    }

    /// Any float there is, with the special ones more often than their share.
    pub fn any_f32(&mut self) -> f32 {
        const SPECIAL: [f32; 16] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            2.5,
            -3.5,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MIN_POSITIVE,
            1e-45,
            -1e-45,
            -5e-39,
            f32::MAX,
            f32::MIN,
        ];
        match self.below(4) {
            0 => self.pick(&SPECIAL),
            1 => f32::from_bits(self.bits() as u32),
            2 => self.normal(),
            _ => self.normal() * 1000.0,
        }
    }
}

/// Rounded to bfloat16, ties to even; for finite numbers.
pub fn brain(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
}

/// The paths of this processor, the scalar one last.
pub fn paths() -> Vec<Path> {
    Path::supported().collect()
}

/// The paths whose products can be computed here: AMX by emulating its tiles, if there is all else.
pub fn product_paths() -> Vec<Path> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if tiles::provide() == Some(tiles::By::Emulator) {
        return [Path::Amx].into_iter().chain(Path::supported()).collect();
    }
    paths()
}

/// Each precision with paths that give the same bits with it: bfloat16 products are each path's own.
pub fn precisions() -> Vec<(Precision, Vec<Path>)> {
    let mut all = vec![(Precision::Int8, paths()), (Precision::F32, paths())];
    all.extend(paths().into_iter().filter(|p| p.has_bf16_products()).map(|path| (Precision::Bf16, vec![path])));
    all
}

/// Panic where two results differ in a bit; all NaNs are one.
#[track_caller]
pub fn assert_same(got: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(wanted).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{what}: number {i} is {a:e}, not {b:e}");
    }
}

/// Weights of a block, its bytes, and where its half floats are.
pub fn block(dtype: &str) -> (usize, usize, &'static [usize]) {
    match dtype {
        "F32" => (1, 4, &[]),
        "BF16" | "F16" => (1, 2, &[]),
        "Q4_0" => (32, 18, &[0]),
        "Q4_1" => (32, 20, &[0, 2]),
        "Q5_0" => (32, 22, &[0]),
        "Q5_1" => (32, 24, &[0, 2]),
        "Q8_0" => (32, 34, &[0]),
        "Q2_K" => (256, 84, &[80, 82]),
        "Q3_K" => (256, 110, &[108]),
        "Q4_K" => (256, 144, &[0, 2]),
        "Q5_K" => (256, 176, &[0, 2]),
        "Q6_K" => (256, 210, &[208]),
        _ => panic!("{dtype}"),
    }
}

/// A tensor that owns its bytes.
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub outputs: usize,
    pub inputs: usize,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Random weights of about the size `scale`.
    pub fn random(rng: &mut Rng, dtype: &'static str, outputs: usize, inputs: usize, scale: f32) -> Tensor {
        let count = outputs * inputs;
        let (len, size, halves) = block(dtype);
        let mut bytes = Vec::new();
        match dtype {
            "F32" => bytes.extend((0..count).flat_map(|_| (rng.normal() * scale).to_le_bytes())),
            "BF16" => {
                bytes.extend((0..count).flat_map(|_| (((rng.normal() * scale).to_bits() >> 16) as u16).to_le_bytes()))
            }
            "F16" => bytes.extend((0..count).flat_map(|_| f32_to_f16(rng.normal() * scale).to_le_bytes())),
            _ => {
                bytes = rng.bytes(count / len * size);
                // What the greatest number of each type, and of its scales, is worth.
                let most = match dtype {
                    "Q4_0" => 8.0,
                    "Q4_1" => 15.0,
                    "Q5_0" => 16.0,
                    "Q5_1" => 31.0,
                    "Q8_0" => 128.0,
                    "Q2_K" => 3.0 * 15.0,
                    "Q3_K" => 4.0 * 32.0,
                    "Q4_K" => 15.0 * 63.0,
                    "Q5_K" => 31.0 * 63.0,
                    _ => 32.0 * 128.0,
                };
                for block in bytes.chunks_exact_mut(size) {
                    for (i, &at) in halves.iter().enumerate() {
                        // The second is an offset: without a scale of its own in the simple types.
                        let least = if len == 32 { 2.0 } else { 15.0 };
                        let value = scale * rng.uniform(1.0, 2.0) / if i == 0 { most } else { least };
                        let value = if rng.below(2) == 0 { value } else { -value };
                        block[at..at + 2].copy_from_slice(&f32_to_f16(value).to_le_bytes());
                    }
                }
            }
        }
        Tensor { name: format!("a.{dtype}.weight"), dtype, outputs, inputs, bytes }
    }

    pub fn stored(&self) -> Stored<'_> {
        Stored {
            name: &self.name,
            dtype: self.dtype,
            outputs: self.outputs,
            inputs: self.inputs,
            bytes: &self.bytes,
            quantization: None,
        }
    }

    /// Its values, `[outputs, inputs]`.
    pub fn values(&self) -> Vec<f64> {
        values(self.dtype, &self.bytes)
    }
}

/// What bytes of a type mean, block after block.
pub fn values(dtype: &str, bytes: &[u8]) -> Vec<f64> {
    let (_, size, _) = block(dtype);
    bytes.chunks_exact(size).flat_map(|b| block_values(dtype, b)).collect()
}

/// An IEEE half float by its definition.
pub fn half(low: u8, high: u8) -> f64 {
    let sign = if high & 0x80 != 0 { -1.0 } else { 1.0 };
    let exponent = i32::from(high >> 2 & 31);
    let mantissa = f64::from(u16::from(high & 3) << 8 | u16::from(low));
    sign * match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
    }
}

/// One block's weights, in the order in which GGML's reference writes them.
fn block_values(dtype: &str, b: &[u8]) -> Vec<f64> {
    let h = |at: usize| half(b[at], b[at + 1]);
    let n = |x: u8| f64::from(x);
    let bit = |byte: u8, i: usize| byte >> i & 1;
    let mut y = Vec::with_capacity(256);
    match dtype {
        "F32" => y.push(f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        "BF16" => y.push(f64::from(f32::from_le_bytes([0, 0, b[0], b[1]]))),
        "F16" => y.push(h(0)),
        "Q4_0" => {
            y.extend((0..16).map(|i| h(0) * (n(b[2 + i] & 15) - 8.0)));
            y.extend((0..16).map(|i| h(0) * (n(b[2 + i] >> 4) - 8.0)));
        }
        "Q4_1" => {
            y.extend((0..16).map(|i| h(0) * n(b[4 + i] & 15) + h(2)));
            y.extend((0..16).map(|i| h(0) * n(b[4 + i] >> 4) + h(2)));
        }
        "Q5_0" => {
            let fifth = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
            let high = |i: usize| f64::from(fifth >> i & 1) * 16.0;
            y.extend((0..16).map(|i| h(0) * (n(b[6 + i] & 15) + high(i) - 16.0)));
            y.extend((0..16).map(|i| h(0) * (n(b[6 + i] >> 4) + high(i + 16) - 16.0)));
        }
        "Q5_1" => {
            let fifth = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
            let high = |i: usize| f64::from(fifth >> i & 1) * 16.0;
            y.extend((0..16).map(|i| h(0) * (n(b[8 + i] & 15) + high(i)) + h(2)));
            y.extend((0..16).map(|i| h(0) * (n(b[8 + i] >> 4) + high(i + 16)) + h(2)));
        }
        "Q8_0" => y.extend((0..32).map(|i| h(0) * f64::from(b[2 + i] as i8))),
        "Q2_K" => {
            let (scales, q) = (&b[..16], &b[16..80]);
            let mut scale = scales.iter();
            for run in q.chunks_exact(32) {
                for shift in [0, 2, 4, 6] {
                    for sixteen in run.chunks_exact(16) {
                        let s = *scale.next().unwrap();
                        let (d, m) = (h(80) * n(s & 15), h(82) * n(s >> 4));
                        y.extend(sixteen.iter().map(|&q| d * n(q >> shift & 3) - m));
                    }
                }
            }
        }
        "Q3_K" => {
            // As the reference unpacks the sixteen six-bit scales: four words, through two masks.
            let word = |i: usize| u32::from_le_bytes([b[96 + 4 * i], b[97 + 4 * i], b[98 + 4 * i], b[99 + 4 * i]]);
            let (low, high) = (0x0F0F_0F0Fu32, 0x0303_0303u32);
            let top = word(2);
            let scales = [
                (word(0) & low) | ((top & high) << 4),
                (word(1) & low) | ((top >> 2 & high) << 4),
                (word(0) >> 4 & low) | ((top >> 4 & high) << 4),
                (word(1) >> 4 & low) | ((top >> 6 & high) << 4),
            ];
            let mut scale = scales.iter().flat_map(|word| word.to_le_bytes());
            let (mask, q) = (&b[..32], &b[32..96]);
            let mut plane = 0;
            for run in q.chunks_exact(32) {
                for shift in [0, 2, 4, 6] {
                    for at in [0, 16] {
                        let d = h(108) * (f64::from(scale.next().unwrap() as i8) - 32.0);
                        for l in at..at + 16 {
                            let less = if bit(mask[l], plane) == 1 { 0.0 } else { 4.0 };
                            y.push(d * (n(run[l] >> shift & 3) - less));
                        }
                    }
                    plane += 1;
                }
            }
        }
        "Q4_K" | "Q5_K" => {
            let q = if dtype == "Q4_K" { &b[16..144] } else { &b[48..176] };
            for (pair, run) in q.chunks_exact(32).enumerate() {
                for side in 0..2 {
                    let j = 2 * pair + side;
                    let (s, m) = scale_min(j, &b[4..16]);
                    let (d, m) = (h(0) * n(s), h(2) * n(m));
                    for (l, &both) in run.iter().enumerate() {
                        let low = if side == 0 { both & 15 } else { both >> 4 };
                        let high = if dtype == "Q5_K" { bit(b[16 + l], j) << 4 } else { 0 };
                        y.push(d * n(low + high) - m);
                    }
                }
            }
        }
        "Q6_K" => {
            y.resize(256, 0.0);
            for side in 0..2 {
                let (ql, qh, sc) = (&b[64 * side..], &b[128 + 32 * side..], &b[192 + 8 * side..]);
                for l in 0..32 {
                    let q = [
                        ql[l] & 15 | (qh[l] & 3) << 4,
                        ql[l + 32] & 15 | (qh[l] >> 2 & 3) << 4,
                        ql[l] >> 4 | (qh[l] >> 4 & 3) << 4,
                        ql[l + 32] >> 4 | (qh[l] >> 6 & 3) << 4,
                    ];
                    for (i, q) in q.into_iter().enumerate() {
                        let d = h(208) * f64::from(sc[l / 16 + 2 * i] as i8);
                        y[128 * side + 32 * i + l] = d * (n(q) - 32.0);
                    }
                }
            }
        }
        _ => panic!("{dtype}"),
    }
    y
}

/// Six-bit scale and minimum j of the twelve bytes of Q4_K and Q5_K.
fn scale_min(j: usize, p: &[u8]) -> (u8, u8) {
    if j < 4 {
        (p[j] & 63, p[j + 4] & 63)
    } else {
        ((p[j + 4] & 15) | ((p[j - 4] >> 6) << 4), (p[j + 4] >> 4) | ((p[j] >> 6) << 4))
    }
}

/// Activations of `x`, `[rows, inputs]`, rounded to int8 and to bfloat16 as well.
pub fn activations(path: Path, x: &[f32], inputs: usize) -> Activations {
    let rows = x.len() / inputs;
    let mut all = Activations::default();
    all.resize(rows, inputs);
    let view = all.view();
    for (r, row) in x.chunks_exact(inputs).enumerate() {
        // SAFETY: the view has room for the rows, whose padding is zero from the start.
        unsafe {
            std::ptr::copy_nonoverlapping(row.as_ptr(), view.wide.add(r * view.width), inputs);
            for form in [Form::Int8, Form::Bf16] {
                round_groups(path, view, r, 0, view.width / 32, form);
            }
        }
    }
    all
}

/// Inputs that a type can have, odd ones for floats.
pub fn random_inputs(rng: &mut Rng, dtype: &str) -> usize {
    match block(dtype).0 {
        1 => rng.between(1, 150),
        32 => 32 * rng.between(1, 9),
        _ => 256 * rng.between(1, 2),
    }
}

/// A part of the product, `[rows, 16 * tiles]`.
pub fn multiply_part(path: Path, matrix: &Matrix, x: View, precision: Precision, part: Part) -> Vec<f32> {
    let stride = 16 * part.tiles;
    let mut y = vec![f32::NAN; part.rows * stride];
    let out = Output { to: y.as_mut_ptr(), stride, accumulate: false };
    // SAFETY: the path is this processor's, and there is room for the part.
    unsafe { product(path, matrix, x, precision, part, out) };
    y
}

/// The whole product, `[rows, outputs]`.
pub fn multiply(path: Path, matrix: &Matrix, x: View, precision: Precision, rows: usize) -> Vec<f32> {
    let part = Part { first_tile: 0, tiles: matrix.tiles(), first_row: 0, rows, together: 16 };
    let y = multiply_part(path, matrix, x, precision, part);
    y.chunks_exact(16 * matrix.tiles()).flat_map(|row| row[..matrix.outputs].to_vec()).collect()
}

/// Panic where `y` is further from `x * w^T` than `tolerance` allows, relative to the sum of all magnitudes.
#[track_caller]
pub fn assert_near(y: &[f32], w: &[f64], x: &[f64], inputs: usize, tolerance: f64, what: &str) {
    let outputs = w.len() / inputs;
    for (r, x) in x.chunks_exact(inputs).enumerate() {
        for (o, w) in w.chunks_exact(inputs).enumerate() {
            let wanted: f64 = w.iter().zip(x).map(|(w, x)| w * x).sum();
            // A weight of zero may be the difference of a scale's and an offset's share.
            let greatest = w.iter().fold(0f64, |a, w| a.max(w.abs()));
            let all: f64 = w.iter().zip(x).map(|(w, x)| (w.abs() + greatest) * x.abs()).sum();
            let got = f64::from(y[r * outputs + o]);
            assert!(
                (got - wanted).abs() <= tolerance * all + 1e-37,
                "{what}: row {r}, output {o} is {got:e}, not {wanted:e}"
            );
        }
    }
}

/// Tensors by their names.
pub struct Weights(pub HashMap<String, Tensor>);

impl Tensors for Weights {
    fn get(&self, name: &str) -> penstock_cpu::Result<Stored<'_>> {
        self.0.get(name).map(Tensor::stored).ok_or_else(|| Error::Model(format!("There is no {name}.")))
    }
}

impl Weights {
    /// Random ones of all parts that any model of these sizes has, each matrix in one of the types that fit it.
    pub fn random(rng: &mut Rng, s: &Sizes, dtypes: &[&'static str]) -> Weights {
        let mut all = HashMap::new();
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let mut put = |rng: &mut Rng, name: String, outputs, inputs| {
            let fitting: Vec<&'static str> =
                dtypes.iter().copied().filter(|dtype| inputs % block(dtype).0 == 0).collect();
            let (dtype, scale) = match outputs {
                1 => ("F32", 0.5),
                _ => (rng.pick(&fitting), 1.0 / (inputs as f32).sqrt()),
            };
            let tensor = Tensor::random(rng, dtype, outputs, inputs, scale);
            all.insert(name.clone(), Tensor { name, ..tensor });
        };
        for i in 0..s.layers {
            let name = |part: &str| format!("layers.{i}.{part}");
            for part in ["attn_norm", "mlp_norm", "attn_post_norm", "mlp_post_norm"] {
                put(rng, name(&format!("{part}.weight")), 1, s.hidden);
            }
            for part in ["q_norm", "k_norm"] {
                put(rng, name(&format!("{part}.weight")), 1, s.head_dim);
            }
            for (part, outputs, inputs) in [
                ("q", q, s.hidden),
                ("k", kv, s.hidden),
                ("v", kv, s.hidden),
                ("o", s.hidden, q),
                ("gate", s.ffn, s.hidden),
                ("up", s.ffn, s.hidden),
                ("down", s.hidden, s.ffn),
            ] {
                put(rng, name(&format!("{part}.weight")), outputs, inputs);
                put(rng, name(&format!("{part}.bias")), 1, outputs);
            }
        }
        put(rng, "embed.weight".into(), s.vocab, s.hidden);
        put(rng, "head.weight".into(), s.vocab, s.hidden);
        put(rng, "final_norm.weight".into(), 1, s.hidden);
        Weights(all)
    }

    /// A tensor's values.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.0[name].values()
    }
}

/// Sizes of a model of two layers, all of them whole tiles.
pub fn small_sizes() -> Sizes {
    Sizes {
        vocab: 70,
        hidden: 96,
        ffn: 160,
        layers: 2,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        eps: 1e-5,
        window: None,
        global_layers: Vec::new(),
        local_frequencies: Vec::new(),
        query_scalar: None,
        embedding_scale: 1.0,
        activation: Activation::Silu,
        post_norms: false,
        tied: true,
        qkv_bias: true,
        qk_norm: false,
    }
}

/// A model of two layers whose matrices are random and stored in a type with blocks of 32, for 2100 positions.
pub fn small_model(rng: &mut Rng, dtype: &'static str, pool: &Pool) -> Model {
    let sizes = Sizes { qkv_bias: false, ..small_sizes() };
    let weights = Weights::random(rng, &sizes, &[dtype]);
    Model::new(sizes, &[0.1; 8], 2100, &weights, None, pool).unwrap()
}
