//! Rows of activations as a matrix product takes them: int8 with a scale for each group of 32, bfloat16, or float32.
//!
//! Where a single number stands out of its group, the group's scale is the outlier's and the others would be rounded
//! to next to nothing. Such a group keeps what rounding left, in int8 again, and products add both.

use crate::dispatch;
use crate::half::f32_to_bf16;
use crate::simd::{LANES, Simd};

/// Inputs that share a scale.
pub const GROUP: usize = 32;

/// What products do with activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Rounded to int8 for quantized weights, taken as they are for others.
    Int8,
    /// Rounded to int8 for quantized weights and to bfloat16 for weights of that type, taken as they are for others.
    Bf16,
    /// Taken as they are.
    F32,
}

/// What a product reads of its activations; see [`Matrix::takes`](crate::matrix::Matrix::takes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Groups of int8.
    Int8,
    /// bfloat16.
    Bf16,
    /// float32.
    F32,
}

/// Rows whose int8 numbers lie together.
pub const ROWS: usize = 4;

/// Of a normed row, groups keep what rounding left whose greatest number is more than this many times the row's root
/// mean square.
const OUTLIER_OF_ROW: f32 = 7.6;
/// Of other rows, which are made group by group, those whose greatest number holds more than this share of the group's
/// sum of squares. Both rules together choose about every twentieth group, and take two thirds of the error away that
/// int8 makes in a model's output.
const OUTLIER_OF_GROUP: f32 = 0.85;

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
    /// Whether a row has a [`Rest`], which its scaled sums then include. A byte each: threads round rows side by side.
    pub has_rest: [bool; ROWS],
}

/// What rounding left of groups of four rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Rest {
    /// The numbers.
    pub q: [[i8; GROUP]; ROWS],
    /// What one step of `q` is worth.
    pub scale: [f32; ROWS],
    /// The sums of both halves of `q`.
    pub half_sum: [[f32; 2]; ROWS],
}

const NOTHING: Rest = Rest { q: [[0; GROUP]; ROWS], scale: [0.0; ROWS], half_sum: [[0.0; 2]; ROWS] };

const EMPTY: Group = Group {
    q: [[0; GROUP]; ROWS],
    scale: [0.0; ROWS],
    sum: [0.0; ROWS],
    scaled_sum: [0.0; ROWS],
    half_sum: [[0.0; 2]; ROWS],
    scaled_half_sum: [[0.0; 2]; ROWS],
    has_rest: [false; ROWS],
};

/// Rows of activations, each padded with zeros to whole groups.
#[derive(Default)]
pub struct Activations {
    width: usize,
    wide: Vec<f32>,
    narrow: Vec<u16>,
    groups: Vec<Group>,
    rests: Vec<Rest>,
}

impl Activations {
    /// Make room for `rows` of `inputs`; what was there is kept only if nothing changes.
    pub fn resize(&mut self, rows: usize, inputs: usize) {
        self.width = inputs.next_multiple_of(GROUP);
        let (size, groups) = (rows * self.width, rows.div_ceil(ROWS) * self.width / GROUP);
        if self.wide.len() < size {
            self.wide.resize(size, 0.0);
            self.narrow.resize(size, 0);
        }
        if self.groups.len() < groups {
            self.groups.resize(groups, EMPTY);
            self.rests.resize(groups, NOTHING);
        }
    }

    /// Where the rows lie, for tasks that write different parts of them.
    pub fn view(&mut self) -> View {
        View {
            width: self.width,
            wide: self.wide.as_mut_ptr(),
            narrow: self.narrow.as_mut_ptr(),
            groups: self.groups.as_mut_ptr(),
            rests: self.rests.as_mut_ptr(),
        }
    }
}

/// Pointers into [`Activations`].
#[derive(Clone, Copy)]
pub struct View {
    /// Numbers in a row, with padding.
    pub width: usize,
    /// float32 `[rows, width]`; what the other forms are made from.
    pub wide: *mut f32,
    /// bfloat16, the same.
    pub narrow: *mut u16,
    /// `[rows / 4, width / 32]`
    pub groups: *mut Group,
    /// The same.
    pub rests: *mut Rest,
}

// SAFETY: tasks that share one write different rows or groups of it.
unsafe impl Send for View {}
// SAFETY: see above.
unsafe impl Sync for View {}

