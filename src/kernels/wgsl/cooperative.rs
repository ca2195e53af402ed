//! Products on cooperative matrices (`shaders/matrix_product/cooperative.wgsl`), where the user asks for them and the device
//! has them ([`crate::device::MATRICES_VARIABLE`]).

use std::sync::Mutex;

use super::chunk::Chunk;
use super::element::Element;
use super::info::info;
use super::launch::{Client, GpuTensor, Kernel, empty, launch, shader};
use super::matrix_tiles::DEPTH;
use crate::device::{Cooperative, Matrices, matrices_of};
use crate::kernels::ops::product::Layout;
use crate::lock::lock;
use crate::scope::restoring;

/// Workgroups that look for the largest entry of each operand: some rounds of a large GPU's places.
pub(super) const MAXIMA_GROUPS: usize = 256;
/// Lanes of each.
const MAXIMA_LANES: u32 = 256;

/// What a subgroup's matrices are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operands {
    /// Operands that are f16, or rounded to it.
    Half,
    /// Operands of f32, each as two f16.
    Split,
    /// f32.
    Single,
}

/// How a workgroup makes its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cooperation {
    pub operands: Operands,
    pub tile: SquareTile,
    matrices: Matrices,
    /// Whether plain WGSL stands for the matrices.
    is_emulated: bool,
}

/// Rows and columns of a tile, and the subgroups along each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SquareTile {
    side: usize,
    subgroup_rows: usize,
    subgroup_columns: usize,
    /// Workgroups of it that keep a GPU busy: about twice the processors of the largest.
    busy: usize,
}

impl SquareTile {
    /// 256 lanes of a GPU with subgroups of 32, each subgroup with 4 x 2 matrices of 16 x 16 sums: 64 registers a lane.
    const LARGE: Self = Self {
        side: 128,
        subgroup_rows: 2,
        subgroup_columns: 4,
        busy: 256,
    };
    /// 128 lanes, with 2 x 2 matrices a subgroup.
    const SMALL: Self = Self {
        side: 64,
        subgroup_rows: 2,
        subgroup_columns: 2,
        busy: 1,
    };
    const ALL: [Self; 2] = [Self::LARGE, Self::SMALL];

    /// Rows and columns of tiles.
    pub(super) fn grid(self, rows: usize, columns: usize) -> (usize, usize) {
        (rows.div_ceil(self.side), columns.div_ceil(self.side))
    }
}

impl Cooperation {
    /// How a product whose operands are rounded to this is made, if with cooperative matrices at all: with the large tile where
    /// `groups`, the workgroups of a way, keep a GPU busy.
    pub(super) fn choose(
        client: &Client,
        rounded_to: Element,
        groups: impl Fn(Self) -> usize,
    ) -> Option<Self> {
        let (matrices, is_emulated) = match emulated() {
            Some(matrices) => (matrices, true),
            None => (matrices_of(client)?, false),
        };
        let operands = match (matrices.kind, rounded_to) {
            (Cooperative::F16, Element::F32) => return None,
            (Cooperative::F16 | Cooperative::Split, Element::F16) => Operands::Half,
            (Cooperative::Split, Element::F32) => Operands::Split,
            (Cooperative::F32, _) => Operands::Single,
        };
        let hardware = &client.properties().hardware;
        let with = |tile| Self {
            operands,
            tile,
            matrices,
            is_emulated,
        };
        let fits = |of: &Self| {
            of.lanes() <= hardware.max_units_per_cube as usize
                && of.workgroup_bytes() <= hardware.max_shared_memory_size
        };
        let large = Some(with(SquareTile::LARGE)).filter(fits);
        let large = large.filter(|of| groups(*of) >= of.tile.busy);
        Some(large.unwrap_or(with(SquareTile::SMALL))) // fits wherever matrices are given
    }

    /// Whether a kernel looks for the largest entries of the operands first.
    pub(super) fn is_scaled(self) -> bool {
        self.operands == Operands::Split
    }

    pub(super) fn lanes(self) -> usize {
        self.tile.subgroup_rows * self.tile.subgroup_columns * self.matrices.subgroup as usize
    }

