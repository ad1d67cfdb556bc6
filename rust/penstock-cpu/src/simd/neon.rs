//! NEON with integer dot products: four registers a vector.
//!
//! The compiler has no stable functions for half floats and integer dot products, so those are inline assembly.

use super::Simd;
use std::arch::aarch64::*;
use std::arch::asm;

/// Armv8.2 with `dotprod`: Apple from M1, AWS Graviton2, Ampere Altra, Cortex-A55 and A76.
#[derive(Clone, Copy)]
pub struct Neon;

/// Armv8.6 with `i8mm`, which can multiply unsigned bytes with signed ones: Apple from M2, AWS Graviton3, Cortex-A710.
#[derive(Clone, Copy)]
pub struct NeonI8mm;

type F = [float32x4_t; 4];
type I = [uint8x16_t; 4];

#[inline(always)]
fn each<A: Copy, B: Copy>(a: [A; 4], f: impl Fn(A) -> B) -> [B; 4] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

#[inline(always)]
fn both<A: Copy, B: Copy, C: Copy>(a: [A; 4], b: [B; 4], f: impl Fn(A, B) -> C) -> [C; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

/// Four half floats, widened.
#[inline(always)]
unsafe fn widen_f16(x: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) x, options(pure, nomem, nostack, preserves_flags));
    wide
}

/// Four half floats, rounded to nearest even.
#[inline(always)]
unsafe fn narrow_f16(x: float32x4_t) -> uint16x4_t {
    let narrow: uint16x4_t;
    asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) x, options(pure, nomem, nostack, preserves_flags));
    narrow
}

/// `acc +` the products of signed bytes with signed bytes, four to a lane.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    asm!(
        ".arch_extension dotprod",
        "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
        inout(vreg) acc, in(vreg) a, in(vreg) b,
        options(pure, nomem, nostack, preserves_flags)
    );
    acc
}

/// `acc +` the products of unsigned bytes with signed bytes, four to a lane.
#[inline(always)]
unsafe fn usdot(mut acc: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    asm!(
        ".arch_extension i8mm",
        "usdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
        inout(vreg) acc, in(vreg) a, in(vreg) b,
        options(pure, nomem, nostack, preserves_flags)
    );
    acc
}

/// The same without `usdot`: an unsigned byte is a signed one, plus 128 if flipping its highest bit made it one.
#[inline(always)]
unsafe fn usdot_of_signed(acc: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    let acc = sdot(acc, vreinterpretq_s8_u8(veorq_u8(a, vdupq_n_u8(0x80))), b);
    let half = vdupq_n_s8(64);
    sdot(sdot(acc, half, b), half, b)
}

