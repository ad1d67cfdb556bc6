//! Products of every storable type against float64, and their independence of all company.

mod support;

use penstock_cpu::Error;
use penstock_cpu::activations::{Activations, Precision};
use penstock_cpu::gemm::{Output, Part, product};
use penstock_cpu::matrix::{Matrix, Packing};
use penstock_cpu::pool::Pool;
use penstock_cpu::quantize::Quantization;
use penstock_cpu::simd::Path;
use penstock_cpu::stored::{Stored, read_f32};
use support::{
    DTYPES, PRECISIONS, Rng, Tensor, activations, assert_near, assert_same, block, multiply, multiply_part, precisions,
    product_paths, random_inputs,
};

/// What the int8 numbers of a view are worth, with what rounding left where that is kept, `[rows, inputs]`.
fn rounded(all: &mut Activations, rows: usize, inputs: usize) -> Vec<f64> {
    let view = all.view();
    let mut values = Vec::new();
    for r in 0..rows {
        for k in 0..inputs {
            let at = r / 4 * (view.width / 32) + k / 32;
            // SAFETY: the view has these rows.
            let (group, rest) = unsafe { (&*view.groups.add(at), &*view.rests.add(at)) };
            let mut value = f64::from(group.q[r % 4][k % 32]) * f64::from(group.scale[r % 4]);
            if group.has_rest[r % 4] {
                value += f64::from(rest.q[r % 4][k % 32]) * f64::from(rest.scale[r % 4]);
            }
            values.push(value);
        }
    }
    values
}

