//! What a workgroup of a GPU makes of a product, and which GPU makes what.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::launch::Client;
use crate::device::{AdapterKind, kind_of};
use crate::scope::restoring;

/// Entries along a side of a block.
pub(super) const BLOCK: usize = 4;
/// Terms that a workgroup brings into its memory at a time.
pub(super) const DEPTH: usize = 16;

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
    pub(super) busy: usize,
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

    /// Rows and columns of tiles.
    pub(super) fn grid(self, rows: usize, columns: usize) -> (usize, usize) {
        (rows.div_ceil(self.rows), columns.div_ceil(self.columns))
    }

    fn workgroup_bytes(self) -> usize {
        let vectors = (self.rows + self.columns) / 4 + 2 * usize::from(self.is_padded);
        DEPTH * vectors * 4 * size_of::<f32>()
    }

    /// `ROWSxCOLUMNS`.
    pub(super) fn name(self) -> String {
        format!("{}x{}", self.rows, self.columns)
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tile| tile.name() == name)
    }

    /// What [`with_tile`] or else [`TILE_VARIABLE`] says; anything but the name of a tile is warned of and left aside.
    pub(super) fn asked_for() -> Option<Self> {
        static CHOSEN: OnceLock<Option<Tile>> = OnceLock::new();
        match ASKED.load(Ordering::Relaxed) {
            0 => {}
            number => return Self::ALL.get(number as usize - 1).copied(),
        }
        *CHOSEN.get_or_init(|| {
            let value = std::env::var(TILE_VARIABLE).ok()?;
            let tile = Self::named(&value);
            if tile.is_none() {
                let names = Self::ALL.map(Self::name).join(", ");
                log::warn!("{TILE_VARIABLE} = {value}: must be one of {names}");
            }
            tile
        })
    }

    /// The tiles that may take the place of the usual one, which is the first of them.
    pub(super) fn candidates(client: &Client, usual: Self) -> Vec<Self> {
        Abilities::of(client).candidates(usual)
    }
}

/// A number of [`Tile::ALL`] that [`with_tile`] asks for, from 1; 0 where it does not run.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Runs `work` with this tile in every product that a device makes by tiles, as [`TILE_VARIABLE`] does for a whole process.
/// For tests; other threads' launches are meant too.
pub fn with_tile<R>(tile: Tile, work: impl FnOnce() -> R) -> R {
    let number = Tile::ALL.iter().position(|known| *known == tile);
    let number = number.map_or(0, |number| number as u32 + 1);
    let before = ASKED.swap(number, Ordering::Relaxed);
    restoring(|| ASKED.store(before, Ordering::Relaxed), work)
}

/// What the choice of a tile asks of a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abilities {
    /// Lanes of a workgroup, at most.
    pub lanes: usize,
    /// Memory of a workgroup.
    pub workgroup_bytes: usize,
    /// Lanes of a subgroup, at least and at most.
    pub subgroup: (u32, u32),
    pub is_discrete: bool,
}

impl Abilities {
    pub fn of(client: &Client) -> Self {
        let hardware = &client.properties().hardware;
        Self {
            lanes: hardware.max_units_per_cube as usize,
            workgroup_bytes: hardware.max_shared_memory_size,
            subgroup: (hardware.plane_size_min, hardware.plane_size_max),
            is_discrete: kind_of(client) == Some(AdapterKind::Discrete),
        }
    }

    pub fn fits(self, tile: Tile) -> bool {
        tile.lanes() <= self.lanes && tile.workgroup_bytes() <= self.workgroup_bytes
    }

    /// The tiles that suit the device, the largest first. A card with subgroups of 32 and nothing else is NVIDIA's, whose
    /// lanes have 255 registers; AMD's have 32 or 64, where 4 waves at a time still fit 128 x 64; Intel's, of 8 to 32, get
    /// the fewest registers, and a GPU that shares its memory (Apple) the fewest lanes in flight.
    pub fn tiles(self) -> &'static [Tile] {
        match (self.subgroup, self.is_discrete) {
            ((32, 32), true) => &[Tile::LARGE, Tile::TALL, Tile::SMALL],
            ((32.., _), _) => &[Tile::TALL, Tile::SMALL],
            _ => &[Tile::SMALL],
        }
    }

    /// The usual tile, and the others that fit. The large one only where it may be usual or the GPU is a card: Metal's compiler
    /// may refuse as many registers for a workgroup of its lanes, which would end the run.
    fn candidates(self, usual: Tile) -> Vec<Tile> {
        let is_safe =
            |tile: Tile| tile != Tile::LARGE || self.is_discrete || self.tiles().contains(&tile);
        let fits = |tile: &Tile| *tile != usual && self.fits(*tile) && is_safe(*tile);
        let others = Tile::ALL.into_iter().filter(fits);
        std::iter::once(usual).chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn other_tiles_are_tried_where_they_are_safe() {
        let card = Abilities {
            lanes: 1024,
            workgroup_bytes: 32_768,
            subgroup: (8, 32),
            is_discrete: true,
        };
        let of = |device: Abilities, usual: Tile| {
            device
                .candidates(usual)
                .iter()
                .map(|tile| tile.name())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(card, Tile::SMALL), ["64x64", "128x64", "128x128"]);
        assert_eq!(of(card, Tile::LARGE), ["128x128", "64x64", "128x64"]);
        let apple = Abilities {
            is_discrete: false,
            ..card
        };
        assert_eq!(of(apple, Tile::SMALL), ["64x64", "128x64"]);
        let least = Abilities { lanes: 128, ..card };
        assert_eq!(of(least, Tile::SMALL), ["64x64"]);
        assert_eq!(Tile::named("128x64"), Some(Tile::TALL));
        assert_eq!(Tile::named("32x32"), None);
    }
}
