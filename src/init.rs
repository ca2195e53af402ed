//! Initial parameters, drawn on the host so that every backend starts from the same weights.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use crate::random::Random;

fn param<B: Backend, const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    Param::from_data(TensorData::new(values, shape), device)
}

/// Entries uniform in [-bound, bound).
pub(crate) fn uniform_param<B: Backend, const D: usize>(
    random: &mut Random,
    shape: [usize; D],
    bound: f64,
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    let values = random.fill(shape.iter().product(), |r| r.uniform(-bound, bound));
    param(values, shape, device)
}

/// Normal entries of mean zero.
pub(crate) fn normal_param<B: Backend, const D: usize>(
    random: &mut Random,
    shape: [usize; D],
    std: f64,
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    let values = random.fill(shape.iter().product(), |r| std * r.normal());
    param(values, shape, device)
}

/// Equal entries.
pub(crate) fn constant_param<B: Backend, const D: usize>(
    shape: [usize; D],
    value: f32,
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    param(vec![value; shape.iter().product()], shape, device)
}

/// PyTorch's default linear layer: weight and bias uniform within the inverse root of the number of inputs.
pub(crate) fn torch_linear<B: Backend>(
    random: &mut Random,
    [inputs, outputs]: [usize; 2],
    bias: bool,
    device: &B::Device,
) -> Linear<B> {
    let bound = (inputs as f64).sqrt().recip();
    Linear {
        weight: uniform_param(random, [inputs, outputs], bound, device),
        bias: bias.then(|| uniform_param(random, [outputs], bound, device)),
    }
}

/// timm's linear layer in a transformer: weight normal, bias zero.
///
/// timm truncates at +-2, a hundred of its deviations away, which never happens.
pub(crate) fn timm_linear<B: Backend>(
    random: &mut Random,
    [inputs, outputs]: [usize; 2],
    std: f64,
    bias: bool,
    device: &B::Device,
) -> Linear<B> {
    Linear {
        weight: normal_param(random, [inputs, outputs], std, device),
        bias: bias.then(|| constant_param([outputs], 0.0, device)),
    }
}
