//! AMX's instructions by their definition (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2), for
//! processors that lack them. There each raises SIGILL; a handler does to the thread's tiles, registers and memory what
//! the instruction would have done, and goes on after it. So the very code runs that AMX would run.
//!
//! What the processor would refuse ends the process, as it would there, after a line that says why.

use penstock_cpu::simd::Path;
use std::arch::asm;
use std::cell::UnsafeCell;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Palette 1: eight tiles of up to sixteen rows of 64 bytes.
const TILES: usize = 8;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// What `ldtilecfg` reads: the palette, the row to start from, fourteen reserved bytes, two for each tile's bytes of a
/// row (of sixteen tiles), and one for each tile's rows.
pub type Config = [u8; 64];

/// A general register's number in an instruction is its place here.
pub type Registers = [u64; 16];

const GENERAL: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Where a tile's rows lie.
#[derive(Clone, Copy)]
struct Memory {
    begin: u64,
    stride: u64,
}

impl Memory {
    fn row(self, row: usize) -> *mut u8 {
        self.begin.wrapping_add(self.stride.wrapping_mul(row as u64)) as *mut u8
    }
}

/// The tiles of a product: the sums, then both factors.
type Operands = [usize; 3];

#[derive(Clone, Copy)]
enum Instruction {
    Configure(Memory),
    StoreConfig(Memory),
    Release,
    Zero(usize),
    Load(usize, Memory),
    Store(usize, Memory),
    /// int32 from bytes, and whether each factor's have a sign.
    MultiplyBytes(Operands, [bool; 2]),
    MultiplyBf16(Operands),
}

/// The instruction at `code` and its length, if it is one of AMX's: they all are VEX-encoded with three bytes, have 128
/// bits, W = 0 and a code from the map 0F38, and operands as [ModRM, SIB, displacement] or three registers.
unsafe fn decode(code: *const u8, registers: &Registers) -> Option<(Instruction, usize)> {
    use Instruction::*;
    let byte = |at: usize| unsafe { *code.add(at) };
    if byte(0) != 0xC4 || byte(1) & 0x1F != 2 || byte(2) & 0x84 != 0 {
        return None;
    }
    let [more_reg, more_index, more_base] = [7, 6, 5].map(|bit| usize::from(byte(1) >> bit & 1 ^ 1) << 3);
    let prefix = [None, Some(0x66), Some(0xF3), Some(0xF2)][usize::from(byte(2) & 3)];
    let third = usize::from(!byte(2) >> 3 & 15);
    let (opcode, mode) = (byte(3), byte(4) >> 6);
    let (reg, rm) = (usize::from(byte(4) >> 3 & 7), usize::from(byte(4) & 7));
    if more_reg != 0 {
        return None; // there is no ninth tile
    }
    if mode == 3 {
        let instruction = match (opcode, prefix) {
            _ if more_base != 0 || third >= TILES => return None,
            (0x5C, Some(0xF3)) => MultiplyBf16([reg, rm, third]),
            (0x5E, prefix) => {
                let signed = [matches!(prefix, Some(0xF2 | 0xF3)), matches!(prefix, Some(0xF2 | 0x66))];
                MultiplyBytes([reg, rm, third], signed)
            }
            (0x49, Some(0xF2)) if (rm, third) == (0, 0) => Zero(reg),
            (0x49, None) if (reg, rm, third) == (0, 0, 0) => Release,
            _ => return None,
        };
        return Some((instruction, 5));
    }
    let (base, stride, at) = if rm == 4 {
        let sib = byte(5);
        let index = usize::from(sib >> 3 & 7) | more_index;
        let stride = if index == 4 { 0 } else { registers[index] << (sib >> 6) };
        (usize::from(sib & 7), stride, 6)
    } else {
        (rm, 0, 5)
    };
    let (displacement, length) = match mode {
        0 if base == 5 => return None, // without a base, or relative to the code
        0 => (0, at),
        1 => (i64::from(byte(at) as i8), at + 1),
        _ => (i64::from(unsafe { code.add(at).cast::<i32>().read_unaligned() }), at + 4),
    };
    let memory = Memory { begin: registers[base | more_base].wrapping_add_signed(displacement), stride };
    let instruction = match (opcode, prefix) {
        _ if third != 0 => return None,
        (0x49, None) if reg == 0 => Configure(memory),
        (0x49, Some(0x66)) if reg == 0 => StoreConfig(memory),
        // With a hint for the caches and without.
        (0x4B, Some(0x66 | 0xF2)) if rm == 4 => Load(reg, memory),
        (0x4B, Some(0xF3)) if rm == 4 => Store(reg, memory),
        _ => return None,
    };
    Some((instruction, length))
}

