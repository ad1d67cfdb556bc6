//! Chooses each sequence's next token from its scores, in the order that vLLM gives the steps: what a grammar allows,
//! bias and bans, penalties, then (unless greedy) temperature, min-p, top-k, top-p. Log probabilities are those of the
//! raw scores.

use crate::pointwise::argmax;
use crate::simd::Path;

/// Below this a temperature is greedy: dividing by it would overflow.
const GREEDY_TEMPERATURE: f32 = 1e-5;

/// What a sequence asks for.
#[derive(Clone, Debug)]
pub struct Choice {
    /// 0: greedy.
    pub temperature: f32,
    /// 0: all.
    pub top_k: usize,
    /// 1: all.
    pub top_p: f32,
    /// 0: all.
    pub min_p: f32,
    /// A uniform number in [0, 1).
    pub point: f64,
    /// How many alternatives to report; none: no log probabilities at all.
    pub logprobs: Option<usize>,
    /// Added to these tokens' scores.
    pub bias: Vec<(u32, f32)>,
    /// Tokens that must not be chosen.
    pub banned: Vec<u32>,
    /// Divides positive scores and multiplies negative ones of `seen` (Keskar et al., arXiv:1909.05858).
    pub repetition: f32,
    /// See `repetition`: each once.
    pub seen: Vec<u32>,
    /// Subtracted from these tokens' scores: frequency and presence penalties.
    pub subtracted: Vec<(u32, f32)>,
    /// A bit for each token, the least significant of a byte first: only those set may be chosen. None: all.
    pub allowed: Option<Vec<u8>>,
}

/// A token, its natural-log probability, and one more than the number of likelier ones.
pub type Scored = (u32, f32, usize);

/// A token with its log probability, and the likeliest ones, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The token in question.
    pub chosen: Scored,
    /// The likeliest.
    pub top: Vec<Scored>,
}

/// The token chosen (none: the scores leave none), and its log probabilities if asked for.
pub type Chosen = (Option<u32>, Option<Logprobs>);

/// Choose from `scores`, which are overwritten.
///
/// # Safety
/// The path must be supported.
pub unsafe fn choose(path: Path, scores: &mut [f32], choice: &Choice) -> Chosen {
    let raw = choice.logprobs.map(|top| (top, scores.to_vec()));
    if let Some(allowed) = &choice.allowed {
        restrict(scores, allowed);
    }
    adjust(scores, choice);
    let token = if choice.temperature < GREEDY_TEMPERATURE {
        let (greatest, at) = argmax(path, scores);
        greatest.is_finite().then_some(at as u32)
    } else {
        draw(path, scores, choice)
    };
    let logprobs = match (token, raw) {
        (Some(token), Some((top, raw))) => Some(logprobs(&raw, token, top)),
        _ => None,
    };
    (token, logprobs)
}

/// Log probabilities of `token` and of the `top` likeliest tokens; of equal ones the smaller id goes first.
pub fn logprobs(scores: &[f32], token: u32, top: usize) -> Logprobs {
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = scores.iter().map(|&s| f64::from(s - greatest).exp()).sum();
    let normalizer = f64::from(greatest) + total.ln();
    let logprob = |id: u32| (f64::from(scores[id as usize]) - normalizer) as f32;
    let own = scores[token as usize];
    let rank = 1 + scores.iter().filter(|&&s| s > own).count();
    let top = top.min(scores.len());
    let mut best: Vec<u32> = Vec::new();
    if top > 0 {
        let order = |&a: &u32, &b: &u32| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b));
        best = (0..scores.len() as u32).collect();
        if top < best.len() {
            best.select_nth_unstable_by(top - 1, order);
            best.truncate(top);
        }
        best.sort_unstable_by(order);
    }
    Logprobs {
        chosen: (token, logprob(token), rank),
        top: best.into_iter().enumerate().map(|(i, id)| (id, logprob(id), i + 1)).collect(),
    }
}

