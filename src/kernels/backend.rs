//! The operations that deserve kernels of their own, as one trait over burn's backends.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor};
use burn_autodiff::NodeId;

use super::ops::adamw::{AdamWInput, AdamWState};
use super::ops::attention::{AttentionInput, AttentionOutput};
use super::ops::branch::{BranchInput, residual_branch};
use super::ops::cross_entropy::{CrossEntropyInput, CrossEntropyOutput};
use super::ops::grad_scale::{GradScale, GradScaleInput};
use super::ops::l2_norm::L2NormInput;
use super::ops::layer_norm::{LayerNormGradients, LayerNormInput};
use super::ops::levels::LevelsInput;
use super::ops::linear::{
    Activated, LinearBackwardInput, LinearGradients, LinearInput, LinearLayerGradients,
    LinearLayerInput,
};
use super::ops::loss_scale::{LossScale, Unscaled};
use super::ops::product::{Layout, RowIndices};
use super::ops::target_potentials::{Known, TargetPotentials};
use super::ops::tiled::TiledInput;
use super::ops::tokens::{TokensGradients, TokensInput};
use super::ops::{
    adamw, attention, cross_entropy, ema, gelu, grad_scale, l2_norm, layer_norm, levels, linear,
    loss_scale, patchify, product, rounding, target_potentials, tiled, tokens,
};
use crate::error::Result;
use crate::precision::Precision;

/// A backend that can train iBOT: burn's [`Backend`] and the operations of this module.
pub trait IbotBackend: Backend {
    /// Whether the device can run this backend's bodies of the operations.
    ///
    /// # Errors
    /// [`crate::Error::Device`] with the remedy.
    fn check_device(_device: &Self::Device) -> Result<()> {
        Ok(())
    }

    /// Whether the device has this precision.
    ///
    /// # Errors
    /// [`crate::Error::Config`] with the remedy.
    fn check_precision(_precision: Precision, _device: &Self::Device) -> Result<()> {
        Ok(())
    }

    /// Puts the graphs of these tensors into one, where there are graphs: `on_new_nodes` in `train/optim/gradients.rs` says why.
    fn join_graphs(_leaves: &[FloatTensor<Self>]) {}

    /// The node of a tensor in its graph; none where there are no graphs.
    fn node_of(_tensor: &FloatTensor<Self>) -> Option<NodeId> {
        None
    }

    /// Each entry as the nearest number that `precision` has, ties to even; too large for f16 is infinite. Not differentiable. Any
    /// shape -> the same.
    fn rounded<const D: usize>(x: Tensor<Self, D>, precision: Precision) -> Tensor<Self, D> {
        rounding::rounded(x, precision)
    }

    /// Entries of tokens in the current precision; a backend that keeps f32 rounds instead.
    fn token_dtype() -> DType {
        DType::F32
    }

    /// Rows of logits that one tensor can hold on this device; more of them come in tiles ([`crate::kernels::TiledTargets`]).
    fn max_logit_rows(_prototypes: usize, _device: &Self::Device) -> usize {
        usize::MAX
    }

    /// Pixels of images from bytes on the host: where the device normalizes them, a quarter of the upload. Every backend
    /// gives the same bits.
    ///
    /// # Shapes
    /// See [`LevelsInput`]; -> `[B, 3, H, W]`.
    fn upload_levels(input: LevelsInput, device: &Self::Device) -> Tensor<Self, 4> {
        levels::upload(&input, device)
    }

    /// Sinkhorn-Knopp in the log domain: the potentials of targets whose prototypes are used equally.
    ///
    /// # Shapes
    /// `teacher_logits` `[M, K]`, M >= 0, K >= 1 -> potentials of length K and M.
    fn sinkhorn_potentials(
        teacher_logits: Tensor<Self, 2>,
        temperature: f64,
        iterations: usize,
    ) -> TargetPotentials<Self> {
        target_potentials::sinkhorn(teacher_logits, temperature, iterations)
    }

