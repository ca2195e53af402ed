//! Passes over all parameters for burn's CPU backend Flex: each in one parallel loop over pieces of all tensors, in place.

use burn::tensor::{DType, Tensor};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use rayon::prelude::*;

use crate::kernels::flex::vector_math::vectorized;
use crate::kernels::ops::adamw::{AdamWInput, AdamWState, AdamWTensor};
use crate::kernels::ops::{adamw, ema};

/// Entries of a piece at most: 64 KiB of f32, small enough for any core's cache. A small tensor is one piece, and
/// threads take pieces by the dozen.
const PIECE: usize = 16 * 1024;
/// Entries from which on a parallel loop takes no further tensor: the memory of its gradients is free again before the
/// next loop copies gradients that are views, and touches moments that are new.
const BATCH: usize = 256 * PIECE;
/// Sums that are added to side by side, as a sum of f64 must wait for the one before it.
const LANES: usize = 16;

fn is_f32(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
}

/// A tensor that fills its buffer without gaps; `storage_mut` of it copies only a buffer that others hold too.
fn owned(tensor: FlexTensor) -> FlexTensor {
    let contiguous = tensor.to_contiguous();
    drop(tensor); // the last reference but one: keeps the result unique
    contiguous
}

/// The one entry of a grad_scale or scale.
fn value(scalar: Option<Tensor<Flex, 1>>) -> f32 {
    scalar.map_or(1.0, Tensor::into_scalar)
}

/// See [`crate::kernels::IbotBackend::ema`].
pub(super) fn ema(
    teacher: Vec<FlexTensor>,
    student: Vec<FlexTensor>,
    decay: f64,
    grad_scale: Option<Tensor<Flex, 1>>,
) -> Vec<FlexTensor> {
    if !teacher.iter().chain(&student).all(is_f32) {
        return ema::reference::<Flex>(teacher, student, decay, grad_scale);
    }
    if value(grad_scale) == 0.0 {
        return teacher;
    }
    let (keep, take) = (decay as f32, (1.0 - decay) as f32);
    let mut teacher: Vec<FlexTensor> = teacher.into_iter().map(owned).collect();
    let student: Vec<FlexTensor> = student.into_iter().map(owned).collect();
    let mut pieces: Vec<(&mut [f32], &[f32])> = Vec::new();
    for (teacher, student) in teacher.iter_mut().zip(&student) {
        let teacher = teacher.storage_mut::<f32>().chunks_mut(PIECE);
        pieces.extend(teacher.zip(student.storage::<f32>().chunks(PIECE)));
    }
    // with the widest vectors, since more lines of memory are then under way at once
    pieces.into_par_iter().for_each(|(teacher, student)| {
        vectorized(
            #[inline(always)]
            |_| {
                for (t, s) in teacher.iter_mut().zip(student) {
                    *t = *t * keep + *s * take;
                }
            },
        );
    });
    teacher
}

/// Entries of one tensor that one thread moves.
struct Piece<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    first_moment: &'a mut [f32],
    second_moment: &'a mut [f32],
    keep: f32,
    step_size: f32,
}

/// The scalars of all tensors.
struct Scalars {
    grad_scale: f32,
    betas: [f32; 2],
    rests: [f32; 2],
    root_scale: f32,
    eps: f32,
}

impl Scalars {
    #[inline(always)]
    fn apply(&self, piece: Piece<'_>) {
        let (keep, step_size) = (piece.keep, piece.step_size);
        let ([beta1, beta2], [rest1, rest2]) = (self.betas, self.rests);
        let (grad_scale, root_scale, eps) = (self.grad_scale, self.root_scale, self.eps);
        let params = piece.param.iter_mut().zip(piece.grad);
        let moments = piece.first_moment.iter_mut().zip(piece.second_moment);
        for ((p, g), (m, v)) in params.zip(moments) {
            let g = g * grad_scale;
            *m = *m * beta1 + g * rest1;
            *v = *v * beta2 + g * g * rest2;
            *p = *p * keep - *m * step_size / (v.sqrt() * root_scale + eps);
        }
    }
}

