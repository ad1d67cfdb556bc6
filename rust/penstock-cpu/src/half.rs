//! IEEE half floats and bfloat16, one at a time.

/// Widen an IEEE half float; exact.
#[inline]
pub fn f16_to_f32(x: u16) -> f32 {
    let sign = u32::from(x & 0x8000) << 16;
    let exponent = u32::from(x >> 10) & 0x1F;
    let mantissa = u32::from(x & 0x03FF);
    let bits = match exponent {
        0 => {
            // Zero, or a subnormal: mantissa * 2^-24 is exact in float32.
            let value = mantissa as f32 * f32::from_bits(0x3380_0000);
            return f32::from_bits(value.to_bits() | sign);
        }
        // NaNs become quiet, as the processors' instructions make them.
        0x1F if mantissa != 0 => 0x7FC0_0000 | mantissa << 13,
        0x1F => 0x7F80_0000,
        _ => (exponent + 112) << 23 | mantissa << 13,
    };
    f32::from_bits(sign | bits)
}

/// Round to the nearest half float, ties to even; beyond 65,520 it is infinite.
#[inline]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7FFF_FFFF;
    if magnitude > 0x7F80_0000 {
        return sign | 0x7E00 | (magnitude >> 13 & 0x03FF) as u16;
    }
    if magnitude >= 0x477F_F000 {
        return sign | 0x7C00;
    }
    if magnitude < 0x3880_0000 {
        // Subnormal: adding 0.5 leaves mantissa * 2^-24, rounded, in the lowest bits.
        let rounded = (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits();
        return sign | rounded as u16;
    }
    let rounded = magnitude - 0x3800_0000 + 0x0FFF + (magnitude >> 13 & 1);
    sign | (rounded >> 13) as u16
}

/// Widen a bfloat16; exact.
#[inline]
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Round to the nearest bfloat16, ties to even; NaNs stay NaN.
#[inline]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_float_survives_the_way_there_and_back() {
        for bits in 0..=u16::MAX {
            let wide = f16_to_f32(bits);
            if wide.is_nan() {
                assert!(f16_to_f32(f32_to_f16(wide)).is_nan());
            } else {
                assert_eq!(f32_to_f16(wide), bits);
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        for bits in 0..0x7BFFu16 {
            let (low, high) = (f16_to_f32(bits), f16_to_f32(bits + 1));
            let middle = (f64::from(low) + f64::from(high)) / 2.0;
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(f32_to_f16(middle as f32), even);
            assert_eq!(f32_to_f16((middle as f32).next_down()), bits);
            assert_eq!(f32_to_f16((middle as f32).next_up()), bits + 1);
        }
        assert_eq!(f32_to_f16(65_519.996), 0x7BFF);
        assert_eq!(f32_to_f16(65_520.0), 0x7C00);
        assert_eq!(f32_to_f16(-f32::INFINITY), 0xFC00);
    }
}
