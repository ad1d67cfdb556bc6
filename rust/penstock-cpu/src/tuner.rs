//! How products are cut up, chosen for each shape and number of rows by trying while the model works.
//!
//! A plan says nothing about sums: every one gives the same bits (see [`gemm`](crate::gemm)), so trying costs some
//! speed at first and no result. Plans take turns, so that what else happens on the machine meets all of them; the one
//! with the smallest median wins. An offline search of kernels by measuring is ATLAS's way (Whaley, Petitet and
//! Dongarra, "Automated empirical optimization of software", 2001); in the running model the weights come from memory
//! as they always will, and nobody waits.

use crate::format::Format;
use crate::matrix::Matrix;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

/// How one product is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows whose sums are in registers together, at most: 4, 8, 12 or 16. A path that has room for fewer takes fewer.
    pub together: u8,
    /// Rows that a thread takes through its tiles before the next rows: their activations stay in its cache.
    pub block: u16,
    /// Runs of tiles that each thread's share is cut into: few cost few claims, many let threads end together.
    pub runs: u8,
}

impl Plan {
    /// What is taken where nothing was tried.
    pub const DEFAULT: Plan = Plan { together: 16, block: 96, runs: 8 };

    /// All that are worth trying for this many rows, the default first.
    pub fn candidates(rows: usize) -> &'static [Plan] {
        const fn plan(together: u8, block: u16, runs: u8) -> Plan {
            Plan { together, block, runs }
        }
        const FEW: [Plan; 4] = [plan(16, 96, 8), plan(16, 96, 4), plan(16, 96, 2), plan(16, 96, 16)];
        const SOME: [Plan; 5] = [plan(16, 96, 8), plan(16, 96, 4), plan(16, 96, 16), plan(8, 96, 8), plan(4, 96, 8)];
        const MANY: [Plan; 6] =
            [plan(16, 96, 8), plan(16, 48, 8), plan(16, 192, 8), plan(16, 96, 16), plan(8, 96, 8), plan(4, 96, 8)];
        match rows {
            0..=4 => &FEW,
            5..=48 => &SOME,
            _ => &MANY,
        }
    }

    /// Whether a file may name this plan.
    pub fn is_valid(self) -> bool {
        let blocks = 16..=MOST_ROWS as u16;
        [4, 8, 12, 16].contains(&self.together)
            && blocks.contains(&self.block)
            && self.block.is_multiple_of(16)
            && self.runs > 0
    }
}

/// More rows than this are all alike, and no block has more.
pub const MOST_ROWS: usize = 256;
/// Times measured of each plan before the choice.
const TRIALS: usize = 15;
/// Another plan has to take less than this share of the default's time.
const WORTH_IT: f64 = 0.98;

/// What a choice holds for: a shape, a format, and up to a number of rows that is a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Case {
    outputs: usize,
    inputs: usize,
    format: Format,
    rows: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { outputs, inputs, format, rows } = self;
        write!(f, "{rows} rows, {outputs} x {inputs}, ")?;
        match format {
            Format::Quantized(s) => {
                let numbers = if s.zero.is_some() { "scales" } else { "scales and offsets" };
                let width = if s.half_scales { "half" } else { "float" };
                write!(f, "{} bits in groups of {} with {width} {numbers}", s.bits, s.group)
            }
            floats => write!(f, "{floats:?}"),
        }
    }
}

enum State {
    /// Nanoseconds a row of each plan's trials, and whose turn it is.
    Trying(Vec<Vec<f64>>, usize),
    Chosen(Plan),
}

/// The choices, and the trials that lead to them.
#[derive(Default)]
pub struct Tuner {
    cases: HashMap<Case, State>,
    known: BTreeMap<String, Plan>,
    fixed: Option<Plan>,
}

/// One product's plan; [`Tuner::took`] wants it back with the time it took.
pub struct Trial {
    /// How to cut the product up.
    pub plan: Plan,
    case: Option<Case>, // none: there is nothing to find out
}

impl Trial {
    /// Whether the time is wanted.
    pub fn is_timed(&self) -> bool {
        self.case.is_some()
    }
}

impl Tuner {
    /// Take this plan for everything from now on, or none and try again.
    pub fn fix(&mut self, plan: Option<Plan>) {
        self.fixed = plan;
    }

    /// All choices, by a sentence that says for what.
    pub fn choices(&self) -> &BTreeMap<String, Plan> {
        &self.known
    }

    /// Take choices that were made before on such a machine. Plans that can't be are left out.
    pub fn know(&mut self, choices: impl IntoIterator<Item = (String, Plan)>) {
        self.known.extend(choices.into_iter().filter(|(_, plan)| plan.is_valid()));
    }

