//! Every operation of every path against the scalar path, and the exponential against float64.

mod support;

use penstock_cpu::dispatch;
use penstock_cpu::half::{bf16_to_f32, f16_to_f32};
use penstock_cpu::simd::{LANES, Path, Simd};
use support::{Rng, assert_same, half, paths};

const FLOAT_OPS: [&str; 10] = ["add", "sub", "mul", "div", "fma", "max", "min", "abs", "round", "exp"];

#[inline(always)]
unsafe fn float_op<S: Simd>(op: usize, a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES], to: &mut [f32; LANES]) {
    let (a, b, c) = (S::load(a.as_ptr()), S::load(b.as_ptr()), S::load(c.as_ptr()));
    let result = match FLOAT_OPS[op] {
        "add" => S::add(a, b),
        "sub" => S::sub(a, b),
        "mul" => S::mul(a, b),
        "div" => S::div(a, b),
        "fma" => S::fma(a, b, c),
        "max" => S::max(a, b),
        "min" => S::min(a, b),
        "abs" => S::abs(a),
        "round" => S::round(a),
        _ => S::exp(a),
    };
    S::store(to.as_mut_ptr(), result);
}
dispatch!(fn run_float = float_op; (
    op: usize, a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES], to: &mut [f32; LANES]
));

#[inline(always)]
unsafe fn across<S: Simd>(a: &[f32; LANES]) -> (f32, f32) {
    let a = S::load(a.as_ptr());
    (S::sum(a), S::greatest(a))
}
dispatch!(fn run_across = across; (a: &[f32; LANES]) -> (f32, f32));

#[inline(always)]
unsafe fn exp2<S: Simd>(a: &[f32; LANES], to: &mut [f32; LANES]) {
    S::store(to.as_mut_ptr(), S::exp2_integral(S::load(a.as_ptr())));
}
dispatch!(fn run_exp2 = exp2; (a: &[f32; LANES], to: &mut [f32; LANES]));

#[inline(always)]
unsafe fn splat<S: Simd>(a: f32, to: &mut [f32; LANES]) {
    S::store(to.as_mut_ptr(), S::splat(a));
}
dispatch!(fn run_splat = splat; (a: f32, to: &mut [f32; LANES]));

#[inline(always)]
unsafe fn widen<S: Simd>(from: &[u16; LANES], half: &mut [f32; LANES], brain: &mut [f32; LANES]) {
    S::store(half.as_mut_ptr(), S::load_f16(from.as_ptr()));
    S::store(brain.as_mut_ptr(), S::load_bf16(from.as_ptr()));
}
#[inline(always)]
unsafe fn widen_pairs<S: Simd>(from: &[u16; 2 * LANES], first: &mut [f32; LANES], second: &mut [f32; LANES]) {
    let (a, b) = S::load_bf16_pairs(from.as_ptr());
    S::store(first.as_mut_ptr(), a);
    S::store(second.as_mut_ptr(), b);
}
dispatch!(fn run_widen_pairs = widen_pairs; (
    from: &[u16; 2 * LANES], first: &mut [f32; LANES], second: &mut [f32; LANES]
));
dispatch!(fn run_widen = widen; (from: &[u16; LANES], half: &mut [f32; LANES], brain: &mut [f32; LANES]));

#[inline(always)]
unsafe fn narrow<S: Simd>(from: &[f32; LANES], to: &mut [u16; LANES]) {
    S::store_f16(to.as_mut_ptr(), S::load(from.as_ptr()));
}
dispatch!(fn run_narrow = narrow; (from: &[f32; LANES], to: &mut [u16; LANES]));

#[inline(always)]
unsafe fn to_i8<S: Simd>(from: &[f32; LANES], to: &mut [i8; LANES]) {
    S::store_i8(to.as_mut_ptr(), S::load(from.as_ptr()));
}
dispatch!(fn run_to_i8 = to_i8; (from: &[f32; LANES], to: &mut [i8; LANES]));