    /// Of a variant that takes the most: operands in lines of terms.
    fn workgroup_bytes(self) -> usize {
        let operand = self.tile.side * (DEPTH + 8);
        let matrices = self.tile.subgroup_rows * self.tile.subgroup_columns;
        let sums = (matrices * self.side() * self.side()).max(4 * self.lanes());
        let bytes = match self.operands {
            Operands::Half => 2,
            Operands::Split | Operands::Single => 4,
        };
        2 * operand * bytes + 4 * sums + 8
    }

    fn side(self) -> usize {
        self.matrices.side as usize
    }

    fn element(self) -> Element {
        match self.operands {
            Operands::Half | Operands::Split => Element::F16,
            Operands::Single => Element::F32,
        }
    }

    /// The kernel, by the values of its variant.
    pub(super) fn kernel(self, layout: Layout, mut values: Vec<(&'static str, String)>) -> Kernel {
        let shader = if self.is_emulated {
            shader!(
                "chunk",
                "gelu/normal",
                "matrix_product/operands",
                "matrix_product/order",
                "matrix_product/result",
                "matrix_product/cooperative_emulated",
                "matrix_product/split",
                "matrix_product/cooperative"
            )
        } else {
            shader!(
                "chunk",
                "gelu/normal",
                "matrix_product/operands",
                "matrix_product/order",
                "matrix_product/result",
                "matrix_product/cooperative_matrices",
                "matrix_product/split",
                "matrix_product/cooperative"
            )
        };
        values.extend(self.values());
        if !self.is_emulated {
            values.extend(self.matrix_values(layout));
        }
        Kernel::new(shader, self.lanes() as u32, values)
    }

    /// Values of cooperative.wgsl beside those of the variant.
    fn values(self) -> Vec<(&'static str, String)> {
        let tile = self.tile;
        let is_split = self.operands == Operands::Split;
        let fours = tile.side * DEPTH / 4 / self.lanes();
        // Metal loads a matrix from single entries alone
        let together = if self.matrices.is_metal { 1 } else { 4 };
        let numbers = [
            ("tile_rows", tile.side),
            ("tile_columns", tile.side),
            ("side", self.side()),
            ("subgroup", self.matrices.subgroup as usize),
            ("row_block", tile.side / tile.subgroup_rows / self.side()),
            (
                "column_block",
                tile.side / tile.subgroup_columns / self.side(),
            ),
            ("left_four", fours),
            ("right_four", fours),
            ("together", together),
            ("together_4", usize::from(together == 4)),
            ("together_1", usize::from(together == 1)),
            ("split", usize::from(is_split)),
            ("whole_operands", usize::from(!is_split)),
        ];
        let numbers = numbers.map(|(name, number)| (name, number.to_string()));
        let of = |element| Chunk::for_length(together).of(element);
        let mut values: Vec<_> = numbers.into();
        values.extend([("staged", of(self.element())), ("result", of(Element::F32))]);
        values.extend(is_split.then(|| ("groups", MAXIMA_GROUPS.to_string())));
        values
    }

    /// Values of cooperative_matrices.wgsl.
    fn matrix_values(self, layout: Layout) -> Vec<(&'static str, String)> {
        // with a T a matrix lies row by row; naga 29 lets Metal, whose own order that is, take it for the other one
        let named = |name: &str, lies_by_rows: bool| {
            if lies_by_rows != self.matrices.is_metal {
                format!("{name}T")
            } else {
                name.to_owned()
            }
        };
        let mut values = vec![
            ("element", self.element().name().to_owned()),
            (
                "load_left",
                named("coopLoad", layout != Layout::LeftTransposed),
            ),
            (
                "load_right",
                named("coopLoad", layout != Layout::RightTransposed),
            ),
            ("store", named("coopStore", true)),
        ];
        values.extend(
            self.matrices
                .is_metal
                .then(|| ("load_sums", named("coopLoad", true))),
        );
        values
    }

    /// What tests compile: each kind of matrices, with tiles and subgroups of each size.
    pub(super) fn every() -> Vec<Self> {
        let devices = [
            (16, 32, false),
            (16, 64, false),
            (8, 8, false),
            (8, 32, true),
        ];
        let mut all = Vec::new();
        for (kind, operands) in [
            (Cooperative::F16, Operands::Half),
            (Cooperative::Split, Operands::Split),
            (Cooperative::F32, Operands::Single),
        ] {
            let has_kind = |(side, _, is_metal): &(u32, u32, bool)| match kind {
                Cooperative::F16 | Cooperative::Split => !is_metal,
                Cooperative::F32 => *side == 8,
            };
            for (side, subgroup, is_metal) in devices.into_iter().filter(has_kind) {
                all.extend(SquareTile::ALL.map(|tile| Self {
                    operands,
                    tile,
                    matrices: Matrices {
                        kind,
                        side,
                        subgroup,
                        is_metal,
                    },
                    is_emulated: false,
                }));
            }
        }
        all
    }

    /// Whether it is given products whose operands are rounded to this.
    pub(super) fn takes(self, rounded_to: Element) -> bool {
        match self.operands {
            Operands::Half => rounded_to == Element::F16,
            Operands::Split => rounded_to == Element::F32,
            Operands::Single => true,
        }
    }
}

/// A kernel that finds the largest entries of the operands.
pub(super) fn largest_kernel(chunk: Chunk, left: Element, right: Element) -> Kernel {
    let mut values = chunk.values();
    let is_vector = chunk == Chunk::for_length(4);
    values.extend([
        ("left_stored", chunk.of(left)),
        ("right_stored", chunk.of(right)),
        ("groups", MAXIMA_GROUPS.to_string()),
        (
            "bits",
            if is_vector { "vec4<u32>" } else { "u32" }.to_owned(),
        ),
        ("vectors", usize::from(is_vector).to_string()),
        ("singles", usize::from(!is_vector).to_string()),
    ]);
    Kernel::new(
        shader!("chunk", "matrix_product/largest"),
        MAXIMA_LANES,
        values,
    )
}

/// Bits of the largest absolute values that each workgroup finds in the operands, `[2 MAXIMA_GROUPS]`.
pub(super) fn maxima(left: &GpuTensor, right: &GpuTensor) -> GpuTensor {
    let [of_left, of_right] = [left, right].map(|of| of.meta.shape().num_elements());
    let chunk = if of_left.is_multiple_of(4) {
        Chunk::for_length(of_right)
    } else {
        Chunk::for_length(of_left)
    };
    let found = empty(left, [2 * MAXIMA_GROUPS]);
    launch(
        &left.client,
        largest_kernel(chunk, Element::of(left), Element::of(right)),
        2 * MAXIMA_GROUPS,
        &[left, right, &found],
        &info! { left: chunk.count(of_left), right: chunk.count(of_right) },
    );
    found
}

/// What [`with_emulated_matrices`] asks for.
static EMULATED: Mutex<Option<Matrices>> = Mutex::new(None);

fn emulated() -> Option<Matrices> {
    *lock(&EMULATED)
}

/// Runs `work` with products as on a GPU with cooperative matrices of this kind and so many rows, 8 or 16, but with plain WGSL
/// in the place of those: for tests, on any device; other threads' products are meant too. f32 is as on Metal.
pub fn with_emulated_matrices<R>(kind: Cooperative, side: u32, work: impl FnOnce() -> R) -> R {
    let matrices = Matrices {
        kind,
        side,
        subgroup: 2 * side, // two or one fours of a matrix of sums for each lane
        is_metal: kind == Cooperative::F32,
    };
    let before = lock(&EMULATED).replace(matrices);
    restoring(|| *lock(&EMULATED) = before, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{LEAST_MATRIX_WORKGROUP_BYTES, MATRIX_SUBGROUPS};

    /// A device that has less is refused.
    #[test]
    fn the_small_tile_fits_every_device_with_matrices() {
        for of in Cooperation::every() {
            let is_small = of.tile == SquareTile::SMALL;
            let bytes = of.workgroup_bytes();
            assert!(
                !is_small || bytes <= LEAST_MATRIX_WORKGROUP_BYTES as usize,
                "{of:?}: {bytes}"
            );
            let lanes = (MATRIX_SUBGROUPS * of.matrices.subgroup) as usize;
            assert!(!is_small || of.lanes() == lanes, "{of:?}");
            assert!(bytes <= 33 << 10, "{of:?}: {bytes}");
        }
    }
}
