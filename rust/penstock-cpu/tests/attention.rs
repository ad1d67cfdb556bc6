//! Paged attention against a float64 softmax, and its independence of neighbours, blocks and paths.

mod support;

use penstock_cpu::attention::{Partial, Queries, Scratch, attend, attend_to, chunks, merge, positions_together};
use penstock_cpu::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use penstock_cpu::kv_cache::{KvCache, KvShape, KvType};
use penstock_cpu::simd::Path;
use support::{Rng, assert_same, paths};

const LAYER: usize = 1;
const HEAD: usize = 1;
const KINDS: [KvType; 4] = [KvType::F32, KvType::F16, KvType::Bf16, KvType::I8];

/// One sequence's queries, keys and values for one KV head, with its cache.
struct Case {
    cache: KvCache,
    table: Vec<u32>,
    context: usize,
    group: usize,
    window: usize,
    scale: f32,
    q: Vec<f32>, // [context, group, head_dim]
    k: Vec<f32>, // [context, head_dim]
    v: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, shape: KvShape, context: usize, group: usize, window: usize) -> Case {
        let used = context.div_ceil(shape.block_size);
        let blocks = used + 3;
        let cache = KvCache::new(shape, blocks).unwrap();
        fill(&cache, f32::NAN);
        let mut table: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            table.swap(i, rng.below(i + 1));
        }
        table.truncate(used);
        let dim = shape.head_dim;
        let q = rng.normals(context * group * dim);
        let (k, v) = (rng.normals(context * dim), rng.normals(context * dim));
        let case = Case { cache, table, context, group, window, scale: 1.0 / (dim as f32).sqrt(), q, k, v };
        (0..context).for_each(|position| case.write(position));
        case
    }

    fn random(rng: &mut Rng) -> Case {
        let shape = KvShape {
            layers: 2,
            heads: 2,
            head_dim: rng.pick(&[16, 24, 64, 128]),
            block_size: rng.pick(&[16, 8, 5, 32]),
            kind: rng.pick(&KINDS),
        };
        let (context, group) = (rng.between(1, 700), rng.between(1, 9));
        let window = if rng.below(2) == 0 { usize::MAX } else { rng.between(1, 400) };
        Case::new(rng, shape, context, group, window)
    }

    fn write(&self, position: usize) {
        let (dim, size) = (self.cache.shape.head_dim, self.cache.shape.block_size);
        let (k, v) = (&self.k[position * dim..][..dim], &self.v[position * dim..][..dim]);
        let block = self.table[position / size] as usize;
        // SAFETY: key and value are as long as the head, and nobody else uses the cache.
        unsafe { self.cache.write(Path::best(), LAYER, HEAD, block, position % size, k.as_ptr(), v.as_ptr()) };
    }

    /// Results of positions `start .. start + positions`, `[positions, group, head_dim]`.
    fn attend(&self, path: Path, start: usize, positions: usize, scratch: &mut Scratch) -> Vec<f32> {
        self.results(start, positions, |queries| {
            // SAFETY: the path is this processor's; the table names blocks for all positions.
            unsafe { attend(path, &self.cache, queries, scratch) }
        })
    }

    /// The same, each chunk by itself, the last first.
    fn attend_in_parts(&self, path: Path, start: usize, positions: usize, scratch: &mut Scratch) -> Vec<f32> {
        self.results(start, positions, |queries| {
            let all = chunks(&self.cache.shape, start, positions, self.window);
            let mut parts = vec![Partial::default(); all.len()];
            for (chunk, part) in all.zip(&mut parts).rev() {
                // SAFETY: as above.
                unsafe { attend_to(path, &self.cache, queries, scratch, chunk, part) };
            }
            // SAFETY: as above.
            unsafe { merge(path, &self.cache, queries, &mut parts) };
        })
    }

    fn results(&self, start: usize, positions: usize, attend: impl FnOnce(&Queries)) -> Vec<f32> {
        let width = self.group * self.cache.shape.head_dim;
        let mut out = vec![f32::NAN; positions * (width + 3)];
        let queries = Queries {
            layer: LAYER,
            head: HEAD,
            table: self.table.as_ptr(),
            start,
            positions,
            group: self.group,
            q: self.q[start * width..].as_ptr(),
            q_stride: width,
            out: out.as_mut_ptr(),
            out_stride: width + 3,
            window: self.window,
            scale: self.scale,
        };
        attend(&queries);
        out.chunks_exact(width + 3).flat_map(|row| row[..width].to_vec()).collect()
    }

    /// The same of one position in float64, from keys and values as they are stored.
    fn reference(&self, position: usize) -> Vec<f64> {
        let (dim, kind) = (self.cache.shape.head_dim, self.cache.shape.kind);
        let (k, v) = (stored(&self.k, dim, kind), stored(&self.v, dim, kind));
        let first = (position + 1).saturating_sub(self.window);
        let mut out = Vec::new();
        for h in 0..self.group {
            let q = &self.q[(position * self.group + h) * dim..][..dim];
            let scores: Vec<f64> = (first..=position)
                .map(|t| {
                    let dot: f64 = q.iter().zip(&k[t * dim..][..dim]).map(|(&q, &k)| f64::from(q) * k).sum();
                    dot * f64::from(self.scale)
                })
                .collect();
            let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..dim).map(|d| {
                let sum: f64 = weights.iter().zip(first..).map(|(w, t)| w * v[t * dim + d]).sum();
                sum / total
            }));
        }
        out
    }

    fn describe(&self) -> String {
        format!("{:?}, {} tokens, groups of {}, window {}", self.cache.shape, self.context, self.group, self.window)
    }
}

