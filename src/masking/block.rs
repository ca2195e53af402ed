//! Masks of rectangular blocks, as in BEiT.

use crate::random::Random;

use crate::masking::random::{mask_scattered, masked_count};

/// Blocks tried in a row before the rest is scattered, as in BEiT.
const ATTEMPTS: usize = 10;

/// A mask of overlapping rectangles with exactly [`masked_count`] patches set.
///
/// Blocks are added until the count is reached. The area of each is uniform between `min_block` patches and the number
/// still missing, its ratio of height to width log-uniform in `aspect`, its place uniform. One that would add nothing
/// or too much, or that is as high or as wide as the grid, is drawn again. After ten such in a row the patches still
/// missing are scattered, as [`random_mask`](super::random_mask) does. So grids of one row or column, where no block
/// fits, get random masks. Where fewer than `min_block` are missing, blocks larger than that still count if they
/// overlap others enough.
///
/// Source: block-wise masking of BEiT (arXiv 2106.08254, algorithm 1), as in iBOT's `loader.py` and DINOv2's
/// `masking.py`. Differs from the official code: that stops after ten failures, and so masks a little less than asked;
/// iBOT's smallest block is a third of the grid's shorter side squared (16 for 14 x 14), BEiT's 16, DINOv2's 4.
///
/// # Shapes
/// `grid` is `[rows, columns]`; `[N]` for N = rows * columns, row by row; true where the patch is masked.
pub fn block_mask(
    random: &mut Random,
    grid: [usize; 2],
    ratio: f64,
    min_block: usize,
    aspect: [f64; 2],
) -> Vec<bool> {
    let patches = grid[0] * grid[1];
    let mut mask = vec![false; patches];
    let mut missing = masked_count(patches, ratio);
    // Every round but the last masks a patch or more, so this ends.
    while missing > 0 {
        let fitting = (0..ATTEMPTS).find_map(|_| {
            let block = Block::draw(random, grid, [min_block, missing], aspect)?;
            let open = block.patches(grid).filter(|&patch| !mask[patch]).count();
            (1..=missing).contains(&open).then_some((block, open))
        });
        let Some((block, open)) = fitting else {
            break;
        };
        for patch in block.patches(grid) {
            mask[patch] = true;
        }
        missing -= open;
    }
    mask_scattered(random, &mut mask, missing);
    mask
}

/// A rectangle of patches inside the grid.
struct Block {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Block {
    /// None where the drawn size does not fit the grid.
    fn draw(
        random: &mut Random,
        [rows, columns]: [usize; 2],
        area: [usize; 2],
        aspect: [f64; 2],
    ) -> Option<Self> {
        // Python's `uniform`, and this one, also take the larger bound first.
        let area = random.uniform(area[0] as f64, area[1] as f64);
        let aspect = random.uniform(aspect[0].ln(), aspect[1].ln()).exp();
        // A cast from float saturates.
        let height = (area * aspect).sqrt().round_ties_even() as usize;
        let width = (area / aspect).sqrt().round_ties_even() as usize;
        (height < rows && width < columns).then(|| Self {
            top: random.below(rows - height + 1),
            left: random.below(columns - width + 1),
            height,
            width,
        })
    }

    /// Indices of its patches.
    fn patches(&self, grid: [usize; 2]) -> impl Iterator<Item = usize> {
        let columns = self.left..self.left + self.width;
        (self.top..self.top + self.height)
            .flat_map(move |row| columns.clone().map(move |column| row * grid[1] + column))
    }
}

#[cfg(test)]
mod tests {
    use super::super::random_mask;
    use super::*;
    use crate::random::Stream;

    const ASPECT: [f64; 2] = [0.3, 1.0 / 0.3];

    fn count(mask: &[bool]) -> usize {
        mask.iter().filter(|&&masked| masked).count()
    }

    /// Share of the pairs of adjacent patches that are both masked or both not.
    fn equal_neighbors(mask: &[bool], [rows, columns]: [usize; 2]) -> f64 {
        let mut equal = Vec::new();
        for patch in 0..rows * columns {
            if patch % columns + 1 < columns {
                equal.push(mask[patch] == mask[patch + 1]);
            }
            if patch + columns < rows * columns {
                equal.push(mask[patch] == mask[patch + columns]);
            }
        }
        count(&equal) as f64 / equal.len() as f64
    }

