//! AVX2 with FMA and F16C: two registers a vector.

use super::Simd;
use std::arch::x86_64::*;

/// AVX2, FMA and F16C: Intel from Haswell, AMD from Zen.
#[derive(Clone, Copy)]
pub struct Avx2;

type F = (__m256, __m256);
type I = (__m256i, __m256i);

const ABS: i32 = 0x7FFF_FFFF;

#[inline(always)]
unsafe fn widen_bf16(x: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
}

#[inline(always)]
unsafe fn first_bf16(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
}

#[inline(always)]
unsafe fn second_bf16(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(!0xFFFF)))
}

#[inline(always)]
unsafe fn exp2_integral(a: __m256) -> __m256 {
    let exponent = _mm256_add_epi32(_mm256_cvttps_epi32(a), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
}

/// The products of the even bytes and those of the odd bytes, as pairs of int16: no sum of theirs saturates, as one
/// of `vpmaddubsw` would for bytes over 128.
#[inline(always)]
unsafe fn dot(acc: __m256i, bytes: __m256i, x: __m256i) -> __m256i {
    let low = _mm256_set1_epi16(0xFF);
    let even = _mm256_madd_epi16(_mm256_and_si256(bytes, low), _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)));
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(bytes), _mm256_srai_epi16::<8>(x));
    _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
}

#[inline(always)]
unsafe fn byte<const N: i32>(a: __m256i) -> __m256 {
    let shifted = match N {
        0 => a,
        1 => _mm256_srli_epi32::<8>(a),
        2 => _mm256_srli_epi32::<16>(a),
        _ => _mm256_srli_epi32::<24>(a),
    };
    _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(0xFF)))
}

/// Halves added until one lane is left.
#[inline(always)]
pub(super) unsafe fn sum_of_eight(a: __m256) -> f32 {
    let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
    let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
}

/// The greatest lane, if none is NaN.
#[inline(always)]
pub(super) unsafe fn greatest_of_eight(a: __m256) -> f32 {
    let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
    let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
}

/// The same operation on both registers.
macro_rules! both {
    ($f:ident, $a:expr) => {
        ($f($a.0), $f($a.1))
    };
    ($f:ident, $a:expr, $b:expr) => {
        ($f($a.0, $b.0), $f($a.1, $b.1))
    };
}

impl Simd for Avx2 {
    type F = F;
    type I = I;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        (_mm256_set1_ps(x), _mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8)))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: F) {
        _mm256_storeu_ps(to, x.0);
        _mm256_storeu_ps(to.add(8), x.1);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> F {
        (_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())))
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: F) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<NEAREST>(x.0));
        _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<NEAREST>(x.1));
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> F {
        (widen_bf16(_mm_loadu_si128(from.cast())), widen_bf16(_mm_loadu_si128(from.add(8).cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (F, F) {
        let pairs = Self::load_bytes(from.cast());
        (both!(first_bf16, pairs), both!(second_bf16, pairs))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> F {
        let bytes = _mm_loadu_si128(from.cast());
        let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
        (_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        sum_of_eight(_mm256_add_ps(a.0, a.1))
    }
    #[inline(always)]
    unsafe fn greatest(a: F) -> f32 {
        let least = _mm256_set1_ps(f32::NEG_INFINITY);
        let low = _mm256_blendv_ps(least, a.0, _mm256_cmp_ps::<_CMP_ORD_Q>(a.0, a.0));
        let high = _mm256_blendv_ps(least, a.1, _mm256_cmp_ps::<_CMP_ORD_Q>(a.1, a.1));
        greatest_of_eight(_mm256_max_ps(low, high))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        let mask = _mm256_castsi256_ps(_mm256_set1_epi32(ABS));
        (_mm256_and_ps(a.0, mask), _mm256_and_ps(a.1, mask))
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        (_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1))
    }
    #[inline(always)]
    unsafe fn exp2_integral(a: F) -> F {
        both!(exp2_integral, a)
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, a: F) {
        // Packing works within the halves of a register; what comes out is lanes 0-3, 8-11, 4-7, 12-15.
        let words = _mm256_packs_epi32(_mm256_cvttps_epi32(a.0), _mm256_cvttps_epi32(a.1));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        _mm_storeu_si128(to.cast(), bytes);
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> I {
        (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()))
    }
    #[inline(always)]
    unsafe fn zero_i() -> I {
        (_mm256_setzero_si256(), _mm256_setzero_si256())
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: I) -> I {
        let mask = _mm256_set1_epi8(0x0F);
        (_mm256_and_si256(a.0, mask), _mm256_and_si256(a.1, mask))
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: I) -> I {
        let mask = _mm256_set1_epi8(0x0F);
        (_mm256_and_si256(_mm256_srli_epi16::<4>(a.0), mask), _mm256_and_si256(_mm256_srli_epi16::<4>(a.1), mask))
    }
    #[inline(always)]
    unsafe fn dot(acc: I, bytes: I, x: *const i8) -> I {
        let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
        (dot(acc.0, bytes.0, x), dot(acc.1, bytes.1, x))
    }
    #[inline(always)]
    unsafe fn to_f32(a: I) -> F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    unsafe fn byte<const N: i32>(a: I) -> F {
        (byte::<N>(a.0), byte::<N>(a.1))
    }
}
