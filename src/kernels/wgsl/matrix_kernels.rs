//! The kernels of `shaders/matrix_product/`.

use super::chunk::Chunk;
use super::lanes::SOFTWARE_SUBGROUP;
use super::launch::{Kernel, shader};
use super::matrix_plan::{SOFTWARE_BLOCKS, Way};
use super::matrix_tiles::{BLOCK, Tile};
use crate::kernels::ops::product::Layout;

/// Lanes of a workgroup that adds up parts, each of which adds one chunk.
pub(super) const PARTS_LANES: u32 = 64;

/// What is done with a finished product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct After {
    pub bias: bool,
    pub gelu: bool,
    /// Times GELU's derivative at another matrix.
    pub gelu_gradient: bool,
    pub residual: bool,
    /// GELU of the product, or of where its derivative is taken, is written beside it.
    pub activated: bool,
    /// Sums of the columns of the right operand are made beside it.
    pub totals: bool,
}

impl After {
    /// Whether nothing is done that takes whole sums, so that they may be made in parts.
    pub(super) fn takes_parts(self) -> bool {
        let totals = self.totals;
        let bare = Self {
            totals,
            ..Self::default()
        };
        self == bare
    }

    /// What products are followed by, each layout with its own.
    fn all() -> Vec<(Layout, Self)> {
        let flags = [false, true];
        let mut all = Vec::new();
        for flag in flags {
            let gelu_gradient = Self {
                gelu_gradient: flag,
                ..Self::default()
            };
            let totals = Self {
                totals: flag,
                ..Self::default()
            };
            all.push((Layout::RightTransposed, gelu_gradient));
            let activated = Self {
                activated: true,
                ..gelu_gradient
            };
            let bias = Self {
                bias: flag,
                activated: true,
                ..Self::default()
            };
            all.extend(flag.then_some((Layout::RightTransposed, activated)));
            all.push((Layout::Plain, bias));
            all.push((Layout::LeftTransposed, totals));
        }
        for bits in 0..8 {
            let [bias, gelu, residual] = [1, 2, 4].map(|bit| bits & bit > 0);
            let after = Self {
                bias,
                gelu,
                residual,
                ..Self::default()
            };
            all.push((Layout::Plain, after));
        }
        all
    }
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
            ("gelu_gradient", count(self.after.gelu_gradient)),
            ("residual", count(self.after.residual)),
            ("activated", count(self.after.activated)),
            ("totals", count(self.after.totals)),
        ]);
        values
    }

    /// How its operands lie.
    pub(super) fn name(self) -> String {
        let entries = if self.vectors { "vectors" } else { "singles" };
        format!("{:?} {entries}", self.layout)
    }

    pub(super) fn kernel(self, way: Way) -> Kernel {
        match way {
            Way::Direct => self.direct(),
            Way::Tiled(tile) => self.tiled(tile),
        }
    }

    fn direct(self) -> Kernel {
        let shader = shader!(
            "chunk",
            "gelu/normal",
            "matrix_product/operands",
            "matrix_product/result",
            "matrix_product/direct"
        );
        let mut values = self.values();
        values
            .extend(["row_block", "column_block"].map(|side| (side, SOFTWARE_BLOCKS.to_string())));
        Kernel::new(shader, SOFTWARE_SUBGROUP, values)
    }

    fn tiled(self, tile: Tile) -> Kernel {
        let shader = shader!(
            "chunk",
            "gelu/normal",
            "matrix_product/operands",
            "matrix_product/result",
            "matrix_product/tiled"
        );
        let mut values = self.values();
        values.extend([
            ("tile_rows", tile.rows.to_string()),
            ("tile_columns", tile.columns.to_string()),
            ("padding", usize::from(tile.is_padded).to_string()),
            ("row_block", tile.row_blocks.to_string()),
            ("column_block", tile.column_blocks.to_string()),
            ("unrolled", tile.unrolled.to_string()),
        ]);
        Kernel::new(shader, tile.lanes() as u32, values)
    }
}

/// Adds up the parts of a product, and of sums beside it.
pub(super) fn sum_of_parts(chunk: Chunk, totals: bool) -> Kernel {
    let mut values = chunk.values();
    values.push(("totals", usize::from(totals).to_string()));
    let shader = shader!("chunk", "matrix_product/parts");
    Kernel::new(shader, PARTS_LANES, values)
}

/// Of the text of the kernels that timing compares.
pub(super) fn fingerprint() -> String {
    let layouts = [
        Layout::Plain,
        Layout::RightTransposed,
        Layout::LeftTransposed,
    ];
    let mut hasher = blake3::Hasher::new();
    for (layout, tile) in layouts.into_iter().flat_map(|l| Tile::ALL.map(|t| (l, t))) {
        let variant = Variant {
            layout,
            vectors: true,
            after: After::default(),
        };
        // a text that cannot be made fails at its launch
        let text = variant.tiled(tile).wgsl().unwrap_or_default();
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Every kernel that a device may be given.
pub(super) fn kernels() -> Vec<Kernel> {
    let tiles = Tile::ALL.map(Way::Tiled);
    let ways = || [Way::Direct].into_iter().chain(tiles);
    let variants = After::all().into_iter().flat_map(|(layout, after)| {
        [false, true].map(|vectors| Variant {
            layout,
            vectors,
            after,
        })
    });
    let products = variants.flat_map(|variant| ways().map(move |way| variant.kernel(way)));
    let sums = Chunk::ALL
        .into_iter()
        .flat_map(|chunk| [false, true].map(|totals| sum_of_parts(chunk, totals)));
    products.chain(sums).collect()
}
