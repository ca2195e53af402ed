//! How a device makes a product: with which tile, and into how many parts the sums are cut.

use super::cooperative::Cooperation;
use super::element::Element;
use super::lanes::{SOFTWARE_SUBGROUP, is_software};
use super::launch::Client;
use super::matrix_bands::band;
use super::matrix_tiles::{Abilities, BLOCK, DEPTH, Tile};

/// Blocks of 4 x 4 entries along each side of a software lane's tile: 16 x 16 entries in registers. On lavapipe 12 x 12
/// takes a fifth longer, and 24 x 16 wins little for three times the time to compile.
pub(super) const SOFTWARE_BLOCKS: usize = 4;

/// Terms of a sum in one launch, at most: a kernel's loops together must stay below the 65 535 rounds after which lavapipe
/// leaves them: one round for 4 terms (direct), or 6 for 16, an end of the inner loop among them (tiled).
pub(super) const MAX_TERMS: usize = 160_000;

/// How a device multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A lane reads its operands itself: what a program on the CPU does fastest.
    Direct,
    /// A workgroup shares them.
    Tiled(Tile),
    /// A workgroup shares them, and its subgroups multiply them on cooperative matrices.
    Cooperative(Cooperation),
}

impl Way {
    /// Rows and columns of what workgroups make.
    fn grid(self, rows: usize, columns: usize) -> (usize, usize) {
        match self {
            Self::Direct => {
                let side = SOFTWARE_BLOCKS * BLOCK;
                (rows.div_ceil(side), columns.div_ceil(side))
            }
            Self::Tiled(tile) => tile.grid(rows, columns),
            Self::Cooperative(of) => of.tile.grid(rows, columns),
        }
    }
}

/// What is multiplied: `count` products of `[rows, depth]` and `[depth, columns]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub count: usize,
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
}

impl Sizes {
    /// Multiplications.
    pub(super) fn products(self) -> usize {
        self.count * self.rows * self.columns * self.depth
    }

    /// What sizes have in common that take the same tile: rows, terms, columns and number of products up to a power of two.
    pub(super) fn class(self) -> String {
        let [count, rows, depth, columns] =
            [self.count, self.rows, self.depth, self.columns].map(usize::next_power_of_two);
        match count {
            1 => format!("{rows} x {depth} x {columns}"),
            _ => format!("{count} of {rows} x {depth} x {columns}"),
        }
    }
}

/// How products are dealt out to workgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub way: Way,
    /// Parts of each sum, each of [`Self::span`] terms but for the last: other workgroups make them, and another kernel adds
    /// them up.
    pub parts: usize,
    pub span: usize,
}

/// Workgroups to cut sums for: some rounds of a large GPU's places, so that the last one, which is not full, costs little.
const CUT_FOR: usize = 1_024;
/// Terms of a part, at least: it writes as much as 32 to 64 of them read, and what it writes is read once more.
const LEAST_TERMS: usize = 512;

impl Plan {
    /// `rounded_to` is what operands are rounded to; `may_cut` says whether sums may be made in parts.
    pub(super) fn choose(
        client: &Client,
        sizes: Sizes,
        rounded_to: Element,
        may_cut: bool,
    ) -> Self {
        let with = |of| Self::cut(Way::Cooperative(of), sizes, may_cut);
        let groups = |of| with(of).groups(sizes);
        if let Some(of) = Cooperation::choose(client, rounded_to, groups) {
            return with(of);
        }
        if is_software(client) {
            return Self::whole(Way::Direct, sizes);
        }
        let plan = Self::suited_to(Abilities::of(client), sizes, may_cut);
        Tile::asked_for().map_or(plan, |tile| plan.with(tile))
    }

    /// With another tile, and sums cut as they were: so the bits of the product are the same.
    pub(super) fn with(self, tile: Tile) -> Self {
        Self {
            way: Way::Tiled(tile),
            ..self
        }
    }

    fn suited_to(device: Abilities, sizes: Sizes, may_cut: bool) -> Self {
        let plans = device.tiles().iter().filter(|tile| device.fits(**tile));
        let cut = |tile| Self::cut(Way::Tiled(tile), sizes, may_cut);
        let mut plans = plans.map(|tile| (cut(*tile), tile.busy));
        let busy = plans.find(|(plan, busy)| plan.groups(sizes) >= *busy);
        busy.map_or(cut(Tile::SMALL), |(plan, _)| plan)
    }

