//! What part of an image the evaluation view shows.

use serde::{Deserialize, Serialize};

/// Square images up to this side are evaluated whole: cropping a 32-pixel image would lose too much.
const SMALL_SIDE: u32 = 96;
/// Side of the resized image by side of the center crop, in the usual ImageNet evaluation: 256 / 224.
const EVAL_MARGIN: [u64; 2] = [8, 7];

/// How an image becomes a square of S pixels for evaluation, without randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalFit {
    /// The shorter side to S * 256 / 224 pixels, rounded down; then the center. A square image of up to 96 pixels per side
    /// is taken whole. Source: DINO and iBOT, for the numbers.
    #[default]
    Margin,
    /// The shorter side to this many pixels, at least S; then the center. transformers' `shortest_edge`.
    Shorter(usize),
    /// Both sides to S, whatever the image's shape.
    Stretch,
}

impl EvalFit {
    /// The same at another input size: the shorter side grows as the input does.
    pub fn at(self, before: usize, image_size: usize) -> Self {
        match self {
            Self::Shorter(side) => {
                let scaled = (side * image_size + before / 2) / before.max(1);
                Self::Shorter(scaled.max(image_size))
            }
            other => other,
        }
    }

    /// Side of the resized image before the crop to `side`; none for one that is stretched.
    pub fn shorter_side(self, side: usize) -> Option<usize> {
        match self {
            Self::Margin => {
                let resized = side as u64 * EVAL_MARGIN[0] / EVAL_MARGIN[1];
                Some(resized as usize)
            }
            Self::Shorter(shorter) => Some(shorter),
            Self::Stretch => None,
        }
    }

    /// Largest side, in pixels, of square images that are taken whole, without the crop; none where these are no exception.
    pub fn whole_squares(self) -> Option<u32> {
        (self == Self::Margin).then_some(SMALL_SIDE)
    }

    /// The part of an image of `size` `[width, height]` that becomes the view: left, top, width and height.
    ///
    /// torchvision resizes to whole pixels and cuts at whole pixels; the part is what these are in the image, so that one
    /// resize gives what its two steps give. Source: torchvision `Resize` and `CenterCrop` (`_compute_resized_output_size`,
    /// `center_crop`).
    pub(in crate::data) fn area(self, size: [u32; 2], side: usize) -> [[f64; 2]; 2] {
        let [width, height] = size;
        let is_whole = width == height && self.whole_squares().is_some_and(|most| width <= most);
        let shorter = match self.shorter_side(side) {
            Some(shorter) if !is_whole => shorter as u64,
            _ => return [[0.0, 0.0], size.map(f64::from)],
        };
        let shortest = u64::from(width.min(height));
        let axes = size.map(|size| {
            let pixels = u64::from(size);
            let resized = (shorter * pixels / shortest) as f64;
            let margin = (resized - side as f64) / 2.0;
            [margin.round_ties_even(), side as f64].map(|length| length * f64::from(size) / resized)
        });
        let [[left, width], [top, height]] = axes;
        [[left, top], [width, height]]
    }

    /// The `[column, row]` of the image in whose pixel the center of each pixel of the view lies, row by row, for a view of
    /// `side` pixels per side.
    pub(in crate::data) fn nearest(
        self,
        size: [u32; 2],
        side: usize,
    ) -> impl Iterator<Item = [u32; 2]> {
        let [[left, top], [width, height]] = self.area(size, side);
        // inside of the image, as the part is
        let place = move |start: f64, length: f64, at: usize| {
            (start + (at as f64 + 0.5) * length / side as f64) as u32
        };
        (0..side * side).map(move |at| {
            let (row, column) = (at / side, at % side);
            [place(left, width, column), place(top, height, row)]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes and places that torchvision 0.29 gives.
    #[test]
    fn the_part_is_where_torchvision_cuts() {
        // 640 x 427 becomes 383 x 256, cut from (80, 16): (383 - 224) / 2 = 79.5, rounded to even
        let [[left, top], [width, height]] = EvalFit::Margin.area([640, 427], 224);
        assert_eq!([left, top], [80.0 * 640.0 / 383.0, 16.0 * 427.0 / 256.0]);
        let expected = [224.0 * 640.0 / 383.0, 224.0 * 427.0 / 256.0];
        assert_eq!([width, height], expected);
        assert_eq!(
            EvalFit::Shorter(256).area([640, 427], 224),
            [[left, top], [width, height]]
        );
        assert_eq!(
            EvalFit::Stretch.area([640, 427], 224),
            [[0.0, 0.0], [640.0, 427.0]]
        );
    }

    #[test]
    fn small_squares_are_whole_by_default_alone() {
        let whole = [[0.0, 0.0], [64.0, 64.0]];
        assert_eq!(EvalFit::Margin.area([64, 64], 224), whole);
        assert_ne!(EvalFit::Shorter(256).area([64, 64], 224), whole);
        assert_ne!(EvalFit::Margin.area([97, 97], 224)[0], [0.0, 0.0]);
    }

    #[test]
    fn the_part_is_inside_at_any_size() {
        for side in [8, 9, 32, 98, 224, 518] {
            for width in [1, 2, 3, 96, 97, 511, 4000] {
                for height in [1, 5, 97, 333, 9000] {
                    for fit in [
                        EvalFit::Margin,
                        EvalFit::Shorter(side),
                        EvalFit::Shorter(side + 1),
                    ] {
                        let [start, length] = fit.area([width, height], side);
                        for axis in [0, 1] {
                            let end = start[axis] + length[axis];
                            let size = f64::from([width, height][axis]);
                            assert!(
                                start[axis] >= 0.0 && end <= size,
                                "{fit:?} {width} {height}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn another_size_keeps_the_share_that_is_cut() {
        assert_eq!(EvalFit::Shorter(256).at(224, 98), EvalFit::Shorter(112));
        assert_eq!(EvalFit::Shorter(224).at(224, 518), EvalFit::Shorter(518));
        assert_eq!(EvalFit::Stretch.at(224, 98), EvalFit::Stretch);
    }
}
