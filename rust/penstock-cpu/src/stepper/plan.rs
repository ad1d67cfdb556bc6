//! What a step's shares are cut into: rows, and tasks of attention.

use super::{Share, Stepper};
use crate::attention::{Partial, chunks, positions_together};
use crate::kv_cache::KvCache;
use crate::model::Model;
use std::cmp::Reverse;

/// With fewer tasks of attention than this for each thread, threads share long contexts.
const ENOUGH_TASKS: usize = 8;

/// A row of the step.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) share: usize,
    pub(super) token: u32,
    pub(super) position: usize,
}

/// Attention of a few positions of a sequence over a KV head.
#[derive(Clone, Copy)]
pub(super) struct Task {
    pub(super) share: usize,
    pub(super) head: usize,
    pub(super) first: usize, // of the share's tokens
    pub(super) count: usize,
    pub(super) row: usize,
}

/// A part of a task whose context threads share.
#[derive(Clone, Copy)]
pub(super) struct PartTask {
    pub(super) task: Task,
    pub(super) chunk: usize,
}

/// The attention of a step's rows in layers of one kind, with a window or without.
#[derive(Default)]
pub(super) struct Attending {
    pub(super) tasks: Vec<Task>,
    pub(super) long_tasks: Vec<(Task, usize, usize)>, // with their first part and how many they have
    pub(super) part_tasks: Vec<PartTask>,
}

impl Stepper {
    pub(super) fn plan(&mut self, model: &Model, cache: &KvCache, shares: &[Share]) {
        let s = &model.sizes;
        self.rows.clear();
        self.first_rows.clear();
        let kinds = [false, true].map(|windowed| model.layers.iter().any(|layer| layer.windowed == windowed));
        let [global, windowed] = &mut self.attending;
        let (first, second) = if kinds[0] { (global, windowed) } else { (windowed, global) };
        let tasks = &mut first.tasks;
        tasks.clear();
        let together = positions_together(s.heads / s.kv_heads);
        for (index, share) in shares.iter().enumerate() {
            let end = share.start + share.tokens.len();
            assert!(!share.tokens.is_empty() && end <= model.positions());
            assert!(share.table.len() * cache.shape.block_size >= end);
            assert!(share.table.iter().all(|&block| (block as usize) < cache.blocks));
            let row = self.rows.len();
            self.first_rows.push(row);
            for (i, &token) in share.tokens.iter().enumerate() {
                assert!((token as usize) < s.vocab);
                self.rows.push(Row { share: index, token, position: share.start + i });
            }
            for first in (0..share.tokens.len()).step_by(together) {
                let count = together.min(share.tokens.len() - first);
                tasks.extend((0..s.kv_heads).map(|head| Task { share: index, head, first, count, row: row + first }));
            }
        }
        self.first_rows.push(self.rows.len());
        // The longest first, so that the threads end together.
        tasks.sort_unstable_by_key(|t| (Reverse(shares[t.share].start + t.first), t.share, t.first, t.head));
        second.tasks.clone_from(if kinds == [true; 2] { tasks } else { const { &Vec::new() } });
        let windows = [usize::MAX, s.window.unwrap_or(usize::MAX)];
        for (attending, window) in self.attending.iter_mut().zip(windows) {
            attending.split_long_tasks(cache, shares, window, self.pool.threads());
            if self.parts.len() < attending.part_tasks.len() {
                self.parts.resize_with(attending.part_tasks.len(), Partial::default);
            }
        }
    }
}

impl Attending {
    /// Where there are few tasks for each thread, cut those with long contexts into their chunks.
    fn split_long_tasks(&mut self, cache: &KvCache, shares: &[Share], window: usize, threads: usize) {
        self.long_tasks.clear();
        self.part_tasks.clear();
        if threads == 1 || self.tasks.len() >= ENOUGH_TASKS * threads {
            return;
        }
        let (long_tasks, part_tasks) = (&mut self.long_tasks, &mut self.part_tasks);
        self.tasks.retain(|&task| {
            let chunks = chunks(&cache.shape, shares[task.share].start + task.first, task.count, window);
            if chunks.len() == 1 {
                return true;
            }
            long_tasks.push((task, part_tasks.len(), chunks.len()));
            part_tasks.extend(chunks.map(|chunk| PartTask { task, chunk }));
            false
        });
    }
}
