//! Products on AMX tiles, by the processor's or, where it has none, by an emulator of the instructions.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod support;

use penstock_cpu::activations::Precision;
use penstock_cpu::gemm::{Output, Part, product};
use penstock_cpu::kv_cache::{KvCache, KvShape, KvType};
use penstock_cpu::matrix::Matrix;
use penstock_cpu::pool::Pool;
use penstock_cpu::simd::Path;
use penstock_cpu::stepper::{Share, Stepper};
use penstock_cpu::tuner::Plan;
use std::arch::asm;
use support::tiles::{By, Config, Registers, Tiles, config, emulated_products, provide};
use support::{DTYPES, Rng, Tensor, activations, assert_same, block, multiply, small_model};

/// Rows and bytes of a row of the first tiles.
fn config_of(shapes: &[(u8, u16)]) -> Config {
    let mut config = [0; 64];
    config[0] = 1;
    for (i, &(rows, row_bytes)) in shapes.iter().enumerate() {
        config[16 + 2 * i..][..2].copy_from_slice(&row_bytes.to_le_bytes());
        config[48 + i] = rows;
    }
    config
}

/// Numbers of which a few are much greater than the others: groups with a rest.
fn with_outliers(rng: &mut Rng, count: usize) -> Vec<f32> {
    let mut x = rng.normals(count);
    for _ in 0..count.div_ceil(50) {
        let at = rng.below(count);
        x[at] *= 300.0;
    }
    x
}

#[test]
fn int8_products_of_every_quantized_type_have_the_bits_of_the_path_without_tiles() {
    if provide().is_none() {
        return;
    }
    let (pool, mut rng) = (Pool::new(1), Rng::new(1));
    for dtype in &DTYPES[3..] {
        for _ in 0..12 {
            let most_blocks = if block(dtype).0 == 256 { 2 } else { 9 };
            let (outputs, inputs) = (rng.between(1, 80), block(dtype).0 * rng.between(1, most_blocks));
            let tensor = Tensor::random(&mut rng, dtype, outputs, inputs, 0.1);
            let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
            let rows = rng.between(1, 40);
            let x = with_outliers(&mut rng, rows * inputs);
            let (first_tile, first_row) = (rng.below(matrix.tiles()), 4 * rng.below(rows.div_ceil(4)));
            let part = Part {
                first_tile,
                tiles: rng.between(1, matrix.tiles() - first_tile),
                first_row,
                rows: rng.between(1, rows - first_row),
                together: 16,
            };
            let stride = 16 * part.tiles + rng.below(20);
            let before = rng.normals(part.rows * stride);
            for accumulate in [false, true] {
                let [got, wanted] = [Path::Amx, Path::Avx512].map(|path| {
                    let mut y = before.clone();
                    let out = Output { to: y.as_mut_ptr(), stride, accumulate };
                    let mut x = activations(path, &x, inputs);
                    // SAFETY: the path was provided, and there is room for the part.
                    unsafe { product(path, &matrix, x.view(), Precision::Int8, part, out) };
                    y
                });
                assert_same(
                    &got,
                    &wanted,
                    &format!("{dtype}, {outputs} x {inputs}, accumulate {accumulate}, {part:?}"),
                );
            }
        }
    }
}

#[test]
fn a_row_of_bfloat16_has_the_same_bits_for_every_number_of_rows() {
    if provide().is_none() {
        return;
    }
    let (pool, mut rng) = (Pool::new(1), Rng::new(3));
    let (outputs, inputs) = (90, 100);
    let tensor = Tensor::random(&mut rng, "BF16", outputs, inputs, 0.1);
    let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
    let x = rng.normals(40 * inputs);
    let product =
        |x: &[f32], rows| multiply(Path::Amx, &matrix, activations(Path::Amx, x, inputs).view(), Precision::Bf16, rows);
    let alone: Vec<f32> = x.chunks_exact(inputs).flat_map(|x| product(x, 1)).collect();
    for rows in 1..=40 {
        let y = product(&x[..rows * inputs], rows);
        assert_same(&y, &alone[..rows * outputs], &format!("{rows} rows"));
    }
}

