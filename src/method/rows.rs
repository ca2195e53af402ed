//! Which patches go through the heads.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::kernels::RowIndices;

/// Some patches of a part of a batch, as rows of its flat tokens.
pub(super) struct PatchRows {
    /// Indices into the flat `[G B, N]` patches.
    indices: RowIndices,
    /// How many of them each image has.
    pub counts: Vec<usize>,
}

impl PatchRows {
    /// The patches where `masks` is `masked`; N = `patches` of an image.
    pub fn new(masks: &[bool], masked: bool, patches: usize) -> Self {
        let rows = masks.iter().enumerate();
        let rows = rows.filter_map(|(row, is)| (*is == masked).then_some(row as i32));
        let of_image = |image: &[bool]| image.iter().filter(|is| **is == masked).count();
        Self {
            indices: RowIndices::new(rows.collect(), masks.len()),
            counts: masks.chunks(patches.max(1)).map(of_image).collect(),
        }
    }

    /// Number M of them.
    pub fn len(&self) -> usize {
        self.indices.len()
    }
}

/// The patches that the losses of a part use: the masked ones, then the visible ones if their loss has a weight. The
/// backbone computes no features of the rest.
pub(super) struct ChosenPatches {
    /// Indices into the flat `[G B, N]` patches.
    pub indices: RowIndices,
    masked: usize,
}

impl ChosenPatches {
    /// `visible` is `None` if the loss on visible patches has no weight.
    pub fn new(masked: &PatchRows, visible: Option<&PatchRows>) -> Self {
        let mut indices = masked.indices.indices().to_vec();
        indices.extend(visible.iter().flat_map(|rows| rows.indices.indices()));
        Self {
            indices: RowIndices::new(indices, masked.indices.rows()),
            masked: masked.len(),
        }
    }

    /// Features of the masked and of the visible patches; `None` if there are none.
    ///
    /// # Shapes
    /// `[M + V, D]` -> `[M, D]` and `[V, D]`.
    pub fn split<B: Backend>(&self, patches: Option<Tensor<B, 2>>) -> [Option<Tensor<B, 2>>; 2] {
        let Some(patches) = patches else {
            return [None, None];
        };
        match (self.masked, patches.dims()[0] - self.masked) {
            (_, 0) => [Some(patches), None],
            (0, _) => [None, Some(patches)],
            (masked, visible) => [
                Some(patches.clone().narrow(0, 0, masked)),
                Some(patches.narrow(0, masked, visible)),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_and_visible_rows_are_counted_by_image() {
        let masks = [true, false, false, false, false, false];
        let masked = PatchRows::new(&masks, true, 3);
        assert_eq!(
            (masked.indices.indices(), masked.counts),
            (&[0][..], vec![1, 0])
        );
        let visible = PatchRows::new(&masks, false, 3);
        assert_eq!(
            (visible.indices.indices(), visible.counts),
            (&[1, 2, 3, 4, 5][..], vec![2, 3])
        );
    }
}