/// Keys or values as they are stored.
fn stored(numbers: &[f32], dim: usize, kind: KvType) -> Vec<f64> {
    let token = |numbers: &[f32]| -> Vec<f64> {
        let greatest = numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
        let one = |&x: &f32| match kind {
            KvType::F32 => x.into(),
            KvType::F16 => f16_to_f32(f32_to_f16(x)).into(),
            KvType::Bf16 => bf16_to_f32(f32_to_bf16(x)).into(),
            KvType::I8 => f64::from(greatest / 127.0) * f64::from((x * (127.0 / greatest)).round_ties_even()),
        };
        numbers.iter().map(one).collect()
    };
    numbers.chunks_exact(dim).flat_map(token).collect()
}

/// All of a cache, the scales of int8 included.
fn fill(cache: &KvCache, value: f32) {
    let s = cache.shape;
    for layer in 0..s.layers {
        for head in 0..s.heads {
            for block in 0..cache.blocks {
                for strip in 0..s.strips() {
                    let data = cache.strip(layer, head, block, strip);
                    // SAFETY: a strip is as long as that, and nobody else uses the cache.
                    unsafe {
                        match s.kind {
                            KvType::F32 => {
                                std::slice::from_raw_parts_mut(data.cast::<f32>(), s.strip_len()).fill(value);
                            }
                            KvType::F16 => {
                                std::slice::from_raw_parts_mut(data.cast::<u16>(), s.strip_len())
                                    .fill(f32_to_f16(value));
                            }
                            KvType::Bf16 => {
                                std::slice::from_raw_parts_mut(data.cast::<u16>(), s.strip_len())
                                    .fill(f32_to_bf16(value));
                            }
                            KvType::I8 => {
                                let bytes = s.strip_bytes() - s.scales_at();
                                let scales = data.add(s.scales_at()).cast::<f32>();
                                std::slice::from_raw_parts_mut(scales, bytes / size_of::<f32>()).fill(value);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[track_caller]
fn assert_near(got: &[f32], wanted: &[f64], what: &str) {
    assert_eq!(got.len(), wanted.len());
    for (i, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((f64::from(got) - wanted).abs() <= 4e-6, "{what}: number {i} is {got:e}, not {wanted:e}");
    }
}

#[test]
fn attention_is_the_softmax_of_float64_though_unwritten_slots_hold_nan() {
    let (mut rng, mut scratch) = (Rng::new(1), Scratch::default());
    for _ in 0..60 {
        let case = Case::random(&mut rng);
        // The last positions: nothing after them is written.
        let positions = rng.between(1, positions_together(case.group).min(case.context));
        let start = case.context - positions;
        let wanted: Vec<f64> = (start..case.context).flat_map(|p| case.reference(p)).collect();
        let got = case.attend(Path::best(), start, positions, &mut scratch);
        assert_near(&got, &wanted, &case.describe());
    }
}

#[test]
fn a_query_has_the_same_bits_alone_and_with_neighbours_on_every_path() {
    let (mut rng, mut scratch) = (Rng::new(2), Scratch::default());
    for _ in 0..40 {
        let case = Case::random(&mut rng);
        let width = case.group * case.cache.shape.head_dim;
        let together = rng.between(1, 20.min(case.context));
        let start = rng.below(case.context - together + 1);
        let alone: Vec<f32> =
            (start..start + together).flat_map(|p| case.attend(Path::best(), p, 1, &mut scratch)).collect();
        for path in paths() {
            let got = case.attend(path, start, together, &mut scratch);
            assert_same(&got, &alone, &format!("{} from {start}, {together} on {path}", case.describe()));
            let (first, count) = (rng.below(together), positions_together(case.group));
            let count = count.min(together - first);
            let got = case.attend(path, start + first, count, &mut scratch);
            assert_same(&got, &alone[first * width..][..count * width], &format!("{} on {path}", case.describe()));
        }
    }
}

#[test]
fn contexts_around_the_ends_of_strips_and_splits_are_right() {
    let (mut rng, mut scratch) = (Rng::new(3), Scratch::default());
    for block_size in [16, 8, 5, 32] {
        let shape = KvShape { layers: 2, heads: 2, head_dim: 16, block_size, kind: KvType::F32 };
        for window in [usize::MAX, 1, 17, 256] {
            let case = Case::new(&mut rng, shape, 530, 3, window);
            let split = 16 * block_size.min(16); // tokens of sixteen strips
            for end in [1, 2, 5, 8, 16, 17, 32, 33, split - 1, split, split + 1, 2 * split, 512, 513, 530] {
                if (1..=case.context).contains(&end) {
                    for path in paths() {
                        let got = case.attend(path, end - 1, 1, &mut scratch);
                        assert_near(&got, &case.reference(end - 1), &format!("{} at {end}", case.describe()));
                    }
                }
            }
        }
    }
}

#[test]
fn chunks_shared_between_threads_give_the_same_bits_and_are_right() {
    let (mut rng, mut scratch) = (Rng::new(8), Scratch::default());
    for (round, kind) in KINDS.into_iter().cycle().take(12).enumerate() {
        let shape =
            KvShape { layers: 2, heads: 2, head_dim: rng.pick(&[16, 24]), block_size: rng.pick(&[16, 5, 32]), kind };
        let window = if round % 3 == 0 { rng.between(900, 1500) } else { usize::MAX };
        let context = rng.between(1500, 4500);
        let case = Case::new(&mut rng, shape, context, 3, window);
        let positions = rng.between(1, 8);
        let start = case.context - positions;
        let wanted = case.attend(Path::best(), start, positions, &mut scratch);
        let reference: Vec<f64> = (start..case.context).flat_map(|p| case.reference(p)).collect();
        assert_near(&wanted, &reference, &case.describe());
        for path in paths() {
            let got = case.attend_in_parts(path, start, positions, &mut scratch);
            assert_same(&got, &wanted, &format!("{} on {path}", case.describe()));
        }
        let alone = case.attend(Path::best(), case.context - 1, 1, &mut scratch);
        assert_same(&wanted[(positions - 1) * alone.len()..], &alone, &case.describe());
    }
}

#[test]
fn keys_and_values_of_int8_that_are_not_finite_make_the_result_nan() {
    let (mut rng, mut scratch) = (Rng::new(9), Scratch::default());
    let shape = KvShape { layers: 2, heads: 2, head_dim: 16, block_size: 16, kind: KvType::I8 };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for of_key in [true, false] {
            let mut case = Case::new(&mut rng, shape, 40, 2, usize::MAX);
            *(if of_key { &mut case.k[20 * 16 + 3] } else { &mut case.v[20 * 16 + 3] }) = bad;
            case.write(20);
            for path in paths() {
                assert!(case.attend(path, 39, 1, &mut scratch).iter().all(|y| y.is_nan()), "{bad} on {path}");
                assert_near(&case.attend(path, 19, 1, &mut scratch), &case.reference(19), "before the bad token");
            }
        }
    }
}

#[test]
fn tokens_of_int8_that_are_zero_or_next_to_it_count_as_zero() {
    let (mut rng, mut scratch) = (Rng::new(10), Scratch::default());
    let shape = KvShape { layers: 2, heads: 2, head_dim: 16, block_size: 16, kind: KvType::I8 };
    for small in [0.0, 1e-40] {
        let mut case = Case::new(&mut rng, shape, 1, 2, usize::MAX);
        case.v.fill(small);
        case.write(0);
        assert_eq!(case.attend(Path::best(), 0, 1, &mut scratch), vec![0.0; 32]);
    }
}

#[test]
fn blocks_elsewhere_in_the_cache_give_the_same_bits() {
    let (mut rng, mut scratch) = (Rng::new(4), Scratch::default());
    for _ in 0..10 {
        let mut case = Case::random(&mut rng);
        let start = case.context - 1;
        let wanted = case.attend(Path::best(), start, 1, &mut scratch);
        fill(&case.cache, f32::NAN);
        case.table.iter_mut().for_each(|block| *block = case.cache.blocks as u32 - 1 - *block);
        (0..case.context).for_each(|position| case.write(position));
        assert_same(&case.attend(Path::best(), start, 1, &mut scratch), &wanted, &case.describe());
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_lose_the_greatest() {
    let (mut rng, mut scratch) = (Rng::new(5), Scratch::default());
    for _ in 0..10 {
        let mut case = Case::random(&mut rng);
        case.scale = 300.0;
        for path in paths() {
            let got = case.attend(path, case.context - 1, 1, &mut scratch);
            for (&got, wanted) in got.iter().zip(case.reference(case.context - 1)) {
                // Scores of thousands are only known to about a thousandth.
                assert!((f64::from(got) - wanted).abs() < 0.02, "{}: {got}, not {wanted}", case.describe());
            }
        }
    }
}

#[test]
fn keys_that_are_nan_reach_every_query_that_sees_them_and_no_earlier_one() {
    let (mut rng, mut scratch) = (Rng::new(6), Scratch::default());
    let shape = KvShape { layers: 2, heads: 2, head_dim: 24, block_size: 16, kind: KvType::F16 };
    // One key; all keys of the first split; all but the last.
    for bad in [100..101, 0..256, 0..399] {
        let mut case = Case::new(&mut rng, shape, 400, 4, usize::MAX);
        case.k[bad.start * 24..bad.end * 24].fill(f32::NAN);
        bad.clone().for_each(|position| case.write(position));
        for path in paths() {
            let got = case.attend(path, 399, 1, &mut scratch);
            assert!(got.iter().all(|y| y.is_nan()), "{bad:?} on {path}");
            if bad.start > 0 {
                let got = case.attend(path, bad.start - 1, 1, &mut scratch);
                assert_near(&got, &case.reference(bad.start - 1), "before the bad key");
            }
        }
    }
}

#[test]
fn a_query_of_nan_spoils_its_own_result_only() {
    let (mut rng, mut scratch) = (Rng::new(7), Scratch::default());
    let shape = KvShape { layers: 2, heads: 2, head_dim: 16, block_size: 8, kind: KvType::F32 };
    let mut case = Case::new(&mut rng, shape, 300, 4, usize::MAX);
    for path in paths() {
        let wanted = case.attend(path, 290, 3, &mut scratch);
        let kept = std::mem::replace(&mut case.q[(291 * 4 + 2) * 16 + 5], f32::NAN);
        let got = case.attend(path, 290, 3, &mut scratch);
        let bad = (4 + 2) * 16..(4 + 3) * 16;
        assert!(got[bad.clone()].iter().all(|y| y.is_nan()));
        assert_same(&got[..bad.start], &wanted[..bad.start], path.name());
        assert_same(&got[bad.end..], &wanted[bad.end..], path.name());
        case.q[(291 * 4 + 2) * 16 + 5] = kept;
    }
}