    /// Half an iteration of [`IbotBackend::sinkhorn_potentials`]: shift and log-normalizer of each prototype under those of
    /// the rows, or the reverse. `logits` `[M, K]`, M >= 1; rows and prototypes may be a part of all.
    fn potentials_under(
        logits: Tensor<Self, 2>,
        known: Known<Self>,
        temperature: f64,
    ) -> Tensor<Self, 2> {
        target_potentials::potentials_under(logits, known, temperature)
    }

    /// The potentials of centered, sharpened softmax targets.
    ///
    /// # Shapes
    /// `teacher_logits` `[M, K]`, M >= 0, K >= 1, `center` `[K]` or none -> potentials of length K and M.
    fn centered_potentials(
        teacher_logits: Tensor<Self, 2>,
        center: Option<Tensor<Self, 1>>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        target_potentials::centered(teacher_logits, center, temperature)
    }

    /// Weighted cross-entropy between the targets and the student, summed over rows; its loss is differentiable in
    /// `student_logits` only.
    ///
    /// # Shapes
    /// See [`CrossEntropyInput`] and [`CrossEntropyOutput`].
    fn cross_entropy(input: &CrossEntropyInput<Self>) -> CrossEntropyOutput<Self> {
        cross_entropy::reference(input)
    }

    /// Gradient of [`IbotBackend::cross_entropy`] by the student logits, in place over them where nobody else holds
    /// them.
    ///
    /// # Shapes
    /// `d_loss` `[1]` -> `[M, K]`.
    fn cross_entropy_backward(
        input: CrossEntropyInput<Self>,
        output: CrossEntropyOutput<Self>,
        d_loss: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        cross_entropy::reference_backward(&input, output, d_loss)
    }

    /// [`IbotBackend::cross_entropy`] of logits that are made tile by tile and never stored; its loss is differentiable
    /// in the student's rows and prototypes.
    ///
    /// # Shapes
    /// See [`TiledInput`] and [`CrossEntropyOutput`].
    fn tiled_cross_entropy(input: &TiledInput<Self>) -> CrossEntropyOutput<Self> {
        tiled::forward(input)
    }

    /// Cuts images into square patches; differentiable.
    ///
    /// # Shapes
    /// `[B, C, S, S]`, S a multiple of `patch` -> `[B N, C P P]`: patches row by row, entries in the order (channel, y, x).
    fn patchify(images: Tensor<Self, 4>, patch: usize) -> Tensor<Self, 2> {
        patchify::forward(images, patch)
    }

    /// Embedded patches to tokens: masked patches replaced, class and register tokens before them, positions added;
    /// differentiable in all but which patches are masked.
    ///
    /// # Shapes
    /// See [`TokensInput`]; -> `[B T, D]`.
    fn assemble_tokens(input: TokensInput<Self>) -> Tensor<Self, 2> {
        tokens::forward(input)
    }

    /// Gradients of [`IbotBackend::assemble_tokens`].
    fn assemble_tokens_backward(
        input: &TokensInput<Self>,
        d_tokens: Tensor<Self, 2>,
    ) -> TokensGradients<Self> {
        tokens::backward(input, d_tokens)
    }

