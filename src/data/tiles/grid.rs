//! Where the tiles of an image lie.

/// A rectangle of an image, in pixels from its top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileArea {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// How images are cut into tiles: squares that cover all of it, evenly spread, neighbors sharing at least the overlap. A side
/// that is no longer than a tile is not cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileGrid {
    side: u32,
    overlap: u32,
}

impl TileGrid {
    /// Tiles of `side` pixels, of which neighbors share at least `overlap`, which is less than `side`.
    pub fn new(side: u32, overlap: u32) -> Self {
        Self {
            side: side.max(1),
            overlap: overlap.min(side.max(1) - 1),
        }
    }

    /// Side of a tile.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// Number of tiles of an image of `[width, height]` pixels; equal for the image turned by 90 degrees.
    pub fn count(&self, [width, height]: [u32; 2]) -> usize {
        self.along(width) as usize * self.along(height) as usize
    }

    /// Tile number `at` of an image, row by row; None past the last.
    pub fn area(&self, [width, height]: [u32; 2], at: usize) -> Option<TileArea> {
        let columns = self.along(width) as usize;
        let row = u32::try_from(at / columns).ok()?;
        let column = (at % columns) as u32;
        (row < self.along(height)).then(|| TileArea {
            x: self.start(width, column),
            y: self.start(height, row),
            width: width.min(self.side),
            height: height.min(self.side),
        })
    }

    /// Number of tiles along an axis.
    fn along(&self, length: u32) -> u32 {
        if length > self.side {
            (length - self.overlap).div_ceil(self.side - self.overlap)
        } else {
            1
        }
    }

    /// First pixel of a tile along an axis: the last tile ends where the image does.
    fn start(&self, length: u32, at: u32) -> u32 {
        let last = u64::from(self.along(length) - 1);
        let free = u64::from(length.saturating_sub(self.side));
        ((free * u64::from(at) + last / 2).checked_div(last)).unwrap_or(0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_image_and_overlap_as_asked() {
        for (side, overlap) in [(1, 0), (7, 0), (7, 3), (8, 7), (512, 64)] {
            let grid = TileGrid::new(side, overlap);
            for length in [1, 6, 7, 8, 9, 13, 14, 15, 100, 1000] {
                let count = grid.along(length);
                let starts: Vec<u32> = (0..count).map(|at| grid.start(length, at)).collect();
                let tile = side.min(length);
                assert_eq!((starts[0], starts[starts.len() - 1] + tile), (0, length));
                for pair in starts.windows(2) {
                    assert!(pair[1] > pair[0], "{side} {overlap} {length}: {starts:?}");
                    assert!(pair[1] + overlap <= pair[0] + side, "{starts:?}");
                }
                // one fewer would not cover it
                let fewer = u64::from(count - 1) * u64::from(side - overlap) + u64::from(overlap);
                assert!(count == 1 || fewer < u64::from(length));
            }
        }
    }

    #[test]
    fn tiles_lie_row_by_row_and_a_turned_image_has_as_many() {
        let grid = TileGrid::new(100, 0);
        let area = |at| {
            grid.area([250, 120], at)
                .map(|a| [a.x, a.y, a.width, a.height])
        };
        let expected = [[0, 0], [75, 0], [150, 0], [0, 20], [75, 20], [150, 20]];
        for (at, [x, y]) in expected.into_iter().enumerate() {
            assert_eq!(area(at), Some([x, y, 100, 100]));
        }
        assert_eq!(area(6), None);
        assert_eq!((grid.count([250, 120]), grid.count([120, 250])), (6, 6));
        // a strip is cut along its length alone
        assert_eq!(grid.count([300, 40]), 3);
        let strip = grid.area([300, 40], 2).unwrap();
        assert_eq!(
            (strip.x, strip.y, strip.width, strip.height),
            (200, 0, 100, 40)
        );
        assert_eq!(grid.count([u32::MAX, 1]), 42_949_673);
    }
}
