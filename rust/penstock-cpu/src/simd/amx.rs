//! AMX: eight registers of up to 16 rows of 64 bytes, the tiles, and instructions that multiply them (Intel 64 and
//! IA-32 Architectures Software Developer's Manual, volume 1, chapter 18).
//!
//! The compiler has no stable functions for them, so they are inline assembly. It never uses tiles itself; so it is
//! enough that within one piece of assembly tiles are loaded, multiplied and stored.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
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

/// A thread's tiles, configured until this is dropped. Then they are released at once: the kernel saves their 8 KiB
/// whenever it stops a thread that has them, and the processor rests less deeply. Both cost more than configuring them
/// for each product, which is as long as some hundred instructions.
pub struct Tiles(());

impl Tiles {
    /// Give the first tiles these shapes.
    ///
    /// # Safety
    /// AMX must be supported.
    pub unsafe fn configure(shapes: &[Shape]) -> Tiles {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (i, shape) in shapes.iter().enumerate() {
            config.row_bytes[i] = shape.row_bytes as u16;
            config.rows[i] = shape.rows as u8;
        }
        asm!("ldtilecfg [{0}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags));
        Tiles(())
    }

    /// `to = x * weights`, int32 from signed and unsigned bytes, in tiles 0, 1 and 2.
    ///
    /// The strides are bytes between rows.
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
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there are tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