    /// Exact GELU of each entry, `[R, D]` -> `[R, D]`; differentiable.
    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        gelu::forward(x)
    }

    /// Gradient of [`IbotBackend::exact_gelu`] by its input.
    fn exact_gelu_backward(x: Tensor<Self, 2>, d_y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        gelu::backward(x, d_y)
    }

    /// Layer norm of each row; differentiable in all three tensors.
    ///
    /// # Shapes
    /// See [`LayerNormInput`]; -> `[R, D]`.
    fn layer_norm_rows(input: LayerNormInput<Self>) -> Tensor<Self, 2> {
        layer_norm::forward(input)
    }

    /// Gradients of [`IbotBackend::layer_norm_rows`].
    fn layer_norm_rows_backward(
        input: LayerNormInput<Self>,
        d_y: Tensor<Self, 2>,
    ) -> LayerNormGradients<Self> {
        layer_norm::backward(input, d_y)
    }

    /// Each row divided by its L2 norm, as `torch.nn.functional.normalize`; differentiable.
    ///
    /// # Shapes
    /// See [`L2NormInput`]; -> `[R, D]`.
    fn l2_normalize_rows(input: L2NormInput<Self>) -> Tensor<Self, 2> {
        l2_norm::forward(input)
    }

    /// Gradient of [`IbotBackend::l2_normalize_rows`] by its rows.
    fn l2_normalize_rows_backward(
        input: L2NormInput<Self>,
        d_y: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        l2_norm::backward(input, d_y)
    }

    /// A linear layer with what stands before and after it: `residual + prologue(x) weight + bias`; differentiable in all of
    /// them. A graph keeps `x` and what others keep anyway.
    ///
    /// # Shapes
    /// See [`LinearLayerInput`]; -> `[R, O]`.
    fn linear_layer(input: LinearLayerInput<Self>) -> Tensor<Self, 2> {
        linear::forward(input)
    }

    /// Gradients of [`IbotBackend::linear_layer`]. `past`: the gradient with respect to `x` that other
    /// users of `x` have already produced; it is added to `d_x`.
    ///
    /// # Shapes
    /// `d_y` `[R, O]`, `past` `[R, I]`; see [`LinearLayerGradients`].
    fn linear_layer_backward(
        input: LinearLayerInput<Self>,
        d_y: Tensor<Self, 2>,
        wants_x: bool,
        past: Option<Tensor<Self, 2>>,
    ) -> LinearLayerGradients<Self> {
        linear::backward(input, d_y, wants_x, past)
    }

    /// [`IbotBackend::linear_layer`] and exact GELU of its result, for the next layer; differentiable.
    ///
    /// # Shapes
    /// See [`LinearLayerInput`] and [`Activated`].
    fn linear_layer_gelu(input: LinearLayerInput<Self>) -> Activated<Self> {
        linear::activated(input)
    }

    /// [`IbotBackend::linear_layer`], and exact GELU of its result: what training keeps, and what the next layer takes.
    ///
    /// # Shapes
    /// See [`LinearLayerInput`]; -> twice `[R, O]`.
    fn linear_layer_and_gelu(input: LinearLayerInput<Self>) -> [Tensor<Self, 2>; 2] {
        linear::before_and_activated(input)
    }

    /// The product in [`IbotBackend::linear_layer`]: `residual + x weight + bias`, `[R, O]`; see [`LinearInput`].
    fn linear_rows(input: LinearInput<Self>) -> Tensor<Self, 2> {
        linear::linear(input)
    }

    /// Gradients of [`IbotBackend::linear_rows`].
    fn linear_rows_backward(input: LinearBackwardInput<Self>) -> LinearGradients<Self> {
        linear::linear_backward(input)
    }

    /// The same of `exact_gelu(x) weight + bias`: `d_x` is the gradient with respect to the rows before GELU.
    fn linear_gelu_backward(input: LinearBackwardInput<Self>) -> LinearGradients<Self> {
        linear::linear_gelu_backward(input)
    }

    /// The product of each pair of matrices; differentiable.
    ///
    /// # Shapes
    /// See [`Layout`]; -> `[N, R, C]`.
    fn matrix_products(
        left: Tensor<Self, 3>,
        right: Tensor<Self, 3>,
        layout: Layout,
    ) -> Tensor<Self, 3> {
        product::matrix_products(left, right, layout)
    }

    /// The sum of each column.
    ///
    /// # Shapes
    /// `[R, D]` -> `[D]`.
    fn column_sums(x: Tensor<Self, 2>) -> Tensor<Self, 1> {
        product::column_sums(x)
    }

    /// The rows at `indices`; differentiable.
    ///
    /// # Shapes
    /// `[R, D]` -> `[M, D]`.
    fn gather_rows(x: Tensor<Self, 2>, indices: &RowIndices) -> Tensor<Self, 2> {
        product::gather_rows(x, indices)
    }

    /// Rows back at their places, zeros in all others: the gradient of [`IbotBackend::gather_rows`].
    ///
    /// # Shapes
    /// `[M, D]` -> `[R, D]`.
    fn scatter_rows(y: Tensor<Self, 2>, indices: &RowIndices) -> Tensor<Self, 2> {
        product::scatter_rows(y, indices)
    }

    /// Some rows, one after the other; differentiable.
    ///
    /// # Shapes
    /// `[R, D]` -> `[M, D]`, M the length of `rows`.
    fn slice_rows(x: Tensor<Self, 2>, rows: Range<usize>) -> Tensor<Self, 2> {
        x.narrow(0, rows.start, rows.len())
    }

    /// Gradient of [`IbotBackend::slice_rows`] with respect to its matrix of R = `rows`, of which the slice begins at `start`.
    /// `past`: the gradient that other users of the matrix have already produced; it is added.
    ///
    /// # Shapes
    /// `d_y` `[M, D]`, `past` `[R, D]` -> `[R, D]`.
    fn slice_rows_backward(
        d_y: Tensor<Self, 2>,
        start: usize,
        rows: usize,
        past: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 2> {
        product::slice_rows_backward(d_y, start, rows, past)
    }

    /// Multi-head softmax attention; differentiable in `qkv`, through `context` only.
    ///
    /// # Shapes
    /// See [`AttentionInput`] and [`AttentionOutput`].
    fn packed_attention(input: AttentionInput<Self>) -> AttentionOutput<Self> {
        attention::forward(input)
    }

    /// Gradient of [`IbotBackend::packed_attention`] by its packed input.
    ///
    /// # Shapes
    /// `d_context` `[B T, D]` -> `[B T, 3 D]`.
    fn packed_attention_backward(
        input: AttentionInput<Self>,
        output: AttentionOutput<Self>,
        d_context: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        attention::backward(input, output, d_context)
    }

    /// [`residual_branch`], of which a graph keeps the input alone: backward runs it a second time. Less memory for more
    /// time.
    ///
    /// # Shapes
    /// See [`BranchInput`]; -> `[B T, D]`.
    fn checkpointed_branch(input: BranchInput<Self>) -> Tensor<Self, 2> {
        residual_branch(input)
    }

    /// `teacher * decay + student * (1 - decay)` for each pair of tensors of equal shape, in place where possible.
    ///
    /// # Shapes
    /// `grad_scale` `[1]` or none: where it is 0, nothing moves.
    fn ema(
        teacher: Vec<FloatTensor<Self>>,
        student: Vec<FloatTensor<Self>>,
        decay: f64,
        grad_scale: Option<Tensor<Self, 1>>,
    ) -> Vec<FloatTensor<Self>> {
        ema::reference::<Self>(teacher, student, decay, grad_scale)
    }

    /// One AdamW step of all tensors, in place where possible: parameters and moments in the order of the input.
    fn adamw(input: AdamWInput<Self>) -> Vec<(FloatTensor<Self>, AdamWState<Self>)> {
        adamw::reference(input)
    }

    /// Gathers the scalars of a step, and computes on the device the factor that its gradients are scaled by.
    ///
    /// # Shapes
    /// See [`GradScaleInput`] and [`GradScale`].
    fn grad_scale(input: GradScaleInput<Self>) -> GradScale<Self> {
        grad_scale::reference(input)
    }

    /// The scale of the next loss, by the sum of the squares of a scaled loss's gradients: what overflows halves it.
    ///
    /// # Shapes
    /// `squared_norm` `[1]`; see [`LossScale`] and [`Unscaled`].
    fn unscale(squared_norm: Tensor<Self, 1>, state: LossScale<Self>) -> Unscaled<Self> {
        loss_scale::reference(squared_norm, state)
    }

    /// Sum of the squares of all entries of all tensors.
    ///
    /// # Shapes
    /// Any -> `[1]`.
    fn sum_of_squares(tensors: Vec<FloatTensor<Self>>, device: &Self::Device) -> Tensor<Self, 1> {
        adamw::sum_of_squares(tensors, device)
    }
}
