//! Launches of `shaders/matrix_product/`: every product of matrices that training and inference run on wgpu.
//!
//! burn's own products do not fit most GPUs: without `autotune` they ask for 40 960 bytes of workgroup memory wherever
//! subgroups have 32 lanes, and Metal and DX12 have 32 768 (burn issues 4530 and 4966).

use burn::tensor::Tensor;

use super::super::Layout;
use super::super::{
    AffineBackwardInput, AffineGradients, AffineInput, Gpu, IbotBackend, LinearInput, linear,
    product,
};
use super::Chunk;
use super::launch::{
    Client, GpuTensor, Kernel, SOFTWARE_SUBGROUP, contiguous, empty, is_software, launch, shader,
    tensor,
};

/// Blocks of 4 x 4 entries along each side of a software lane's tile: 16 x 16 entries in registers. On lavapipe 12 x 12
/// takes a fifth longer, and 24 x 16 wins little for three times the time to compile.
const SOFTWARE_BLOCKS: usize = 4;
/// Entries along a side of a block.
const BLOCK: usize = 4;

/// What a workgroup makes on a GPU, in blocks of 4 x 4 entries a lane.
///
/// Of the shapes that were put before five compilers, those with 8 x 4 entries a lane are the ones that all of them keep in
/// registers (AMD 72 to 84, NVIDIA 94 to 112).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
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
enum Way {
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

    fn of(client: &Client, count: usize, rows: usize, columns: usize) -> Self {
        if is_software(client) {
            return Self::Direct;
        }
        let most_lanes = client.properties().hardware.max_units_per_cube as usize;
        let fits = Tile::LARGE.lanes() <= most_lanes;
        Self::Tiled(
            match fits && count * Tile::LARGE.count(rows, columns) >= BUSY {
                true => Tile::LARGE,
                false => Tile::SMALL,
            },
        )
    }