#[test]
fn products_take_tiles_for_all_their_groups_and_leave_none_configured() {
    let Some(by) = provide() else { return };
    let (pool, mut rng) = (Pool::new(1), Rng::new(4));
    // Of 37 rows int8 leaves five to the other instructions.
    for (dtype, precision, blocks, group) in [
        ("Q4_0", Precision::Int8, 2, 32),
        ("Q8_0", Precision::Int8, 2, 32),
        ("Q6_K", Precision::Int8, 2, 16),
        ("BF16", Precision::Bf16, 3, 32),
    ] {
        let tensor = Tensor::random(&mut rng, dtype, 90, 512, 0.1);
        let matrix = Matrix::stack(&pool, &[tensor.stored()]).unwrap();
        let mut x = activations(Path::Amx, &rng.normals(37 * 512), 512);
        let before = emulated_products();
        multiply(Path::Amx, &matrix, x.view(), precision, 37);
        let wanted = if by == By::Emulator { blocks * matrix.tiles() * 512 / group } else { 0 };
        assert_eq!(emulated_products() - before, wanted, "{dtype}");
        assert_eq!(config(), [0; 64], "{dtype} leaves tiles");
    }
}

#[test]
fn scores_have_the_bits_of_the_path_without_tiles_on_one_thread_and_on_more() {
    if provide().is_none() {
        return;
    }
    let mut rng = Rng::new(5);
    for dtype in ["Q4_0", "Q5_1", "Q8_0"] {
        let model = small_model(&mut rng, dtype, &Pool::new(1));
        let s = &model.sizes;
        let tokens: Vec<u32> = (0..124).map(|_| rng.below(s.vocab) as u32).collect();
        let share = |from: usize, to: usize, start, table: &[u32]| Share {
            tokens: tokens[from..to].to_vec(),
            start,
            table: table.to_vec(),
        };
        // Chunks of two prompts, then one token each.
        let (long, short) = ([1, 3, 5, 7, 9, 11], [0, 2, 4]);
        let steps = [
            vec![share(0, 50, 0, &long), share(90, 123, 0, &short)],
            vec![share(50, 89, 50, &long)],
            vec![share(89, 90, 89, &long), share(123, 124, 33, &short)],
        ];
        let scores = |path, threads| {
            let shape = KvShape {
                layers: s.layers,
                heads: s.kv_heads,
                head_dim: s.head_dim,
                block_size: 16,
                kind: KvType::F16,
            };
            let cache = KvCache::new(shape, 12).unwrap();
            let mut stepper = Stepper::new(path, Precision::Int8, Pool::new(threads));
            stepper.tuner().fix(Some(Plan::DEFAULT));
            let mut scores = Vec::new();
            for shares in &steps {
                stepper.forward(&model, &cache, shares);
                let rows: Vec<usize> = (0..=stepper.last_row(shares.len() - 1)).collect();
                stepper.score(&model, &rows);
                rows.iter().for_each(|&row| scores.extend_from_slice(stepper.scores(&model, row)));
            }
            if path == Path::Amx {
                stepper.pool().run(8 * threads, &|_, thread| {
                    assert_eq!(config(), [0; 64], "thread {thread} of {threads} has tiles left");
                });
            }
            scores
        };
        let wanted = scores(Path::Avx512, 1);
        for threads in 1..=3 {
            assert_same(&scores(Path::Amx, threads), &wanted, &format!("{dtype}, {threads} threads"));
        }
    }
}

macro_rules! byte_product {
    ($instruction:literal) => {
        |config: &Config, x: &[u8; 64], weights: &[u8; 64], sums: &mut [i32; 16]| {
            let [x_at, weights_at, sums_at] = [x.as_ptr() as i64 - 10, weights.as_ptr() as i64 + 1000, sums.as_mut_ptr() as i64];
            // SAFETY: the shapes and strides stay within the arrays. Of the registers' numbers, the ones here need
            // other encodings than the rest do.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    "tileloadd tmm7, [r12 + 4*{four} + 10]",
                    "tileloaddt1 tmm3, [r13 + r14 - 1000]",
                    "tileloadd tmm5, [{sums} + 2*{eight}]",
                    concat!($instruction, " tmm5, tmm7, tmm3"),
                    "tilestored [{sums} + 2*{eight}], tmm5",
                    "tilerelease",
                    config = in(reg) config,
                    sums = in(reg) sums_at,
                    four = in(reg) 4i64,
                    eight = in(reg) 8i64,
                    in("r12") x_at,
                    in("r13") weights_at,
                    in("r14") 20i64,
                    out("tmm3") _, out("tmm5") _, out("tmm7") _,
                    options(nostack, preserves_flags)
                )
            }
        }
    };
}

