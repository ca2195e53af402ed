//! How a device multiplies matrices: the tile of a workgroup, and into how many parts the sums are cut.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lanes::is_software;
use super::launch::Client;
use crate::device::{AdapterKind, kind_of};

/// Blocks of 4 x 4 entries along each side of a software lane's tile: 16 x 16 entries in registers. On lavapipe 12 x 12
/// takes a fifth longer, and 24 x 16 wins little for three times the time to compile.
pub(super) const SOFTWARE_BLOCKS: usize = 4;
/// Entries along a side of a block.
pub(super) const BLOCK: usize = 4;
/// Terms that a workgroup brings into its memory at a time.
pub(super) const DEPTH: usize = 16;

/// Terms of a sum in one launch, at most: a kernel's loops together must stay below the 65 535 rounds after which lavapipe
/// leaves them: one round for 4 terms (direct), or 6 for 16, an end of the inner loop among them (tiled).
pub(super) const MAX_TERMS: usize = 160_000;

/// Name of the variable that sets the tile of every product on a GPU, as `ROWSxCOLUMNS`: for tuning.
pub const TILE_VARIABLE: &str = "IBOT_TILE";

/// What a workgroup makes on a GPU, in blocks of 4 x 4 entries a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_blocks: usize,
    pub(super) column_blocks: usize,
    /// Whether rows in workgroup memory have a vector more than they need, so that turned blocks are stored without
    /// conflicts.
    pub(super) is_padded: bool,
    /// Terms of a round in the inner loop: with 4 of them, NVIDIA's compiler gives the large tile 160 registers a lane, and a
    /// processor has room for one workgroup; with 2 it gives it 125.
    pub(super) unrolled: usize,
    /// Workgroups that keep a GPU busy: the places of the largest, twice 132, with so many lanes and registers each.
    busy: usize,
}

impl Tile {
    /// 8.5 KiB of workgroup memory and 128 lanes of 8 x 4 entries: within WebGPU's least limits. Of the shapes that were put
    /// before five compilers, 8 x 4 are those that all of them keep in registers (AMD 72 to 84, NVIDIA 94 to 112).
    pub const SMALL: Self = Self {
        rows: 64,
        columns: 64,
        row_blocks: 2,
        column_blocks: 1,
        is_padded: true,
        unrolled: 4,
        busy: 1,
    };
    /// 12.5 KiB and 256 lanes; reads a quarter less for each multiplication.
    pub const TALL: Self = Self {
        rows: 128,
        busy: 512,
        ..Self::SMALL
    };
    /// 16 KiB and 256 lanes of 8 x 8 entries; reads half of what the small one does. Compilers of AMD and NVIDIA keep it in
    /// 104 to 125 registers; Intel's does not.
    pub const LARGE: Self = Self {
        columns: 128,
        column_blocks: 2,
        is_padded: false,
        unrolled: 2,
        busy: 256,
        ..Self::TALL
    };
    /// Every tile.
    pub const ALL: [Self; 3] = [Self::SMALL, Self::TALL, Self::LARGE];

    pub(super) fn lanes(self) -> usize {
        let of_lane = BLOCK * BLOCK * self.row_blocks * self.column_blocks;
        self.rows * self.columns / of_lane
    }

    fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    fn workgroup_bytes(self) -> usize {
        let vectors = (self.rows + self.columns) / 4 + 2 * usize::from(self.is_padded);
        DEPTH * vectors * 4 * size_of::<f32>()
    }

    /// `ROWSxCOLUMNS`.
    fn name(self) -> String {
        format!("{}x{}", self.rows, self.columns)
    }
}

/// A number of [`Tile::ALL`] that [`with_tile`] asks for, from 1; 0 where it does not run.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Runs `work` with this tile in every product that a device makes by tiles, as [`TILE_VARIABLE`] does for a whole process.
/// For tests; other threads' launches are meant too.
pub fn with_tile<R>(tile: Tile, work: impl FnOnce() -> R) -> R {
    struct Before(u32);
    impl Drop for Before {
        fn drop(&mut self) {
            ASKED.store(self.0, Ordering::Relaxed);
        }
    }
    let number = Tile::ALL.iter().position(|known| *known == tile);
    let number = number.map_or(0, |number| number as u32 + 1);
    let _before = Before(ASKED.swap(number, Ordering::Relaxed));
    work()
}

/// What [`with_tile`] or else [`TILE_VARIABLE`] says; anything but the name of a tile is warned of and left aside.
fn chosen_tile() -> Option<Tile> {
    static CHOSEN: OnceLock<Option<Tile>> = OnceLock::new();
    match ASKED.load(Ordering::Relaxed) {
        0 => {}
        number => return Tile::ALL.get(number as usize - 1).copied(),
    }
    *CHOSEN.get_or_init(|| {
        let value = std::env::var(TILE_VARIABLE).ok()?;
        let tile = Tile::ALL.into_iter().find(|tile| tile.name() == value);
        if tile.is_none() {
            let names = Tile::ALL.map(Tile::name).join(", ");
            log::warn!("{TILE_VARIABLE} = {value}: must be one of {names}");
        }
        tile
    })
}

