//! Which paths there are, which of them this processor has, and which one is taken.

use std::fmt;
use std::str::FromStr;

/// A set of instructions that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Plain Rust; runs everywhere.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same, with AMX tiles for products of many rows.
    Amx,
    /// NEON with `dotprod`.
    Neon,
    /// NEON with `dotprod` and `i8mm`.
    NeonI8mm,
}

/// Best first.
const ALL: [Path; 6] = [Path::Amx, Path::Avx512, Path::Avx2, Path::NeonI8mm, Path::Neon, Path::Scalar];

impl Path {
    /// What this processor has, best first; the last is always [`Path::Scalar`].
    pub fn supported() -> impl Iterator<Item = Path> {
        ALL.into_iter().filter(|path| path.is_supported())
    }

    /// The best one that this processor has, of those that were run on real hardware.
    pub fn best() -> Path {
        // In this order: whether there is AMX can't be asked without asking the kernel for it.
        ALL.into_iter().find(|path| path.is_verified() && path.is_supported()).unwrap_or(Path::Scalar)
    }

    /// Whether this processor has all its instructions.
    pub fn is_supported(self) -> bool {
        match self {
            Path::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => {
                Path::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Path::Amx => Path::Avx512.is_supported() && super::amx::is_supported(),
            #[cfg(target_arch = "aarch64")]
            Path::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Path::NeonI8mm => Path::Neon.is_supported() && std::arch::is_aarch64_feature_detected!("i8mm"),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Whether it can multiply bfloat16 with bfloat16, on this processor.
    pub fn has_bf16_products(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => self.is_supported() && is_x86_feature_detected!("avx512bf16"),
            Path::Amx => self.is_supported(),
            _ => false,
        }
    }

    /// Whether its results were compared with the others' on real hardware; an emulator's word is not enough for a path
    /// to be taken unasked.
    pub fn is_verified(self) -> bool {
        !matches!(self, Path::Amx | Path::Neon | Path::NeonI8mm)
    }

    /// As it is written in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Path::Scalar => "scalar",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
            Path::Amx => "amx",
            Path::Neon => "neon",
            Path::NeonI8mm => "neon-i8mm",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no path's.
#[derive(Debug)]
pub struct UnknownPath(String);

impl fmt::Display for UnknownPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = ALL.iter().map(|path| path.name()).collect();
        write!(f, "'{}' is no instruction path; there are {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownPath {}

impl FromStr for Path {
    type Err = UnknownPath;

    fn from_str(name: &str) -> Result<Path, UnknownPath> {
        ALL.into_iter().find(|path| path.name() == name).ok_or_else(|| UnknownPath(name.to_owned()))
    }
}
