//! Which rows of which tokens go through the heads, and how many at once.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::error::{Error, Result};
use crate::kernels::{IbotBackend, RowPlaces};

/// Some patches of a batch, as rows of its flat tokens.
pub(super) struct PatchRows {
    /// Places in the flat `[G B N]` patches.
    pub rows: RowPlaces,
    /// How many of them each image has.
    pub counts: Vec<usize>,
}

impl PatchRows {
    /// The patches where `masks` is `masked`; `patches` of them belong to an image.
    pub fn of(masks: &[bool], masked: bool, patches: usize) -> Self {
        let rows = masks.iter().enumerate();
        let rows = rows.filter_map(|(row, is)| (*is == masked).then_some(row as i32));
        let images = masks.chunks(patches.max(1));
        Self {
            rows: RowPlaces::new(rows.collect(), masks.len()),
            counts: images
                .map(|image| image.iter().filter(|is| **is == masked).count())
                .collect(),
        }
    }

    /// These rows of tokens: `[G B, N, D]` -> `[M, D]`.
    pub fn select<B: IbotBackend>(&self, tokens: &Tensor<B, 3>) -> Tensor<B, 2> {
        let [images, patches, width] = tokens.dims();
        let flat = tokens.clone().reshape([images * patches, width]);
        B::gather_rows(flat, &self.rows)
    }
}

/// Rows of logits that fit one tensor of the device.
///
/// # Errors
/// [`Error::Unsupported`] where not even `needed` rows fit.
pub(super) fn most_logit_rows<B: IbotBackend>(
    prototypes: usize,
    needed: usize,
    device: &B::Device,
) -> Result<usize> {
    let most = B::max_logit_rows(prototypes, device);
    if most >= needed {
        return Ok(most);
    }
    Err(Error::Unsupported(format!(
        "{needed} rows of {prototypes} prototypes are larger than the largest buffer of this device, which holds \
         {most} of them: set method.streaming_prototypes = \"auto\", use fewer prototypes or --backend flex"
    )))
}

/// `0..count` in pieces of at most `most`, as equal as can be; `most` >= 1.
pub(super) fn spans(count: usize, most: usize) -> Vec<Range<usize>> {
    let pieces = count.div_ceil(most).max(1);
    (0..pieces)
        .map(|piece| piece * count / pieces..(piece + 1) * count / pieces)
        .collect()
}

/// The rows of some images, of each view: `[V B, D]` -> `[V B_p, D]`.
pub(super) fn images_of<B: Backend>(
    rows: &Tensor<B, 2>,
    batch: usize,
    span: &Range<usize>,
) -> Tensor<B, 2> {
    if span.len() == batch {
        return rows.clone();
    }
    let [all, width] = rows.dims();
    let views = all / batch.max(1);
    let by_view = rows.clone().reshape([views, batch, width]);
    let part = by_view.narrow(1, span.start, span.len());
    part.reshape([views * span.len(), width])
}

/// `[G B, N, 1]`, 1 where masked.
pub(super) fn mask_tensor<B: Backend>(
    masks: &[bool],
    images: usize,
    device: &B::Device,
) -> Tensor<B, 3> {
    let values: Vec<f32> = masks
        .iter()
        .map(|masked| f32::from(u8::from(*masked)))
        .collect();
    Tensor::from_data(
        TensorData::new(values, [images, masks.len() / images.max(1), 1]),
        device,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_hold_everything_once_and_fit() {
        for (count, most) in [(1, 1), (7, 3), (80, 67), (6, 100), (944, 1)] {
            let spans = spans(count, most);
            assert!(
                spans
                    .iter()
                    .all(|span| span.len() <= most && !span.is_empty())
            );
            let all: Vec<usize> = spans.into_iter().flatten().collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn masked_and_visible_rows_are_counted_by_image() {
        let masks = [true, false, false, false, false, false];
        let masked = PatchRows::of(&masks, true, 3);
        assert_eq!(
            (masked.rows.places(), masked.counts),
            (&[0][..], vec![1, 0])
        );
        let visible = PatchRows::of(&masks, false, 3);
        assert_eq!(
            (visible.rows.places(), visible.counts),
            (&[1, 2, 3, 4, 5][..], vec![2, 3])
        );
    }
}
