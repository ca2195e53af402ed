//! Which patches go through the heads.

use burn::tensor::Tensor;

use crate::kernels::{IbotBackend, RowPlaces};

/// Some patches of a part of a batch, as rows of its flat tokens.
pub(super) struct PatchRows {
    /// Places in the flat `[G B, N]` patches.
    places: RowPlaces,
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
            places: RowPlaces::new(rows.collect(), masks.len()),
            counts: masks.chunks(patches.max(1)).map(of_image).collect(),
        }
    }

    /// Number M of them.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// These rows of tokens; none where there is no such patch.
    ///
    /// # Shapes
    /// `[G B, N, D]` -> `[M, D]`.
    pub fn select<B: IbotBackend>(&self, tokens: &Tensor<B, 3>) -> Option<Tensor<B, 2>> {
        let [images, patches, width] = tokens.dims();
        let flat = tokens.clone().reshape([images * patches, width]);
        let is_any = !self.places.is_empty();
        is_any.then(|| B::gather_rows(flat, &self.places))
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
            (masked.places.places(), masked.counts),
            (&[0][..], vec![1, 0])
        );
        let visible = PatchRows::new(&masks, false, 3);
        assert_eq!(
            (visible.places.places(), visible.counts),
            (&[1, 2, 3, 4, 5][..], vec![2, 3])
        );
    }
}
