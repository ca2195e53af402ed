//! The order in which workgroups take the tiles of a product: those that run together should read the same operands, which
//! then come from the GPU's L2 and not from its memory.

/// Tiles along a side up to which a GPU's places, some hundred, hold several whole lines of them.
const FEW: usize = 32;
/// Tile rows of a band where both sides have more: 120 to 264 places then are about square.
const BAND: usize = 16;

/// Tile rows of a band: workgroups go through the bands from the top, and through each column by column.
///
/// With few columns it is one row after the other, with few rows one column after the other, else bands of 16 rows. Each
/// gives the same bits. `benches/l2/l2_bytes.py` says what is read from memory in this and in other orders.
pub(super) fn band(tile_rows: usize, tile_columns: usize) -> usize {
    if tile_columns <= tile_rows.min(FEW) {
        1
    } else if tile_rows <= FEW {
        tile_rows
    } else {
        BAND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_suit_the_shape() {
        // ViT-S, 64 images in 2 views, tiles of 128 x 128: tokens by width, weights of the MLP, prototypes
        for (tiles, expected) in [
            ((197, 12), 1),
            ((3, 12), 3),
            ((1, 512), 1),
            ((118, 64), 16),
            ((2, 64), 2),
            ((12, 12), 1),
            ((1, 1), 1),
            ((33, 33), 16),
        ] {
            assert_eq!(band(tiles.0, tiles.1), expected, "{tiles:?}");
        }
    }
}
