//! The kernels of `shaders/matrix_product/`, and which of them suits a device.

use super::chunk::Chunk;
use super::lanes::{SOFTWARE_SUBGROUP, is_software};
use super::launch::{Client, Kernel, shader};
use crate::kernels::ops::product::Layout;

/// Blocks of 4 x 4 entries along each side of a software lane's tile: 16 x 16 entries in registers. On lavapipe 12 x 12
/// takes a fifth longer, and 24 x 16 wins little for three times the time to compile.
const SOFTWARE_BLOCKS: usize = 4;
/// Entries along a side of a block.
pub(super) const BLOCK: usize = 4;

/// Terms of a sum in one launch, at most: a kernel's loops together must stay below the 65 535 rounds after which lavapipe
/// leaves them: one round for 4 terms (direct), or 6 for 16, an end of the inner loop among them (tiled).
pub(super) const MAX_TERMS: usize = 160_000;

/// Terms of a round in the inner loop of a tile.
const UNROLLED: usize = 4;

/// What a workgroup makes on a GPU, in blocks of 4 x 4 entries a lane.
///
/// Of the shapes that were put before five compilers, those with 8 x 4 entries a lane are the ones that all of them keep in
/// registers (AMD 72 to 84, NVIDIA 94 to 112).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    rows: usize,
    columns: usize,
    row_blocks: usize,
    column_blocks: usize,
}

impl Tile {
    /// 8.5 KiB of workgroup memory and 128 lanes: within WebGPU's least limits.
    const SMALL: Self = Self {
        rows: 64,
        columns: 64,
        row_blocks: 2,
        column_blocks: 1,
    };
    /// 12.5 KiB and 256 lanes; reads a quarter less for each multiplication.
    const LARGE: Self = Self {
        rows: 128,
        ..Self::SMALL
    };

    fn lanes(self) -> usize {
        let of_lane = BLOCK * BLOCK * self.row_blocks * self.column_blocks;
        self.rows * self.columns / of_lane
    }

    fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }
}

/// Tiles that keep a GPU busy: as many as the largest have places for workgroups.
const BUSY: usize = 512;

/// How a device multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A lane reads its operands itself: what a program on the CPU does fastest.
    Direct,
    /// A workgroup shares them.
    Tiled(Tile),
}

impl Way {
    const ALL: [Self; 3] = [
        Self::Direct,
        Self::Tiled(Tile::SMALL),
        Self::Tiled(Tile::LARGE),
    ];

    pub(super) fn choose(client: &Client, count: usize, rows: usize, columns: usize) -> Self {
        if is_software(client) {
            return Self::Direct;
        }
        let max_lanes = client.properties().hardware.max_units_per_cube as usize;
        let fits = Tile::LARGE.lanes() <= max_lanes;
        Self::Tiled(
            match fits && count * Tile::LARGE.count(rows, columns) >= BUSY {
                true => Tile::LARGE,
                false => Tile::SMALL,
            },
        )
    }

    pub(super) fn groups(self, count: usize, rows: usize, columns: usize) -> usize {
        match self {
            Self::Direct => {
                let side = SOFTWARE_BLOCKS * BLOCK;
                let tiles = count * rows.div_ceil(side) * columns.div_ceil(side);
                tiles.div_ceil(SOFTWARE_SUBGROUP as usize)
            }
            Self::Tiled(tile) => count * tile.count(rows, columns),
        }
    }
}

/// What is done with a finished product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct After {
    pub bias: bool,
    pub gelu: bool,
    pub residual: bool,
    /// Sums of the columns of the right operand are made beside it.
    pub totals: bool,
}

/// What tells one kernel from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub layout: Layout,
    /// Whether the rows of all matrices are multiples of a vector.
    pub vectors: bool,
    pub after: After,
}

impl Variant {
    fn values(self) -> Vec<(&'static str, String)> {
        let count = |there: bool| usize::from(there).to_string();
        let stored = if self.vectors { "vec4<f32>" } else { "f32" };
        let entries: usize = if self.vectors { 4 } else { 1 };
        let turned_left = self.layout == Layout::LeftTransposed;
        let turned_right = self.layout == Layout::RightTransposed;
        let mut values = Chunk::for_length(BLOCK).values();
        values.extend([
            ("stored", stored.to_owned()),
            ("entries", entries.to_string()),
            ("vectors", count(self.vectors)),
            ("singles", count(!self.vectors)),
            ("straight_left", count(!turned_left)),
            ("turned_left", count(turned_left)),
            ("straight_right", count(!turned_right)),
            ("turned_right", count(turned_right)),
            ("bias", count(self.after.bias)),
            ("gelu", count(self.after.gelu)),
            ("residual", count(self.after.residual)),
            ("totals", count(self.after.totals)),
        ]);
        values
    }

    pub(super) fn kernel(self, way: Way) -> Kernel {
        let mut values = self.values();
        match way {
            Way::Direct => {
                let shader = shader!(
                    "chunk",
                    "gelu/normal",
                    "matrix_product/operands",
                    "matrix_product/result",
                    "matrix_product/direct"
                );
                values.extend(
                    ["row_block", "column_block"].map(|side| (side, SOFTWARE_BLOCKS.to_string())),
                );
                Kernel::new(shader, SOFTWARE_SUBGROUP, values)
            }
            Way::Tiled(tile) => {
                let shader = shader!(
                    "chunk",
                    "gelu/normal",
                    "matrix_product/operands",
                    "matrix_product/result",
                    "matrix_product/tiled"
                );
                values.extend([
                    ("tile_rows", tile.rows.to_string()),
                    ("tile_columns", tile.columns.to_string()),
                    ("row_block", tile.row_blocks.to_string()),
                    ("column_block", tile.column_blocks.to_string()),
                    ("unrolled", UNROLLED.to_string()),
                ]);
                Kernel::new(shader, tile.lanes() as u32, values)
            }
        }
    }
}

/// Every kernel that a device may be given.
pub(super) fn kernels() -> Vec<Kernel> {
    let flags = [false, true];
    let mut afters = vec![(Layout::RightTransposed, After::default())];
    for totals in flags {
        let after = After {
            totals,
            ..After::default()
        };
        afters.push((Layout::LeftTransposed, after));
    }
    for (bias, (gelu, residual)) in flags.into_iter().flat_map(|bias| {
        let rest = flags
            .into_iter()
            .flat_map(|gelu| flags.map(|residual| (gelu, residual)));
        rest.map(move |rest| (bias, rest))
    }) {
        let after = After {
            bias,
            gelu,
            residual,
            totals: false,
        };
        afters.push((Layout::Plain, after));
    }
    let variants = afters.into_iter().flat_map(|(layout, after)| {
        flags.map(|vectors| Variant {
            layout,
            vectors,
            after,
        })
    });
    variants
        .flat_map(|variant| Way::ALL.map(|way| variant.kernel(way)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_the_least_that_webgpu_grants() {
        for tile in [Tile::SMALL, Tile::LARGE] {
            let lanes = tile.lanes();
            // a lane of each workgroup brings a block of each operand
            assert!(tile.rows + tile.columns <= lanes + lanes / 2 && lanes <= 256);
            let bytes = 16 * 16 * (tile.rows / BLOCK + tile.columns / BLOCK + 2);
            assert!(bytes <= 16_384, "{bytes}");
        }
        assert_eq!((Tile::SMALL.lanes(), Tile::LARGE.lanes()), (128, 256));
    }
}