/// Round groups `first .. first + count` of a row to int8: `q = round(x * 127 / greatest)`, ties to even. What that
/// leaves is kept if `is_outlier(greatest, sum of squares)` says so.
///
/// A group of zeros gets scale 0. One that holds a NaN or an infinity gets a NaN scale, which reaches every output.
#[inline(always)]
unsafe fn quantize<S: Simd>(to: View, row: usize, first: usize, count: usize, is_outlier: impl Fn(f32, f32) -> bool) {
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
        let squares = S::sum(S::fma(a, a, S::mul(b, b)));
        let (x, y) = (a, b);
        let (a, b) = if finite { (S::round(S::mul(x, by)), S::round(S::mul(y, by))) } else { (zero, zero) };
        let group = to.groups.add(row / ROWS * groups + g);
        let r = row % ROWS;
        let q = (&raw mut (*group).q[r]).cast::<i8>();
        S::store_i8(q, a);
        S::store_i8(q.add(LANES), b);
        let (low, high) = (S::sum(a), S::sum(b)); // whole numbers: exact in any order
        (*group).scale[r] = scale;
        (*group).sum[r] = low + high;
        (*group).half_sum[r] = [low, high];
        let mut scaled = [scale * low, scale * high];
        let outlier = inverse > 0.0 && is_outlier(greatest, squares);
        (*group).has_rest[r] = outlier;
        if outlier {
            // Rounding leaves at most half a step, which is 127 of these.
            let (step, inverse) = (scale / 254.0, S::splat(254.0 * inverse));
            let of_whole = S::splat(-scale);
            let a = S::round(S::mul(S::fma(a, of_whole, x), inverse));
            let b = S::round(S::mul(S::fma(b, of_whole, y), inverse));
            let rest = to.rests.add(row / ROWS * groups + g);
            let q = (&raw mut (*rest).q[r]).cast::<i8>();
            S::store_i8(q, a);
            S::store_i8(q.add(LANES), b);
            let (low, high) = (S::sum(a), S::sum(b));
            (*rest).scale[r] = step;
            (*rest).half_sum[r] = [low, high];
            scaled[0] += step * low;
            scaled[1] += step * high;
        }
        (*group).scaled_half_sum[r] = scaled;
        (*group).scaled_sum[r] = scaled[0] + scaled[1];
    }
}

/// Round groups `first .. first + count` of a row to bfloat16.
#[allow(clippy::extra_unused_type_parameters)] // plain Rust, which is compiled for each path's registers
#[inline(always)]
unsafe fn narrow<S: Simd>(to: View, row: usize, first: usize, count: usize) {
    let at = row * to.width + first * GROUP;
    for i in at..at + count * GROUP {
        *to.narrow.add(i) = f32_to_bf16(*to.wide.add(i));
    }
}

/// `1 / sqrt(mean(x^2) + eps)`
#[inline(always)]
unsafe fn norm_scale<S: Simd>(x: *const f32, size: usize, eps: f32) -> f32 {
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
    1.0 / (sum / size as f32 + eps).sqrt()
}

/// Adds `x / sqrt(mean(x^2) + eps) * weight` of one row of `size` numbers to `to`.
#[inline(always)]
unsafe fn add_rms_norm<S: Simd>(x: *const f32, weight: *const f32, size: usize, eps: f32, to: *mut f32) {
    let whole = size / LANES * LANES;
    let scale = norm_scale::<S>(x, size, eps);
    let by = S::splat(scale);
    for i in (0..whole).step_by(LANES) {
        let normed = S::mul(S::load(x.add(i)), by);
        S::store(to.add(i), S::fma(normed, S::load(weight.add(i)), S::load(to.add(i))));
    }
    for i in whole..size {
        *to.add(i) = (*x.add(i) * scale).mul_add(*weight.add(i), *to.add(i));
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, arXiv:1910.07467) of one row of `size` numbers into row
/// `row` of `to`, rounded to `form` as well.
#[inline(always)]
unsafe fn rms_norm<S: Simd>(
    x: *const f32,
    weight: *const f32,
    size: usize,
    eps: f32,
    to: View,
    row: usize,
    form: Form,
) {
    let out = to.wide.add(row * to.width);
    let whole = size / LANES * LANES;
    let scale = norm_scale::<S>(x, size, eps);
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
    match form {
        Form::Int8 => {
            let mut squares = S::splat(0.0);
            for i in (0..to.width).step_by(LANES) {
                let v = S::load(out.add(i));
                squares = S::fma(v, v, squares);
            }
            let most = OUTLIER_OF_ROW * (S::sum(squares) / size as f32).sqrt();
            quantize::<S>(to, row, 0, to.width / GROUP, |greatest, _| greatest > most);
        }
        Form::Bf16 => narrow::<S>(to, row, 0, to.width / GROUP),
        Form::F32 => {}
    }
}

/// Round groups `first .. first + count` of a row to `form`.
#[inline(always)]
unsafe fn round_some<S: Simd>(to: View, row: usize, first: usize, count: usize, form: Form) {
    match form {
        Form::Int8 => {
            quantize::<S>(to, row, first, count, |greatest, squares| greatest * greatest > OUTLIER_OF_GROUP * squares)
        }
        Form::Bf16 => narrow::<S>(to, row, first, count),
        Form::F32 => {}
    }
}

dispatch!(pub fn add_norm_row = add_rms_norm; (
    x: *const f32, weight: *const f32, size: usize, eps: f32, to: *mut f32
));
dispatch!(pub fn norm_row = rms_norm; (
    x: *const f32, weight: *const f32, size: usize, eps: f32, to: View, row: usize, form: Form
));
dispatch!(pub fn round_groups = round_some; (to: View, row: usize, first: usize, count: usize, form: Form));
