//! Which patches show the things in an image, and which what is behind them.

use crate::eval::pca::Pca;

/// Whether each patch is in the foreground: on one side of the mean along the first principal component of the patches of all
/// images together, as in figure 1 of DINOv2 (arXiv 2304.07193). There a person chooses the side; here it is the one that has
/// less of the images' edges. `None` as for [`Pca::fit`], and where the edges are on neither side.
///
/// # Shapes
/// `patches` is row-major `[P, rows, columns, D]` of P images, D = `width`; `[P, rows, columns]` truths.
pub fn foreground(patches: &[f32], width: usize, [rows, columns]: [usize; 2]) -> Option<Vec<bool>> {
    let coordinates = Pca::fit(patches, width, 1)?.project(patches);
    let is_above: Vec<bool> = coordinates.iter().map(|value| *value > 0.0).collect();
    let is_edge = |at: usize| {
        let (row, column) = (at / columns % rows, at % columns);
        row == 0 || row + 1 == rows || column == 0 || column + 1 == columns
    };
    let share = |side: bool| {
        let of_side = (0..is_above.len()).filter(|at| is_above[*at] == side);
        let edges = of_side.clone().filter(|at| is_edge(*at)).count();
        edges as f64 / of_side.count() as f64
    };
    let (above, below) = (share(true), share(false));
    match above.partial_cmp(&below)? {
        std::cmp::Ordering::Equal => None,
        order => {
            let side = order == std::cmp::Ordering::Less;
            Some(is_above.into_iter().map(|above| above == side).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images of 4 x 5 patches with a thing in the middle, in features that point either way.
    #[test]
    fn what_has_less_of_the_edges_is_in_front() {
        let is_thing = |at: usize| [6, 7, 11, 12, 13].contains(&(at % 20));
        for sign in [1.0, -1.0] {
            let patch = |at: usize| {
                let noise = (at * 7 % 5) as f32 * 0.01;
                if is_thing(at) {
                    [sign * (3.0 + noise), 0.2, noise]
                } else {
                    [sign * (-1.0 - noise), 0.1, -noise]
                }
            };
            let patches: Vec<f32> = (0..40).flat_map(patch).collect();
            let found = foreground(&patches, 3, [4, 5]).unwrap();
            let expected: Vec<bool> = (0..40).map(is_thing).collect();
            assert_eq!(found, expected);
        }
        // nothing to tell apart, and all at the edge
        assert_eq!(foreground(&[1.0; 24], 2, [3, 4]), None);
        let line: Vec<f32> = (0..8).map(|at| at as f32).collect();
        assert_eq!(foreground(&line, 1, [2, 4]), None);
    }
}
