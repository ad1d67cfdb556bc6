//! Sixteen lanes, whatever the processor calls them: one trait, one file a path.
//!
//! Every kernel is written once over [`Simd`] and compiled once for each path inside a function that enables the
//! path's instructions (see [`dispatch!`](crate::dispatch)). A lane's additions and multiplications happen in the
//! order in which the kernel writes them, fused where it says `fma`, so all paths give the same bits.
//!
//! # Safety
//! All methods are unsafe: the processor must have the path's instructions, which only [`Path::is_supported`]
//! can tell, and pointers must be valid for what the method's name says it reads or writes; none need be aligned.

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
mod path;
pub mod scalar;

pub use path::{Path, UnknownPath};

/// Lanes of a vector, on every path.
pub const LANES: usize = 16;

/// Sixteen float32 lanes (`F`), and sixteen lanes of four bytes or one int32 (`I`).
pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen float32.
    type F: Copy;
    /// Sixteen int32, or sixty-four bytes.
    type I: Copy;

    /// Rows of a matrix product that are best computed together, as the registers allow.
    const ROWS: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Ask for the cache line that holds this address, which need not be valid; where there is a way to.
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    /// Sixteen float32 from memory.
    unsafe fn load(from: *const f32) -> Self::F;
    /// Sixteen float32 to memory.
    unsafe fn store(to: *mut f32, x: Self::F);
    /// Sixteen IEEE half floats, widened.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// Sixteen half floats, rounded to nearest even.
    unsafe fn store_f16(to: *mut u16, x: Self::F);
    /// Sixteen bfloat16, widened.
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    /// Sixteen pairs of bfloat16, widened: the first ones and the second ones.
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self::F, Self::F);
    /// Sixteen int8, as float32.
    unsafe fn load_i8(from: *const i8) -> Self::F;
    /// `a + b`
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The greater; `b` if either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The lesser; `b` if either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Without the sign.
    unsafe fn abs(a: Self::F) -> Self::F;
    /// The nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^a` for integral a from -126 to 127.
    unsafe fn exp2_integral(a: Self::F) -> Self::F;
    /// Integral lanes from -128 to 127 as sixteen int8.
    unsafe fn store_i8(to: *mut i8, a: Self::F);

    /// Sixty-four bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::I;
    /// All lanes 0.
    unsafe fn zero_i() -> Self::I;
    /// The low half of each byte.
    unsafe fn low_nibbles(a: Self::I) -> Self::I;
    /// The high half of each byte.
    unsafe fn high_nibbles(a: Self::I) -> Self::I;
    /// In each lane `acc +` the products of its four unsigned bytes with the four signed ones at `x`.
    ///
    /// No path saturates between.
    unsafe fn dot(acc: Self::I, bytes: Self::I, x: *const i8) -> Self::I;
    /// int32 lanes as float32.
    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// Byte `N` (0 to 3) of each lane, unsigned, as float32.
    unsafe fn byte<const N: i32>(a: Self::I) -> Self::F;

    /// The sum of the lanes, always in the same order: halves are added until one is left.
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        let mut lanes = [0f32; LANES];
        Self::store(lanes.as_mut_ptr(), a);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The greatest lane, NaN aside.
    #[inline(always)]
    unsafe fn greatest(a: Self::F) -> f32 {
        let mut lanes = [0f32; LANES];
        Self::store(lanes.as_mut_ptr(), a);
        lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `e^a` to about one unit in the last place, for a from -87.3 to 88 and at these ends beyond them; NaN where a is
    /// NaN.
    ///
    /// Cody and Waite's reduction by ln 2 in two parts, then a polynomial of degree 6 (Muller, "Elementary
    /// Functions", 3rd edition, chapters 3 and 11).
    #[inline(always)]
    unsafe fn exp(a: Self::F) -> Self::F {
        // min and max take their second operand where one is NaN, so it must be the value.
        let x = Self::max(Self::splat(-87.336_54), Self::min(Self::splat(88.0), a));
        let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
        let r = Self::fma(n, Self::splat(-0.693_359_4), x);
        let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
        // Minimax in the relative error, 4.2e-9 in float32; Taylor's coefficients would be 1.7e-7 off at the ends.
        let mut p = Self::splat(1.381_434_9e-3);
        for c in [8.368_838e-3, 4.166_84e-2, 1.666_652e-1, 0.499_999_93, 1.0, 1.0] {
            p = Self::fma(p, r, Self::splat(c));
        }
        Self::mul(p, Self::exp2_integral(n))
    }
}

/// Call a generic kernel on the path chosen at run time: `dispatch!(path, kernel::<Path>(arguments))`.
///
/// The kernel is a function `unsafe fn kernel<S: Simd>(...)`, marked `#[inline(always)]` all the way down. It is
/// compiled here into one function for each path, with that path's instructions enabled.
#[macro_export]
macro_rules! dispatch {
    ($vis:vis fn $name:ident = $kernel:ident; ($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {
        #[doc = concat!("[`", stringify!($kernel), "`] on a path chosen at run time, which this processor must have.")]
        #[allow(missing_docs)]
        $vis unsafe fn $name(path: $crate::simd::Path, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $type),*) $(-> $result)? {
                $kernel::<$crate::simd::avx2::Avx2>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $type),*) $(-> $result)? {
                $kernel::<$crate::simd::avx512::Avx512>($($arg),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod")]
            unsafe fn neon($($arg: $type),*) $(-> $result)? {
                $kernel::<$crate::simd::neon::Neon>($($arg),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod,i8mm")]
            unsafe fn neon_i8mm($($arg: $type),*) $(-> $result)? {
                $kernel::<$crate::simd::neon::NeonI8mm>($($arg),*)
            }
            match path {
                #[cfg(target_arch = "aarch64")]
                $crate::simd::Path::NeonI8mm => neon_i8mm($($arg),*),
                #[cfg(target_arch = "aarch64")]
                $crate::simd::Path::Neon => neon($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // Tiles are for products alone, which see to it themselves.
                $crate::simd::Path::Avx512 | $crate::simd::Path::Amx => avx512($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Path::Avx2 => avx2($($arg),*),
                _ => $kernel::<$crate::simd::scalar::Scalar>($($arg),*),
            }
        }
    };
}

/// `body` for each `r` from 0 to `R - 1`, written out: the compiler leaves long loops over registers rolled up, and
/// then keeps the registers in memory. `R` is a const generic of at most 16, of at most 4 where `few` stands before it.
#[macro_export]
macro_rules! unrolled {
    ($R:ident, |$r:ident| $body:block) => {
        $crate::unrolled!(@ $R, $r, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (few $R:ident, |$r:ident| $body:block) => {
        $crate::unrolled!(@ $R, $r, $body, 0 1 2 3);
    };
    (@ $R:ident, $r:ident, $body:block, $($n:literal)*) => {
        $(if $R > $n {
            let $r: usize = $n;
            $body
        })*
    };
}