    fn groups(self, count: usize, rows: usize, columns: usize) -> usize {
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
struct After {
    bias: bool,
    gelu: bool,
    residual: bool,
    /// Sums of the columns of the right operand are made beside it.
    totals: bool,
}

/// What tells one kernel from another.
#[derive(Debug, Clone, Copy)]
struct Variant {
    layout: Layout,
    /// Whether the rows of all matrices are multiples of a vector.
    vectors: bool,
    after: After,
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

    fn kernel(self, way: Way) -> Kernel {
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

/// `count` products of `[R, T]` and `[T, C]`, and how they lie.
struct Product<'a> {
    layout: Layout,
    count: usize,
    rows: usize,
    columns: usize,
    depth: usize,
    left: &'a GpuTensor,
    right: &'a GpuTensor,
    bias: Option<GpuTensor>,
    gelu: bool,
    residual: Option<GpuTensor>,
    totals: bool,
}

impl<'a> Product<'a> {
    /// One product, with nothing after it.
    fn of(
        layout: Layout,
        [rows, depth, columns]: [usize; 3],
        left: &'a GpuTensor,
        right: &'a GpuTensor,
    ) -> Self {
        Self {
            layout,
            count: 1,
            rows,
            columns,
            depth,
            left,
            right,
            bias: None,
            gelu: false,
            residual: None,
            totals: false,
        }
    }

    fn variant(&self) -> Variant {
        let widths = match self.layout {
            Layout::LeftTransposed => [self.rows, self.columns],
            _ => [self.depth, self.columns],
        };
        Variant {
            layout: self.layout,
            vectors: widths.iter().all(|width| width.is_multiple_of(BLOCK)),
            after: After {
                bias: self.bias.is_some(),
                gelu: self.gelu,
                residual: self.residual.is_some(),
                totals: self.totals,
            },
        }
    }

    /// `[N, R, C]`, and the sums of right's columns, `[C]`, where they are asked for. All sizes >= 1.
    fn run(&self) -> (GpuTensor, Option<GpuTensor>) {
        let client = &self.left.client;
        let out = empty(self.left, [self.count * self.rows, self.columns]);
        let totals = self.totals.then(|| empty(self.left, [self.columns]));
        let mut tensors = vec![self.left, self.right, &out];
        tensors.extend(self.bias.as_ref());
        tensors.extend(self.residual.as_ref());
        tensors.extend(totals.as_ref());
        let way = Way::of(client, self.count, self.rows, self.columns);
        let info = [self.rows, self.columns, self.depth, self.count].map(|size| size as u32);
        launch(
            client,
            self.variant().kernel(way),
            way.groups(self.count, self.rows, self.columns),
            &tensors,
            &info,
        );
        (out, totals)
    }
}

/// See [`super::super::IbotBackend::affine`].
pub(super) fn affine(input: AffineInput<Gpu>) -> Tensor<Gpu, 2> {
    affine_then(input, false)
}

/// `x weight + bias`, through GELU where that is asked for, `+ residual`.
fn affine_then(mut input: AffineInput<Gpu>, gelu: bool) -> Tensor<Gpu, 2> {
    let [rows, depth] = input.x.dims();
    let [_, columns] = input.weight.dims();
    if rows * depth * columns == 0 {
        let residual = input.residual.take();
        let y = linear::affine(input);
        let y = if gelu { super::gelu::forward(y) } else { y };
        return match residual {
            Some(residual) => y + residual,
            None => y,
        };
    }
    let (left, right) = (contiguous(input.x), contiguous(input.weight));
    let product = Product {
        bias: input.bias.map(contiguous),
        gelu,
        residual: input.residual.map(contiguous),
        ..Product::of(Layout::Plain, [rows, depth, columns], &left, &right)
    };
    tensor(product.run().0)
}

/// See [`super::super::IbotBackend::mlp`]; GELU is part of the first product.
pub(super) fn mlp(first: LinearInput<Gpu>, second: LinearInput<Gpu>) -> Tensor<Gpu, 2> {
    let first = AffineInput {
        x: first.before.apply(first.x),
        weight: first.weight,
        bias: first.bias,
        residual: first.residual,
    };
    affine(AffineInput {
        x: affine_then(first, true),
        weight: second.weight,
        bias: second.bias,
        residual: second.residual,
    })
}

/// See [`super::super::IbotBackend::affine_backward`].
pub(super) fn affine_backward(input: AffineBackwardInput<Gpu>) -> AffineGradients<Gpu> {
    let [rows, inputs] = input.x.dims();
    let [_, outputs] = input.weight.dims();
    if rows * inputs * outputs == 0 {
        return linear::affine_backward(input);
    }
    let d_y = contiguous(input.d_y);
    let d_x = input.wants_x.then(|| {
        let weight = contiguous(input.weight);
        let sizes = [rows, outputs, inputs];
        tensor(
            Product::of(Layout::RightTransposed, sizes, &d_y, &weight)
                .run()
                .0,
        )
    });
    if !input.wants_weight {
        return AffineGradients {
            d_x,
            d_weight: None,
            d_bias: input.wants_bias.then(|| Gpu::column_sums(tensor(d_y))),
        };
    }
    let x = contiguous(input.x);
    let sizes = [inputs, rows, outputs];
    let product = Product {
        totals: input.wants_bias,
        ..Product::of(Layout::LeftTransposed, sizes, &x, &d_y)
    };
    let (d_weight, d_bias) = product.run();
    AffineGradients {
        d_x,
        d_weight: Some(tensor(d_weight)),
        d_bias: d_bias.map(tensor),
    }
}

/// See [`super::super::IbotBackend::matrix_products`].
pub(super) fn matrix_products(
    left: Tensor<Gpu, 3>,
    right: Tensor<Gpu, 3>,
    layout: Layout,
) -> Tensor<Gpu, 3> {
    let [count, rows, depth, columns] = layout.sizes(left.dims(), right.dims());
    if count * rows * depth * columns == 0 {
        return product::matrix_products(left, right, layout);
    }
    let (left, right) = (contiguous(left), contiguous(right));
    let product = Product {
        count,
        ..Product::of(layout, [rows, depth, columns], &left, &right)
    };
    tensor::<2>(product.run().0).reshape([count, rows, columns])
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