/// What both paths share; `$dot` is how they multiply bytes.
macro_rules! neon {
    ($path:ident, $dot:ident) => {
        impl Simd for $path {
            type F = F;
            type I = I;
            const ROWS: usize = 4;

            #[inline(always)]
            unsafe fn splat(x: f32) -> F {
                [vdupq_n_f32(x); 4]
            }
            #[inline(always)]
            unsafe fn prefetch(at: *const u8) {
                asm!("prfm pldl1keep, [{0}]", in(reg) at, options(readonly, nostack, preserves_flags));
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> F {
                [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))]
            }
            #[inline(always)]
            unsafe fn store(to: *mut f32, x: F) {
                for (i, x) in x.into_iter().enumerate() {
                    vst1q_f32(to.add(4 * i), x);
                }
            }
            #[inline(always)]
            unsafe fn load_f16(from: *const u16) -> F {
                each([0, 4, 8, 12], |at| widen_f16(vld1_u16(from.add(at))))
            }
            #[inline(always)]
            unsafe fn store_f16(to: *mut u16, x: F) {
                for (i, x) in x.into_iter().enumerate() {
                    vst1_u16(to.add(4 * i), narrow_f16(x));
                }
            }
            #[inline(always)]
            unsafe fn load_bf16(from: *const u16) -> F {
                each([0, 4, 8, 12], |at| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.add(at)))))
            }
            #[inline(always)]
            unsafe fn load_bf16_pairs(from: *const u16) -> (F, F) {
                let pairs = each([0, 8, 16, 24], |at| vld1q_u32(from.add(at).cast()));
                let second = vdupq_n_u32(0xFFFF_0000);
                (
                    each(pairs, |pair| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pair))),
                    each(pairs, |pair| vreinterpretq_f32_u32(vandq_u32(pair, second))),
                )
            }
            #[inline(always)]
            unsafe fn load_i8(from: *const i8) -> F {
                let bytes = vld1q_s8(from);
                let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
                let words = [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)];
                each(words, |words| vcvtq_f32_s32(vmovl_s16(words)))
            }
            #[inline(always)]
            unsafe fn add(a: F, b: F) -> F {
                both(a, b, |a, b| vaddq_f32(a, b))
            }
            #[inline(always)]
            unsafe fn sub(a: F, b: F) -> F {
                both(a, b, |a, b| vsubq_f32(a, b))
            }
            #[inline(always)]
            unsafe fn mul(a: F, b: F) -> F {
                both(a, b, |a, b| vmulq_f32(a, b))
            }
            #[inline(always)]
            unsafe fn div(a: F, b: F) -> F {
                both(a, b, |a, b| vdivq_f32(a, b))
            }
            #[inline(always)]
            unsafe fn fma(a: F, b: F, c: F) -> F {
                let one = |i: usize| vfmaq_f32(c[i], a[i], b[i]);
                [one(0), one(1), one(2), one(3)]
            }
            // The instructions give NaN where either is; a choice by comparison gives the second.
            #[inline(always)]
            unsafe fn max(a: F, b: F) -> F {
                both(a, b, |a, b| vbslq_f32(vcgtq_f32(a, b), a, b))
            }
            #[inline(always)]
            unsafe fn min(a: F, b: F) -> F {
                both(a, b, |a, b| vbslq_f32(vcltq_f32(a, b), a, b))
            }
            #[inline(always)]
            unsafe fn abs(a: F) -> F {
                each(a, |a| vabsq_f32(a))
            }
            #[inline(always)]
            unsafe fn round(a: F) -> F {
                each(a, |a| vrndnq_f32(a))
            }
            #[inline(always)]
            unsafe fn exp2_integral(a: F) -> F {
                each(a, |a| {
                    let exponent = vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127));
                    vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
                })
            }
            #[inline(always)]
            unsafe fn store_i8(to: *mut i8, a: F) {
                let words = each(a, |a| vqmovn_s32(vcvtq_s32_f32(a)));
                vst1_s8(to, vqmovn_s16(vcombine_s16(words[0], words[1])));
                vst1_s8(to.add(8), vqmovn_s16(vcombine_s16(words[2], words[3])));
            }
            #[inline(always)]
            unsafe fn load_bytes(from: *const u8) -> I {
                [vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))]
            }
            #[inline(always)]
            unsafe fn zero_i() -> I {
                [vdupq_n_u8(0); 4]
            }
            #[inline(always)]
            unsafe fn low_nibbles(a: I) -> I {
                each(a, |a| vandq_u8(a, vdupq_n_u8(0x0F)))
            }
            #[inline(always)]
            unsafe fn high_nibbles(a: I) -> I {
                each(a, |a| vshrq_n_u8::<4>(a))
            }
            #[inline(always)]
            unsafe fn dot(acc: I, bytes: I, x: *const i8) -> I {
                let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
                both(acc, bytes, |acc, bytes| vreinterpretq_u8_s32($dot(vreinterpretq_s32_u8(acc), bytes, x)))
            }
            #[inline(always)]
            unsafe fn to_f32(a: I) -> F {
                each(a, |a| vcvtq_f32_s32(vreinterpretq_s32_u8(a)))
            }
            #[inline(always)]
            unsafe fn byte<const N: i32>(a: I) -> F {
                each(a, |a| {
                    let lanes = vreinterpretq_u32_u8(a);
                    let shifted = vshlq_u32(lanes, vdupq_n_s32(-8 * N));
                    vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(0xFF)))
                })
            }
        }
    };
}

neon!(Neon, usdot_of_signed);
neon!(NeonI8mm, usdot);
