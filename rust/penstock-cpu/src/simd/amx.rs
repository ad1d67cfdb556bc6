//! AMX: eight registers of up to 16 rows of 64 bytes, the tiles, and instructions that multiply them (Intel 64 and
//! IA-32 Architectures Software Developer's Manual, volume 1, chapter 18).
//!
//! The compiler has no stable functions for them, so they are inline assembly. It never uses tiles itself; so it is
//! enough that within one piece of assembly tiles are loaded, multiplied and stored.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows of a tile at most.
pub const ROWS: usize = 16;

/// Bytes of a tile's row at most.
pub const ROW_BYTES: usize = 64;

/// Whether the processor multiplies tiles of int8 and of bfloat16, and the kernel lets this process.
pub fn is_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| processor_has_it() && is_permitted())
}

fn processor_has_it() -> bool {
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_CONFIG_AND_DATA: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn enabled_state() -> u64 {
        // SAFETY: whoever calls this found that there is such a register.
        unsafe { _xgetbv(0) }
    }
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let has_instructions = __cpuid_count(7, 0).edx & BF16_TILE_INT8 == BF16_TILE_INT8;
    // SAFETY: the operating system enabled XSAVE.
    has_instructions && unsafe { enabled_state() } & TILE_CONFIG_AND_DATA == TILE_CONFIG_AND_DATA
}

/// Linux saves tiles only for a process that asked (Documentation/arch/x86/xstate.rst); threads that exist already have
/// leave then, too.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: it only changes what later instructions may do.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// A tile's shape.
#[derive(Clone, Copy, Default)]
pub struct Shape {
    /// 1 to 16.
    pub rows: usize,
    /// A multiple of 4 up to 64.
    pub row_bytes: usize,
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// A function that loops over groups of 32 inputs: for each weights' tile its sums, a tile to load it into, and where
/// it is.
macro_rules! bf16_product {
    (
        $(#[$doc:meta])*
        $name:ident($weights:ident: $type:ty): $($sum:literal, $tile:literal, $at:ident = $from:expr);+
    ) => {
        $(#[$doc])*
        #[inline(always)]
        pub unsafe fn $name(&self, to: *mut f32, x: *const u16, x_stride: usize, $weights: $type, groups: usize) {
            asm!(
                $(concat!("tilezero ", $sum),)+
                "2:",
                "tileloadd tmm4, [{x} + {x_stride}]",
                "add {x}, 64",
                $(
                    concat!("tileloadd ", $tile, ", [{", stringify!($at), "} + {stride}]"),
                    concat!("add {", stringify!($at), "}, 1024"),
                    concat!("tdpbf16ps ", $sum, ", tmm4, ", $tile),
                )+
                "dec {groups}",
                "jnz 2b",
                $(
                    concat!("tilestored [{to} + {stride}], ", $sum),
                    "add {to}, 1024",
                )+
                to = inout(reg) to => _,
                x = inout(reg) x => _,
                x_stride = in(reg) x_stride,
                $($at = inout(reg) $from => _,)+
                groups = inout(reg) groups => _,
                stride = in(reg) ROW_BYTES,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    };
}

/// A thread's tiles, configured until this is dropped. Then they are released at once: the kernel saves their 8 KiB
/// whenever it stops a thread that has them, and the processor rests less deeply. To configure them again is little
/// beside a product.
pub struct Tiles(PhantomData<*const ()>); // which never leaves its thread

impl Tiles {
    /// Give the first tiles these shapes.
    ///
    /// # Safety
    /// AMX must be supported, and the thread have no tiles: whichever were dropped first would release the others.
    pub unsafe fn configure(shapes: &[Shape]) -> Tiles {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (i, shape) in shapes.iter().enumerate() {
            config.row_bytes[i] = shape.row_bytes as u16;
            config.rows[i] = shape.rows as u8;
        }
        asm!("ldtilecfg [{0}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags));
        Tiles(PhantomData)
    }

    /// `to = x * weights`, int32 from signed and unsigned bytes, in tiles 0, 1 and 2.
    ///
    /// `x_stride` is bytes between rows; those of the others lie side by side.
    ///
    /// # Safety
    /// The tiles' shapes must fit each other, and there must be as many bytes.
    #[inline(always)]
    pub unsafe fn multiply_bytes(&self, to: *mut i32, x: *const i8, x_stride: usize, weights: *const u8) {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm1, [{x} + {x_stride}]",
            "tileloadd tmm2, [{weights} + {stride}]",
            "tdpbsud tmm0, tmm1, tmm2",
            "tilestored [{to} + {stride}], tmm0",
            to = in(reg) to,
            x = in(reg) x,
            x_stride = in(reg) x_stride,
            weights = in(reg) weights,
            stride = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _,
            options(nostack, preserves_flags)
        );
    }

    bf16_product! {
        /// `to = x * weights`, float32 from bfloat16 with `groups` times 32 inputs: the sums in tile 0, `x` in tile 4,
        /// the weights, a KiB a group, in tile 5.
        ///
        /// `x_stride` is bytes between rows; `to` is `[16, 16]`, of which only `x`'s rows are written.
        ///
        /// # Safety
        /// As [`Tiles::multiply_bytes`], and there must be a group.
        multiply_bf16(weights: *const u8): "tmm0", "tmm5", only = weights
    }

    bf16_product! {
        /// The same with four tiles of weights; `to` is `[4, 16, 16]`.
        multiply_bf16_by_four(weights: [*const u8; 4]):
            "tmm0", "tmm5", first = weights[0];
            "tmm1", "tmm6", second = weights[1];
            "tmm2", "tmm7", third = weights[2];
            "tmm3", "tmm5", fourth = weights[3]
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there are tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
