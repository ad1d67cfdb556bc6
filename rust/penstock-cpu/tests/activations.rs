//! Rounding to int8 and RMSNorm, against float64 and across paths.

mod support;

use penstock_cpu::activations::{Activations, Form, Group, norm_row, round_groups};
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use support::{Rng, activations, assert_same, paths};

fn groups(all: &mut Activations, rows: usize) -> Vec<Group> {
    let view = all.view();
    // SAFETY: the view has a group for each four rows and 32 numbers.
    unsafe { std::slice::from_raw_parts(view.groups, rows.div_ceil(4) * view.width / 32) }.to_vec()
}

fn assert_same_groups(got: &[Group], wanted: &[Group], what: &str) {
    assert_eq!(got.len(), wanted.len());
    for (a, b) in got.iter().zip(wanted) {
        assert_eq!(a.q, b.q, "{what}");
        assert_eq!(a.has_rest, b.has_rest, "{what}");
        assert_same(&a.scale, &b.scale, what);
        assert_same(&a.sum, &b.sum, what);
        assert_same(&a.scaled_sum, &b.scaled_sum, what);
        assert_same(a.half_sum.as_flattened(), b.half_sum.as_flattened(), what);
        assert_same(a.scaled_half_sum.as_flattened(), b.scaled_half_sum.as_flattened(), what);
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest_step_and_sums_are_those_of_the_steps() {
    let mut rng = Rng::new(1);
    for _ in 0..200 {
        let (rows, inputs) = (rng.between(1, 9), rng.between(1, 200));
        let magnitude = 10f32.powi(rng.between(0, 60) as i32 - 30);
        let x: Vec<f32> = rng.normals(rows * inputs).into_iter().map(|x| x * magnitude).collect();
        let mut all = activations(Path::best(), &x, inputs);
        let groups = groups(&mut all, rows);
        let per_row = inputs.div_ceil(32);
        for r in 0..rows {
            for g in 0..per_row {
                let (group, i) = (&groups[r / 4 * per_row + g], r % 4);
                let (q, scale) = (group.q[i], group.scale[i]);
                let own = &x[r * inputs..][32 * g..inputs.min(32 * g + 32)];
                let greatest = own.iter().fold(0f32, |a, x| a.max(x.abs()));
                assert_eq!(scale, greatest / 127.0);
                for (k, &q) in q.iter().enumerate() {
                    let x = own.get(k).copied().unwrap_or(0.0);
                    let error = (f64::from(x) - f64::from(q) * f64::from(scale)).abs();
                    assert!(error <= 0.500_02 * f64::from(scale), "{x} as {q} steps of {scale}");
                }
                let halves = half_sums(&q);
                assert_eq!((group.sum[i], group.half_sum[i]), (halves[0] + halves[1], halves));
                if !group.has_rest[i] {
                    assert_eq!(group.scaled_half_sum[i], halves.map(|half| scale * half));
                }
                assert_eq!(group.scaled_sum[i], group.scaled_half_sum[i][0] + group.scaled_half_sum[i][1]);
            }
        }
    }
}

fn half_sums(q: &[i8; 32]) -> [f32; 2] {
    [&q[..16], &q[16..]].map(|half| half.iter().map(|&q| f32::from(q)).sum())
}

#[test]
fn groups_with_an_outlier_and_no_others_keep_what_rounding_left() {
    let mut rng = Rng::new(5);
    for turn in 0..400 {
        let magnitude = 10f32.powi(rng.between(0, 24) as i32 - 12);
        let mut x: Vec<f32> = (0..32).map(|_| rng.normal().clamp(-3.0, 3.0) * magnitude).collect();
        let outlier = turn % 2 == 0;
        if outlier {
            x[rng.below(32)] = 60.0 * magnitude;
        }
        for path in paths() {
            let mut all = activations(path, &x, 32);
            let view = all.view();
            // SAFETY: there is one group.
            let (group, rest) = unsafe { (*view.groups, *view.rests) };
            assert_eq!(group.has_rest[0], outlier, "{x:?} on {path}");
            if !outlier {
                continue;
            }
            let (scale, step) = (f64::from(group.scale[0]), f64::from(rest.scale[0]));
            for (k, &x) in x.iter().enumerate() {
                let kept = f64::from(group.q[0][k]) * scale + f64::from(rest.q[0][k]) * step;
                assert!((f64::from(x) - kept).abs() <= 0.51 * step, "{x} kept as {kept}");
            }
            assert_eq!(rest.half_sum[0], half_sums(&rest.q[0]));
            let halves = half_sums(&group.q[0]);
            for (i, half) in halves.into_iter().enumerate() {
                let scaled = group.scale[0] * half + rest.scale[0] * rest.half_sum[0][i];
                assert_eq!(group.scaled_half_sum[0][i], scaled);
            }
        }
    }
}

#[test]
fn rows_rounded_side_by_side_each_keep_what_is_theirs() {
    let pool = Pool::new(4);
    for turn in 0..20_000 {
        let mut x = vec![0.1; 4 * 32];
        let outliers: [bool; 4] = std::array::from_fn(|row| (turn >> row) & 1 == 0);
        (0..4).for_each(|row| x[row * 32] = if outliers[row] { 9.0 } else { 0.2 });
        let mut all = Activations::default();
        all.resize(4, 32);
        let view = all.view();
        // SAFETY: the view has room for four rows of 32 numbers, and each task rounds its own.
        unsafe {
            view.wide.copy_from_nonoverlapping(x.as_ptr(), x.len());
            pool.run(4, &|row, _| round_groups(Path::best(), view, row, 0, 1, Form::Int8));
            assert_eq!((*view.groups).has_rest, outliers);
        }
    }
}

#[test]
fn all_paths_round_any_floats_alike() {
    let mut rng = Rng::new(2);
    for turn in 0..500 {
        let (rows, inputs) = (rng.between(1, 9), rng.between(1, 100));
        let x: Vec<f32> = (0..rows * inputs)
            .map(|_| match turn % 4 {
                0 => rng.any_f32(),
                1 => rng.normal() * 1e-38,
                2 => rng.between(0, 254) as f32 - 127.0, // ties
                _ => rng.normal(),
            })
            .collect();
        let wanted = groups(&mut activations(Path::Scalar, &x, inputs), rows);
        for path in paths() {
            assert_same_groups(&groups(&mut activations(path, &x, inputs), rows), &wanted, path.name());
        }
    }
}

#[test]
fn all_paths_round_any_floats_to_the_nearest_bfloat16_and_ties_to_even() {
    let mut rng = Rng::new(6);
    for _ in 0..500 {
        let (rows, inputs) = (rng.between(1, 5), rng.between(1, 100));
        let x: Vec<f32> = (0..rows * inputs)
            .map(|_| match rng.below(3) {
                0 => f32::from_bits((rng.bits() as u32 & !0xFFFF) | 0x8000), // ties
                _ => rng.any_f32(),
            })
            .collect();
        for path in paths() {
            let mut all = activations(path, &x, inputs);
            let view = all.view();
            for (i, &x) in x.iter().enumerate() {
                // SAFETY: the view has these rows.
                let got = unsafe { *view.narrow.add(i / inputs * view.width + i % inputs) };
                assert!(is_nearest(got, x), "{x:e} became {got:x} on {path}");
            }
        }
    }
}

/// Whether neither neighbour is nearer, nor as near and even; beyond the greatest bfloat16, infinity is its neighbour.
fn is_nearest(bits: u16, x: f32) -> bool {
    let value = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
    if !x.is_finite() {
        return value(bits).is_nan() && x.is_nan() || value(bits) == f64::from(x);
    }
    let magnitude = |bits: u16| match bits & 0x7FFF {
        0x7F80 => 2f64.powi(128),
        bits => value(bits),
    };
    let x = (f64::from(x.abs()), x.is_sign_negative());
    let distance = |bits: u16| (magnitude(bits) - x.0).abs();
    let no_worse =
        |other: u16| distance(bits) < distance(other) || distance(bits) == distance(other) && bits.is_multiple_of(2);
    let (is_zero, is_infinite) = (bits & 0x7FFF == 0, bits & 0x7FFF == 0x7F80);
    (bits >> 15 == 1) == x.1 && (is_infinite || no_worse(bits + 1)) && (is_zero || no_worse(bits - 1))
}

#[test]
fn zeros_and_numbers_too_small_to_divide_by_become_zero() {
    for path in paths() {
        for x in [0.0, -0.0, 1e-45, -3e-38] {
            let group = groups(&mut activations(path, &[x; 32], 32), 1)[0];
            assert_eq!((group.q[0], group.scale[0], group.sum[0]), ([0; 32], 0.0, 0.0), "{path} {x:e}");
        }
    }
}

#[test]
fn a_nan_or_an_infinity_makes_its_own_groups_scale_nan() {
    let mut rng = Rng::new(3);
    for path in paths() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 32..64 {
                let mut x = rng.normals(96);
                x[at] = bad;
                let groups = groups(&mut activations(path, &x, 96), 1);
                assert!(groups[1].scale[0].is_nan() && groups[1].scaled_sum[0].is_nan());
                assert!(groups[1].scaled_half_sum[0].iter().all(|half| half.is_nan()));
                assert!(groups[0].scale[0].is_finite() && groups[2].scale[0].is_finite());
            }
        }
    }
}