fn is_quantized(matrix: &Matrix) -> bool {
    matches!(matrix.format, penstock_cpu::format::Format::Quantized(_))
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

/// A matrix against its values: both precisions, all paths, and random parts of the product.
fn check_matrix(rng: &mut Rng, matrix: &Matrix, values: &[f64], what: &str) {
    let (inputs, rows) = (matrix.inputs, rng.between(1, 30));
    assert_eq!(matrix.outputs * inputs, values.len(), "{what}");
    let x = rng.normals(rows * inputs);
    for precision in PRECISIONS {
        let what = &format!("{what}, {} x {inputs}, {rows} rows, {precision:?}", matrix.outputs);
        let mut all = activations(Path::best(), &x, inputs);
        let y = multiply(Path::best(), matrix, all.view(), precision, rows);
        let int8 = precision == Precision::Int8 && is_quantized(matrix);
        let taken = if int8 { rounded(&mut all, rows, inputs) } else { wide(&x) };
        assert_near(&y, values, &taken, inputs, 1e-6, what);
        for path in product_paths() {
            let mut own = activations(path, &x, inputs);
            let got = multiply(path, matrix, own.view(), precision, rows);
            assert_same(&got, &y, &format!("{what} on {path}"));
            for _ in 0..3 {
                let first_tile = rng.below(matrix.tiles());
                let tiles = rng.between(1, matrix.tiles() - first_tile);
                let first_row = 4 * rng.below(rows.div_ceil(4));
                let part = Part {
                    first_tile,
                    tiles,
                    first_row,
                    rows: rng.between(1, rows - first_row),
                    together: rng.pick(&[4, 8, 12, 16]),
                };
                let got = multiply_part(path, matrix, own.view(), precision, part);
                for r in 0..part.rows {
                    let last = matrix.outputs.min(16 * (first_tile + tiles));
                    let wanted = &y[(first_row + r) * matrix.outputs..][16 * first_tile..last];
                    let got = &got[16 * tiles * r..][..wanted.len()];
                    assert_same(got, wanted, &format!("{what} on {path}, row {r} of {} from {first_row}", part.rows));
                }
            }
        }
    }
}

#[test]
fn products_of_every_type_and_odd_shapes_are_right_and_the_same_on_all_paths_and_in_all_parts() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(1));
    for dtype in DTYPES {
        for _ in 0..6 {
            let (outputs, inputs) = (rng.between(1, 50), random_inputs(&mut rng, dtype));
            let tensor = Tensor::random(&mut rng, dtype, outputs, inputs, 0.1);
            let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
            check_matrix(&mut rng, &matrix, &tensor.values(), dtype);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_for_every_number_of_rows() {
    let (pool, mut rng) = (Pool::new(1), Rng::new(2));
    for dtype in DTYPES {
        let inputs = block(dtype).0.next_multiple_of(64);
        let tensor = Tensor::random(&mut rng, dtype, 20, inputs, 0.1);
        let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
        let x = rng.normals(30 * inputs);
        for (precision, paths) in precisions() {
            for path in paths {
                let alone: Vec<f32> = x
                    .chunks_exact(inputs)
                    .flat_map(|x| multiply(path, &matrix, activations(path, x, inputs).view(), precision, 1))
                    .collect();
                for rows in 1..=30 {
                    let mut all = activations(path, &x[..rows * inputs], inputs);
                    let y = multiply(path, &matrix, all.view(), precision, rows);
                    assert_same(&y, &alone[..rows * 20], &format!("{dtype} {precision:?} on {path}, {rows} rows"));
                }
            }
        }
    }
}

#[test]
fn an_accumulating_product_adds_to_what_is_there() {
    let (pool, mut rng) = (Pool::new(1), Rng::new(3));
    for dtype in ["Q4_0", "Q6_K", "BF16"] {
        let tensor = Tensor::random(&mut rng, dtype, 32, 256, 0.1);
        let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
        let (x, before) = (rng.normals(23 * 256), rng.normals(23 * 40));
        for path in product_paths() {
            let mut all = activations(path, &x, 256);
            let y = multiply(path, &matrix, all.view(), Precision::Int8, 23);
            let mut sums = before.clone();
            let part = Part { first_tile: 0, tiles: 2, first_row: 0, rows: 23, together: 16 };
            let out = Output { to: sums.as_mut_ptr(), stride: 40, accumulate: true };
            // SAFETY: the path is this processor's, and there is room for the part.
            unsafe { product(path, &matrix, all.view(), Precision::Int8, part, out) };
            for r in 0..23 {
                let wanted: Vec<f32> =
                    (0..40).map(|o| before[r * 40 + o] + if o < 32 { y[r * 32 + o] } else { 0.0 }).collect();
                assert_same(&sums[r * 40..][..40], &wanted, &format!("{dtype} on {path}"));
            }
        }
    }
}

#[test]
fn int8_errs_no_more_than_four_times_as_much_as_bfloat16() {
    let brain = |x: f64| {
        let bits = (x as f32).to_bits();
        f64::from(f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000))
    };
    let (pool, mut rng) = (Pool::new(1), Rng::new(4));
    for dtype in &DTYPES[3..] {
        let (outputs, inputs, rows) = (48, 512, 12);
        let tensor = Tensor::random(&mut rng, dtype, outputs, inputs, 0.1);
        let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
        let x = rng.normals(rows * inputs);
        let y = multiply(Path::best(), &matrix, activations(Path::best(), &x, inputs).view(), Precision::Int8, rows);
        let (w, mut int8, mut bfloat) = (tensor.values(), 0.0, 0.0);
        for (r, x) in x.chunks_exact(inputs).enumerate() {
            for (o, w) in w.chunks_exact(inputs).enumerate() {
                let wanted: f64 = w.iter().zip(x).map(|(&w, &x)| w * f64::from(x)).sum();
                let rounded: f64 = w.iter().zip(x).map(|(&w, &x)| brain(w) * brain(f64::from(x))).sum();
                int8 += (f64::from(y[r * outputs + o]) - wanted).powi(2);
                bfloat += (rounded - wanted).powi(2);
            }
        }
        let ratio = (int8 / bfloat).sqrt();
        assert!(ratio <= 4.0, "{dtype}: {ratio}");
    }
}

#[test]
fn stacked_matrices_of_any_two_types_hold_both_without_loss() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(5));
    for first in DTYPES {
        for second in DTYPES {
            let parts = [first, second].map(|dtype| {
                let outputs = rng.between(1, 20);
                Tensor::random(&mut rng, dtype, outputs, 256, 0.1)
            });
            let matrix = Matrix::stack(&pool, &[parts[0].stored(), parts[1].stored()]).unwrap();
            let values: Vec<f64> = parts.iter().flat_map(Tensor::values).collect();
            assert_rows(&matrix, &values, &format!("{first} above {second}"));
            if rng.below(4) == 0 {
                check_matrix(&mut rng, &matrix, &values, &format!("{first} above {second}"));
            }
        }
    }
}

#[test]
fn stacks_of_three_types_hold_all_of_them_without_loss() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(6));
    for _ in 0..40 {
        let parts: Vec<Tensor> = (0..3)
            .map(|_| {
                let (dtype, outputs) = (rng.pick(&DTYPES[3..]), rng.between(1, 20));
                Tensor::random(&mut rng, dtype, outputs, 256, 0.1)
            })
            .collect();
        let stored: Vec<Stored<'_>> = parts.iter().map(Tensor::stored).collect();
        let matrix = Matrix::stack(&pool, &stored).unwrap();
        let values: Vec<f64> = parts.iter().flat_map(Tensor::values).collect();
        let what = parts.iter().map(|part| part.dtype).collect::<Vec<_>>().join(", ");
        assert_rows(&matrix, &values, &what);
        check_matrix(&mut rng, &matrix, &values, &what);
    }
}

