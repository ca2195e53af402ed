//! Launches of `shaders/matrix_product.wgsl`: linear layers on a device that is a program on the CPU.
//!
//! A GPU keeps burn's matrix products, which know its subgroups and, with the feature `autotune`, are chosen by timing.
//! On lavapipe burn's kernel spends itself on barriers and on reading one entry at a time.

use burn::tensor::Tensor;

use super::super::{AffineBackwardInput, AffineGradients, AffineInput, Gpu};
use super::launch::{
    GpuTensor, Kernel, MOST_ROUNDS, SOFTWARE_SUBGROUP, client_of, contiguous, empty, is_software,
    launch, shader, tensor,
};

/// Blocks of 4 x 4 entries along each side of a lane's tile: 16 x 16 entries in registers. On lavapipe 12 x 12 takes a
/// fifth longer, and 24 x 16 wins little for three times the time to compile.
const BLOCKS: usize = 4;
/// Entries along a side of a block.
const BLOCK: usize = 4;

/// How an operand lies in memory: as the product reads it, or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Straight,
    Turned,
}

/// What tells one kernel from another.
#[derive(Debug, Clone, Copy)]
struct Variant {
    left: Layout,
    right: Layout,
    bias: bool,
    residual: bool,
    totals: bool,
}

impl Variant {
    fn forward(bias: bool, residual: bool) -> Self {
        Self {
            left: Layout::Straight,
            right: Layout::Straight,
            bias,
            residual,
            totals: false,
        }
    }

    /// `d_y weight^T`.
    const BY_INPUT: Self = Self {
        left: Layout::Straight,
        right: Layout::Turned,
        bias: false,
        residual: false,
        totals: false,
    };

    /// `x^T d_y`, and the sums of the columns of `d_y`.
    fn by_weight(totals: bool) -> Self {
        Self {
            left: Layout::Turned,
            right: Layout::Straight,
            bias: false,
            residual: false,
            totals,
        }
    }

    fn kernel(self) -> Kernel {
        let count = |there: bool| usize::from(there).to_string();
        let values = vec![
            ("row_block", BLOCKS.to_string()),
            ("column_block", BLOCKS.to_string()),
            ("straight_left", count(self.left == Layout::Straight)),
            ("turned_left", count(self.left == Layout::Turned)),
            ("straight_right", count(self.right == Layout::Straight)),
            ("turned_right", count(self.right == Layout::Turned)),
            ("bias", count(self.bias)),
            ("residual", count(self.residual)),
            ("no_residual", count(!self.residual)),
            ("totals", count(self.totals)),
        ];
        Kernel::new(shader!("matrix_product"), SOFTWARE_SUBGROUP, values)
    }
}

pub(super) fn kernels() -> Vec<Kernel> {
    let flags = [false, true];
    let forward = flags.map(|bias| flags.map(|residual| Variant::forward(bias, residual)));
    let mut all = forward.concat();
    all.push(Variant::BY_INPUT);
    all.extend(flags.map(Variant::by_weight));
    all.into_iter().map(Variant::kernel).collect()
}

/// Whether these kernels are the ones to take for rows `x` and a weight: on a software device, where both widths are a
/// multiple of 4 and no sum is longer than what lavapipe counts to.
pub(super) fn suits(x: &Tensor<Gpu, 2>, weight: &Tensor<Gpu, 2>) -> bool {
    let [rows, inputs] = x.dims();
    let [_, outputs] = weight.dims();
    let blocks = |width: usize| width > 0 && width.is_multiple_of(BLOCK);
    let longest = rows.max(inputs).max(outputs);
    rows > 0
        && blocks(inputs)
        && blocks(outputs)
        && longest.div_ceil(BLOCK) <= MOST_ROUNDS
        && is_software(&client_of(x))
}

/// `[R, T]` times `[T, C]`, and how they lie.
struct Product<'a> {
    variant: Variant,
    rows: usize,
    columns: usize,
    depth: usize,
    left: &'a GpuTensor,
    right: &'a GpuTensor,
    bias: Option<GpuTensor>,
    residual: Option<GpuTensor>,
}

impl Product<'_> {
    /// `[R, C]`, and the sums of right's columns, `[C]`, where the variant makes them.
    fn run(&self) -> (GpuTensor, Option<GpuTensor>) {
        let out = empty(self.left, [self.rows, self.columns]);
        let totals = self
            .variant
            .totals
            .then(|| empty(self.left, [self.columns]));
        let mut tensors = vec![self.left, self.right, &out];
        tensors.extend(self.bias.as_ref());
        tensors.extend(self.residual.as_ref());
        tensors.extend(totals.as_ref());
        let side = BLOCKS * BLOCK;
        let tiles = self.rows.div_ceil(side) * self.columns.div_ceil(side);
        let info = [self.rows, self.columns, self.depth].map(|size| size as u32);
        launch(
            &self.left.client,
            self.variant.kernel(),
            tiles.div_ceil(SOFTWARE_SUBGROUP as usize),
            &tensors,
            &info,
        );
        (out, totals)
    }
}

/// See [`super::super::IbotBackend::affine`].
pub(super) fn affine(input: AffineInput<Gpu>) -> Tensor<Gpu, 2> {
    let [rows, depth] = input.x.dims();
    let [_, columns] = input.weight.dims();
    let product = Product {
        variant: Variant::forward(input.bias.is_some(), input.residual.is_some()),
        rows,
        columns,
        depth,
        left: &contiguous(input.x),
        right: &contiguous(input.weight),
        bias: input.bias.map(contiguous),
        residual: input.residual.map(contiguous),
    };
    tensor(product.run().0)
}

/// See [`super::super::IbotBackend::affine_backward`].
pub(super) fn affine_backward(input: AffineBackwardInput<Gpu>) -> AffineGradients<Gpu> {
    let [rows, inputs] = input.x.dims();
    let [_, outputs] = input.weight.dims();
    let d_y = contiguous(input.d_y);
    let d_x = input.wants_x.then(|| {
        let product = Product {
            variant: Variant::BY_INPUT,
            rows,
            columns: inputs,
            depth: outputs,
            left: &d_y,
            right: &contiguous(input.weight),
            bias: None,
            residual: None,
        };
        tensor(product.run().0)
    });
    let product = Product {
        variant: Variant::by_weight(input.wants_bias),
        rows: inputs,
        columns: outputs,
        depth: rows,
        left: &contiguous(input.x),
        right: &d_y,
        bias: None,
        residual: None,
    };
    let (d_weight, d_bias) = product.run();
    AffineGradients {
        d_x,
        d_weight: tensor(d_weight),
        d_bias: d_bias.map(tensor),
    }
}
