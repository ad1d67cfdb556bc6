//! Whether weights are finite, against their values by the formats' definitions.

mod support;

use penstock_cpu::finite::are_finite;
use support::{DTYPES, Rng, block, values};

fn check(dtype: &str, bytes: &[u8]) -> bool {
    let wanted = values(dtype, bytes).iter().all(|&value| (value as f32).is_finite());
    assert_eq!(are_finite(dtype, bytes).unwrap(), wanted, "{dtype}: {bytes:x?}");
    wanted
}

#[test]
fn any_byte_of_any_type_that_makes_a_weight_infinite_or_nan_is_found_and_no_other() {
    let mut rng = Rng::new(1);
    for dtype in DTYPES {
        let size = block(dtype).1;
        let mut seen = [0, 0];
        for _ in 0..6 {
            let mut bytes = rng.bytes(3 * size);
            for at in 0..bytes.len() {
                let before = bytes[at];
                // Exponents' ends, the greatest finite ones, and zero, which infinities turn into a NaN.
                for byte in [0x00, 0x7B, 0x7C, 0x7E, 0x7F, 0x80, 0xFB, 0xFC, 0xFF] {
                    bytes[at] = byte;
                    seen[usize::from(check(dtype, &bytes))] += 1;
                }
                bytes[at] = before;
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{dtype}: {seen:?}");
    }
}

#[test]
fn the_greatest_scales_and_numbers_there_are_stay_finite() {
    for dtype in &DTYPES[3..] {
        let (_, size, halves) = block(dtype);
        for fill in [0x00, 0x7F, 0x80, 0xFF] {
            for sign in [0x00, 0x80] {
                let mut bytes = vec![fill; size];
                for &at in halves {
                    bytes[at..at + 2].copy_from_slice(&[0xFF, 0x7B | sign]);
                }
                assert!(check(dtype, &bytes), "{dtype}");
            }
        }
    }
}

#[test]
fn the_last_of_many_floats_is_seen_too() {
    for (dtype, width) in [("F32", 4), ("F16", 2), ("BF16", 2)] {
        for count in [1, 1023, 1024, 1025, 5000] {
            let mut bytes = vec![0; count * width];
            assert!(are_finite(dtype, &bytes).unwrap());
            let end = bytes.len();
            bytes[end - 2..].copy_from_slice(&[0x80, 0xFF]);
            assert!(!are_finite(dtype, &bytes).unwrap(), "{dtype}, {count}");
        }
    }
}

#[test]
fn nothing_and_unknown_types() {
    for dtype in DTYPES {
        assert!(are_finite(dtype, &[]).unwrap());
    }
    assert!(are_finite("IQ4_NL", &[]).is_err());
}