    fn whole(way: Way, sizes: Sizes) -> Self {
        Self {
            way,
            parts: 1,
            span: sizes.depth.next_multiple_of(DEPTH),
        }
    }

    fn cut(way: Way, sizes: Sizes, may_cut: bool) -> Self {
        let whole = Self::whole(way, sizes);
        let (tile_rows, tile_columns) = way.grid(sizes.rows, sizes.columns);
        let parts = (CUT_FOR / (tile_rows * tile_columns)).min(sizes.depth / LEAST_TERMS);
        if !may_cut || sizes.count > 1 || parts < 2 {
            return whole;
        }
        let span = sizes.depth.div_ceil(parts).next_multiple_of(DEPTH);
        Self {
            parts: sizes.depth.div_ceil(span),
            span,
            ..whole
        }
    }

    pub(super) fn groups(self, sizes: Sizes) -> usize {
        let (rows, columns) = self.way.grid(sizes.rows, sizes.columns);
        let tiles = sizes.count * self.parts * rows * columns;
        match self.way {
            Way::Direct => tiles.div_ceil(SOFTWARE_SUBGROUP as usize),
            Way::Tiled(_) | Way::Cooperative(_) => tiles,
        }
    }

    /// Tile rows of a band.
    pub(super) fn band(self, sizes: Sizes) -> usize {
        let (rows, columns) = self.way.grid(sizes.rows, sizes.columns);
        match self.way {
            Way::Direct => 1,
            Way::Tiled(_) | Way::Cooperative(_) => band(rows, columns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVIDIA: Abilities = Abilities {
        lanes: 1024,
        workgroup_bytes: 49_152,
        subgroup: (32, 32),
        is_discrete: true,
    };
    const AMD: Abilities = Abilities {
        subgroup: (32, 64),
        ..NVIDIA
    };
    const ARC: Abilities = Abilities {
        subgroup: (8, 32),
        ..NVIDIA
    };

    fn sizes([rows, depth, columns]: [usize; 3]) -> Sizes {
        Sizes {
            count: 1,
            rows,
            columns,
            depth,
        }
    }

    #[test]
    fn tiles_suit_device_and_sizes() {
        let tile = |device, product| Plan::suited_to(device, sizes(product), false).way;
        // ViT-S: 64 images in 2 views, and 4 images
        let (many, few) = ([25_216, 384, 384], [1_576, 384, 384]);
        let apple = Abilities {
            is_discrete: false,
            ..NVIDIA
        };
        let least = Abilities {
            lanes: 128,
            ..NVIDIA
        };
        for (device, expected) in [
            (NVIDIA, Tile::LARGE),
            (AMD, Tile::TALL),
            (apple, Tile::TALL),
            (ARC, Tile::SMALL),
            (least, Tile::SMALL),
        ] {
            assert_eq!(tile(device, many), Way::Tiled(expected));
            assert_eq!(tile(device, few), Way::Tiled(Tile::SMALL));
        }
    }

    #[test]
    fn long_sums_of_few_tiles_are_cut() {
        let plan = |product, may_cut| Plan::suited_to(NVIDIA, sizes(product), may_cut);
        // a weight's gradient over 25 216 rows: 36 tiles of 128 x 128
        let gradient = plan([384, 25_216, 1_536], true);
        assert_eq!(gradient.way, Way::Tiled(Tile::LARGE));
        assert_eq!((gradient.parts, gradient.span), (28, 912));
        assert_eq!(plan([384, 25_216, 1_536], false).parts, 1);
        // few terms, many tiles, several products
        assert_eq!(plan([384, 1_000, 384], true).parts, 1);
        assert_eq!(plan([8_192, 4_096, 8_192], true).parts, 1);
        let several = Sizes {
            count: 2,
            ..sizes([64, 4_096, 64])
        };
        assert_eq!(Plan::suited_to(NVIDIA, several, true).parts, 1);
        for depth in [1_024, 1_025, 1_039, 25_217, 160_000] {
            let Plan { parts, span, .. } = plan([64, depth, 64], true);
            assert!(span % DEPTH == 0 && (parts - 1) * span < depth && depth <= parts * span);
        }
    }
}
