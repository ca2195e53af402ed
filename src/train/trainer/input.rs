//! The input of a step, and its parts.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

use crate::data::{AugmentConfig, Batch};
use crate::kernels::TrainBackend;
use crate::random::{Random, Stream};
use crate::train::trainer::parts::ranges_of_parts;

/// Views and masks of one step, on the device.
#[derive(Debug, Clone)]
pub struct StepInput<B: AutodiffBackend> {
    /// G times `[B, 3, S, S]`.
    pub global_views: Vec<Tensor<B::InnerBackend, 4>>,
    /// L times `[B, 3, s, s]`, for the student alone; may be empty.
    pub local_views: Vec<Tensor<B::InnerBackend, 4>>,
    /// `[G B, N]`, view by view, true where a patch is masked for the student.
    pub masks: Vec<bool>,
}

impl<B: TrainBackend> StepInput<B> {
    /// A batch on the device.
    pub fn upload(batch: Batch, augment: &AugmentConfig, device: &B::Device) -> Self {
        let mut views = batch.views.into_iter();
        let mut take = |count: usize, side: usize| {
            let views = views.by_ref().take(count);
            views.map(|view| view.into_tensor(side, device)).collect()
        };
        Self {
            global_views: take(augment.global_views, augment.image_size),
            local_views: take(augment.local_views, augment.local_size),
            masks: batch.masks,
        }
    }
}

impl<B: AutodiffBackend> StepInput<B> {
    /// Number of images.
    pub(super) fn images(&self) -> usize {
        self.global_views.first().map_or(0, |view| view.dims()[0])
    }

    /// The batch in parts of at most this many images, as equal as possible, each with the index of its first image.
    pub(super) fn parts(&self, most: Option<usize>) -> Vec<(u64, Self)> {
        let ranges = ranges_of_parts(self.images(), most);
        if ranges.len() == 1 {
            return vec![(0, self.clone())];
        }
        let part = |range: Range<usize>| (range.start as u64, self.cut(range));
        ranges.into_iter().map(part).collect()
    }

    /// Some images of the batch.
    pub(super) fn cut(&self, images: Range<usize>) -> Self {
        let batch = self.images();
        let patches = self.masks.len() / (self.global_views.len() * batch);
        let cut = |views: &[Tensor<B::InnerBackend, 4>]| {
            let views = views.iter().cloned();
            let cut = views.map(|view| view.narrow(0, images.start, images.len()));
            cut.collect()
        };
        let of_view = self.masks.chunks(batch * patches);
        let cut_masks =
            of_view.flat_map(|view| &view[images.start * patches..images.end * patches]);
        Self {
            global_views: cut(&self.global_views),
            local_views: cut(&self.local_views),
            masks: cut_masks.copied().collect(),
        }
    }

    /// A generator for each image of each view, view by view; the first image is number `first` of its batch.
    pub(super) fn generators(&self, seed: u64, step: u64, first: u64) -> Vec<Random> {
        let views = self.global_views.iter().chain(&self.local_views).zip(0..);
        let of_view = |(view, number): (&Tensor<B::InnerBackend, 4>, u32)| {
            let images = first..first + view.dims()[0] as u64;
            images.map(move |at| Random::new(seed, step, at, Stream::DropPath(number)))
        };
        views.flat_map(of_view).collect()
    }
}
