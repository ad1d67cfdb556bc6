//! Requests in order of their due times, and of arrival where those are the same.

use crate::clock::Nanos;
use crate::job::Submission;

/// When it is due, its number in order of arrival, and what it is.
pub(crate) struct Timed(pub(crate) Nanos, pub(crate) u64, pub(crate) Submission);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}
