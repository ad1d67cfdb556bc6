//! Products of bfloat16 with bfloat16 against float64, on each path that has them.

mod support;

use penstock_cpu::activations::Precision;
use penstock_cpu::gemm::Part;
use penstock_cpu::matrix::Matrix;
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use support::{Rng, Tensor, activations, assert_near, assert_same, brain, multiply, multiply_part, product_paths};

fn bf16_paths() -> impl Iterator<Item = Path> {
    product_paths().into_iter().filter(|&path| path == Path::Amx || path.has_bf16_products())
}

#[test]
fn products_of_odd_shapes_are_those_of_the_rounded_activations_in_all_parts() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(1));
    for path in bf16_paths() {
        for _ in 0..40 {
            let (rows, outputs, inputs) = (rng.between(1, 60), rng.between(1, 150), rng.between(1, 300));
            let tensor = Tensor::random(&mut rng, "BF16", outputs, inputs, 0.1);
            let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
            let x = rng.normals(rows * inputs);
            let mut all = activations(path, &x, inputs);
            let y = multiply(path, &matrix, all.view(), Precision::Bf16, rows);
            let rounded: Vec<f64> = x.iter().map(|&x| f64::from(brain(x))).collect();
            let what = format!("{outputs} x {inputs}, {rows} rows on {path}");
            assert_near(&y, &tensor.values(), &rounded, inputs, 1e-6, &what);

            let first_tile = rng.below(matrix.tiles());
            let tiles = rng.between(1, matrix.tiles() - first_tile);
            let first_row = 4 * rng.below(rows.div_ceil(4));
            let part = Part { first_tile, tiles, first_row, rows: rng.between(1, rows - first_row), together: 16 };
            let got = multiply_part(path, &matrix, all.view(), Precision::Bf16, part);
            for r in 0..part.rows {
                let last = outputs.min(16 * (first_tile + tiles));
                let wanted = &y[(first_row + r) * outputs..][16 * first_tile..last];
                assert_same(&got[16 * tiles * r..][..wanted.len()], wanted, &format!("{what}: {part:?}"));
            }
        }
    }
}

#[test]
fn they_err_no_more_than_twice_as_much_as_products_that_end_in_bfloat16() {
    let (pool, mut rng) = (Pool::new(1), Rng::new(2));
    let (outputs, inputs, rows) = (48, 1024, 20);
    let tensor = Tensor::random(&mut rng, "BF16", outputs, inputs, 0.1);
    let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
    let (w, x) = (tensor.values(), rng.normals(rows * inputs));
    for path in bf16_paths() {
        let y = multiply(path, &matrix, activations(path, &x, inputs).view(), Precision::Bf16, rows);
        let (mut ours, mut theirs) = (0.0, 0.0);
        for (r, x) in x.chunks_exact(inputs).enumerate() {
            for (o, w) in w.chunks_exact(inputs).enumerate() {
                let wanted: f64 = w.iter().zip(x).map(|(&w, &x)| w * f64::from(x)).sum();
                let sum = w.iter().zip(x).fold(0f32, |sum, (&w, &x)| (w as f32).mul_add(brain(x), sum));
                ours += (f64::from(y[r * outputs + o]) - wanted).powi(2);
                theirs += (f64::from(brain(sum)) - wanted).powi(2);
            }
        }
        let ratio = (ours / theirs).sqrt();
        assert!(ratio <= 2.0, "{path}: {ratio}");
    }
}

#[test]
fn other_weights_are_multiplied_as_in_the_precision_that_suits_them() {
    let (pool, mut rng) = (Pool::new(1), Rng::new(3));
    for path in bf16_paths() {
        for (dtype, like) in [("Q4_0", Precision::Int8), ("Q6_K", Precision::Int8), ("F16", Precision::F32)] {
            let tensor = Tensor::random(&mut rng, dtype, 20, 256, 0.1);
            let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
            let x = rng.normals(18 * 256);
            let [got, wanted] = [Precision::Bf16, like]
                .map(|precision| multiply(path, &matrix, activations(path, &x, 256).view(), precision, 18));
            assert_same(&got, &wanted, &format!("{dtype} on {path}"));
        }
    }
}
