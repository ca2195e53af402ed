//! Rows by their places, slices of them, and the rows that tokens are made of, on burn's autodiff backend: one node each.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, unary};

use crate::kernels::autodiff::primitive::{Kept, node, optional, primitive, register, untracked};
use crate::kernels::backend::IbotBackend;
use crate::kernels::ops::product::RowIndices;
use crate::kernels::ops::tokens::{TokenMask, TokensInput};
use crate::kernels::wrap::wrap;

#[derive(Debug)]
struct GatherRows;

impl<B: IbotBackend> Backward<B, 1> for GatherRows {
    /// Where the rows lie.
    type State = RowIndices;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let indices = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_y| {
            primitive(B::scatter_rows(wrap(d_y), &indices))
        });
    }
}

/// See [`IbotBackend::gather_rows`].
pub(super) fn gather_rows<B: IbotBackend, C: CheckpointStrategy>(
    x: Tensor<Autodiff<B, C>, 2>,
    indices: &RowIndices,
) -> Tensor<Autodiff<B, C>, 2> {
    let x = primitive(x);
    let y = B::gather_rows(wrap(x.primitive), indices);
    node(GatherRows.prepare([x.node]), indices.clone(), y)
}

#[derive(Debug)]
struct SliceRows;

impl<B: IbotBackend> Backward<B, 1> for SliceRows {
    /// The first row, and rows of the matrix.
    type State = (usize, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_y = grads.consume::<B>(&ops.node);
        let [Some(x)] = ops.parents else {
            return;
        };
        let (start, rows) = ops.state;
        let mut of_x = untracked::<B>(&d_y);
        of_x.node = Arc::clone(&x);
        let past = grads.remove::<B>(&of_x).map(wrap);
        let d_x = B::slice_rows_backward(wrap(d_y), start, rows, past);
        grads.register::<B>(x.id, primitive(d_x));
    }
}

/// See [`IbotBackend::slice_rows`].
pub(super) fn slice_rows<B: IbotBackend, C: CheckpointStrategy>(
    x: Tensor<Autodiff<B, C>, 2>,
    rows: Range<usize>,
) -> Tensor<Autodiff<B, C>, 2> {
    let all = x.dims()[0];
    let x = primitive(x);
    let y = B::slice_rows(wrap(x.primitive), rows.clone());
    node(SliceRows.prepare([x.node]), (rows.start, all), y)
}

#[derive(Debug)]
struct Assemble;

impl<B: IbotBackend> Backward<B, 4> for Assemble {
    /// The input.
    type State = Kept<TokensInput<B>>;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_tokens = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        let [patches, token, prefix, positions] = parents;
        let body = |input| B::assemble_tokens_backward(&input, wrap(d_tokens));
        let found = ops.state.backward(body);
        register::<B, 2>(grads, patches, Some(found.d_patches));
        register::<B, 1>(grads, token, found.d_token);
        register::<B, 2>(grads, prefix, found.d_prefix);
        register::<B, 2>(grads, positions, Some(found.d_positions));
    }
}

/// See [`IbotBackend::assemble_tokens`].
pub(super) fn assemble_tokens<B: IbotBackend, C: CheckpointStrategy>(
    input: TokensInput<Autodiff<B, C>>,
) -> Tensor<Autodiff<B, C>, 2> {
    let device = input.patches.device();
    let (patches, positions) = (primitive(input.patches), primitive(input.positions));
    let (inner_prefix, prefix) = optional(input.prefix, &device);
    let (masked, token) = input.mask.map(|mask| (mask.masked, mask.token)).unzip();
    let (inner_token, token) = optional(token, &device);
    let inner = TokensInput::<B> {
        patches: wrap(patches.primitive.clone()),
        batch: input.batch,
        mask: masked.zip(inner_token).map(|(masked, token)| TokenMask {
            masked: masked.inner(),
            token,
        }),
        prefix: inner_prefix,
        positions: wrap(positions.primitive.clone()),
    };
    let tokens = B::assemble_tokens(inner.clone());
    let nodes = [patches, token, prefix, positions].map(|parent| parent.node);
    node(Assemble.prepare(nodes), Kept::new(inner), tokens)
}