/// How a device multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A lane reads its operands itself: what a program on the CPU does fastest.
    Direct,
    /// A workgroup shares them.
    Tiled(Tile),
}

/// What the choice of a tile asks of a device.
#[derive(Debug, Clone, Copy)]
struct Abilities {
    /// Lanes of a workgroup, at most.
    lanes: usize,
    /// Memory of a workgroup.
    workgroup_bytes: usize,
    /// Lanes of a subgroup, at least and at most.
    subgroup: (u32, u32),
    is_discrete: bool,
}

impl Abilities {
    fn of(client: &Client) -> Self {
        let hardware = &client.properties().hardware;
        Self {
            lanes: hardware.max_units_per_cube as usize,
            workgroup_bytes: hardware.max_shared_memory_size,
            subgroup: (hardware.plane_size_min, hardware.plane_size_max),
            is_discrete: kind_of(client) == Some(AdapterKind::Discrete),
        }
    }

    fn fits(self, tile: Tile) -> bool {
        tile.lanes() <= self.lanes && tile.workgroup_bytes() <= self.workgroup_bytes
    }

    /// The tiles that suit the device, the largest first. A card with subgroups of 32 and nothing else is NVIDIA's, whose
    /// lanes have 255 registers; AMD's have 32 or 64, where 4 waves at a time still fit 128 x 64; Intel's, of 8 to 32, get
    /// the fewest registers, and a GPU that shares its memory (Apple) the fewest lanes in flight.
    fn tiles(self) -> &'static [Tile] {
        match (self.subgroup, self.is_discrete) {
            ((32, 32), true) => &[Tile::LARGE, Tile::TALL, Tile::SMALL],
            ((32.., _), _) => &[Tile::TALL, Tile::SMALL],
            _ => &[Tile::SMALL],
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
    /// `may_cut` says whether sums may be made in parts.
    pub(super) fn choose(client: &Client, sizes: Sizes, may_cut: bool) -> Self {
        if is_software(client) {
            return Self::whole(Way::Direct, sizes);
        }
        match chosen_tile() {
            Some(tile) => Self::cut(tile, sizes, may_cut),
            None => Self::suited_to(Abilities::of(client), sizes, may_cut),
        }
    }

    fn suited_to(device: Abilities, sizes: Sizes, may_cut: bool) -> Self {
        let plans = device.tiles().iter().filter(|tile| device.fits(**tile));
        let mut plans = plans.map(|tile| (Self::cut(*tile, sizes, may_cut), tile.busy));
        let busy = plans.find(|(plan, busy)| plan.groups(sizes) >= *busy);
        busy.map_or(Self::cut(Tile::SMALL, sizes, may_cut), |(plan, _)| plan)
    }

    fn whole(way: Way, sizes: Sizes) -> Self {
        Self {
            way,
            parts: 1,
            span: sizes.depth.next_multiple_of(DEPTH),
        }
    }

    fn cut(tile: Tile, sizes: Sizes, may_cut: bool) -> Self {
        let whole = Self::whole(Way::Tiled(tile), sizes);
        let tiles = tile.count(sizes.rows, sizes.columns);
        let parts = (CUT_FOR / tiles).min(sizes.depth / LEAST_TERMS);
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
        let Sizes {
            count,
            rows,
            columns,
            ..
        } = sizes;
        match self.way {
            Way::Direct => {
                let side = SOFTWARE_BLOCKS * BLOCK;
                let tiles = count * rows.div_ceil(side) * columns.div_ceil(side);
                tiles.div_ceil(super::lanes::SOFTWARE_SUBGROUP as usize)
            }
            Way::Tiled(tile) => count * self.parts * tile.count(rows, columns),
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
    fn tiles_fit_the_least_that_webgpu_grants() {
        for tile in Tile::ALL {
            let lanes = tile.lanes();
            // a lane of each workgroup brings a block of one operand
            assert!((tile.rows + tile.columns) * DEPTH / 16 <= lanes && lanes <= 256);
            assert!(tile.workgroup_bytes() <= 16_384, "{tile:?}");
        }
        assert_eq!(Tile::ALL.map(Tile::lanes), [128, 256, 256]);
        assert_eq!(Tile::ALL.map(Tile::name), ["64x64", "128x64", "128x128"]);
    }

    #[test]
    fn tiles_suit_device_and_sizes() {
        let tile = |device, product| Plan::suited_to(device, sizes(product), false).way;
        // ViT-S: 64 pictures in 2 views, and 4 pictures
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
