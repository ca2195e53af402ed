//! What the workers of a pool share, under its lock.

use std::collections::VecDeque;

use crate::data::loader::budget::Budget;
use crate::data::loader::open_batch::{Progress, Slot};
use crate::data::loader::pace::Pace;
use crate::error::Error;

/// Which batches are open, and what they hold.
pub(in crate::data) struct State {
    /// Most batches that are open.
    pub queue: usize,
    /// What the open batches hold, and the images that are being decoded.
    pub budget: Budget,
    /// Whether a worker waits until another one has let go of an image.
    pub is_short: bool,
    pub pace: Pace,
    pub open: VecDeque<Progress>,
    /// Number of the batch to open next.
    pub next: usize,
    /// Whether a worker is about to open one.
    pub is_opening: bool,
    /// Whether the task has no further batch.
    pub is_over: bool,
    /// Whether workers are to return.
    pub is_stopped: bool,
    pub failure: Option<Error>,
}

/// What a worker is to do next.
pub(super) enum Next {
    Slot(Slot),
    /// To wait until another worker has let go of its image.
    Wait,
    /// To open a batch: no open one has a sample left.
    Open,
}

impl State {
    /// With `queue` batches open at most, of which the first is number `first`, and so many bytes of memory.
    pub fn new(queue: usize, memory: usize, first: usize) -> Self {
        Self {
            queue: queue.max(1),
            budget: Budget::new(memory),
            is_short: false,
            pace: Pace::default(),
            open: VecDeque::new(),
            next: first,
            is_opening: false,
            is_over: false,
            is_stopped: false,
            failure: None,
        }
    }

    pub fn is_ready(&self) -> bool {
        let first = self.open.front();
        first.map_or(self.is_over, Progress::is_complete) || self.is_stopped
    }

    /// The next sample, of the oldest unfinished batch, because that one is taken next.
    pub fn next_slot(&mut self) -> Next {
        let unfinished = |open: &&mut Progress| open.taken < open.batch.samples.len();
        let Some(progress) = self.open.iter_mut().find(unfinished) else {
            return Next::Open;
        };
        let bytes = progress.batch.image_bytes[progress.taken];
        if !self.budget.images.hold(bytes) {
            self.is_short = true;
            return Next::Wait;
        }
        progress.taken += 1;
        Next::Slot(Slot {
            batch: progress.batch.clone(),
            at: progress.taken - 1,
        })
    }
}