#[test]
fn byte_instructions_multiply_what_their_operands_and_addresses_say() {
    if provide().is_none() {
        return;
    }
    // Three rows of two times four inputs, every 16 bytes; two times four inputs of three outputs, every 20 bytes; the
    // sums every 16 bytes, of which the last four are not theirs.
    let config = config_of(&[(0, 0), (0, 0), (0, 0), (2, 12), (0, 0), (3, 12), (0, 0), (3, 8)]);
    let mut rng = Rng::new(6);
    let mut random = || -> [u8; 64] { rng.bytes(64).try_into().unwrap() };
    let (x, weights) = (random(), random());
    let before: [i32; 16] = std::array::from_fn(|i| i32::from_le_bytes(random()[..4].try_into().unwrap()) ^ i as i32);
    type Run = fn(&Config, &[u8; 64], &[u8; 64], &mut [i32; 16]);
    let all: [(&str, Run, bool, bool); 4] = [
        ("tdpbssd", byte_product!("tdpbssd"), true, true),
        ("tdpbsud", byte_product!("tdpbsud"), true, false),
        ("tdpbusd", byte_product!("tdpbusd"), false, true),
        ("tdpbuud", byte_product!("tdpbuud"), false, false),
    ];
    let widen = |byte: u8, signed| if signed { i32::from(byte as i8) } else { i32::from(byte) };
    for (name, run, x_signed, weights_signed) in all {
        let (mut got, mut wanted) = (before, before);
        run(&config, &x, &weights, &mut got);
        for (row, output) in (0..3).flat_map(|row| (0..3).map(move |output| (row, output))) {
            for k in 0..8 {
                let w = widen(weights[20 * (k / 4) + 4 * output + k % 4], weights_signed);
                let sum = &mut wanted[4 * row + output];
                *sum = sum.wrapping_add(widen(x[16 * row + k], x_signed) * w);
            }
        }
        assert_eq!(got, wanted, "{name}");
    }
}

const LDTILECFG_RAX: [u8; 5] = [0xC4, 0xE2, 0x78, 0x49, 0x00];

fn tdpbsud(sums: u8, a: u8, b: u8) -> [u8; 5] {
    [0xC4, 0xE2, 0x02 | (!b & 15) << 3, 0x5E, 0xC0 | sums << 3 | a]
}

#[test]
fn the_emulator_adds_products_of_bfloat16_in_two_sums_without_subnormal_numbers() {
    const TDPBF16PS_0_1_2: [u8; 5] = [0xC4, 0xE2, 0x6A, 0x5C, 0xC1];
    const TILELOADD_0_RAX: [u8; 6] = [0xC4, 0xE2, 0x7B, 0x4B, 0x04, 0x20];
    const TILELOADD_1_RAX: [u8; 6] = [0xC4, 0xE2, 0x7B, 0x4B, 0x0C, 0x20];
    const TILELOADD_2_RAX: [u8; 6] = [0xC4, 0xE2, 0x7B, 0x4B, 0x14, 0x20];
    const TILESTORED_RAX_0: [u8; 6] = [0xC4, 0xE2, 0x7A, 0x4B, 0x04, 0x20];
    let product = |before: f32, x: [f32; 4], w: [f32; 2]| {
        let mut tiles = Tiles::NONE;
        let narrow = |x: f32| (x.to_bits() >> 16) as u16;
        let (config, x, w) = (config_of(&[(1, 4), (1, 8), (2, 4)]), x.map(narrow), w.map(narrow));
        let mut sum = before;
        let mut step = |code: &[u8], at: u64| {
            let mut registers: Registers = [0; 16];
            registers[0] = at;
            // SAFETY: the instruction reads or writes what was handed to it. Without a stride both rows of the weights
            // are the same pair.
            assert_eq!(unsafe { tiles.step(code.as_ptr(), &registers) }, Ok(code.len()));
        };
        step(&LDTILECFG_RAX, config.as_ptr() as u64);
        step(&TILELOADD_0_RAX, &raw const sum as u64);
        step(&TILELOADD_1_RAX, x.as_ptr() as u64);
        step(&TILELOADD_2_RAX, w.as_ptr() as u64);
        step(&TDPBF16PS_0_1_2, 0);
        step(&TILESTORED_RAX_0, &raw mut sum as u64);
        sum
    };
    if provide().is_none() {
        return;
    }
    let tiny = f32::from_bits(1 << 16);
    for (before, x, w, wanted) in [
        (10.0, [1.0, 2.0, 3.0, 4.0], [5.0, 6.0], 10.0 + 5.0 + 12.0 + 15.0 + 24.0),
        // In one sum after the other, 1 would be lost beside 2^24.
        (0.0, [16777216.0, 1.0, -16777216.0, 1.0], [1.0; 2], 2.0),
        (1.0, [16777216.0, 0.0, 0.0, -16777216.0], [1.0; 2], 1.0),
        (0.0, [tiny, 0.0, 0.0, 0.0], [1e30; 2], 0.0),
        (0.0, [f32::MIN_POSITIVE, 0.0, 0.0, 0.0], [0.5; 2], 0.0),
    ] {
        assert_eq!(product(before, x, w), wanted, "{before} + {x:?} * {w:?}");
    }
}

