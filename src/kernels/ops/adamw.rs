//! One AdamW step of many tensors, and the gradient norm: passes over all parameters.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use crate::kernels::wrap::{flat, shaped};

/// Moments of one tensor, both of its shape.
#[derive(Debug, Clone)]
pub struct AdamWState<B: Backend> {
    /// Moving average of the gradient.
    pub first_moment: FloatTensor<B>,
    /// Moving average of the squared gradient.
    pub second_moment: FloatTensor<B>,
}

impl<B: Backend> AdamWState<B> {
    /// Both moments zero, as before the first step.
    pub fn zeros(shape: Shape, device: &B::Device) -> Self {
        let zeros = || B::float_zeros(shape.clone(), device, burn::tensor::FloatDType::F32);
        Self {
            first_moment: zeros(),
            second_moment: zeros(),
        }
    }
}

/// A tensor that moves, and what moves it.
#[derive(Debug, Clone)]
pub struct AdamWTensor<B: Backend> {
    /// The parameter, any shape.
    pub param: FloatTensor<B>,
    /// Its gradient, same shape.
    pub grad: FloatTensor<B>,
    /// Its moments.
    pub state: AdamWState<B>,
    /// Learning rate of this tensor at this step.
    pub learning_rate: f64,
    /// Decoupled weight decay of this tensor.
    pub weight_decay: f64,
}

/// What [`crate::kernels::IbotBackend::adamw`] takes.
#[derive(Debug, Clone)]
pub struct AdamWInput<B: Backend> {
    /// All tensors that move.
    pub tensors: Vec<AdamWTensor<B>>,
    /// `[1]`, what all gradients are multiplied by first: below 1 where they are clipped. Where it is 0, nothing moves,
    /// whatever the gradients are. None for 1.
    pub grad_scale: Option<Tensor<B, 1>>,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Number of this step, from 1: for the bias correction.
    pub step: usize,
}

impl<B: Backend> AdamWInput<B> {
    /// `1 / sqrt(1 - beta2^step)`.
    pub(in crate::kernels) fn root_scale(&self) -> f64 {
        1.0 / (1.0 - self.betas[1].powf(self.step as f64)).sqrt()
    }

    /// What a tensor is multiplied by and how far it moves: `1 - learning_rate * weight_decay` and
    /// `learning_rate / (1 - beta1^step)`.
    pub(in crate::kernels) fn keep_and_step(&self, tensor: &AdamWTensor<B>) -> [f64; 2] {
        [
            1.0 - tensor.learning_rate * tensor.weight_decay,
            tensor.learning_rate / (1.0 - self.betas[0].powf(self.step as f64)),
        ]
    }
}

/// Entry by entry `new`, or `old` where `stays` says so, `[1]`.
pub(in crate::kernels) fn unless<B: Backend>(
    stays: Option<&Tensor<B, 1, burn::tensor::Bool>>,
    old: Tensor<B, 1>,
    new: Tensor<B, 1>,
) -> Tensor<B, 1> {
    match stays {
        Some(stays) => {
            let entries = new.dims();
            new.mask_where(stays.clone().expand(entries), old)
        }
        None => new,
    }
}

/// Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, in the order of operations of `torch.optim.AdamW`.
pub fn reference<B: Backend>(mut input: AdamWInput<B>) -> Vec<(FloatTensor<B>, AdamWState<B>)> {
    let tensors = std::mem::take(&mut input.tensors);
    let moved = tensors.into_iter();
    moved
        .map(|tensor| reference_of_one(&input, tensor))
        .collect()
}

fn reference_of_one<B: Backend>(
    input: &AdamWInput<B>,
    tensor: AdamWTensor<B>,
) -> (FloatTensor<B>, AdamWState<B>) {
    let shape = tensor.param.shape();
    if shape.num_elements() == 0 {
        return (tensor.param, tensor.state);
    }
    let [keep, step_size] = input.keep_and_step(&tensor);
    let [beta1, beta2] = input.betas;
    let stays = input.grad_scale.clone();
    let stays = stays.map(|scale| scale.equal_elem(0.0));
    let grad = flat::<B>(tensor.grad);
    let grad = match &input.grad_scale {
        Some(scale) => grad * scale.clone(),
        None => grad,
    };
    let (param, first, second) = (
        flat::<B>(tensor.param),
        flat::<B>(tensor.state.first_moment),
        flat::<B>(tensor.state.second_moment),
    );
    let first_moment = first.clone() * beta1 + grad.clone() * (1.0 - beta1);
    let second_moment = second.clone() * beta2 + grad.clone() * grad * (1.0 - beta2);
    let root = second_moment.clone().sqrt() * input.root_scale();
    let update = first_moment.clone() * step_size / (root + input.eps);
    let moved = param.clone() * keep - update;
    let updated = |old, new| shaped::<B>(unless(stays.as_ref(), old, new), shape.clone());
    let state = AdamWState {
        first_moment: updated(first, first_moment),
        second_moment: updated(second, second_moment),
    };
    (updated(param, moved), state)
}

/// Sum of squares over all tensors, on the device.
pub fn sum_of_squares<B: Backend>(
    tensors: Vec<FloatTensor<B>>,
    device: &B::Device,
) -> Tensor<B, 1> {
    let filled = tensors
        .into_iter()
        .filter(|tensor| tensor.shape().num_elements() > 0);
    let sums: Vec<Tensor<B, 1>> = filled
        .map(|tensor| {
            let flat = flat::<B>(tensor);
            (flat.clone() * flat).sum_dim(0)
        })
        .collect();
    if sums.is_empty() {
        return Tensor::zeros([1], device);
    }
    Tensor::cat(sums, 0).sum_dim(0)
}
