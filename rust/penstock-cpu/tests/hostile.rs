//! Any bytes in a file's blocks are weights, however odd: packed, read and multiplied alike on all paths; and a tensor
//! whose sizes lie is refused. `make test-memory` watches every access that this makes.

mod support;

use penstock_cpu::Error;
use penstock_cpu::gemm::Part;
use penstock_cpu::ggml::BlockType;
use penstock_cpu::matrix::Matrix;
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use penstock_cpu::stored::{Stored, read_f32};
use support::{
    DTYPES, PRECISIONS, Rng, Tensor, activations, assert_same, block, multiply, multiply_part, paths, random_inputs,
    values,
};

/// Half floats at the edges: infinities, NaNs, the greatest, the least, zeros.
const HALVES: [u16; 11] = [0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x0000, 0x8000];

/// Bytes for `count` blocks of a type, in the ways in which they are likely to do harm.
fn hostile(rng: &mut Rng, dtype: &str, count: usize) -> Vec<u8> {
    let (_, size, halves) = block(dtype);
    let mut bytes = match rng.below(5) {
        0 => vec![0x00; count * size],
        1 => vec![0xFF; count * size],
        2 => vec![rng.bits() as u8; count * size],
        _ => rng.bytes(count * size),
    };
    let put = rng.below(3); // no scales, some, all
    for block in bytes.chunks_exact_mut(size) {
        for &at in if block.len() <= 4 { &[0][..] } else { halves } {
            if put == 2 || put == 1 && rng.below(4) == 0 {
                block[at..at + 2].copy_from_slice(&rng.pick(&HALVES).to_le_bytes());
            }
        }
    }
    bytes
}

fn hostile_tensor(rng: &mut Rng, dtype: &'static str, outputs: usize, inputs: usize) -> Tensor {
    let bytes = hostile(rng, dtype, outputs * inputs / block(dtype).0);
    Tensor { name: format!("a.{dtype}.weight"), dtype, outputs, inputs, bytes }
}

fn rows(matrix: &Matrix) -> Vec<f32> {
    let mut row = vec![7.0; matrix.inputs];
    (0..matrix.outputs)
        .flat_map(|output| {
            matrix.read_row(output, &mut row);
            row.clone()
        })
        .collect()
}

/// The product with activations of any floats, on all paths and in any part.
fn check_products(rng: &mut Rng, matrix: &Matrix, what: &str) {
    let (inputs, count) = (matrix.inputs, rng.between(1, 14));
    let any = rng.below(2) == 0;
    let x: Vec<f32> = (0..count * inputs).map(|_| if any { rng.any_f32() } else { rng.normal() }).collect();
    for precision in PRECISIONS {
        let wanted = multiply(Path::Scalar, matrix, activations(Path::Scalar, &x, inputs).view(), precision, count);
        let first_tile = rng.below(matrix.tiles());
        let tiles = rng.between(1, matrix.tiles() - first_tile);
        let first_row = 4 * rng.below(count.div_ceil(4));
        let part = Part { first_tile, tiles, first_row, rows: rng.between(1, count - first_row), together: 16 };
        for path in paths() {
            let what = format!("{what}, {count} rows, {precision:?} on {path}");
            let mut own = activations(path, &x, inputs);
            assert_same(&multiply(path, matrix, own.view(), precision, count), &wanted, &what);
            let got = multiply_part(path, matrix, own.view(), precision, part);
            for (r, got) in got.chunks_exact(16 * tiles).enumerate() {
                let last = matrix.outputs.min(16 * (first_tile + tiles));
                let wanted = &wanted[(first_row + r) * matrix.outputs..][16 * first_tile..last];
                assert_same(&got[..wanted.len()], wanted, &what);
            }
        }
    }
}

#[test]
fn blocks_of_any_bytes_write_their_own_numbers_and_nothing_behind_them() {
    let mut rng = Rng::new(1);
    for name in &DTYPES[3..] {
        let kind = BlockType::from_name(name).unwrap();
        let (len, groups) = (kind.block_len(), kind.block_len() / kind.scheme().group);
        for _ in 0..100 {
            let bytes = hostile(&mut rng, name, 1);
            let (mut q, mut scale, mut offset) = ([0xAA; 300], [7.0; 20], [0.0; 20]);
            kind.take_apart(&bytes, &mut q, &mut scale, &mut offset);
            assert!(q[..len].iter().all(|&q| u32::from(q) < 1 << kind.scheme().bits), "{name}");
            assert!(q[len..].iter().all(|&q| q == 0xAA) && scale[groups..].iter().all(|&s| s == 7.0), "{name}");
        }
    }
}