    /// The plan for a product.
    pub fn plan(&mut self, matrix: &Matrix, rows: usize) -> Trial {
        if let Some(plan) = self.fixed {
            return Trial { plan, case: None };
        }
        let rows = rows.next_power_of_two().min(MOST_ROWS);
        let case = Case { outputs: matrix.outputs, inputs: matrix.inputs, format: matrix.format, rows };
        let candidates = Plan::candidates(rows);
        let known = &self.known;
        let state = self.cases.entry(case).or_insert_with(|| match known.get(&case.to_string()) {
            Some(plan) => State::Chosen(*plan),
            None => State::Trying(vec![Vec::with_capacity(TRIALS + 1); candidates.len()], 0),
        });
        match state {
            State::Chosen(plan) => Trial { plan: *plan, case: None },
            State::Trying(_, turn) => Trial { plan: candidates[*turn], case: Some(case) },
        }
    }

    /// Note what a trial took.
    pub fn took(&mut self, trial: Trial, rows: usize, time: Duration) {
        let Some(case) = trial.case else { return };
        let candidates = Plan::candidates(case.rows);
        let Some(state) = self.cases.get_mut(&case) else { return };
        if let State::Trying(times, turn) = state {
            times[*turn].push(time.as_nanos() as f64 / rows as f64);
            *turn = (*turn + 1) % candidates.len();
            if times.iter().all(|times| times.len() >= TRIALS) {
                let plan = candidates[best(times)];
                *state = State::Chosen(plan);
                self.known.insert(case.to_string(), plan);
            }
        }
    }
}

/// The fastest by the median; the first unless another is clearly faster.
fn best(times: &mut [Vec<f64>]) -> usize {
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    let fastest = (0..medians.len()).min_by(|&a, &b| medians[a].total_cmp(&medians[b])).unwrap_or(0);
    if medians[fastest] < WORTH_IT * medians[0] { fastest } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Packing;
    use crate::stored::Stored;

    fn matrix(outputs: usize) -> Matrix {
        let stored = Stored { name: "w", dtype: "F32", outputs, inputs: 64, bytes: &[], quantization: None };
        Matrix::stack(Packing::Planned, &[stored]).unwrap()
    }

    /// Let it choose, where the candidate in this place takes half the others' time, but for some hiccups.
    fn choose(tuner: &mut Tuner, matrix: &Matrix, rows: usize, fastest: usize) -> usize {
        let candidates = Plan::candidates(rows);
        for steps in 0.. {
            let trial = tuner.plan(matrix, rows);
            if !trial.is_timed() {
                assert_eq!(trial.plan, candidates[fastest]);
                return steps;
            }
            let hiccup = if steps % 7 == 0 { 50 } else { 1 };
            let time = if trial.plan == candidates[fastest] { 100 } else { 200 };
            tuner.took(trial, rows, Duration::from_nanos(hiccup * time));
        }
        unreachable!()
    }

    #[test]
    fn the_fastest_plan_is_chosen_for_each_shape_and_number_of_rows() {
        let mut tuner = Tuner::default();
        for (outputs, rows, fastest) in [(32, 1, 0), (32, 20, 3), (32, 100, 5), (48, 1, 2), (48, 4000, 1)] {
            let steps = choose(&mut tuner, &matrix(outputs), rows, fastest);
            assert_eq!(steps, TRIALS * Plan::candidates(rows).len());
        }
        assert_eq!(tuner.choices().len(), 5);
        // Up to the next power of two one choice serves all.
        assert!(!tuner.plan(&matrix(32), 17).is_timed());
        assert!(!tuner.plan(&matrix(32), 32).is_timed());
        assert!(tuner.plan(&matrix(32), 33).is_timed());
    }

    #[test]
    fn what_is_hardly_faster_is_not_chosen() {
        assert_eq!(best(&mut [vec![100.0; 3], vec![99.0; 3], vec![120.0; 3]]), 0);
        assert_eq!(best(&mut [vec![100.0; 3], vec![97.0; 3], vec![90.0; 3]]), 2);
    }

    #[test]
    fn another_tuner_takes_the_choices_over_but_none_that_cannot_be() {
        let mut first = Tuner::default();
        choose(&mut first, &matrix(32), 20, 3);
        let mut second = Tuner::default();
        second.know(first.choices().clone());
        let trial = second.plan(&matrix(32), 20);
        assert!(!trial.is_timed());
        assert_eq!(trial.plan, Plan::candidates(20)[3]);
        let case = first.choices().keys().next().unwrap().clone();
        for plan in [
            Plan { together: 5, ..Plan::DEFAULT },
            Plan { block: 0, ..Plan::DEFAULT },
            Plan { block: 50, ..Plan::DEFAULT },
            Plan { block: 272, ..Plan::DEFAULT },
            Plan { runs: 0, ..Plan::DEFAULT },
        ] {
            let mut tuner = Tuner::default();
            tuner.know([(case.clone(), plan)]);
            assert!(tuner.plan(&matrix(32), 20).is_timed(), "{plan:?}");
        }
    }

    #[test]
    fn every_candidate_is_valid_and_the_default_comes_first() {
        for rows in [1, 4, 5, 48, 49, 256] {
            assert_eq!(Plan::candidates(rows)[0], Plan::DEFAULT);
            assert!(Plan::candidates(rows).iter().all(|plan| plan.is_valid()));
        }
    }
}
