//! Bodies for burn's CPU backend Flex: one parallel pass over memory instead of a dozen serial ones.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use rayon::prelude::*;

use super::{
    AdamWInput, AdamWState, CrossEntropyInput, CrossEntropyOutput, IbotBackend, LayerNormGradients,
    LayerNormInput, RowPotentials, TargetPotentials, adamw, ema, flex_loss, flex_rows,
};

/// Entries per parallel piece: 64 KiB of f32, small enough for any core's cache.
const PIECE: usize = 16 * 1024;

/// The entries of an f32 tensor that fills its buffer without gaps.
fn entries(tensor: &FlexTensor) -> Option<&[f32]> {
    (tensor.dtype() == DType::F32)
        .then(|| tensor.as_slice::<f32>())
        .flatten()
}

/// A tensor that fills its buffer without gaps; `storage_mut` of it copies only a buffer that others hold too.
fn owned(tensor: FlexTensor) -> FlexTensor {
    let contiguous = tensor.to_contiguous();
    drop(tensor); // the last reference but one: keeps the result unique
    contiguous
}

impl IbotBackend for Flex {
    fn sinkhorn_potentials(
        teacher_logits: &[Tensor<Self, 2>],
        temperature: f64,
        iterations: usize,
    ) -> TargetPotentials<Self> {
        flex_loss::sinkhorn(teacher_logits, temperature, iterations)
    }

    fn sinkhorn_iteration(
        teacher_logits: Tensor<Self, 2>,
        rows: RowPotentials<Self>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        flex_loss::sinkhorn_iteration(teacher_logits, rows, temperature)
    }

    fn centered_potentials(
        teacher_logits: &[Tensor<Self, 2>],
        center: Option<Tensor<Self, 1>>,
        temperature: f64,
    ) -> TargetPotentials<Self> {
        flex_loss::centered(teacher_logits, center, temperature)
    }

    fn cross_entropy(input: &CrossEntropyInput<Self>) -> CrossEntropyOutput<Self> {
        flex_loss::cross_entropy(input)
    }

    fn cross_entropy_backward(
        input: CrossEntropyInput<Self>,
        output: CrossEntropyOutput<Self>,
        d_loss: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        flex_loss::cross_entropy_backward(input, &output, &d_loss)
    }

    fn patchify(images: Tensor<Self, 4>, patch: usize) -> Tensor<Self, 2> {
        flex_rows::patchify(images, patch)
    }

    fn exact_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        flex_rows::gelu(x)
    }

    fn exact_gelu_backward(x: Tensor<Self, 2>, d_y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        flex_rows::gelu_backward(x, d_y)
    }

    fn layer_norm_rows(input: LayerNormInput<Self>) -> Tensor<Self, 2> {
        flex_rows::layer_norm(input)
    }

    fn layer_norm_rows_backward(
        input: LayerNormInput<Self>,
        d_y: Tensor<Self, 2>,
    ) -> LayerNormGradients<Self> {
        let device = d_y.device();
        flex_rows::layer_norm_backward(input, d_y, &device)
    }

    fn softmax_rows(x: Tensor<Self, 2>, scale: f64) -> Tensor<Self, 2> {
        flex_rows::softmax(x, scale as f32)
    }

    fn softmax_rows_backward(
        y: Tensor<Self, 2>,
        d_y: Tensor<Self, 2>,
        scale: f64,
    ) -> Tensor<Self, 2> {
        flex_rows::softmax_backward(y, d_y, scale as f32)
    }

    fn heads_to_columns(parts: Vec<Tensor<Self, 4>>) -> Tensor<Self, 2> {
        flex_rows::heads_to_columns(parts)
    }

    fn ema(
        teacher: Vec<FloatTensor<Self>>,
        student: Vec<FloatTensor<Self>>,
        decay: f64,
    ) -> Vec<FloatTensor<Self>> {
        if teacher
            .iter()
            .chain(&student)
            .any(|t| t.dtype() != DType::F32)
        {
            return ema::reference::<Self>(teacher, student, decay);
        }
        let (keep, take) = (decay as f32, (1.0 - decay) as f32);
        teacher
            .into_iter()
            .zip(student)
            .map(|(teacher, student)| {
                let mut teacher = owned(teacher);
                let student = student.to_contiguous();
                teacher
                    .storage_mut::<f32>()
                    .par_chunks_mut(PIECE)
                    .zip(student.storage::<f32>().par_chunks(PIECE))
                    .for_each(|(teacher, student)| {
                        for (t, s) in teacher.iter_mut().zip(student) {
                            *t = *t * keep + *s * take;
                        }
                    });
                teacher
            })
            .collect()
    }

    fn adamw(input: AdamWInput<Self>) -> (FloatTensor<Self>, AdamWState<Self>) {
        let tensors = [
            &input.param,
            &input.grad,
            &input.state.first_moment,
            &input.state.second_moment,
        ];
        if tensors.iter().any(|tensor| tensor.dtype() != DType::F32) {
            return adamw::reference(input);
        }
        let scale = input.coefficients();
        let (keep, step_size, root_scale) = (
            scale.keep as f32,
            scale.step_size as f32,
            scale.root_scale as f32,
        );
        let [beta1, beta2] = input.betas.map(|beta| beta as f32);
        let [rest1, rest2] = input.betas.map(|beta| (1.0 - beta) as f32);
        let (eps, gradient_scale) = (input.eps as f32, input.gradient_scale as f32);
        let grad = input.grad.to_contiguous();
        let mut param = owned(input.param);
        let mut first_moment = owned(input.state.first_moment);
        let mut second_moment = owned(input.state.second_moment);
        param
            .storage_mut::<f32>()
            .par_chunks_mut(PIECE)
            .zip(grad.storage::<f32>().par_chunks(PIECE))
            .zip(first_moment.storage_mut::<f32>().par_chunks_mut(PIECE))
            .zip(second_moment.storage_mut::<f32>().par_chunks_mut(PIECE))
            .for_each(|(((param, grad), first), second)| {
                for (((p, g), m), v) in param.iter_mut().zip(grad).zip(first).zip(second) {
                    let g = g * gradient_scale;
                    *m = *m * beta1 + g * rest1;
                    *v = *v * beta2 + g * g * rest2;
                    *p = *p * keep - *m * step_size / (v.sqrt() * root_scale + eps);
                }
            });
        let state = AdamWState {
            first_moment,
            second_moment,
        };
        (param, state)
    }

    fn sum_of_squares(tensors: Vec<FloatTensor<Self>>, device: &FlexDevice) -> Tensor<Self, 1> {
        if tensors.iter().any(|tensor| entries(tensor).is_none()) {
            return adamw::sum_of_squares(tensors, device);
        }
        // Pieces are summed in f64 and added in order: the same bits on any number of threads.
        let total: f64 = tensors
            .iter()
            .filter_map(entries)
            .map(|entries| {
                let pieces: Vec<f64> = entries
                    .par_chunks(PIECE)
                    .map(|piece| piece.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
                    .collect();
                pieces.iter().sum::<f64>()
            })
            .sum();
        Tensor::from_floats([total as f32], device)
    }
}