/// See [`crate::kernels::IbotBackend::adamw`].
pub(super) fn adamw(mut input: AdamWInput<Flex>) -> Vec<(FlexTensor, AdamWState<Flex>)> {
    let is_plain = |tensor: &AdamWTensor<Flex>| {
        let state = [&tensor.state.first_moment, &tensor.state.second_moment];
        is_f32(&tensor.param) && is_f32(&tensor.grad) && state.into_iter().all(is_f32)
    };
    if !input.tensors.iter().all(is_plain) {
        return adamw::reference(input);
    }
    let scalars = Scalars {
        grad_scale: value(input.grad_scale.take()),
        betas: input.betas.map(|beta| beta as f32),
        rests: input.betas.map(|beta| (1.0 - beta) as f32),
        root_scale: input.root_scale() as f32,
        eps: input.eps as f32,
    };
    let tensors = std::mem::take(&mut input.tensors).into_iter();
    if scalars.grad_scale == 0.0 {
        return tensors.map(|tensor| (tensor.param, tensor.state)).collect();
    }
    let mut moved = Vec::with_capacity(tensors.len());
    let mut tensors = tensors.peekable();
    while tensors.peek().is_some() {
        let (mut batch, mut entries) = (Vec::new(), 0);
        while entries < BATCH
            && let Some(tensor) = tensors.next()
        {
            entries += tensor.param.layout().num_elements();
            batch.push(AdamWTensor {
                param: owned(tensor.param),
                grad: owned(tensor.grad),
                state: AdamWState {
                    first_moment: owned(tensor.state.first_moment),
                    second_moment: owned(tensor.state.second_moment),
                },
                ..tensor
            });
        }
        move_all(&mut batch, &input, &scalars);
        let batch = batch.into_iter();
        moved.extend(batch.map(|tensor| (tensor.param, tensor.state)));
    }
    moved
}

/// One parallel loop over tensors that fill their buffers.
fn move_all(tensors: &mut [AdamWTensor<Flex>], input: &AdamWInput<Flex>, scalars: &Scalars) {
    let mut pieces = Vec::new();
    for tensor in tensors {
        let [keep, step_size] = input.keep_and_step(tensor).map(|scalar| scalar as f32);
        let params = tensor.param.storage_mut::<f32>().chunks_mut(PIECE);
        let grads = tensor.grad.storage::<f32>().chunks(PIECE);
        let first = tensor.state.first_moment.storage_mut::<f32>();
        let second = tensor.state.second_moment.storage_mut::<f32>();
        let moments = first.chunks_mut(PIECE).zip(second.chunks_mut(PIECE));
        let of_tensor = params.zip(grads).zip(moments);
        pieces.extend(
            of_tensor.map(|((param, grad), (first_moment, second_moment))| Piece {
                param,
                grad,
                first_moment,
                second_moment,
                keep,
                step_size,
            }),
        );
    }
    pieces.into_par_iter().for_each(|piece| {
        vectorized(
            #[inline(always)]
            |_| scalars.apply(piece),
        );
    });
}

/// See [`crate::kernels::IbotBackend::sum_of_squares`].
pub(super) fn sum_of_squares(tensors: Vec<FlexTensor>, device: &FlexDevice) -> Tensor<Flex, 1> {
    if !tensors.iter().all(is_f32) {
        return adamw::sum_of_squares(tensors, device);
    }
    let tensors: Vec<FlexTensor> = tensors.into_iter().map(owned).collect();
    let pieces: Vec<&[f32]> = tensors
        .iter()
        .flat_map(|tensor| tensor.storage::<f32>().chunks(PIECE))
        .collect();
    // Added in the order of the pieces: the same bits on any number of threads.
    let sum = |piece| {
        vectorized(
            #[inline(always)]
            |_| squares(piece),
        )
    };
    let sums: Vec<f64> = pieces.into_par_iter().map(sum).collect();
    Tensor::from_floats([sums.iter().sum::<f64>() as f32], device)
}

#[inline(always)]
fn squares(piece: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = piece.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    sums.iter().sum::<f64>() + rest
}
