//! The kernels of `shaders/matrix_product/`.

use super::chunk::Chunk;
use super::cooperative::{Cooperation, largest_kernel};
use super::element::Element;
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

/// Entries of the matrices of a product; bias and totals are f32, and so are sums that are made in parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// What operands are rounded to, whatever they are.
    pub operands: Element,
    pub left: Element,
    pub right: Element,
    /// Of the result, and of what is written beside it.
    pub stored: Element,
    /// Of what is read beside it: f32 where nothing is.
    pub beside: Element,
}

impl Elements {
    /// Those that products in half precision have, with this layout: a weight is f32, a gradient of rows f16; rows and their
    /// gradients may be either.
    fn half(layout: Layout, after: After) -> [Self; 2] {
        use Element::{F16, F32};
        let of = |left, right, stored, beside| Self {
            operands: F16,
            left,
            right,
            stored,
            beside,
        };
        match layout {
            Layout::Plain => [F32, F16].map(|left| {
                if after.residual {
                    of(left, F32, F16, F16)
                } else {
                    of(left, F32, F16, F32)
                }
            }),
            Layout::RightTransposed => [F32, F16].map(|rows| {
                if after.gelu_gradient {
                    of(F16, F32, rows, rows)
                } else {
                    of(F16, F32, rows, F32)
                }
            }),
            Layout::LeftTransposed => [F32, F16].map(|left| of(left, F16, F32, F32)),
        }
    }
}

/// What tells one kernel from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub layout: Layout,
    pub elements: Elements,
    /// Whether the rows of all matrices are multiples of a vector.
    pub vectors: bool,
    pub after: After,
}

impl Variant {
    fn values(self, is_scaled: bool) -> Vec<(&'static str, String)> {
        let count = |there: bool| usize::from(there).to_string();
        let entries: usize = if self.vectors { 4 } else { 1 };
        let (vector, stored) = (Chunk::for_length(BLOCK), Chunk::for_length(entries));
        let elements = self.elements;
        let turned_left = self.layout == Layout::LeftTransposed;
        let turned_right = self.layout == Layout::RightTransposed;
        let mut values = vector.values();
        values.extend([
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
            ("left_stored", stored.of(elements.left)),
            ("right_stored", stored.of(elements.right)),
            ("stored", stored.of(elements.stored)),
            ("beside", stored.of(elements.beside)),
            ("whole", stored.of(Element::F32)),
            ("operand", vector.of(elements.operands)),
            ("maxima", count(is_scaled)),
        ]);
        values
    }

    /// The product alone, with nothing after it.
    pub(super) fn bare(self) -> Self {
        Self {
            elements: Elements {
                beside: Element::F32,
                ..self.elements
            },
            after: After::default(),
            ..self
        }
    }

    /// How its operands lie, and what they are where they are not all f32.
    pub(super) fn name(self) -> String {
        let entries = if self.vectors { "vectors" } else { "singles" };
        let lie = format!("{:?} {entries}", self.layout);
        let Elements {
            left,
            right,
            stored,
            ..
        } = self.elements;
        match self.elements.operands {
            Element::F32 => lie,
            Element::F16 => {
                let [left, right, stored] = [left, right, stored].map(Element::name);
                format!("{lie} of {left} and {right} to {stored}")
            }
        }
    }

    pub(super) fn kernel(self, way: Way) -> Kernel {
        match way {
            Way::Direct => self.direct(),
            Way::Tiled(tile) => self.tiled(tile),
            Way::Cooperative(of) => of.kernel(self.layout, self.values(of.is_scaled())),
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
        let mut values = self.values(false);
        values
            .extend(["row_block", "column_block"].map(|side| (side, SOFTWARE_BLOCKS.to_string())));
        Kernel::new(shader, SOFTWARE_SUBGROUP, values)
    }

    fn tiled(self, tile: Tile) -> Kernel {
        let shader = shader!(
            "chunk",
            "gelu/normal",
            "matrix_product/operands",
            "matrix_product/order",
            "matrix_product/result",
            "matrix_product/tiled"
        );
        let mut values = self.values(false);
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
pub(super) fn sum_of_parts(chunk: Chunk, stored: Element, totals: bool) -> Kernel {
    let mut values = chunk.values();
    values.extend([
        ("totals", usize::from(totals).to_string()),
        ("stored", chunk.of(stored)),
    ]);
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
            elements: Elements::default(),
            vectors: true,
            after: After::default(),
        };
        // a text that cannot be made fails at its launch
        let text = variant.tiled(tile).wgsl().unwrap_or_default();
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// What a device may multiply, and what it may do with it.
fn variants() -> impl Iterator<Item = Variant> {
    let elements = |layout, after| {
        let half = Elements::half(layout, after);
        std::iter::once(Elements::default()).chain(half)
    };
    After::all().into_iter().flat_map(move |(layout, after)| {
        elements(layout, after).flat_map(move |elements| {
            [false, true].map(|vectors| Variant {
                layout,
                elements,
                vectors,
                after,
            })
        })
    })
}

/// Every kernel that a device may be given without cooperative matrices, and what comes before those.
pub(super) fn kernels() -> Vec<Kernel> {
    let tiles = Tile::ALL.map(Way::Tiled);
    let ways = || [Way::Direct].into_iter().chain(tiles);
    let products = variants().flat_map(|variant| ways().map(move |way| variant.kernel(way)));
    let sums = Chunk::ALL.into_iter().flat_map(|chunk| {
        let of_f32 = [false, true].map(|totals| sum_of_parts(chunk, Element::F32, totals));
        let of_f16 = sum_of_parts(chunk, Element::F16, false);
        of_f32.into_iter().chain([of_f16])
    });
    let largest = Chunk::ALL.map(|chunk| largest_kernel(chunk, Element::F32, Element::F32));
    products.chain(sums).chain(largest).collect()
}

/// Every kernel that a device may be given with cooperative matrices.
pub(super) fn cooperative_kernels() -> Vec<Kernel> {
    let kernels = |variant: Variant| {
        let takes = move |of: &Cooperation| of.takes(variant.elements.operands);
        let every = Cooperation::every().into_iter().filter(takes);
        every.map(move |of| variant.kernel(Way::Cooperative(of)))
    };
    variants().flat_map(kernels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_timed_products_tell_entries_apart() {
        let name = |elements| {
            let variant = Variant {
                layout: Layout::Plain,
                elements,
                vectors: true,
                after: After::default(),
            };
            variant.name()
        };
        // that of f32 stands in the files of earlier versions
        assert_eq!(name(Elements::default()), "Plain vectors");
        let half = Elements::half(Layout::Plain, After::default());
        assert_eq!(
            half.map(name),
            [
                "Plain vectors of f32 and f32 to f16",
                "Plain vectors of f16 and f32 to f16"
            ]
        );
    }
}
