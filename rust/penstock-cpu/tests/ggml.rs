//! Blocks taken apart against the formats' definitions.

mod support;

use penstock_cpu::ggml::BlockType;
use support::{DTYPES, Rng, block, values};

/// Take a block apart and put it together again: `scale * (q - zero) + offset`.
fn through_parts(kind: BlockType, bytes: &[u8]) -> Vec<f64> {
    let scheme = kind.scheme();
    let groups = kind.block_len() / scheme.group;
    let mut q = vec![0xAA; kind.block_len()];
    let (mut scale, mut offset) = (vec![7.0; groups], vec![0.0; groups]);
    kind.take_apart(bytes, &mut q, &mut scale, &mut offset);
    assert!(q.iter().all(|&q| u32::from(q) < 1 << scheme.bits));
    assert!(scheme.zero.is_none() || offset.iter().all(|&offset| offset == 0.0));
    (0..q.len())
        .map(|i| {
            let g = i / scheme.group;
            f64::from(scale[g]) * (f64::from(q[i]) - f64::from(scheme.zero.unwrap_or(0))) + f64::from(offset[g])
        })
        .collect()
}

fn check(name: &str, bytes: &[u8]) {
    let kind = BlockType::from_name(name).unwrap();
    for (i, (got, wanted)) in through_parts(kind, bytes).into_iter().zip(values(name, bytes)).enumerate() {
        assert!(got == wanted || got.is_nan() && wanted.is_nan(), "{name}, weight {i}: {got:e}, not {wanted:e}");
    }
}

#[test]
fn every_type_is_known_by_its_name_and_its_sizes_are_the_formats() {
    for name in &DTYPES[3..] {
        let kind = BlockType::from_name(name).unwrap();
        let (len, bytes, _) = block(name);
        assert_eq!((kind.block_len(), kind.block_bytes()), (len, bytes), "{name}");
        assert_eq!(format!("{kind:?}"), *name);
    }
    for name in ["F32", "F16", "BF16", "Q8_1", "IQ4_NL", "q4_0", ""] {
        assert_eq!(BlockType::from_name(name), None, "{name}");
    }
}

#[test]
fn blocks_of_random_bytes_mean_what_the_format_defines() {
    let mut rng = Rng::new(1);
    for name in &DTYPES[3..] {
        for _ in 0..500 {
            check(name, &rng.bytes(block(name).1));
        }
    }
}

#[test]
fn a_block_of_any_one_byte_is_valid() {
    for name in &DTYPES[3..] {
        for byte in 0..=255 {
            check(name, &vec![byte; block(name).1]);
        }
    }
}

#[test]
fn each_single_bit_of_a_block_reaches_the_weight_it_belongs_to() {
    for name in &DTYPES[3..] {
        let (_, size, halves) = block(name);
        for bit in 0..8 * size {
            let mut bytes = vec![0; size];
            for &at in halves {
                bytes[at + 1] = 0x3C; // 1.0
            }
            if name.ends_with("_K") {
                // Scales other than zero, so that the numbers show.
                let at = match *name {
                    "Q2_K" => 0..16,
                    "Q3_K" => 96..108,
                    "Q6_K" => 192..208,
                    _ => 4..16,
                };
                bytes[at].fill(0x55);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
            check(name, &bytes);
        }
    }
}

#[test]
fn types_that_claim_half_scales_lose_nothing_as_half_floats() {
    let mut rng = Rng::new(2);
    for name in &DTYPES[3..] {
        let kind = BlockType::from_name(name).unwrap();
        if !kind.scheme().half_scales {
            continue;
        }
        for _ in 0..200 {
            let (mut q, mut scale, mut offset) = ([0; 32], [0.0], [0.0]);
            kind.take_apart(&rng.bytes(kind.block_bytes()), &mut q, &mut scale, &mut offset);
            for x in [scale[0], offset[0]] {
                let back = penstock_cpu::half::f16_to_f32(penstock_cpu::half::f32_to_f16(x));
                assert!(back == x || x.is_nan(), "{name} {x}");
            }
        }
    }
}
