//! Patches, and the classes of the pixels under each.

use std::collections::BTreeSet;

use crate::eval::features::last_columns;

/// Pixels of each class under a patch, ascending by class; ignored pixels are left out.
pub type Cover = Vec<(u8, u32)>;

/// The covers of the patches of an image, row by row: `[N]` from a mask `[S, S]` with S = `side`, for patches of `patch`
/// pixels per side. Pixels of class 255 are ignored.
pub fn covers(mask: &[u8], side: usize, patch: usize) -> Vec<Cover> {
    let columns = side / patch.max(1);
    let cover = |at: usize| {
        let (row, column) = (at / columns, at % columns);
        let mut pixels = [0u32; 255];
        for y in row * patch..(row + 1) * patch {
            for class in &mask[y * side + column * patch..][..patch] {
                if let Some(count) = pixels.get_mut(usize::from(*class)) {
                    *count += 1;
                }
            }
        }
        let all = (0..255).zip(pixels);
        all.filter(|(_, count)| *count > 0).collect()
    };
    (0..columns * columns).map(cover).collect()
}

/// Patches of images with what lies under them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PatchRows {
    /// Row-major `[M, D]`.
    pub features: Vec<f32>,
    /// Width D.
    pub width: usize,
    /// What lies under each patch, `[M]`; none is empty.
    pub covers: Vec<Cover>,
    /// The image of each patch, a number that rises from 0, `[M]`.
    pub images: Vec<usize>,
}

impl PatchRows {
    /// Number M of patches.
    pub fn len(&self) -> usize {
        self.covers.len()
    }

    /// Whether there is no patch.
    pub fn is_empty(&self) -> bool {
        self.covers.is_empty()
    }

    /// Appends the patches of one more image at these places; those on which every pixel is ignored are left out.
    ///
    /// # Shapes
    /// `patches` `[N, D]`, `covers` `[N]`.
    pub fn push_image(&mut self, patches: &[f32], covers: &[Cover], places: &[usize]) {
        let image = self.images.last().map_or(0, |last| last + 1);
        for at in places.iter().filter(|at| !covers[**at].is_empty()) {
            self.features
                .extend_from_slice(&patches[at * self.width..][..self.width]);
            self.covers.push(covers[*at].clone());
            self.images.push(image);
        }
    }

    /// The classes that lie under some patch, ascending.
    pub fn classes(&self) -> Vec<u8> {
        let classes: BTreeSet<u8> = self
            .covers
            .iter()
            .flatten()
            .map(|(class, _)| *class)
            .collect();
        classes.into_iter().collect()
    }

    /// The same patches with the last `width` entries of each feature, all of them where it has fewer.
    #[must_use]
    pub fn last_columns(&self, width: usize) -> Self {
        let features = last_columns(&self.features, self.width, width);
        Self {
            features,
            width: self.width.min(width),
            covers: self.covers.clone(),
            images: self.images.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_counted_under_their_patch() {
        #[rustfmt::skip]
        let mask = [
            0, 0, 1, 1,
            0, 9, 1, 1,
            255, 255, 2, 255,
            255, 255, 1, 255,
        ];
        let found = covers(&mask, 4, 2);
        let expected: [Cover; 4] = [
            vec![(0, 3), (9, 1)],
            vec![(1, 4)],
            vec![],
            vec![(1, 1), (2, 1)],
        ];
        assert_eq!(found, expected);
        let mut rows = PatchRows {
            width: 1,
            ..PatchRows::default()
        };
        rows.push_image(&[5.0, 6.0, 7.0, 8.0], &found, &[0, 2, 3]);
        rows.push_image(&[1.0, 2.0, 3.0, 4.0], &found, &[1]);
        assert_eq!(
            rows.features,
            [5.0, 8.0, 2.0],
            "a patch of ignored pixels is none"
        );
        assert_eq!(
            (rows.len(), rows.images.as_slice()),
            (3, [0, 0, 1].as_slice())
        );
        assert_eq!(rows.classes(), [0, 1, 2, 9]);
    }
}
