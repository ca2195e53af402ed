//! Launches of `shaders/matrix_product/`: every product of matrices that training and inference run on wgpu.
//!
//! burn's own products do not fit most GPUs: without `autotune` they ask for 40 960 bytes of workgroup memory wherever
//! subgroups have 32 lanes, and Metal and DX12 have 32 768 (burn issues 4530 and 4966).

use burn::tensor::Tensor;

use super::chunk::Chunk;
use super::cooperative::maxima;
use super::element::{Element, empty_of};
use super::info::info;
use super::launch::{GpuTensor, SECTION, contiguous, empty, launch, tensor};
use super::matrix_kernels::{After, Elements, PARTS_LANES, Variant, sum_of_parts};
use super::matrix_plan::{MAX_TERMS, Plan, Sizes, Way};
use super::matrix_tiles::BLOCK;
use super::matrix_timing::fastest;
use crate::kernels::backends::Gpu;
use crate::kernels::ops::product::Layout;

/// Multiplications of a product whose tiles are timed, at least: fewer take a GPU less than a launch does.
const LEAST_TIMED: usize = 1 << 24;

/// Products of `[R, T]` and `[T, C]`, how they lie, and what becomes of them.
pub(super) struct Product<'a> {
    pub layout: Layout,
    pub sizes: Sizes,
    pub left: &'a GpuTensor,
    pub right: &'a GpuTensor,
    /// What operands are rounded to.
    pub operands: Element,
    /// Entries of the result; f32 where that is in parts.
    pub stored: Element,
    pub bias: Option<GpuTensor>,
    pub gelu: bool,
    /// Where GELU's derivative is taken.
    pub at_gelu: Option<GpuTensor>,
    pub residual: Option<GpuTensor>,
    pub totals: Option<Totals>,
    pub activated: Option<GpuTensor>,
}

/// Sums of the right operand's columns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Totals {
    Alone,
    /// With room for the whole sums behind those of the parts, where a tensor may begin.
    Roomy,
}

impl Totals {
    /// Entries for those of all parts, of which each has `columns`.
    fn entries(self, of_parts: usize, columns: usize) -> usize {
        match self {
            Self::Alone => of_parts,
            Self::Roomy => of_parts.next_multiple_of(SECTION) + columns,
        }
    }
}

/// A product whose sums are made in parts that are still to be added up.
pub(super) struct Parts<T> {
    /// `[P, N, R, C]`.
    pub product: GpuTensor,
    /// Sums of the right operand's columns, `[P, C]`.
    pub totals: T,
    /// P.
    pub parts: usize,
}

impl Parts<()> {
    /// A matrix in one part.
    pub fn whole(matrix: GpuTensor) -> Self {
        Self {
            product: matrix,
            totals: (),
            parts: 1,
        }
    }
}

impl<'a> Product<'a> {
    /// One product, with nothing after it, in f32.
    pub fn of(
        layout: Layout,
        [rows, depth, columns]: [usize; 3],
        left: &'a GpuTensor,
        right: &'a GpuTensor,
    ) -> Self {
        Self {
            layout,
            sizes: Sizes {
                count: 1,
                rows,
                columns,
                depth,
            },
            left,
            right,
            operands: Element::F32,
            stored: Element::F32,
            bias: None,
            gelu: false,
            at_gelu: None,
            residual: None,
            totals: None,
            activated: None,
        }
    }

    /// With a result of these entries.
    fn variant(&self, stored: Element) -> Variant {
        let sizes = self.sizes;
        let widths = match self.layout {
            Layout::LeftTransposed => [sizes.rows, sizes.columns],
            _ => [sizes.depth, sizes.columns],
        };
        let beside = self.at_gelu.as_ref().or(self.residual.as_ref());
        Variant {
            layout: self.layout,
            elements: Elements {
                operands: self.operands,
                left: Element::of(self.left),
                right: Element::of(self.right),
                stored,
                beside: beside.map_or(Element::F32, Element::of),
            },
            vectors: widths.iter().all(|width| width.is_multiple_of(BLOCK)),
            after: self.after(),
        }
    }

    fn after(&self) -> After {
        After {
            bias: self.bias.is_some(),
            gelu: self.gelu,
            gelu_gradient: self.at_gelu.is_some(),
            residual: self.residual.is_some(),
            activated: self.activated.is_some(),
            totals: self.totals.is_some(),
        }
    }

    /// `[N, R, C]`, and the sums of right's columns, `[C]`, where they are asked for. All sizes >= 1.
    pub fn run(&self) -> (GpuTensor, Option<GpuTensor>) {
        let found = self.in_parts();
        match found.parts {
            1 => (found.product, found.totals),
            parts => self.sum(parts, &found.product, found.totals.as_ref()),
        }
    }