/// Bytes, their low halves and their high halves, each as four vectors of float32.
#[inline(always)]
unsafe fn bytes<S: Simd>(from: &[u8; 64], to: &mut [[f32; LANES]; 12]) {
    let all = S::load_bytes(from.as_ptr());
    for (i, x) in [all, S::low_nibbles(all), S::high_nibbles(all)].into_iter().enumerate() {
        S::store(to[4 * i].as_mut_ptr(), S::byte::<0>(x));
        S::store(to[4 * i + 1].as_mut_ptr(), S::byte::<1>(x));
        S::store(to[4 * i + 2].as_mut_ptr(), S::byte::<2>(x));
        S::store(to[4 * i + 3].as_mut_ptr(), S::byte::<3>(x));
    }
}
dispatch!(fn run_bytes = bytes; (from: &[u8; 64], to: &mut [[f32; LANES]; 12]));

#[inline(always)]
unsafe fn dots<S: Simd>(bytes: &[u8], x: &[i8], to: &mut [f32; LANES]) {
    let mut acc = S::zero_i();
    for (bytes, x) in bytes.chunks_exact(64).zip(x.chunks_exact(4)) {
        acc = S::dot(acc, S::load_bytes(bytes.as_ptr()), x.as_ptr());
    }
    S::store(to.as_mut_ptr(), S::to_f32(acc));
}
dispatch!(fn run_dots = dots; (bytes: &[u8], x: &[i8], to: &mut [f32; LANES]));

fn exp(path: Path, x: &[f32]) -> Vec<f32> {
    let mut results = Vec::with_capacity(x.len());
    for x in x.chunks_exact(LANES) {
        let (zero, mut y) = ([0.0; LANES], [0.0; LANES]);
        // SAFETY: the path is one of this processor's.
        unsafe { run_float(path, FLOAT_OPS.len() - 1, x.try_into().unwrap(), &zero, &zero, &mut y) };
        results.extend(y);
    }
    results
}

/// `scripts/test-arm` says which paths its processors have, so that none goes untested unseen.
#[test]
fn the_paths_under_test_are_those_that_the_environment_names() {
    if let Ok(wanted) = std::env::var("PENSTOCK_TEST_PATHS") {
        let found: Vec<&str> = paths().into_iter().map(Path::name).collect();
        assert_eq!(found.join(","), wanted);
    }
}

#[test]
fn float_operations_give_the_scalar_bits_for_any_float() {
    let mut rng = Rng::new(1);
    for _ in 0..20_000 {
        let [a, b, c]: [[f32; LANES]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| rng.any_f32()));
        for (op, name) in FLOAT_OPS.iter().enumerate() {
            let mut wanted = [0.0; LANES];
            // SAFETY: every processor has the scalar path, and the others are this one's.
            unsafe { run_float(Path::Scalar, op, &a, &b, &c, &mut wanted) };
            for path in paths() {
                let mut got = [0.0; LANES];
                unsafe { run_float(path, op, &a, &b, &c, &mut got) };
                assert_same(&got, &wanted, &format!("{name} on {path} of {a:?}, {b:?}, {c:?}"));
            }
        }
    }
}

#[test]
fn max_and_min_give_the_second_operand_if_either_is_nan() {
    let (number, nan) = ([3.0; LANES], [f32::NAN; LANES]);
    for path in paths() {
        for op in [5, 6] {
            let mut got = [0.0; LANES];
            // SAFETY: the path is one of this processor's.
            unsafe { run_float(path, op, &nan, &number, &number, &mut got) };
            assert_eq!(got, number, "{path}");
            unsafe { run_float(path, op, &number, &nan, &number, &mut got) };
            assert!(got.iter().all(|x| x.is_nan()), "{path}");
        }
    }
}

