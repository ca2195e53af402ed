//! A batch in the making, sample by sample.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::data::views::pixels::Pixels;
use crate::lock::lock;

/// One sample's place in a batch.
pub(in crate::data) struct Slot {
    pub batch: Arc<OpenBatch>,
    pub at: usize,
}

impl Slot {
    /// Lets `fill` write view number `view`, at this place of all samples.
    pub fn write(&self, view: usize, fill: impl FnOnce(&mut Pixels, Range<usize>)) {
        let mut pixels = lock(&self.batch.views[view]);
        let view_len = pixels.len() / self.batch.samples.len();
        let start = self.at * view_len;
        fill(&mut pixels, start..start + view_len);
    }
}

/// A batch in the making.
pub(in crate::data) struct OpenBatch {
    pub number: usize,
    pub samples: Vec<usize>,
    /// Of each sample, bytes of the image that is decoded for it.
    pub image_bytes: Vec<usize>,
    /// One lock for every view, held while a sample's view is copied in.
    pub views: Vec<Mutex<Pixels>>,
}

/// A complete batch.
pub(super) struct FinishedBatch {
    pub number: usize,
    pub samples: Vec<usize>,
    /// Of every view.
    pub views: Vec<Pixels>,
    /// `[B]`: the sample at each place; None if it was left out.
    pub shown: Vec<Option<usize>>,
}

/// How far a batch is.
pub(super) struct Progress {
    pub batch: Arc<OpenBatch>,
    /// Samples that a worker has taken.
    pub taken: usize,
    /// Samples that are finished.
    pub finished: usize,
    pub shown: Vec<Option<usize>>,
}

impl Progress {
    /// A batch of which no sample is made, with room for its views.
    pub fn new(
        number: usize,
        samples: Vec<usize>,
        image_bytes: Vec<usize>,
        room: Vec<Pixels>,
    ) -> Self {
        Self {
            shown: vec![None; samples.len()],
            batch: Arc::new(OpenBatch {
                number,
                samples,
                image_bytes,
                views: room.into_iter().map(Mutex::new).collect(),
            }),
            taken: 0,
            finished: 0,
        }
    }

    pub fn is_complete(&self) -> bool {
        self.finished == self.batch.samples.len()
    }

    pub fn close(self) -> FinishedBatch {
        // a worker may hold its `Arc` of the batch a moment longer, so the buffers are moved out of their locks
        let take = |view: &Mutex<Pixels>| std::mem::take(&mut *lock(view));
        FinishedBatch {
            number: self.batch.number,
            samples: self.batch.samples.clone(),
            views: self.batch.views.iter().map(take).collect(),
            shown: self.shown,
        }
    }
}
