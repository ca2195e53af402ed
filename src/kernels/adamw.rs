//! One AdamW step of one tensor, and the gradient norm: passes over all parameters.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, TensorMetadata};

use super::wrap;

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

/// What [`super::IbotBackend::adamw`] takes.
#[derive(Debug, Clone)]
pub struct AdamWInput<B: Backend> {
    /// The parameter, any shape.
    pub param: FloatTensor<B>,
    /// Its gradient, same shape.
    pub grad: FloatTensor<B>,
    /// Its moments.
    pub state: AdamWState<B>,
    /// What the gradient is multiplied by first: below 1 where it is clipped.
    pub gradient_scale: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decoupled weight decay of this tensor.
    pub weight_decay: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Number of this step, from 1: for the bias correction.
    pub step: usize,
}

/// The scalars of one step, worked out once in f64.
pub(super) struct Coefficients {
    /// `1 - learning_rate * weight_decay`.
    pub keep: f64,
    /// `learning_rate / (1 - beta1^step)`.
    pub step_size: f64,
    /// `1 / sqrt(1 - beta2^step)`.
    pub root_scale: f64,
}

impl<B: Backend> AdamWInput<B> {
    pub(super) fn coefficients(&self) -> Coefficients {
        let step = self.step as f64;
        Coefficients {
            keep: 1.0 - self.learning_rate * self.weight_decay,
            step_size: self.learning_rate / (1.0 - self.betas[0].powf(step)),
            root_scale: 1.0 / (1.0 - self.betas[1].powf(step)).sqrt(),
        }
    }
}

/// Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, in the order of operations of `torch.optim.AdamW`.
pub(super) fn reference<B: Backend>(input: AdamWInput<B>) -> (FloatTensor<B>, AdamWState<B>) {
    let coefficients = input.coefficients();
    let [beta1, beta2] = input.betas;
    let grad = B::float_mul_scalar(input.grad, input.gradient_scale.into());
    let first_moment = B::float_add(
        B::float_mul_scalar(input.state.first_moment, beta1.into()),
        B::float_mul_scalar(grad.clone(), (1.0 - beta1).into()),
    );
    let second_moment = B::float_add(
        B::float_mul_scalar(input.state.second_moment, beta2.into()),
        B::float_mul_scalar(B::float_mul(grad.clone(), grad), (1.0 - beta2).into()),
    );
    let root = B::float_mul_scalar(
        B::float_sqrt(second_moment.clone()),
        coefficients.root_scale.into(),
    );
    let update = B::float_div(
        B::float_mul_scalar(first_moment.clone(), coefficients.step_size.into()),
        B::float_add_scalar(root, input.eps.into()),
    );
    let param = B::float_sub(
        B::float_mul_scalar(input.param, coefficients.keep.into()),
        update,
    );
    let state = AdamWState {
        first_moment,
        second_moment,
    };
    (param, state)
}

/// Sum of squares over all tensors, on the device.
pub(super) fn sum_of_squares<B: Backend>(
    tensors: Vec<FloatTensor<B>>,
    device: &B::Device,
) -> Tensor<B, 1> {
    let sums: Vec<Tensor<B, 1>> = tensors
        .into_iter()
        .map(|tensor| {
            let entries = tensor.shape().num_elements();
            let flat: Tensor<B, 1> = wrap(B::float_reshape(tensor, Shape::new([entries])));
            (flat.clone() * flat).sum_dim(0)
        })
        .collect();
    if sums.is_empty() {
        return Tensor::zeros([1], device);
    }
    Tensor::cat(sums, 0).sum_dim(0)
}