/// Rule out every token without a bit; those beyond the last byte have none.
fn restrict(scores: &mut [f32], allowed: &[u8]) {
    let (within, beyond) = scores.split_at_mut(scores.len().min(8 * allowed.len()));
    for (group, &bits) in within.chunks_mut(8).zip(allowed) {
        match bits {
            0 => group.fill(f32::NEG_INFINITY),
            u8::MAX => {}
            _ => {
                for (i, score) in group.iter_mut().enumerate() {
                    if bits >> i & 1 == 0 {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
    beyond.fill(f32::NEG_INFINITY);
}

fn adjust(scores: &mut [f32], choice: &Choice) {
    for &(token, bias) in &choice.bias {
        if let Some(score) = scores.get_mut(token as usize) {
            *score += bias;
        }
    }
    for &token in &choice.banned {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
    for &token in &choice.seen {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = if *score > 0.0 { *score / choice.repetition } else { *score * choice.repetition };
        }
    }
    for &(token, amount) in &choice.subtracted {
        if let Some(score) = scores.get_mut(token as usize) {
            *score -= amount;
        }
    }
}

/// Inverse transform sampling: the token at which the cumulated weight passes `point` times the total. Weights are
/// summed in float64 from the first token to the last.
unsafe fn draw(path: Path, scores: &mut [f32], choice: &Choice) -> Option<u32> {
    let (greatest, _) = argmax(path, scores);
    if !greatest.is_finite() {
        return None;
    }
    let weights = scores;
    for weight in weights.iter_mut() {
        // Subtracted first: the quotient of a large score and a small temperature may overflow.
        *weight = ((*weight - greatest) / choice.temperature).exp();
        if weight.is_nan() || *weight < choice.min_p {
            *weight = 0.0;
        }
    }
    let threshold = threshold(weights, choice);
    let mut total = 0f64;
    for weight in weights.iter_mut() {
        if *weight < threshold {
            *weight = 0.0;
        }
        total += f64::from(*weight);
    }
    let target = choice.point * total;
    let mut passed = 0f64;
    let mut last = None;
    for (token, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            passed += f64::from(weight);
            last = Some(token as u32);
            if passed > target {
                break;
            }
        }
    }
    last
}

/// The least weight that top-k and top-p let pass; equal weights stay or go together.
fn threshold(weights: &[f32], choice: &Choice) -> f32 {
    let limited = choice.top_k > 0 && choice.top_k < weights.len();
    if !limited && choice.top_p >= 1.0 {
        return 0.0;
    }
    let mut heaviest: Vec<f32> = weights.iter().copied().filter(|&w| w > 0.0).collect();
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let mut least = 0.0;
    if limited && choice.top_k < heaviest.len() {
        least = *heaviest.select_nth_unstable_by(choice.top_k - 1, descending).1;
        heaviest.truncate(choice.top_k);
    }
    if choice.top_p < 1.0 {
        heaviest.sort_unstable_by(descending);
        let mass: f64 = heaviest.iter().map(|&w| f64::from(w)).sum();
        let mut passed = 0f64;
        for &weight in &heaviest {
            least = weight;
            passed += f64::from(weight);
            if passed >= f64::from(choice.top_p) * mass {
                break;
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greedy() -> Choice {
        Choice {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            point: 0.0,
            logprobs: None,
            bias: vec![],
            banned: vec![],
            repetition: 1.0,
            seen: vec![],
            subtracted: vec![],
            allowed: None,
        }
    }

    fn token(scores: &[f32], choice: &Choice) -> Option<u32> {
        // SAFETY: every processor has the scalar path.
        unsafe { choose(Path::Scalar, &mut scores.to_vec(), choice).0 }
    }

    /// The share of each token over evenly spaced points.
    fn shares(scores: &[f32], choice: &Choice) -> Vec<f64> {
        let points = 20_000;
        let mut counts = vec![0f64; scores.len()];
        for i in 0..points {
            let point = (f64::from(i) + 0.5) / f64::from(points);
            let drawn = token(scores, &Choice { point, temperature: choice.temperature.max(1.0), ..choice.clone() });
            counts[drawn.unwrap() as usize] += 1.0 / f64::from(points);
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_greatest() {
        let scores: Vec<f32> = (0..100).map(|i| if i == 37 || i == 61 { 5.0 } else { i as f32 / 100.0 }).collect();
        assert_eq!(token(&scores, &greedy()), Some(37));
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_limits() {
        let scores = [0.0f32, 1.0, 2.0, 3.0].map(|x: f32| x.exp().ln());
        let total: f64 = scores.iter().map(|&s| f64::from(s).exp()).sum();
        for (i, share) in shares(&scores, &greedy()).into_iter().enumerate() {
            assert!((share - f64::from(scores[i]).exp() / total).abs() < 1e-3);
        }
        let none = |shares: &[f64]| shares.iter().map(|&s| s == 0.0).collect::<Vec<_>>();
        assert_eq!(none(&shares(&scores, &Choice { top_k: 2, ..greedy() })), [true, true, false, false]);
        assert_eq!(none(&shares(&scores, &Choice { top_p: 0.7, ..greedy() })), [true, true, false, false]);
        assert_eq!(none(&shares(&scores, &Choice { top_p: 0.6, ..greedy() })), [true, true, true, false]);
        assert_eq!(none(&shares(&scores, &Choice { min_p: 0.2, ..greedy() })), [true, true, false, false]);
        assert_eq!(none(&shares(&scores, &Choice { banned: vec![3, 9], ..greedy() })), [false, false, false, true]);
    }

    #[test]
    fn equal_weights_stay_or_go_together() {
        let shares = shares(&[1.0, 1.0, 1.0, 0.0], &Choice { top_k: 2, ..greedy() });
        assert!(shares[..3].iter().all(|&s| (s - 1.0 / 3.0).abs() < 1e-3));
    }

    #[test]
    fn penalties_and_biases_change_the_choice() {
        let scores = [2.0, 1.5, -1.0];
        assert_eq!(token(&scores, &Choice { bias: vec![(2, 4.0), (7, 9.0)], ..greedy() }), Some(2));
        assert_eq!(token(&scores, &Choice { repetition: 2.0, seen: vec![0], ..greedy() }), Some(1));
        assert_eq!(token(&scores, &Choice { subtracted: vec![(0, 1.0)], ..greedy() }), Some(1));
        assert_eq!(token(&scores, &Choice { banned: vec![0, 1, 2], ..greedy() }), None);
    }

    #[test]
    fn only_allowed_tokens_are_chosen_whatever_favours_others() {
        let scores: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let only = |tokens: &[usize]| {
            let mut bits = vec![0u8; 2];
            for &token in tokens {
                bits[token / 8] |= 1 << (token % 8);
            }
            Some(bits)
        };
        assert_eq!(token(&scores, &Choice { allowed: only(&[3, 9]), ..greedy() }), Some(9));
        let favoured = Choice { allowed: only(&[3]), bias: vec![(19, 100.0), (4, 100.0)], ..greedy() };
        assert_eq!(token(&scores, &favoured), Some(3));
        assert_eq!(token(&scores, &Choice { allowed: Some(vec![0xFF; 2]), ..greedy() }), Some(15));
        assert_eq!(token(&scores, &Choice { allowed: only(&[3]), banned: vec![3], ..greedy() }), None);
        let drawn = shares(&[1.0; 20], &Choice { allowed: only(&[2, 15]), ..greedy() });
        assert!((drawn[2] - 0.5).abs() < 1e-3 && (drawn[15] - 0.5).abs() < 1e-3);
    }

    #[test]
    fn log_probabilities_are_those_of_the_raw_scores() {
        let scores = [1.0f32, 3.0, 2.0, 3.0];
        let choice = Choice { logprobs: Some(3), banned: vec![1, 3], allowed: Some(vec![0b1110]), ..greedy() };
        // SAFETY: every processor has the scalar path.
        let (token, found) = unsafe { choose(Path::Scalar, &mut scores.to_vec(), &choice) };
        let found = found.unwrap();
        assert_eq!(token, Some(2));
        assert_eq!(found.chosen.2, 3);
        assert_eq!(found.top.iter().map(|t| (t.0, t.2)).collect::<Vec<_>>(), [(1, 1), (3, 2), (2, 3)]);
        let total: f32 = scores.iter().map(|s| s.exp()).sum();
        assert!((found.chosen.1 - (2.0 - total.ln())).abs() < 1e-6);
    }
}