#[test]
fn interleaved_matrices_take_tiles_in_turn() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(7));
    for _ in 0..40 {
        let (first, second, outputs) = (rng.pick(&DTYPES), rng.pick(&DTYPES), rng.between(1, 50));
        let parts = [first, second].map(|dtype| Tensor::random(&mut rng, dtype, outputs, 256, 0.1));
        let matrix = Matrix::interleave(&pool, parts[0].stored(), parts[1].stored()).unwrap();
        let values = parts.each_ref().map(Tensor::values);
        let mut wanted = Vec::new();
        for tile in (0..outputs.next_multiple_of(16)).step_by(16) {
            for values in &values {
                for o in tile..tile + 16 {
                    wanted.extend((0..256).map(|k| if o < outputs { values[o * 256 + k] } else { 0.0 }));
                }
            }
        }
        let what = format!("{first} and {second} in turn");
        assert_rows(&matrix, &wanted, &what);
        check_matrix(&mut rng, &matrix, &wanted, &what);
    }
}

/// `read_row` against the values of the rows, which float32 may round once.
#[track_caller]
fn assert_rows(matrix: &Matrix, values: &[f64], what: &str) {
    let mut row = vec![f32::NAN; matrix.inputs];
    for (o, wanted) in values.chunks_exact(matrix.inputs).enumerate() {
        matrix.read_row(o, &mut row);
        for (k, (&got, &wanted)) in row.iter().zip(wanted).enumerate() {
            assert_eq!(got, wanted as f32, "{what}: weight {k} of row {o}");
        }
    }
}

#[test]
fn rows_and_whole_tensors_read_back_as_the_weights_they_hold() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(8));
    for dtype in DTYPES {
        for _ in 0..4 {
            let (outputs, inputs) = (rng.between(1, 50), random_inputs(&mut rng, dtype));
            let tensor = Tensor::random(&mut rng, dtype, outputs, inputs, 0.1);
            let values = tensor.values();
            let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
            assert_rows(&matrix, &values, dtype);
            let wanted: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            assert_eq!(read_f32(&tensor.stored()).unwrap(), wanted, "{dtype}");
        }
    }
}

const QUANTIZATIONS: [Quantization; 2] = [Quantization::Int8, Quantization::Int4];

#[test]
fn floats_rounded_as_they_are_packed_are_those_that_rounding_alone_gives() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(12));
    for dtype in &DTYPES[..3] {
        for quantization in QUANTIZATIONS {
            for _ in 0..4 {
                let (outputs, inputs) = (rng.between(1, 50), rng.between(1, 150));
                let tensor = Tensor::random(&mut rng, dtype, outputs, inputs, 0.1);
                let stored = Stored { quantization: Some(quantization), ..tensor.stored() };
                let matrix = Matrix::stack(&pool, &[stored]).unwrap();
                let scheme = quantization.scheme();
                assert_eq!(matrix.format, penstock_cpu::format::Format::Quantized(scheme));
                let mut rounded = Vec::new();
                for row in tensor.values().chunks_exact(inputs) {
                    let row: Vec<f32> = row.iter().map(|&w| w as f32).collect();
                    let (mut q, mut scale, mut offset) = ([0; 160], [0.0; 5], [0.0; 5]);
                    assert!(quantization.round(&row, &mut q, &mut scale, &mut offset));
                    rounded.extend((0..inputs).map(|k| {
                        let [scale, offset] = [scale[k / 32], offset[k / 32]].map(f64::from);
                        scale * (f64::from(q[k]) - f64::from(scheme.zero.unwrap_or(0))) + offset
                    }));
                }
                let what = format!("{dtype} as {quantization:?}");
                assert_rows(&matrix, &rounded, &what);
                check_matrix(&mut rng, &matrix, &rounded, &what);
            }
        }
    }
}

