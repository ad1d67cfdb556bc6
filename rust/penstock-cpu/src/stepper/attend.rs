//! Attention of a step's rows.

use super::plan::{Attending, Task};
use super::{Share, Stepper, run_rows};
use crate::activations::{Form, GROUP, round_groups};
use crate::attention::{Queries, attend, attend_to, merge};
use crate::kv_cache::KvCache;
use crate::model::{Layer, Model};
use crate::pointwise::norm_head;
use crate::pool::SendPtr;
use crate::simd::LANES;

impl Stepper {
    /// Rotate queries and keys, and write keys and values to the cache.
    pub(super) fn rotate(&mut self, model: &Model, layer: &Layer, index: usize, cache: &KvCache, shares: &[Share]) {
        let s = &model.sizes;
        let stride = layer.qkv.tiles() * LANES;
        let qkv = SendPtr(self.qkv.as_mut_ptr());
        let (rows, path) = (&self.rows, self.path);
        let block_size = cache.shape.block_size;
        run_rows(&self.pool, rows.len(), |r| {
            let qkv = &qkv;
            let row = rows[r];
            // SAFETY: every row is one task's, and so is its slot in the cache.
            let all = unsafe { std::slice::from_raw_parts_mut(qkv.0.add(r * stride), stride) };
            let rotated = &mut all[..(s.heads + s.kv_heads) * s.head_dim];
            if s.qk_norm {
                for (h, head) in rotated.chunks_exact_mut(s.head_dim).enumerate() {
                    norm_head(head, if h < s.heads { &layer.q_norm } else { &layer.k_norm }, s.eps);
                }
            }
            // SAFETY: the stepper's path is supported.
            unsafe { model.rotary(layer).rotate(path, rotated, row.position) };
            let block = shares[row.share].table[row.position / block_size] as usize;
            for head in 0..s.kv_heads {
                let key = (s.heads + head) * s.head_dim;
                let value = key + s.kv_heads * s.head_dim;
                // SAFETY: see above.
                unsafe {
                    let (key, value) = (all.as_ptr().add(key), all.as_ptr().add(value));
                    cache.write(path, index, head, block, row.position % block_size, key, value);
                }
            }
        });
    }

    pub(super) fn attend(&mut self, model: &Model, layer: &Layer, index: usize, cache: &KvCache, shares: &[Share]) {
        let s = &model.sizes;
        let (path, form) = (self.path, layer.o.takes(self.precision));
        let (stride, group) = (layer.qkv.tiles() * LANES, s.heads / s.kv_heads);
        let (qkv, view) = (SendPtr(self.qkv.as_mut_ptr()), self.attended.view());
        let scratch = SendPtr(self.scratch.as_mut_ptr());
        // Where a KV head's queries fill whole groups, its task rounds its own results.
        let own_groups = (group * s.head_dim).is_multiple_of(GROUP);
        let window = s.window.filter(|_| layer.windowed).unwrap_or(usize::MAX);
        let scale = s.attention_scale();
        // SAFETY: the first query and result of a task are within the buffers.
        let queries = |task: Task| unsafe {
            let (qkv, view) = (&qkv, &view);
            let at = task.head * group * s.head_dim;
            Queries {
                layer: index,
                head: task.head,
                table: shares[task.share].table.as_ptr(),
                start: shares[task.share].start + task.first,
                positions: task.count,
                group,
                q: qkv.0.add(task.row * stride + at),
                q_stride: stride,
                out: view.wide.add(task.row * view.width + at),
                out_stride: view.width,
                window,
                scale,
            }
        };
        // SAFETY: tasks write different heads or rows.
        let round = |task: Task| unsafe {
            if own_groups {
                for row in task.row..task.row + task.count {
                    let count = group * s.head_dim / GROUP;
                    round_groups(path, view, row, task.head * count, count, form);
                }
            }
        };
        let Attending { tasks, part_tasks, long_tasks } = &self.attending[usize::from(layer.windowed)];
        let parts = SendPtr(self.parts.as_mut_ptr());
        self.pool.run(part_tasks.len() + tasks.len(), &|t, thread| {
            let (scratch, parts) = (&scratch, &parts);
            // SAFETY: a thread's scratch is its own; tasks write different heads, rows or parts; the cache is only
            // read.
            unsafe {
                let scratch = &mut (*scratch.0.add(thread)).attention;
                if let Some(p) = part_tasks.get(t) {
                    attend_to(path, cache, &queries(p.task), scratch, p.chunk, &mut *parts.0.add(t));
                } else {
                    let task = tasks[t - part_tasks.len()];
                    attend(path, cache, &queries(task), scratch);
                    round(task);
                }
            }
        });
        self.pool.run(long_tasks.len(), &|t, _| {
            let parts = &parts;
            let (task, first, count) = long_tasks[t];
            // SAFETY: tasks have different parts, and write different heads or rows.
            unsafe {
                merge(path, cache, &queries(task), std::slice::from_raw_parts_mut(parts.0.add(first), count));
            }
            round(task);
        });
        if !own_groups && form != Form::F32 {
            run_rows(&self.pool, self.rows.len(), |row| {
                // SAFETY: every row is one task's.
                unsafe { round_groups(path, view, row, 0, view.width / GROUP, form) };
            });
        }
    }
}
