//! AVX-512 with VNNI: one register a vector.

use super::Simd;
use std::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL and VNNI: Intel from Cascade Lake, AMD from Zen 4.
#[derive(Clone, Copy)]
pub struct Avx512;

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const ROWS: usize = 12;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        _mm512_storeu_ps(to, x);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: __m512) {
        _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x));
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (__m512, __m512) {
        let pairs = _mm512_loadu_si512(from.cast());
        let second = _mm512_and_si512(pairs, _mm512_set1_epi32(!0xFFFF));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        super::avx2::sum_of_eight(a)
    }
    #[inline(always)]
    unsafe fn greatest(a: __m512) -> f32 {
        let numbers = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a);
        let a = _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), numbers, a);
        let a = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
        super::avx2::greatest_of_eight(a)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        _mm512_abs_ps(a)
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
    }
    #[inline(always)]
    unsafe fn exp2_integral(a: __m512) -> __m512 {
        let exponent = _mm512_add_epi32(_mm512_cvttps_epi32(a), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, a: __m512) {
        _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvttps_epi32(a)));
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn zero_i() -> __m512i {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: __m512i) -> __m512i {
        _mm512_and_si512(a, _mm512_set1_epi8(0x0F))
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: __m512i) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(0x0F))
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512i, bytes: __m512i, x: *const i8) -> __m512i {
        _mm512_dpbusd_epi32(acc, bytes, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn to_f32(a: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(a)
    }
    #[inline(always)]
    unsafe fn byte<const N: i32>(a: __m512i) -> __m512 {
        let shifted = match N {
            0 => a,
            1 => _mm512_srli_epi32::<8>(a),
            2 => _mm512_srli_epi32::<16>(a),
            _ => _mm512_srli_epi32::<24>(a),
        };
        _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(0xFF)))
    }
}