#[test]
fn the_greatest_finite_numbers_are_rounded_like_others() {
    for path in paths() {
        let mut x = [f32::MAX; 32];
        x[7] = f32::MIN;
        let group = groups(&mut activations(path, &x, 32), 1)[0];
        assert!(group.scale[0].is_finite());
        assert_eq!((group.q[0][0], group.q[0][7]), (127, -127), "{path}");
    }
}

#[test]
fn rms_norm_is_that_of_float64_and_the_same_on_all_paths() {
    let mut rng = Rng::new(4);
    for _ in 0..200 {
        let (size, row, eps) = (rng.between(1, 300), rng.below(6), 1e-5f32);
        let (x, weight) = (rng.normals(size), rng.normals(size));
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / size as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        let mut first: Option<(Vec<f32>, Vec<Group>)> = None;
        for path in paths() {
            let mut all = Activations::default();
            all.resize(6, size);
            let view = all.view();
            // What an earlier, longer row left in the padding.
            unsafe { std::slice::from_raw_parts_mut(view.wide, 6 * view.width) }.fill(f32::NAN);
            // SAFETY: the path is this processor's, and the view has six rows.
            unsafe { norm_row(path, x.as_ptr(), weight.as_ptr(), size, eps, view, row, Form::Int8) };
            let out = unsafe { std::slice::from_raw_parts(view.wide.add(row * view.width), view.width) }.to_vec();
            for i in 0..view.width {
                let wanted = if i < size { f64::from(x[i]) * scale * f64::from(weight[i]) } else { 0.0 };
                assert!((f64::from(out[i]) - wanted).abs() <= 1e-6 * wanted.abs(), "{path}: {} {wanted}", out[i]);
            }
            let rounded = groups(&mut all, 6);
            if let Some((wanted, groups)) = &first {
                assert_same(&out, wanted, path.name());
                assert_same_groups(&rounded, groups, path.name());
            } else {
                first = Some((out, rounded));
            }
        }
    }
}