    /// The same in parts.
    pub fn in_parts(&self) -> Parts<Option<GpuTensor>> {
        let client = &self.left.client;
        let after = self.after();
        let sizes @ Sizes { columns, .. } = self.sizes;
        let plan = Plan::choose(client, sizes, self.operands, after.takes_parts());
        let rows = plan.parts * sizes.count * sizes.rows;
        let stored = match plan.parts {
            1 => self.stored,
            _ => Element::F32,
        };
        let variant = self.variant(stored);
        let out = empty_of(stored, self.left, [rows, columns]);
        let totals = self.totals.map(|totals| {
            let entries = plan.parts * columns;
            empty(self.left, [totals.entries(entries, columns)])
        });
        let plan = self.timed(plan, variant, &out);
        let mut tensors = vec![self.left, self.right, &out];
        tensors.extend(self.bias.as_ref());
        tensors.extend(self.at_gelu.as_ref());
        tensors.extend(self.residual.as_ref());
        tensors.extend(totals.as_ref());
        tensors.extend(self.activated.as_ref());
        let maxima = match plan.way {
            Way::Cooperative(of) if of.is_scaled() => Some(maxima(self.left, self.right)),
            _ => None,
        };
        tensors.extend(maxima.as_ref());
        self.launch(variant, plan, &tensors);
        Parts {
            product: out,
            totals,
            parts: plan.parts,
        }
    }

    /// The plan with the tile that multiplies fastest on the device, which may be timed first: without what comes after, so
    /// that few kernels are compiled for it, into `out`, which is written again after that.
    fn timed(&self, plan: Plan, variant: Variant, out: &GpuTensor) -> Plan {
        if self.sizes.products() < LEAST_TIMED {
            return plan;
        }
        let bare = variant.bare();
        let class = || format!("{} {}", bare.name(), self.sizes.class());
        let launch = |plan| self.launch(bare, plan, &[self.left, self.right, out]);
        fastest(&self.left.client, plan, class, launch)
    }

    fn launch(&self, variant: Variant, plan: Plan, tensors: &[&GpuTensor]) {
        let sizes = self.sizes;
        let info = info! {
            rows: sizes.rows,
            columns: sizes.columns,
            depth: sizes.depth,
            count: sizes.count,
            span: plan.span,
            band: plan.band(sizes),
        };
        launch(
            &self.left.client,
            variant.kernel(plan.way),
            plan.groups(sizes),
            tensors,
            &info,
        );
    }

    /// The parts of one product, `[P, R, C]`, added up, and those of the sums beside it, `[P, C]`.
    fn sum(
        &self,
        parts: usize,
        product: &GpuTensor,
        totals: Option<&GpuTensor>,
    ) -> (GpuTensor, Option<GpuTensor>) {
        let Sizes { rows, columns, .. } = self.sizes;
        let chunk = Chunk::for_length(columns);
        let chunks = rows * chunk.count(columns);
        let sum = empty_of(self.stored, product, [rows, columns]);
        let total = totals.map(|parts| empty(parts, [columns]));
        let total_chunks = totals.map_or(0, |_| chunk.count(columns));
        let mut tensors = vec![product, &sum];
        tensors.extend(totals);
        tensors.extend(total.as_ref());
        launch(
            &product.client,
            sum_of_parts(chunk, self.stored, totals.is_some()),
            (chunks + total_chunks).div_ceil(PARTS_LANES as usize),
            &tensors,
            &info! { parts: parts, chunks: chunks, total_chunks: total_chunks },
        );
        (sum, total)
    }
}

/// A product of f32 of more terms than one launch adds up.
pub(super) fn in_pieces(
    layout: Layout,
    left: Tensor<Gpu, 2>,
    right: Tensor<Gpu, 2>,
) -> Tensor<Gpu, 2> {
    let left_axis = usize::from(layout != Layout::LeftTransposed);
    let right_axis = usize::from(layout == Layout::RightTransposed);
    let depth = left.dims()[left_axis];
    let piece = |start: usize| -> Tensor<Gpu, 2> {
        let terms = MAX_TERMS.min(depth - start);
        let left = left.clone().narrow(left_axis, start, terms);
        let right = right.clone().narrow(right_axis, start, terms);
        matrix_products(left.unsqueeze(), right.unsqueeze(), layout).squeeze_dim(0)
    };
    let others = (MAX_TERMS..depth).step_by(MAX_TERMS);
    others.fold(piece(0), |sum, start| sum + piece(start))
}

/// See [`crate::kernels::IbotBackend::matrix_products`].
pub(super) fn matrix_products(
    left: Tensor<Gpu, 3>,
    right: Tensor<Gpu, 3>,
    layout: Layout,
) -> Tensor<Gpu, 3> {
    let [count, rows, depth, columns] = layout.sizes(left.dims(), right.dims());
    if count * rows * depth * columns == 0 {
        return Tensor::zeros([count, rows, columns], &left.device());
    }
    let (left, right) = (contiguous(left), contiguous(right));
    let mut product = Product::of(layout, [rows, depth, columns], &left, &right);
    product.sizes.count = count;
    tensor::<2>(product.run().0).reshape([count, rows, columns])
}
