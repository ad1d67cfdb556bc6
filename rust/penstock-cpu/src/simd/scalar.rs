//! The path of every processor: plain Rust, and the meaning of all the others.

use super::{LANES, Simd};
use crate::half;

/// One number after the other.
#[derive(Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn map(a: [f32; LANES], f: impl Fn(f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        from.cast::<Self::F>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        to.cast::<Self::F>().write_unaligned(x);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        from.cast::<[u16; LANES]>().read_unaligned().map(half::f16_to_f32)
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: Self::F) {
        to.cast::<[u16; LANES]>().write_unaligned(x.map(half::f32_to_f16));
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        from.cast::<[u16; LANES]>().read_unaligned().map(half::bf16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self::F, Self::F) {
        let pairs = from.cast::<[[u16; 2]; LANES]>().read_unaligned();
        (pairs.map(|pair| half::bf16_to_f32(pair[0])), pairs.map(|pair| half::bf16_to_f32(pair[1])))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::F {
        from.cast::<[i8; LANES]>().read().map(f32::from)
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn exp2_integral(a: Self::F) -> Self::F {
        map(a, |a| f32::from_bits(((a as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, a: Self::F) {
        to.cast::<[i8; LANES]>().write_unaligned(a.map(|a| a as i8));
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::I {
        from.cast::<[[u8; 4]; LANES]>().read_unaligned().map(i32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn zero_i() -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: Self::I) -> Self::I {
        a.map(|a| a & 0x0F0F_0F0F)
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: Self::I) -> Self::I {
        a.map(|a| (a >> 4) & 0x0F0F_0F0F)
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, bytes: Self::I, x: *const i8) -> Self::I {
        let x = x.cast::<[i8; 4]>().read_unaligned().map(i32::from);
        std::array::from_fn(|i| {
            let b = bytes[i].to_le_bytes().map(i32::from);
            acc[i] + b[0] * x[0] + b[1] * x[1] + b[2] * x[2] + b[3] * x[3]
        })
    }
    #[inline(always)]
    unsafe fn to_f32(a: Self::I) -> Self::F {
        a.map(|a| a as f32)
    }
    #[inline(always)]
    unsafe fn byte<const N: i32>(a: Self::I) -> Self::F {
        a.map(|a| f32::from(a.to_le_bytes()[N as usize]))
    }
}