#[test]
fn tensors_that_cannot_be_rounded_are_refused_by_name() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(13));
    for dtype in &DTYPES[..3] {
        for quantization in QUANTIZATIONS {
            let [good, mut bad] = ["good", "bad"].map(|name| {
                let tensor = Tensor::random(&mut rng, dtype, 33, 70, 0.1);
                Tensor { name: name.into(), ..tensor }
            });
            let at = rng.below(33 * 70) * block(dtype).1;
            bad.bytes[at..at + block(dtype).1].fill(0xFF); // a NaN in each of the types
            let [good, bad] = [&good, &bad].map(|t| Stored { quantization: Some(quantization), ..t.stored() });
            for refused in
                [Matrix::stack(&pool, &[bad]), Matrix::stack(&pool, &[good, bad]), Matrix::interleave(&pool, bad, good)]
            {
                let Err(Error::Model(text)) = refused.map(|_| ()) else { panic!("{dtype} as {quantization:?}") };
                assert!(text.starts_with("bad has") && text.contains("NaN"), "{text}");
            }
        }
    }
    for dtype in &DTYPES[3..] {
        let tensor = Tensor::random(&mut rng, dtype, 1, 256, 0.1);
        let stored = Stored { quantization: Some(Quantization::Int8), ..tensor.stored() };
        for packing in [Packing::Planned, Packing::Fresh(&pool)] {
            let Err(Error::Config(text)) = Matrix::stack(packing, &[stored]).map(|_| ()) else { panic!("{dtype}") };
            assert!(text.contains(&tensor.name) && text.contains(dtype) && text.contains("--quantization"), "{text}");
        }
    }
}

#[test]
fn tiles_begin_at_cache_lines_and_lie_within_what_was_reserved() {
    let (pool, mut rng) = (Pool::new(1), Rng::new(10));
    for dtype in DTYPES {
        for blocks in 1..4 {
            let tensor = Tensor::random(&mut rng, dtype, 33, blocks * block(dtype).0, 0.1);
            let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
            assert_eq!(matrix.nbytes(), 3 * matrix.tile_bytes(), "{dtype} of {blocks} blocks");
            assert!((0..3).all(|tile| matrix.tile(tile).addr().is_multiple_of(64)), "{dtype} of {blocks} blocks");
        }
    }
}

#[test]
fn nan_and_infinity_reach_every_output_of_their_row_and_no_other_row() {
    let (pool, mut rng) = (Pool::new(1), Rng::new(9));
    for dtype in DTYPES {
        let inputs = if block(dtype).0 == 256 { 256 } else { 96 };
        let tensor = Tensor::random(&mut rng, dtype, 20, inputs, 0.1);
        let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
        let clean = rng.normals(20 * inputs);
        for (precision, paths) in precisions() {
            for path in paths {
                let wanted = multiply(path, &matrix, activations(path, &clean, inputs).view(), precision, 20);
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let (row, mut x) = (rng.below(20), clean.clone());
                    x[row * inputs + rng.below(inputs)] = bad;
                    let y = multiply(path, &matrix, activations(path, &x, inputs).view(), precision, 20);
                    for r in 0..20 {
                        let (got, wanted) = (&y[r * 20..][..20], &wanted[r * 20..][..20]);
                        if r == row {
                            assert!(got.iter().all(|y| !y.is_finite()), "{dtype} {precision:?} on {path}: {got:?}");
                        } else {
                            assert_same(got, wanted, &format!("{dtype} {precision:?} on {path}"));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tensors_that_cannot_be_packed_are_refused_by_name() {
    let pool = Pool::new(1);
    let good = [0; 2 * 144];
    let stored = |dtype, outputs, inputs, bytes| {
        let (name, quantization) = ("layers.3.o.weight", None);
        Stored { name, dtype, outputs, inputs, bytes, quantization }
    };
    let cases = [
        (stored("Q4_K", 2, 256, &good[..287]), "287"),
        (stored("Q4_K", 1, 256, &good[..]), "288"),
        (stored("Q4_K", 2, 128, &good[..]), "256"),
        (stored("Q4_0", 1, 33, &good[..18]), "33"),
        (stored("F32", 2, 3, &good[..20]), "20"),
        (stored("BF16", 1, 3, &good[..7]), "7"),
        (stored("IQ4_XS", 1, 256, &good[..136]), "IQ4_XS"),
        (stored("I8", 1, 4, &good[..4]), "I8"),
    ];
    for (stored, detail) in cases {
        for result in [Matrix::stack(&pool, &[stored]).map(|_| ()), read_f32(&stored).map(|_| ())] {
            let Err(Error::Model(text)) = result else { panic!("{detail}: {result:?}") };
            assert!(text.contains("layers.3.o.weight") && text.contains(detail), "{text}");
        }
    }
    let other = Stored { name: "layers.3.q.weight", ..stored("Q4_K", 1, 256, &good[..144]) };
    let mixed = [other, stored("F32", 1, 8, &good[..32])];
    let Err(Error::Model(text)) = Matrix::stack(&pool, &mixed).map(|_| ()) else { panic!() };
    assert!(text.contains("layers.3.o.weight"), "{text}");
}