#[test]
fn sums_and_greatest_lanes_are_the_scalar_paths() {
    let mut rng = Rng::new(2);
    for _ in 0..20_000 {
        let a: [f32; LANES] = std::array::from_fn(|_| rng.any_f32());
        // SAFETY: the paths are this processor's.
        let (sum, greatest) = unsafe { run_across(Path::Scalar, &a) };
        let wanted = a.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(greatest, wanted, "{a:?}");
        for path in paths() {
            let got = unsafe { run_across(path, &a) };
            assert_same(&[got.0], &[sum], &format!("sum on {path} of {a:?}"));
            assert_eq!(got.1, greatest, "{path}");
        }
    }
}

#[test]
fn powers_of_two_and_splats_are_exact() {
    for path in paths() {
        for first in (-126..=127 - 15).chain([127 - 15]) {
            let a: [f32; LANES] = std::array::from_fn(|i| (first + i as i32) as f32);
            let mut got = [0.0; LANES];
            // SAFETY: the path is one of this processor's.
            unsafe { run_exp2(path, &a, &mut got) };
            assert_same(&got, &a.map(|a| 2f64.powi(a as i32) as f32), path.name());
        }
        let mut got = [0.0; LANES];
        unsafe { run_splat(path, -1e-45, &mut got) };
        assert_same(&got, &[-1e-45; LANES], path.name());
    }
}

#[test]
fn every_half_float_and_every_bfloat16_widens_to_its_value() {
    for first in (0..=u16::MAX).step_by(LANES) {
        let from: [u16; LANES] = std::array::from_fn(|i| first + i as u16);
        for path in paths() {
            let (mut wide, mut brain) = ([0.0; LANES], [0.0; LANES]);
            // SAFETY: the path is one of this processor's.
            unsafe { run_widen(path, &from, &mut wide, &mut brain) };
            for i in 0..LANES {
                // Bit for bit, NaNs as well.
                assert_eq!(wide[i].to_bits(), f16_to_f32(from[i]).to_bits(), "{path} {:x}", from[i]);
                assert_eq!(brain[i].to_bits(), bf16_to_f32(from[i]).to_bits(), "{path} {:x}", from[i]);
                let [low, high] = from[i].to_le_bytes();
                let value = half(low, high);
                assert!(f64::from(wide[i]) == value || wide[i].is_nan() && value.is_nan(), "{:x}", from[i]);
            }
        }
    }
}

#[test]
fn pairs_of_bfloat16_come_apart() {
    for start in (0..=u16::MAX).step_by(2 * LANES) {
        let from: [u16; 2 * LANES] = std::array::from_fn(|i| start + i as u16);
        for path in paths() {
            let (mut first, mut second) = ([0.0; LANES], [0.0; LANES]);
            // SAFETY: the path is one of this processor's.
            unsafe { run_widen_pairs(path, &from, &mut first, &mut second) };
            for i in 0..LANES {
                assert_eq!(first[i].to_bits(), bf16_to_f32(from[2 * i]).to_bits(), "{path} {:x}", from[2 * i]);
                assert_eq!(second[i].to_bits(), bf16_to_f32(from[2 * i + 1]).to_bits(), "{path}");
            }
        }
    }
}

#[test]
fn rounding_to_half_floats_gives_the_scalar_bits_for_any_float() {
    let mut rng = Rng::new(3);
    for turn in 0..40_000 {
        // All magnitudes, and those around the subnormal half floats.
        let from: [f32; LANES] = std::array::from_fn(|_| match turn % 3 {
            0 => rng.any_f32(),
            1 => rng.normal() * 1e-6,
            _ => rng.normal() * 30_000.0,
        });
        let mut wanted = [0; LANES];
        // SAFETY: the paths are this processor's.
        unsafe { run_narrow(Path::Scalar, &from, &mut wanted) };
        for path in paths() {
            let mut got = [0; LANES];
            unsafe { run_narrow(path, &from, &mut got) };
            assert_eq!(got, wanted, "{path} {from:?}");
        }
    }
}