/// The first reason that holds.
fn refuse_if<const N: usize>(reasons: [(bool, &'static str); N]) -> Result<(), &'static str> {
    reasons.into_iter().find(|(holds, _)| *holds).map_or(Ok(()), |(_, why)| Err(why))
}

/// A thread's tiles.
pub struct Tiles {
    config: Config, // all zero: there are none
    data: [[[u8; ROW_BYTES]; ROWS]; TILES],
}

impl Tiles {
    pub const NONE: Tiles = Tiles { config: [0; 64], data: [[[0; ROW_BYTES]; ROWS]; TILES] };

    fn rows(&self, tile: usize) -> usize {
        usize::from(self.config[48 + tile])
    }

    fn row_bytes(&self, tile: usize) -> usize {
        usize::from(u16::from_le_bytes([self.config[16 + 2 * tile], self.config[17 + 2 * tile]]))
    }

    fn configure(&mut self, config: Config) -> Result<(), &'static str> {
        *self = Tiles::NONE;
        if config[0] == 0 {
            return Ok(());
        }
        self.config = config;
        let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        let fits = |tile| self.rows(tile) <= ROWS && self.row_bytes(tile) <= ROW_BYTES;
        let is_whole = |tile| (self.rows(tile) == 0) == (self.row_bytes(tile) == 0);
        refuse_if([
            (config[0] != 1, "ldtilecfg: there are palettes 0 and 1"),
            (config[1] != 0, "ldtilecfg: no instruction was interrupted, so none starts from another row"),
            (!is_zero(&config[2..16]), "ldtilecfg: a reserved byte is not zero"),
            (!is_zero(&config[32..48]) || !is_zero(&config[56..]), "ldtilecfg: there are eight tiles"),
            (!(0..TILES).all(fits), "ldtilecfg: a tile has at most 16 rows of 64 bytes"),
            (!(0..TILES).all(is_whole), "ldtilecfg: a tile has rows without bytes or bytes without rows"),
        ])
    }

    fn check(&self, tile: usize) -> Result<(), &'static str> {
        refuse_if([(self.rows(tile) == 0, "a tile that isn't configured")])
    }

    fn check_operands(&self, [sums, a, b]: Operands) -> Result<(), &'static str> {
        [sums, a, b].into_iter().try_for_each(|tile| self.check(tile))?;
        let is_whole = |tile| self.row_bytes(tile).is_multiple_of(4);
        refuse_if([
            (sums == a || sums == b || a == b, "a product's three tiles are different ones"),
            (![sums, a, b].into_iter().all(is_whole), "a product's tiles have rows of whole double words"),
            (self.rows(sums) != self.rows(a), "a product has as many rows as its first factor"),
            (self.row_bytes(sums) != self.row_bytes(b), "a product has as many columns as its second factor"),
            (
                self.row_bytes(a) / 4 != self.rows(b),
                "a product's first factor has as many columns as its second has rows",
            ),
        ])
    }

    fn words(&self, tile: usize, row: usize) -> [[u8; 4]; ROW_BYTES / 4] {
        let row = &self.data[tile][row];
        std::array::from_fn(|i| [row[4 * i], row[4 * i + 1], row[4 * i + 2], row[4 * i + 3]])
    }

    /// Replace a tile's rows by `f(row, columns)`; what is beyond its shape becomes zero.
    #[inline(always)]
    fn replace(&mut self, tile: usize, f: impl Fn(&Tiles, usize, usize) -> [[u8; 4]; ROW_BYTES / 4]) {
        let (rows, columns) = (self.rows(tile), self.row_bytes(tile) / 4);
        for row in 0..rows {
            let words = f(self, row, columns);
            self.data[tile][row] = [0; ROW_BYTES];
            self.data[tile][row][..4 * columns].copy_from_slice(words[..columns].as_flattened());
        }
        self.data[tile][rows..].fill([0; ROW_BYTES]);
    }

    fn multiply_bytes(&mut self, [sums, a, b]: Operands, signed: [bool; 2]) {
        let widen = |byte: u8, signed: bool| if signed { i32::from(byte as i8) } else { i32::from(byte) };
        self.replace(sums, |tiles, row, columns| {
            let mut sums = tiles.words(sums, row).map(i32::from_le_bytes);
            let factors = tiles.words(a, row);
            for (k, x) in factors[..tiles.row_bytes(a) / 4].iter().enumerate() {
                let weights = tiles.words(b, k);
                for (sum, w) in sums[..columns].iter_mut().zip(weights) {
                    for i in 0..4 {
                        *sum = sum.wrapping_add(widen(x[i], signed[0]) * widen(w[i], signed[1]));
                    }
                }
            }
            sums.map(i32::to_le_bytes)
        });
    }

    /// The first numbers of all pairs have a sum of their own, and the second ones; both begin at 0 and are added to
    /// what was there at the end. Rounded to nearest even, what is subnormal is 0.
    #[target_feature(enable = "fma")]
    fn multiply_bf16(&mut self, [sums, a, b]: Operands) {
        self.replace(sums, |tiles, row, columns| {
            let mut both = [[0f32; ROW_BYTES / 4]; 2];
            let factors = tiles.words(a, row);
            for (k, x) in factors[..tiles.row_bytes(a) / 4].iter().enumerate() {
                let weights = tiles.words(b, k);
                for (i, sums) in both.iter_mut().enumerate() {
                    for (sum, w) in sums[..columns].iter_mut().zip(weights) {
                        let [x, w] =
                            [x, &w].map(|pair| flushed(f32::from_le_bytes([0, 0, pair[2 * i], pair[2 * i + 1]])));
                        *sum = flushed(x.mul_add(w, *sum));
                    }
                }
            }
            let before = tiles.words(sums, row).map(|word| flushed(f32::from_le_bytes(word)));
            std::array::from_fn(|n| flushed(before[n] + flushed(both[0][n] + both[1][n])).to_le_bytes())
        });
    }

    /// Carry out the instruction at `code`. Its length comes back, or why the processor would not do it.
    ///
    /// # Safety
    /// Registers must point to what the instruction reads or writes. The processor must have FMA.
    pub unsafe fn step(&mut self, code: *const u8, registers: &Registers) -> Result<usize, &'static str> {
        use Instruction::*;
        let Some((instruction, length)) = (unsafe { decode(code, registers) }) else {
            return Err("no instruction for tiles");
        };
        match instruction {
            Configure(from) => self.configure(unsafe { from.row(0).cast::<Config>().read_unaligned() })?,
            StoreConfig(to) => unsafe { to.row(0).cast::<Config>().write_unaligned(self.config) },
            Release => *self = Tiles::NONE,
            Zero(tile) => {
                self.check(tile)?;
                self.data[tile] = [[0; ROW_BYTES]; ROWS];
            }
            Load(tile, from) => {
                self.check(tile)?;
                self.data[tile] = [[0; ROW_BYTES]; ROWS];
                for row in 0..self.rows(tile) {
                    let to = self.data[tile][row].as_mut_ptr();
                    unsafe { from.row(row).copy_to_nonoverlapping(to, self.row_bytes(tile)) };
                }
            }
            Store(tile, to) => {
                self.check(tile)?;
                for row in 0..self.rows(tile) {
                    let from = self.data[tile][row].as_ptr();
                    unsafe { to.row(row).copy_from_nonoverlapping(from, self.row_bytes(tile)) };
                }
            }
            MultiplyBytes(operands, signed) => {
                self.check_operands(operands)?;
                self.multiply_bytes(operands, signed);
            }
            MultiplyBf16(operands) => {
                self.check_operands(operands)?;
                unsafe { self.multiply_bf16(operands) };
            }
        }
        if matches!(instruction, MultiplyBytes(..) | MultiplyBf16(_)) {
            PRODUCTS.with(|products| products.fetch_add(1, Ordering::Relaxed));
        }
        Ok(length)
    }
}

