//! Operations with bodies of their own, against formulas on the host.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData, TensorMetadata, TensorPrimitive};
use ibot::kernels::{AdamWInput, AdamWState, IbotBackend, TrainBackend};
use ibot::random::{Random, Stream};

use crate::{assert_close, from_primitive, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

fn random_values(stream: u64, count: usize) -> Vec<f32> {
    Random::new(stream, 0, 0, Stream::Init).fill(count, Random::normal)
}

fn tensor<B: IbotBackend>(values: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn input<B: IbotBackend>(param: Tensor<B, 1>, grad: Tensor<B, 1>, step: usize) -> AdamWInput<B> {
    let param = param.into_primitive().tensor();
    AdamWInput {
        state: AdamWState::zeros(param.shape(), &B::float_device(&param)),
        param,
        grad: grad.into_primitive().tensor(),
        gradient_scale: 0.5,
        learning_rate: 0.01,
        weight_decay: 0.1,
        betas: [0.9, 0.95],
        eps: 1e-8,
        step,
    }
}

/// Three steps of sizes around the pieces of the parallel body (16 384 entries).
pub fn adamw_follows_the_formula<B: TrainBackend>(device: &B::Device) {
    for count in [1, 63, 65, 16_385] {
        let start = random_values(1, count);
        let mut next = input::<Inner<B>>(tensor(&start, device), tensor(&start, device), 0);
        let mut expected: Vec<[f64; 3]> = start.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
        for step in 1..=3 {
            let grads = random_values(10 + step as u64, count);
            next.grad = tensor::<Inner<B>>(&grads, device).into_primitive().tensor();
            next.step = step;
            let (param, state) = Inner::<B>::adamw(next.clone());
            (next.param, next.state) = (param, state);
            for ([p, m, v], g) in expected.iter_mut().zip(&grads) {
                let g = 0.5 * f64::from(*g);
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.95 * *v + 0.05 * g * g;
                let bias = [
                    1.0 - 0.9f64.powi(step as i32),
                    1.0 - 0.95f64.powi(step as i32),
                ];
                *p -= 0.01 * 0.1 * *p;
                *p -= 0.01 * (*m / bias[0]) / ((*v / bias[1]).sqrt() + 1e-8);
            }
        }
        let found = values(from_primitive::<Inner<B>>(next.param));
        let expected: Vec<f64> = expected.iter().map(|[p, ..]| *p).collect();
        assert_close(&found, &expected, 1e-5);
    }
}

/// A body that works in place must leave alone what somebody else holds.
pub fn shared_buffers_stay<B: TrainBackend>(device: &B::Device) {
    let start = random_values(2, 40);
    let held = tensor::<Inner<B>>(&start, device);
    let (_, state) = Inner::<B>::adamw(input(held.clone(), held.clone(), 1));
    let kept = state.clone();
    let mut second = input(held.clone(), held.clone(), 2);
    second.state = state;
    let before = values(from_primitive::<Inner<B>>(kept.second_moment.clone()));
    let _ = Inner::<B>::adamw(second);
    let primitive = held.clone().into_primitive().tensor();
    let _ = Inner::<B>::ema(vec![primitive.clone()], vec![primitive], 0.5);
    assert_eq!(values(held), start);
    assert_eq!(
        values(from_primitive::<Inner<B>>(kept.second_moment)),
        before
    );
    // a transposed view of a held tensor, as gradients of linear layers are
    let square = tensor::<Inner<B>>(&start[..36], device).reshape([6, 6]);
    let view = square.clone().transpose().into_primitive().tensor();
    let zeros = Tensor::<Inner<B>, 2>::zeros([6, 6], device)
        .into_primitive()
        .tensor();
    let moved = Inner::<B>::ema(vec![zeros], vec![view], 0.0).remove(0);
    let moved: Tensor<Inner<B>, 2> = Tensor::from_primitive(TensorPrimitive::Float(moved));
    assert_eq!(values(moved.transpose()), values(square));
}

pub fn sum_of_squares<B: TrainBackend>(device: &B::Device) {
    let parts = [
        random_values(3, 1),
        random_values(4, 20_000),
        random_values(5, 7),
    ];
    let expected: f64 = parts.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
    let tensors = parts
        .iter()
        .map(|part| tensor::<Inner<B>>(part, device).into_primitive().tensor());
    let found = values(Inner::<B>::sum_of_squares(tensors.collect(), device));
    assert_close(&found, &[expected], 1e-4 * expected);
    assert_eq!(
        values(Inner::<B>::sum_of_squares(Vec::new(), device)),
        [0.0]
    );
}
