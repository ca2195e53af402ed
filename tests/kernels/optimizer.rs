//! AdamW, the gradient norm and the scale of a step, against formulas on the host.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData, TensorMetadata, TensorPrimitive};
use burn_wgpu::WgpuDevice;
use ibot::kernels::wgsl::packed_adamw;
use ibot::kernels::{
    AdamWInput, AdamWState, AdamWTensor, Gpu, GradScaleInput, IbotBackend, LossScale, TrainBackend,
};
use ibot::random::{Random, Stream};

use crate::{assert_close, from_primitive, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;
type Moved<B> = Vec<(FloatTensor<B>, AdamWState<B>)>;
/// A body of the operation.
type AdamW<'a, B> = &'a dyn Fn(AdamWInput<B>) -> Moved<B>;

const BETAS: [f64; 2] = [0.9, 0.95];
const SCALE: f32 = 0.5;

fn random_values(stream: u64, count: usize) -> Vec<f32> {
    Random::new(stream, 0, 0, Stream::Init).fill(count, Random::normal)
}

fn tensor<B: IbotBackend>(values: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn primitive<B: IbotBackend>(values: &[f32], device: &B::Device) -> FloatTensor<B> {
    tensor::<B>(values, device).into_primitive().tensor()
}

fn input<B: IbotBackend>(
    tensors: Vec<AdamWTensor<B>>,
    scale: f32,
    step: usize,
    device: &B::Device,
) -> AdamWInput<B> {
    AdamWInput {
        tensors,
        grad_scale: Some(tensor(&[scale], device)),
        betas: BETAS,
        eps: 1e-8,
        step,
    }
}

fn fresh<B: IbotBackend>(params: &[Vec<f32>], device: &B::Device) -> Moved<B> {
    let fresh = |param: &Vec<f32>| {
        let param = primitive::<B>(param, device);
        (param.clone(), AdamWState::zeros(param.shape(), device))
    };
    params.iter().map(fresh).collect()
}

/// With a learning rate and weight decay of its own for each tensor.
fn with_gradients<B: IbotBackend>(
    moved: Moved<B>,
    grads: &[Vec<f32>],
    device: &B::Device,
) -> Vec<AdamWTensor<B>> {
    let pairs = moved.into_iter().zip(grads).enumerate();
    let with_gradient = |(at, ((param, state), grad)): (usize, (_, &Vec<f32>))| AdamWTensor {
        param,
        grad: primitive::<B>(grad, device),
        state,
        learning_rate: learning_rate(at),
        weight_decay: weight_decay(at),
    };
    pairs.map(with_gradient).collect()
}

fn learning_rate(tensor: usize) -> f64 {
    0.001 * (1 + tensor % 10) as f64
}

fn weight_decay(tensor: usize) -> f64 {
    0.1 * (tensor % 3) as f64
}

/// Three steps of more tensors than one dispatch binds, of sizes around vectors, workgroups and pieces.
pub fn adamw_follows_the_formula<B: TrainBackend>(device: &B::Device) {
    follows_the_formula::<Inner<B>>(&Inner::<B>::adamw, device);
    let none = input::<Inner<B>>(Vec::new(), SCALE, 1, device);
    assert!(Inner::<B>::adamw(none).is_empty());
}

/// The same with one, some and as many tensors a dispatch as fit, whatever the adapter's own choice.
pub fn packs(device: &WgpuDevice) {
    for max_tensors in [1, 2, 5, usize::MAX] {
        follows_the_formula::<Gpu>(&|input| packed_adamw(input, max_tensors), device);
    }
}

fn follows_the_formula<B: IbotBackend>(adamw: AdamW<'_, B>, device: &B::Device) {
    let sizes = [1, 0, 63, 65, 4, 1024, 16_385, 3, 1028, 40_000];
    let sizes: Vec<usize> = (0..50).map(|at| sizes[at % sizes.len()]).collect();
    let draw = |first: u64| -> Vec<Vec<f32>> {
        let streams = sizes.iter().zip(first..);
        streams
            .map(|(size, stream)| random_values(stream, *size))
            .collect()
    };
    let start = draw(100);
    let mut expected: Vec<Vec<[f64; 3]>> = start
        .iter()
        .map(|param| param.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect())
        .collect();
    let mut moved = fresh::<B>(&start, device);
    for step in 1..=3 {
        let grads = draw(1000 * step as u64);
        let tensors = with_gradients(moved, &grads, device);
        moved = adamw(input(tensors, SCALE, step, device));
        for (at, (expected, grads)) in expected.iter_mut().zip(&grads).enumerate() {
            for (entry, grad) in expected.iter_mut().zip(grads) {
                step_of_one(entry, *grad, at, step);
            }
        }
    }
    assert_eq!(moved.len(), sizes.len());
    for ((param, state), expected) in moved.into_iter().zip(expected) {
        let found = [param, state.first_moment, state.second_moment];
        for (kind, found) in found.into_iter().enumerate() {
            let expected: Vec<f64> = expected.iter().map(|entry| entry[kind]).collect();
            assert_eq!(found.shape().num_elements(), expected.len());
            if !expected.is_empty() {
                assert_close(&values(from_primitive::<B>(found)), &expected, 1e-5);
            }
        }
    }
}

fn step_of_one([p, m, v]: &mut [f64; 3], grad: f32, at: usize, step: usize) {
    let g = f64::from(SCALE * grad);
    let bias = BETAS.map(|beta| 1.0 - beta.powi(step as i32));
    *m = BETAS[0] * *m + (1.0 - BETAS[0]) * g;
    *v = BETAS[1] * *v + (1.0 - BETAS[1]) * g * g;
    *p -= learning_rate(at) * weight_decay(at) * *p;
    *p -= learning_rate(at) * (*m / bias[0]) / ((*v / bias[1]).sqrt() + 1e-8);
}

/// A scale of 0 moves nothing, whatever is in the gradients.
pub fn a_scale_of_0_moves_nothing<B: TrainBackend>(device: &B::Device) {
    let params: Vec<Vec<f32>> = [5, 1024].map(|size| random_values(7, size)).into();
    let grads: Vec<Vec<f32>> = params.clone();
    let moved = fresh::<Inner<B>>(&params, device);
    let tensors = with_gradients(moved, &grads, device);
    let before = Inner::<B>::adamw(input(tensors, SCALE, 1, device));
    let read = |moved: &Moved<Inner<B>>| -> Vec<Vec<f32>> {
        let all = moved.iter().flat_map(|(param, state)| {
            [param, &state.first_moment, &state.second_moment].map(Clone::clone)
        });
        all.map(|tensor| values(from_primitive::<Inner<B>>(tensor)))
            .collect()
    };
    let expected = read(&before);
    let broken: Vec<Vec<f32>> = [5, 1024].map(|size| vec![f32::NAN; size]).into();
    let tensors = with_gradients(before, &broken, device);
    let after = Inner::<B>::adamw(input(tensors, 0.0, 2, device));
    assert_eq!(read(&after), expected);
    let closed = tensor::<Inner<B>>(&[0.0], device);
    let side = |sides: &[Vec<f32>]| {
        let tensors = sides.iter().map(|side| primitive::<Inner<B>>(side, device));
        tensors.collect::<Vec<_>>()
    };
    let (teacher, student) = (side(&params), side(&broken));
    let averaged = Inner::<B>::ema(teacher, student, 0.5, Some(closed));
    for (found, param) in averaged.into_iter().zip(&params) {
        assert_eq!(&values(from_primitive::<Inner<B>>(found)), param);
    }
}

/// A body that works in place must leave alone what somebody else holds.
pub fn shared_buffers_stay<B: TrainBackend>(device: &B::Device) {
    let start = random_values(2, 40);
    let held = tensor::<Inner<B>>(&start, device);
    let of_held = || held.clone().into_primitive().tensor();
    let step = |state: AdamWState<Inner<B>>, step: usize| {
        let tensor = AdamWTensor {
            param: of_held(),
            grad: of_held(),
            state,
            learning_rate: 0.01,
            weight_decay: 0.1,
        };
        Inner::<B>::adamw(input(vec![tensor], SCALE, step, device)).remove(0)
    };
    let (moved, state) = step(AdamWState::zeros(of_held().shape(), device), 1);
    assert_ne!(values(from_primitive::<Inner<B>>(moved)), start);
    let kept = state.clone();
    let before = values(from_primitive::<Inner<B>>(kept.second_moment.clone()));
    let (_, after) = step(state, 2);
    let after = values(from_primitive::<Inner<B>>(after.second_moment));
    assert_ne!(after, before);
    let _ = Inner::<B>::ema(vec![of_held()], vec![of_held()], 0.5, None);
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
    let moved = Inner::<B>::ema(vec![zeros], vec![view], 0.0, None).remove(0);
    let moved: Tensor<Inner<B>, 2> = Tensor::from_primitive(TensorPrimitive::Float(moved));
    assert_eq!(values(moved.transpose()), values(square));
}

/// Many tensors, empty ones among them; the same bits twice.
pub fn sum_of_squares<B: TrainBackend>(device: &B::Device) {
    let sizes = [1, 20_000, 7, 0, 4, 70_000, 1024, 8192, 8196];
    let parts: Vec<Vec<f32>> = (0..45)
        .map(|at| random_values(3 + at, sizes[at as usize % sizes.len()]))
        .collect();
    let expected: f64 = parts.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
    let sum = || {
        let tensors = parts.iter().map(|part| primitive::<Inner<B>>(part, device));
        values(Inner::<B>::sum_of_squares(tensors.collect(), device))
    };
    let found = sum();
    assert_close(&found, &[expected], 1e-5 * expected);
    assert_eq!(sum(), found);
    for none in [Vec::new(), vec![primitive::<Inner<B>>(&[], device)]] {
        assert_eq!(values(Inner::<B>::sum_of_squares(none, device)), [0.0]);
    }
    let broken = [random_values(1, 5000), vec![1.0, f32::NAN, 1.0]];
    let tensors = broken.map(|part| primitive::<Inner<B>>(&part, device));
    assert!(values(Inner::<B>::sum_of_squares(tensors.into(), device))[0].is_nan());
}

/// Clipped or not, and shut from the first scalar on that is not finite.
pub fn grad_scale<B: TrainBackend>(device: &B::Device) {
    let found = |scalars: &[f32], max_norm, before: Option<f32>| {
        let scalar = |value: &f32| tensor::<Inner<B>>(&[*value], device);
        let found = Inner::<B>::grad_scale(GradScaleInput {
            scalars: scalars.iter().map(scalar).collect(),
            max_norm,
            before: before.as_ref().map(scalar),
        });
        let row = values(found.scalars);
        assert_eq!(row.len(), scalars.len());
        let same = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
        assert!(row.iter().zip(scalars).all(same), "{row:?} {scalars:?}");
        values(found.grad_scale)[0]
    };
    for (scalars, max_norm, before, expected) in [
        (&[9.0, 16.0][..], None, None, 1.0),
        (&[16.0], Some(5.0), None, 1.0),
        (&[1.0, 2.0, 3.0, 4.0, 5.0, 16.0], Some(3.0), Some(0.1), 0.75),
        (&[-1.0, 0.0], Some(3.0), Some(1.0), 1.0),
        (&[9.0, 16.0], Some(3.0), Some(0.0), 0.0),
        (&[9.0, 16.0], None, Some(0.0), 0.0),
        (&[f32::NAN, 1.0], None, None, 0.0),
        (&[1.0, f32::INFINITY, 1.0], Some(2.0), None, 0.0),
        (&[1.0, f32::NEG_INFINITY, 1.0], None, Some(1.0), 0.0),
        (&[1.0, f32::NAN], Some(2.0), Some(1.0), 0.0),
        (&[1.0, f32::INFINITY], Some(2.0), None, 0.0),
    ] {
        let scale = found(scalars, max_norm, before);
        assert!(
            (scale - expected).abs() < 1e-6,
            "{scalars:?} {max_norm:?} {before:?}: {scale}"
        );
    }
}

/// Without the scale; skipped, halved, doubled, and no smaller than the smallest.
pub fn loss_scale<B: TrainBackend>(device: &B::Device) {
    let inf = f32::INFINITY;
    let least = ibot::kernels::MIN_LOSS_SCALE;
    for (squared_norm, state, norm, factor, next) in [
        (4096.0, [32.0, 5.0], 4.0, 1.0 / 32.0, [32.0, 6.0]),
        (4096.0, [32.0, 1999.0], 4.0, 1.0 / 32.0, [64.0, 0.0]),
        (0.0, [32.0, 0.0], 0.0, 1.0 / 32.0, [32.0, 1.0]),
        (inf, [32.0, 5.0], 0.0, 0.0, [16.0, 0.0]),
        (f32::NAN, [32.0, 1999.0], 0.0, 0.0, [16.0, 0.0]),
        (
            1.0,
            [16_777_216.0, 1999.0],
            0.0,
            5.960_464_5e-8,
            [16_777_216.0, 0.0],
        ),
        (inf, [least, 0.0], inf, 1.0 / least, [least, 1.0]),
    ] {
        let squared = tensor::<Inner<B>>(&[squared_norm], device);
        let found = Inner::<B>::unscale(squared, LossScale::of(state, device));
        let next_found = [found.next.scale, found.next.sound_steps].map(|x| values(x)[0]);
        let case = format!("{squared_norm} {state:?}");
        let norm_found = values(found.squared_norm)[0];
        assert!(
            (norm_found - norm).abs() < 1e-6 || norm_found == norm,
            "{case}: {norm_found}"
        );
        assert_eq!(values(found.factor), [factor], "{case}");
        assert_eq!(next_found, next, "{case}");
    }
}