#[inline(always)]
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

// Neither needs making or dropping: a handler can use them.
thread_local! {
    static OWN: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::NONE) };
    static PRODUCTS: AtomicUsize = const { AtomicUsize::new(0) };
}

/// Tile products that this thread emulated.
pub fn emulated_products() -> usize {
    PRODUCTS.with(|products| products.load(Ordering::Relaxed))
}

extern "C" fn on_illegal_instruction(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over the thread's registers, which may be changed; only instructions of the code under
    // test get here, none of them this handler's. What it calls takes no memory and no lock.
    unsafe {
        let general = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = general[libc::REG_RIP as usize] as *const u8;
        let registers = GENERAL.map(|register| general[register as usize] as u64);
        match OWN.with(|own| (*own.get()).step(code, &registers)) {
            Ok(length) => general[libc::REG_RIP as usize] += length as libc::greg_t,
            Err(why) => {
                for part in ["illegal instruction: ", why, "\n"] {
                    libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len());
                }
                libc::signal(signal, libc::SIG_DFL); // which the same instruction meets next
            }
        }
    }
}

/// How the path's instructions for tiles are carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Processor,
    Emulator,
}

/// Make [`Path::Amx`] work in this process. None, and a line that says so, where even its other instructions are
/// missing.
pub fn provide() -> Option<By> {
    static INSTALLED: Once = Once::new();
    if Path::Amx.is_supported() {
        return Some(By::Processor);
    }
    if !Path::Avx512.is_supported() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        eprintln!("{test} is skipped: {} is missing, which {} builds on", Path::Avx512, Path::Amx);
        return None;
    }
    INSTALLED.call_once(|| {
        // SAFETY: all zero is an action without flags; the handler has the signature that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_illegal_instruction;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
    Some(By::Emulator)
}

/// This thread's configuration, all zero if there is none. AMX must have been provided.
pub fn config() -> Config {
    let mut config = [0xFF; 64];
    // SAFETY: there is room for it.
    unsafe { asm!("sttilecfg [{}]", in(reg) &raw mut config, options(nostack, preserves_flags)) };
    config
}
