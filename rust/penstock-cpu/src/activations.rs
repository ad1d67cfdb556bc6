//! Rows of activations as a matrix product takes them: int8 with a scale for each group of 32, or float32.

use crate::dispatch;
use crate::matrix::INPUT_ALIGN;
use crate::simd::{LANES, Simd};

/// Inputs that share a scale.
pub const GROUP: usize = INPUT_ALIGN;

/// What products do with activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Rounded to int8 for quantized weights.
    Int8,
    /// Taken as they are.
    F32,
}

/// Rows whose int8 numbers lie together.
pub const ROWS: usize = 4;

/// One group of int8 numbers of four rows, and all that a product needs to know of them: a kernel reaches everything
/// from one address.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Group {
    /// The numbers.
    pub q: [[i8; GROUP]; ROWS],
    /// What one step of `q` is worth.
    pub scale: [f32; ROWS],
    /// The sum of `q`.
    pub sum: [f32; ROWS],
    /// The same times the scale.
    pub scaled_sum: [f32; ROWS],
    /// The sums of both halves of `q`.
    pub half_sum: [[f32; 2]; ROWS],
    /// The same times the scale.
    pub scaled_half_sum: [[f32; 2]; ROWS],
}

const EMPTY: Group = Group {
    q: [[0; GROUP]; ROWS],
    scale: [0.0; ROWS],
    sum: [0.0; ROWS],
    scaled_sum: [0.0; ROWS],
    half_sum: [[0.0; 2]; ROWS],
    scaled_half_sum: [[0.0; 2]; ROWS],
};

/// Rows of activations, each padded with zeros to whole groups.
#[derive(Default)]
pub struct Activations {
    width: usize,
    wide: Vec<f32>,
    groups: Vec<Group>,
}

impl Activations {
    /// Make room for `rows` of `inputs`; what was there is kept only if nothing changes.
    pub fn resize(&mut self, rows: usize, inputs: usize) {
        self.width = inputs.next_multiple_of(GROUP);
        let (size, groups) = (rows * self.width, rows.div_ceil(ROWS) * self.width / GROUP);
        if self.wide.len() < size {
            self.wide.resize(size, 0.0);
        }
        if self.groups.len() < groups {
            self.groups.resize(groups, EMPTY);
        }
    }

    /// Where the rows lie, for tasks that write different parts of them.
    pub fn view(&mut self) -> View {
        View { width: self.width, wide: self.wide.as_mut_ptr(), groups: self.groups.as_mut_ptr() }
    }
}

/// Pointers into [`Activations`].
#[derive(Clone, Copy)]
pub struct View {
    /// Numbers in a row, with padding.
    pub width: usize,
    /// float32 `[rows, width]`; what the int8 numbers are made from.
    pub wide: *mut f32,
    /// `[rows / 4, width / 32]`
    pub groups: *mut Group,
}

// SAFETY: tasks that share one write different rows or groups of it.
unsafe impl Send for View {}
// SAFETY: see above.
unsafe impl Sync for View {}

/// Round groups `first .. first + count` of a row to int8: `q = round(x * 127 / greatest)`, ties to even.
///
/// A group of zeros gets scale 0. One that holds a NaN or an infinity gets a NaN scale, which reaches every output.
#[inline(always)]
pub unsafe fn quantize<S: Simd>(to: View, row: usize, first: usize, count: usize) {
    let groups = to.width / GROUP;
    for g in first..first + count {
        let from = to.wide.add(row * to.width + g * GROUP);
        let (a, b) = (S::load(from), S::load(from.add(LANES)));
        let greatest = S::greatest(S::max(S::abs(a), S::abs(b)));
        let finite = S::sum(S::add(S::sub(a, a), S::sub(b, b))) == 0.0;
        let inverse = if greatest > 0.0 && finite { 127.0 / greatest } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 }; // below 4e-37 all is zero
        let scale = if !finite {
            f32::NAN
        } else if inverse > 0.0 {
            greatest / 127.0
        } else {
            0.0
        };
        let by = S::splat(inverse);
        let zero = S::splat(0.0);
        let (a, b) = if finite { (S::round(S::mul(a, by)), S::round(S::mul(b, by))) } else { (zero, zero) };
        let group = to.groups.add(row / ROWS * groups + g);
        let r = row % ROWS;
        let q = (&raw mut (*group).q[r]).cast::<i8>();
        S::store_i8(q, a);
        S::store_i8(q.add(LANES), b);
        let (low, high) = (S::sum(a), S::sum(b)); // whole numbers: exact in any order
        (*group).scale[r] = scale;
        (*group).sum[r] = low + high;
        (*group).scaled_sum[r] = scale * (low + high);
        (*group).half_sum[r] = [low, high];
        (*group).scaled_half_sum[r] = [scale * low, scale * high];
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, arXiv:1910.07467) of one row of `size` numbers into row
/// `row` of `to`, rounded to int8 as well if `int8`.
#[inline(always)]
unsafe fn rms_norm<S: Simd>(
    x: *const f32,
    weight: *const f32,
    size: usize,
    eps: f32,
    to: View,
    row: usize,
    int8: bool,
) {
    let out = to.wide.add(row * to.width);
    let whole = size / LANES * LANES;
    let mut squares = S::splat(0.0);
    for i in (0..whole).step_by(LANES) {
        let v = S::load(x.add(i));
        squares = S::fma(v, v, squares);
    }
    let mut sum = S::sum(squares);
    for i in whole..size {
        sum = (*x.add(i)).mul_add(*x.add(i), sum);
    }
    let scale = 1.0 / (sum / size as f32 + eps).sqrt();
    let by = S::splat(scale);
    for i in (0..whole).step_by(LANES) {
        S::store(out.add(i), S::mul(S::mul(S::load(x.add(i)), by), S::load(weight.add(i))));
    }
    for i in whole..size {
        *out.add(i) = *x.add(i) * scale * *weight.add(i);
    }
    for i in size..to.width {
        *out.add(i) = 0.0;
    }
    if int8 {
        quantize::<S>(to, row, 0, to.width / GROUP);
    }
}

dispatch!(pub fn norm_row = rms_norm; (
    x: *const f32, weight: *const f32, size: usize, eps: f32, to: View, row: usize, int8: bool
));
dispatch!(pub fn quantize_groups = quantize; (to: View, row: usize, first: usize, count: usize));