#[test]
fn matrices_of_any_bytes_hold_what_the_format_defines_and_multiply_alike_on_all_paths() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(2));
    for dtype in DTYPES {
        for _ in 0..12 {
            let (outputs, inputs) = (rng.between(1, 40), random_inputs(&mut rng, dtype));
            let tensor = hostile_tensor(&mut rng, dtype, outputs, inputs);
            let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
            let what = format!("{dtype}, {outputs} x {inputs}");
            let wanted: Vec<f32> = values(dtype, &tensor.bytes).into_iter().map(|w| w as f32).collect();
            assert_same_numbers(&rows(&matrix), &wanted, &what);
            assert_same_numbers(&read_f32(&tensor.stored()).unwrap(), &wanted, &what);
            check_products(&mut rng, &matrix, &what);
        }
    }
}

/// As `assert_same`, but a zero may have any sign: an offset of zero makes -0 positive.
#[track_caller]
fn assert_same_numbers(got: &[f32], wanted: &[f32], what: &str) {
    let unsigned = |all: &[f32]| all.iter().map(|x| x + 0.0).collect::<Vec<f32>>();
    assert_same(&unsigned(got), &unsigned(wanted), what);
}

#[test]
fn any_bytes_of_any_two_types_share_a_matrix() {
    let (pool, mut rng) = (Pool::new(2), Rng::new(3));
    for first in DTYPES {
        for second in DTYPES {
            let outputs = rng.between(1, 20);
            let parts = [first, second].map(|dtype| hostile_tensor(&mut rng, dtype, outputs, 256));
            let what = format!("{first} with {second}");
            let stacked = Matrix::stack(&pool, &[parts[0].stored(), parts[1].stored()]).unwrap();
            let wanted: Vec<f32> = parts.iter().flat_map(Tensor::values).map(|w| w as f32).collect();
            for (got, wanted) in rows(&stacked).into_iter().zip(wanted) {
                // The types' ways to write a weight down differ in which kind of not finite it becomes.
                assert!(got == wanted || !got.is_finite() && !wanted.is_finite(), "{what}: {got:e}, not {wanted:e}");
            }
            let in_turn = Matrix::interleave(&pool, parts[0].stored(), parts[1].stored()).unwrap();
            let either = if rng.below(2) == 0 { &stacked } else { &in_turn };
            check_products(&mut rng, either, &what);
        }
    }
}

#[test]
fn a_tensor_of_other_sizes_than_its_bytes_is_refused() {
    let (pool, mut rng) = (Pool::new(1), Rng::new(4));
    for dtype in DTYPES {
        let good = hostile_tensor(&mut rng, dtype, 3, 256);
        let other = hostile_tensor(&mut rng, "F32", 3, 256);
        let refuse = |stored: Stored<'_>, what: &str| {
            for result in [
                Matrix::stack(&pool, &[stored]).map(|_| ()),
                Matrix::stack(&pool, &[other.stored(), stored]).map(|_| ()),
                Matrix::interleave(&pool, stored, other.stored()).map(|_| ()),
                read_f32(&stored).map(|_| ()),
            ] {
                let Err(Error::Model(text)) = result else { panic!("{dtype} with {what} was taken") };
                assert!(text.contains("a."), "{text}");
            }
        };
        let (stored, all) = (good.stored(), good.bytes.len());
        for length in [0, 1, all / 3, all / 2, all - 1] {
            refuse(Stored { bytes: &good.bytes[..length], ..stored }, &format!("{length} bytes"));
        }
        let longer = [&good.bytes[..], &[0]].concat();
        refuse(Stored { bytes: &longer, ..stored }, "a byte more");
        for (outputs, inputs) in [
            (2, 256),
            (4, 256),
            (0, 256),
            (3, 0),
            (0, 0),
            (3, 512),
            (usize::MAX, 256),
            (3, usize::MAX - 255),
            (usize::MAX / 256 + 1, 256), // products of these wrap around
            (usize::MAX, usize::MAX),
        ] {
            refuse(Stored { outputs, inputs, ..stored }, &format!("{outputs} x {inputs}"));
        }
        for (outputs, inputs) in [(0, 256), (3, 0), (usize::MAX / 4 + 1, 256)] {
            refuse(Stored { outputs, inputs, bytes: &[], ..stored }, &format!("{outputs} x {inputs} of no bytes"));
        }
    }
}