#[test]
fn the_emulator_refuses_what_the_processor_refuses() {
    if provide().is_none() {
        return;
    }
    const TILEZERO_3: [u8; 5] = [0xC4, 0xE2, 0x7B, 0x49, 0xD8];
    let configured = |config: Config| {
        let (mut tiles, mut registers): (Tiles, Registers) = (Tiles::NONE, [0; 16]);
        registers[0] = config.as_ptr() as u64;
        // SAFETY: the register points to a configuration.
        unsafe { tiles.step(LDTILECFG_RAX.as_ptr(), &registers) }.map(|_| tiles)
    };
    let with = |at: usize, byte: u8| {
        let mut config = config_of(&[(4, 8)]);
        config[at] = byte;
        configured(config).map(|_| ()).unwrap_err()
    };
    for (at, byte, wanted) in [
        (0, 2, "palettes"),
        (1, 1, "another row"),
        (15, 1, "reserved"),
        (32, 4, "eight tiles"),
        (56, 4, "eight tiles"),
        (48, 17, "16 rows"),
        (16, 65, "64 bytes"),
        (16, 0, "rows without bytes"),
        (49, 1, "rows without bytes"),
    ] {
        let why = with(at, byte);
        assert!(why.contains(wanted), "byte {at} is {byte}: {why}");
    }

    let why = |shapes: &[(u8, u16)], code: &[u8]| {
        // SAFETY: no instruction here has memory operands.
        unsafe { configured(config_of(shapes)).unwrap().step(code.as_ptr(), &[0; 16]) }.unwrap_err()
    };
    let fitting = [(3, 12), (3, 8), (2, 12)];
    for (shapes, code, wanted) in [
        (fitting, TILEZERO_3, "isn't configured"),
        (fitting, tdpbsud(0, 1, 3), "isn't configured"),
        (fitting, tdpbsud(0, 1, 1), "different ones"),
        (fitting, tdpbsud(0, 2, 1), "as many rows"),
        ([(3, 10), (3, 8), (2, 10)], tdpbsud(0, 1, 2), "double words"),
        ([(3, 12), (4, 8), (2, 12)], tdpbsud(0, 1, 2), "as many rows as"),
        ([(3, 12), (3, 8), (2, 16)], tdpbsud(0, 1, 2), "columns as its second"),
        ([(3, 12), (3, 12), (2, 12)], tdpbsud(0, 1, 2), "columns as its second has rows"),
        (fitting, [0x0F, 0x0B, 0, 0, 0], "no instruction for tiles"), // ud2
        (fitting, [0xC4, 0xE2, 0x7C, 0x49, 0xC0], "no instruction for tiles"), // tilerelease of 256 bits
    ] {
        let why = why(&shapes, &code);
        assert!(why.contains(wanted), "{shapes:?}, {code:x?}: {why}");
    }
    let mut tiles = configured(config_of(&fitting)).unwrap();
    // SAFETY: no memory operands.
    assert_eq!(unsafe { tiles.step(tdpbsud(0, 1, 2).as_ptr(), &[0; 16]) }, Ok(5));
}