    #[test]
    fn counts_are_exact_on_any_grid() {
        let mut random = Random::new(5, 0, 0, Stream::Mask(0));
        for grid in [
            [0, 4],
            [1, 1],
            [1, 7],
            [7, 1],
            [14, 14],
            [6, 6],
            [3, 5],
            [37, 2],
        ] {
            let patches = grid[0] * grid[1];
            for step in 0..=100 {
                let ratio = f64::from(step) / 100.0;
                for min_block in [1, 4, 16] {
                    let mask = block_mask(&mut random, grid, ratio, min_block, ASPECT);
                    assert_eq!(mask.len(), patches);
                    let expected = masked_count(patches, ratio);
                    assert_eq!(count(&mask), expected, "{grid:?} {ratio} {min_block}");
                }
            }
        }
    }

    #[test]
    fn masks_are_blocks() {
        let mut random = Random::new(6, 0, 0, Stream::Mask(0));
        let grid = [14, 14];
        for (ratio, least) in [(0.1, 0.05), (0.3, 0.15), (0.5, 0.2)] {
            let mut shares = [0.0; 2];
            for _ in 0..200 {
                let block = block_mask(&mut random, grid, ratio, 4, ASPECT);
                let scattered = random_mask(&mut random, 196, ratio);
                shares[0] += equal_neighbors(&block, grid) / 200.0;
                shares[1] += equal_neighbors(&scattered, grid) / 200.0;
            }
            // Scattered: p^2 + (1 - p)^2, so 0.82, 0.58 and 0.5.
            let expected = ratio * ratio + (1.0 - ratio) * (1.0 - ratio);
            assert!((shares[1] - expected).abs() < 0.02, "{ratio}: {shares:?}");
            assert!(shares[0] > shares[1] + least, "{ratio}: {shares:?}");
        }
    }

    #[test]
    fn aspect_is_height_to_width() {
        let mut random = Random::new(9, 0, 0, Stream::Mask(0));
        for (aspect, height, width) in [(4.0, 8, 2), (0.25, 2, 8), (1.0, 4, 4)] {
            let mask = block_mask(&mut random, [14, 11], 16.0 / 154.0, 16, [aspect; 2]);
            let rows = mask.chunks(11).filter(|row| row.contains(&true));
            let widths: Vec<usize> = rows.map(count).collect();
            assert_eq!(widths, vec![width; height]);
        }
    }

    #[test]
    fn places_favor_no_side() {
        let mut random = Random::new(7, 0, 0, Stream::Mask(0));
        let mut hits = [0usize; 15 * 10];
        for _ in 0..2000 {
            let mask = block_mask(&mut random, [15, 10], 0.3, 4, ASPECT);
            for (hits, masked) in hits.iter_mut().zip(mask) {
                *hits += usize::from(masked);
            }
        }
        for patch in 0..hits.len() {
            let (row, column) = (patch / 10, patch % 10);
            // Corners, which fewer blocks reach, are masked in about one image of twenty.
            assert!(hits[patch] > 50, "{row} {column}: {}", hits[patch]);
            // Two counts of at most Binomial(2000, 1/2), opposed at worst: standard deviation 45; five of them.
            for mirrored in [(14 - row) * 10 + column, row * 10 + 9 - column] {
                let difference = hits[patch].abs_diff(hits[mirrored]);
                assert!(difference < 225, "{row} {column}: {difference}");
            }
        }
    }

    #[test]
    fn hostile_settings_end_exactly() {
        let mut random = Random::new(8, 0, 0, Stream::Mask(0));
        let aspects = [
            [1e-300, 1e300],
            [1e-300, 1e-300],
            [1e300, 1e300],
            [1.0, 1.0],
            [0.0, 0.0],
            [f64::NAN, -1.0],
            [f64::INFINITY, f64::INFINITY],
        ];
        for aspect in aspects {
            for min_block in [0, 1, 197, 10_000, usize::MAX] {
                for ratio in [-1.0, 0.0, 0.01, 0.5, 1.0, 3.0, f64::NAN] {
                    let mask = block_mask(&mut random, [14, 14], ratio, min_block, aspect);
                    assert_eq!(count(&mask), masked_count(196, ratio));
                }
            }
        }
    }
}
