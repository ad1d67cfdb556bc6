//! Rounding to int8 and int4 against what theory promises of it.

mod support;

use penstock_cpu::half::{f16_to_f32, f32_to_f16};
use penstock_cpu::quantize::Quantization;
use support::Rng;

/// The groups of a row once rounded: weights, their numbers, scale and offset.
struct Group {
    weights: Vec<f64>,
    q: Vec<u8>,
    scale: f64,
    offset: f64,
}

impl Group {
    fn square_error(&self, zero: f64) -> f64 {
        let value = |q: u8| self.scale * (f64::from(q) - zero) + self.offset;
        self.weights.iter().zip(&self.q).map(|(w, &q)| (w - value(q)).powi(2)).sum()
    }

    fn range(&self) -> (f64, f64) {
        let low = self.weights.iter().copied().fold(f64::INFINITY, f64::min);
        (low, self.weights.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }
}

fn round(quantization: Quantization, weights: &[f32]) -> Option<Vec<Group>> {
    let groups = weights.len().div_ceil(32);
    let mut q = vec![0xAA; 32 * groups];
    let (mut scale, mut offset) = (vec![0.0; groups], vec![0.0; groups]);
    quantization.round(weights, &mut q, &mut scale, &mut offset).then(|| {
        let parts = weights.chunks(32).zip(q.chunks(32)).zip(scale.iter().zip(&offset));
        parts
            .map(|((w, q), (&scale, &offset))| Group {
                weights: w.iter().copied().map(f64::from).collect(),
                q: q.to_vec(),
                scale: f64::from(scale),
                offset: f64::from(offset),
            })
            .collect()
    })
}

/// Rows of many kinds and lengths, most of them no multiple of a group.
fn rows(rng: &mut Rng) -> Vec<Vec<f32>> {
    (0..600)
        .map(|i| {
            let count = rng.between(1, 200);
            let size = 10f32.powi(rng.below(8) as i32 - 5);
            let shift = if i % 3 == 0 { rng.normal() * size * 10.0 } else { 0.0 };
            let mut row: Vec<f32> = match i % 5 {
                0 => vec![rng.normal() * size; count],
                1 => (0..count).map(|_| rng.uniform(-size, size)).collect(),
                2 => (0..count).map(|_| rng.normal() * rng.normal() * rng.normal() * size).collect(),
                _ => (0..count).map(|_| rng.normal() * size).collect(),
            };
            row.iter_mut().for_each(|w| *w += shift);
            if i % 7 == 0 {
                let at = rng.below(count);
                row[at] = 40.0 * size;
            }
            row
        })
        .collect()
}

/// Half floats err by 2^-11 of a number, or half the least subnormal.
fn half_error(x: f64) -> f64 {
    x.abs() * 2f64.powi(-11) + 2f64.powi(-25)
}

#[test]
fn int8_moves_no_weight_by_more_than_half_a_scale_that_is_the_greatest_weight_over_127() {
    for row in rows(&mut Rng::new(1)) {
        for group in round(Quantization::Int8, &row).unwrap() {
            let most = group.weights.iter().fold(0f64, |most, w| most.max(w.abs())) / 127.0;
            assert!(group.scale >= most * (1.0 - 1e-7) && group.scale <= most + 2.0 * half_error(most));
            for (w, &q) in group.weights.iter().zip(&group.q) {
                let value = group.scale * (f64::from(q) - 128.0);
                assert!((w - value).abs() <= group.scale * 0.50001, "{w} became {value}, scale {}", group.scale);
            }
        }
    }
}

#[test]
fn int4_is_never_worse_than_fifteen_steps_from_the_least_to_the_greatest_weight() {
    for row in rows(&mut Rng::new(2)) {
        for group in round(Quantization::Int4, &row).unwrap() {
            assert!(group.q.iter().all(|&q| q < 16));
            let (low, high) = group.range();
            let step = (high - low) / 15.0;
            // Both numbers are half floats, and the scale is taken up to fifteen times.
            let furthest = step / 2.0 + 15.0 * half_error(step) + half_error(low);
            let most = group.weights.len() as f64 * furthest.powi(2);
            assert!(group.square_error(0.0) <= most * 1.0001, "{} > {most}", group.square_error(0.0));

            let [scale, offset] = [step, low].map(|x| f64::from(f16_to_f32(f32_to_f16(x as f32))));
            let level = |w: f64| if scale > 0.0 { ((w - offset) / scale).round().clamp(0.0, 15.0) } else { 0.0 };
            let plain: f64 = group.weights.iter().map(|&w| (w - scale * level(w) - offset).powi(2)).sum();
            let magnitude = low.abs().max(high.abs());
            let (square, slack) = (group.square_error(0.0), (magnitude * 1e-6).powi(2) * 32.0);
            assert!(square <= plain * 1.001 + slack, "{square} > {plain}");
        }
    }
}

#[test]
fn int4_takes_a_seventh_of_the_plain_ranges_squared_error_away_from_normal_weights() {
    let mut rng = Rng::new(3);
    let (mut found, mut plain) = (0.0, 0.0);
    for group in round(Quantization::Int4, &rng.normals(32 * 2000)).unwrap() {
        let (low, high) = group.range();
        let step = (high - low) / 15.0;
        plain += group.weights.iter().map(|w| (w - low - step * ((w - low) / step).round()).powi(2)).sum::<f64>();
        found += group.square_error(0.0);
    }
    assert!(found <= 0.86 * plain, "{}", found / plain);
}

#[test]
fn weights_that_lie_on_sixteen_levels_come_back_as_they_were() {
    let mut rng = Rng::new(4);
    for _ in 0..200 {
        let (scale, offset) = (2f32.powi(rng.below(12) as i32 - 8), rng.below(64) as f32 / 8.0 - 4.0);
        let mut weights: Vec<f32> = (0..32).map(|_| offset + scale * rng.below(16) as f32).collect();
        (weights[3], weights[17]) = (offset, offset + 15.0 * scale);
        let group = round(Quantization::Int4, &weights).unwrap().remove(0);
        assert_eq!(group.square_error(0.0), 0.0, "{weights:?}");
    }
}

#[test]
fn zeros_and_numbers_below_all_half_floats_become_nearly_zero() {
    for weight in [0.0, -0.0, f32::MIN_POSITIVE, -1e-45, 1e-30] {
        for (quantization, zero) in [(Quantization::Int8, 128.0), (Quantization::Int4, 0.0)] {
            for group in round(quantization, &[weight; 45]).unwrap() {
                assert!(group.square_error(zero) <= 45.0 * 1e-60);
            }
        }
    }
}

#[test]
fn what_half_float_scales_cannot_express_is_refused_wherever_it_stands() {
    let mut rng = Rng::new(5);
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e7] {
        for quantization in [Quantization::Int8, Quantization::Int4] {
            for _ in 0..50 {
                let mut row = rng.normals(70);
                assert!(round(quantization, &row).is_some());
                row[rng.below(70)] = bad;
                assert!(round(quantization, &row).is_none(), "{bad} in {quantization:?}");
            }
        }
    }
}

#[test]
fn names_are_those_of_the_option() {
    assert_eq!("int8".parse(), Ok(Quantization::Int8));
    assert_eq!("int4".parse(), Ok(Quantization::Int4));
    for name in ["", "INT8", "fp8", "int2"] {
        let error = name.parse::<Quantization>().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("int8 or int4"), "{error}");
    }
}
