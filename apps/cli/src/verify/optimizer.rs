//! What moves parameters: the moving average, AdamW, and what they need.

use ibot::burn::tensor::ops::FloatTensor;
use ibot::burn::tensor::{Tensor, TensorMetadata, TensorPrimitive};

use super::check::{Check, Run};
use super::compare::{Measured, numbers};
use super::inputs::{BAR, Inner, tensor};
use ibot::error::Result;
use ibot::kernels::{
    AdamWInput, AdamWState, AdamWTensor, GradScaleInput, IbotBackend, TrainBackend,
};

/// Tensors of the packed operations, and their sizes in turn.
const TENSORS: u64 = 40;
const SIZES: [usize; 5] = [1, 4, 7, 1025, 4096];

pub(super) fn checks<B: TrainBackend>() -> Vec<Check<B>> {
    let all: [(&'static str, Run<B>); 4] = [
        ("moving average of 40 tensors", moving_average::<B>),
        ("AdamW of 40 tensors", adamw::<B>),
        ("sum of squares", sum_of_squares::<B>),
        ("scale of a step", grad_scale::<B>),
    ];
    all.map(Check::new).into()
}

fn wrapped<B: TrainBackend>(primitive: FloatTensor<Inner<B>>) -> Tensor<Inner<B>, 1> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn tensors<B: TrainBackend>(first: u64, device: &B::Device) -> Vec<FloatTensor<Inner<B>>> {
    let tensors = (0..TENSORS).map(|at| {
        let shape = [SIZES[at as usize % SIZES.len()]];
        tensor::<Inner<B>, 1>(first + at, shape, device)
    });
    tensors.map(|t| t.into_primitive().tensor()).collect()
}

fn measured<B: TrainBackend>(tensors: Vec<FloatTensor<Inner<B>>>) -> Vec<Measured> {
    let tensors = tensors.into_iter().enumerate();
    tensors
        .map(|(at, t)| Measured::of(format!("tensor {at}"), wrapped::<B>(t), BAR))
        .collect()
}

fn moving_average<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let (teacher, student) = (tensors::<B>(100, device), tensors::<B>(200, device));
    let averaged = Inner::<B>::ema(teacher, student, 0.9, None);
    Ok(measured::<B>(averaged))
}

/// Three steps of 40 tensors, clipped.
fn adamw<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let zeros = |param: FloatTensor<Inner<B>>| {
        let state = AdamWState::zeros(param.shape(), device);
        (param, state)
    };
    let mut moved: Vec<_> = tensors::<B>(300, device).into_iter().map(zeros).collect();
    for step in 1..=3 {
        let grads = tensors::<B>(300 + 100 * step as u64, device);
        let tensors = moved.into_iter().zip(grads);
        let tensors = tensors.map(|((param, state), grad)| AdamWTensor {
            param,
            grad,
            state,
            learning_rate: 0.01,
            weight_decay: 0.1,
        });
        moved = Inner::<B>::adamw(AdamWInput {
            tensors: tensors.collect(),
            grad_scale: Some(Tensor::full([1], 0.5, device)),
            betas: [0.9, 0.999],
            eps: 1e-8,
            step,
        });
    }
    let params = moved.into_iter().map(|(param, _)| param);
    Ok(measured::<B>(params.collect()))
}

fn sum_of_squares<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let tensors = [1, 20_000, 7].map(|size| {
        let tensor = tensor::<Inner<B>, 1>(11, [size], device);
        tensor.into_primitive().tensor()
    });
    let sum = Inner::<B>::sum_of_squares(tensors.into(), device);
    Ok(vec![Measured::of("sum", sum, BAR)])
}

/// A step that is clipped, one whose loss is not finite, and one after it.
fn grad_scale<B: TrainBackend>(device: &B::Device) -> Result<Vec<Measured>> {
    let mut before = None;
    let (mut scalars, mut scales) = (Vec::new(), Vec::new());
    for (loss, squared_norm) in [(2.5, 16.0), (f32::NAN, 1.0), (3.5, 1.0)] {
        let inputs = [loss, squared_norm].map(|value| Tensor::from_floats([value], device));
        let found = Inner::<B>::grad_scale(GradScaleInput {
            scalars: inputs.into(),
            max_norm: Some(3.0),
            before,
        });
        // what is not finite is no number to compare
        let finite = numbers(found.scalars).into_iter().filter(|x| x.is_finite());
        scalars.extend(finite);
        scales.extend(numbers(found.grad_scale.clone()));
        before = Some(found.grad_scale);
    }
    Ok(vec![
        Measured::new("scalars", scalars, BAR),
        Measured::new("scale", scales, BAR),
    ])
}
