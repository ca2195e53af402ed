//! Scores of patches as a mask.

/// The class with the largest score at each pixel of a square image, after the scores of the patches were brought to the
/// pixels by bilinear interpolation; of equal scores that of the first class.
///
/// Source: DINOv2's linear segmentation (arXiv 2304.07193, section 7.4; `BNHead` in an mmsegmentation `EncoderDecoder`): a map
/// of logits at the patches' resolution is interpolated, as by torch's `interpolate(mode="bilinear", align_corners=False)`, and
/// the class is chosen behind that.
///
/// # Shapes
/// `scores` `[rows, columns, K]` of `classes` `[K]` -> `[S, S]` with S = `side`, row by row.
pub fn upsampled_classes(
    scores: &[f64],
    classes: &[u8],
    [rows, columns]: [usize; 2],
    side: usize,
) -> Vec<u8> {
    let count = classes.len();
    if count == 0 || scores.len() != rows * columns * count {
        return Vec::new();
    }
    let [of_rows, of_columns] = [rows, columns].map(|patches| neighbors(patches, side));
    let at = |row: usize, column: usize| &scores[(row * columns + column) * count..][..count];
    let mut mask = Vec::with_capacity(side * side);
    for [top, bottom] in &of_rows {
        for [left, right] in &of_columns {
            let corners = [(top, left), (top, right), (bottom, left), (bottom, right)];
            let corners = corners.map(|(row, column)| (at(row.0, column.0), row.1 * column.1));
            let score = |class: usize| -> f64 {
                corners
                    .iter()
                    .map(|(scores, share)| scores[class] * share)
                    .sum()
            };
            let mut best = (0, score(0));
            for class in 1..count {
                let score = score(class);
                if score > best.1 {
                    best = (class, score);
                }
            }
            mask.push(classes[best.0]);
        }
    }
    mask
}

/// For each of `side` pixels the two patches whose centers it lies between, and their shares.
fn neighbors(patches: usize, side: usize) -> Vec<[(usize, f64); 2]> {
    let last = patches - 1;
    let of_pixel = |pixel: usize| {
        let place = (pixel as f64 + 0.5) * patches as f64 / side as f64 - 0.5;
        let place = place.clamp(0.0, last as f64);
        let first = place as usize;
        let share = place - first as f64;
        [(first, 1.0 - share), ((first + 1).min(last), share)]
    };
    (0..side).map(of_pixel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_interpolated_as_torch_does() {
        // torch.nn.functional.interpolate(torch.tensor([[[0., 1.]]]), size=8, mode="linear")
        let expected = [0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0];
        let found = neighbors(2, 8).into_iter();
        let found: Vec<f64> = found
            .map(|[a, b]| [a, b].iter().map(|(at, share)| *at as f64 * share).sum())
            .collect();
        assert_eq!(found, expected);
        assert_eq!(neighbors(1, 2), [[(0, 1.0), (0, 0.0)]; 2]);
    }

    #[test]
    fn classes_change_between_the_patches_by_their_scores() {
        // scores of class 4 fall from 1 to 0 from left to right, those of class 9 are 0.2
        let scores = [1.0, 0.2, 0.0, 0.2];
        let mask = upsampled_classes(&scores, &[4, 9], [1, 2], 8);
        // 0.125 from the left is above 0.2 up to the pixel of share 0.625
        assert_eq!(mask[..8], [4, 4, 4, 4, 4, 9, 9, 9]);
        assert_eq!(mask, mask[..8].repeat(8));
        assert_eq!(upsampled_classes(&[1.0, 1.0], &[4, 9], [1, 1], 1), [4]);
        assert!(upsampled_classes(&scores, &[4], [1, 2], 8).is_empty());
    }
}