#[test]
fn all_integers_of_eight_bits_are_stored_as_they_are() {
    for path in paths() {
        for first in -128..=127 - 15 {
            let from: [f32; LANES] = std::array::from_fn(|i| (first + i as i32) as f32);
            let mut got = [0; LANES];
            // SAFETY: the path is one of this processor's.
            unsafe { run_to_i8(path, &from, &mut got) };
            assert_eq!(got, from.map(|x| x as i8), "{path}");
        }
    }
}

#[test]
fn bytes_and_their_halves_come_out_in_order() {
    let mut rng = Rng::new(4);
    for _ in 0..500 {
        let from: [u8; 64] = rng.bytes(64).try_into().unwrap();
        for path in paths() {
            let mut got = [[0.0; LANES]; 12];
            // SAFETY: the path is one of this processor's.
            unsafe { run_bytes(path, &from, &mut got) };
            for (i, &byte) in from.iter().enumerate() {
                let column = [0, 4, 8].map(|at| got[at + i % 4][i / 4]);
                assert_eq!(column, [byte, byte & 15, byte >> 4].map(f32::from), "{path} byte {i}");
            }
        }
    }
}

#[test]
fn integer_dot_products_are_exact_and_never_saturate() {
    let mut rng = Rng::new(5);
    for turn in 0..500 {
        let steps = rng.between(1, 20);
        let (mut bytes, mut x): (Vec<u8>, Vec<i8>) =
            (rng.bytes(64 * steps), rng.bytes(4 * steps).into_iter().map(|b| b as i8).collect());
        if turn < 4 {
            bytes.fill(255);
            x.fill([-128, 127, -127, 1][turn]);
        }
        let wanted: [f32; LANES] = std::array::from_fn(|lane| {
            let products = (0..4 * steps).map(|k| i32::from(bytes[k / 4 * 64 + lane * 4 + k % 4]) * i32::from(x[k]));
            products.sum::<i32>() as f32
        });
        for path in paths() {
            let mut got = [0.0; LANES];
            // SAFETY: the path is one of this processor's.
            unsafe { run_dots(path, &bytes, &x, &mut got) };
            assert_same(&got, &wanted, path.name());
        }
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place_and_never_falls_by_more_than_one() {
    const POINTS: usize = 1 << 20;
    let x: Vec<f32> = (0..POINTS).map(|i| (-87.0 + 175.0 * i as f64 / (POINTS - 1) as f64) as f32).collect();
    let y_all = exp(Path::best(), &x);
    let mut worst = (0.0, 0.0);
    for (i, (&x, &y)) in x.iter().zip(&y_all).enumerate() {
        let wanted = f64::from(x).exp();
        let nearest = wanted as f32;
        let unit = f64::from(nearest.next_up()) - f64::from(nearest);
        let error = (f64::from(y) - wanted).abs() / unit;
        if error > worst.0 {
            worst = (error, x);
        }
        assert!(i == 0 || f64::from(y) >= f64::from(y_all[i - 1]) - unit, "exp falls at {x}");
    }
    assert!(worst.0 <= 2.0, "{} units at {}", worst.0, worst.1);
    for path in paths() {
        assert_same(&exp(path, &x[..1 << 16]), &y_all[..1 << 16], path.name());
    }
}

#[test]
fn exp_keeps_nan_and_the_ends_finite() {
    let mut x = [f32::NAN; LANES];
    x[1..6].copy_from_slice(&[f32::NEG_INFINITY, -1000.0, 0.0, -0.0, 88.0]);
    for path in paths() {
        let y = exp(path, &x);
        assert!(y[0].is_nan() && y[6..].iter().all(|y| y.is_nan()), "{path}");
        assert!(y[1] >= 0.0 && y[1] < 1.2e-38 && y[1] == y[2], "{path} {y:?}");
        assert_eq!(y[3..5], [1.0, 1.0], "{path}");
        assert!(y[5].is_finite());
    }
}
