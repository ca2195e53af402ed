//! The moving average of many tensors at once.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData};
use burn_wgpu::WgpuDevice;
use ibot::kernels::wgsl::packed_ema;
use ibot::kernels::{Gpu, IbotBackend, TrainBackend};
use ibot::random::{Random, Stream};

use crate::{assert_close, from_primitive, values};

type Inner<B> = <B as AutodiffBackend>::InnerBackend;

fn draw(stream: u64, count: usize) -> Vec<f32> {
    Random::new(stream, 2, 0, Stream::Init).fill(count, Random::normal)
}

fn tensor<B: IbotBackend>(values: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// More tensors than one dispatch binds, of sizes around vectors, workgroups and pieces.
pub fn many_tensors<B: TrainBackend>(device: &B::Device) {
    let ema = |teacher, student, decay| Inner::<B>::ema(teacher, student, decay, None);
    follows_the_formula::<Inner<B>>(&ema, device);
    assert!(Inner::<B>::ema(Vec::new(), Vec::new(), 0.5, None).is_empty());
}

/// The same with one, some and as many tensors a dispatch as fit, whatever the adapter's own choice.
pub fn packs(device: &WgpuDevice) {
    for max_pairs in [1, 2, 7, usize::MAX] {
        let open = Tensor::<Gpu, 1>::full([1], 0.25, device);
        let ema = |teacher, student, decay| {
            packed_ema(teacher, student, decay, Some(open.clone()), max_pairs)
        };
        follows_the_formula::<Gpu>(&ema, device);
    }
}

/// A body of the operation.
type Ema<'a, B> = &'a dyn Fn(Vec<FloatTensor<B>>, Vec<FloatTensor<B>>, f64) -> Vec<FloatTensor<B>>;

fn follows_the_formula<B: IbotBackend>(ema: Ema<'_, B>, device: &B::Device) {
    let sizes = [1, 2, 3, 4, 5, 1023, 1024, 1025, 1028, 4099, 16_385, 70_000];
    let sizes: Vec<usize> = (0..50).map(|at| sizes[at % sizes.len()]).collect();
    for decay in [0.0, 0.3, 0.996, 1.0] {
        let starts: Vec<[Vec<f32>; 2]> = sizes
            .iter()
            .enumerate()
            .map(|(at, size)| [draw(2 * at as u64, *size), draw(2 * at as u64 + 1, *size)])
            .collect();
        let side = |side: usize| {
            let tensors = starts.iter().map(|pair| tensor::<B>(&pair[side], device));
            tensors
                .map(|t| t.into_primitive().tensor())
                .collect::<Vec<_>>()
        };
        let averaged = ema(side(0), side(1), decay);
        assert_eq!(averaged.len(), sizes.len());
        for (found, [teacher, student]) in averaged.into_iter().zip(&starts) {
            let pairs = teacher.iter().zip(student);
            let expected: Vec<f64> = pairs
                .map(|(t, s)| f64::from(*t) * decay + f64::from(*s) * (1.0 - decay))
                .collect();
            assert_close(&values(from_primitive::<B>(found)), &expected, 1e-6);
        }
    }
}

/// A teacher that somebody else holds, and one that shares its student's buffer, are averaged in a buffer of their own.
pub fn shared_buffers_stay<B: TrainBackend>(device: &B::Device) {
    let start = draw(1, 40);
    let held = tensor::<Inner<B>>(&start, device);
    let student = tensor::<Inner<B>>(&draw(2, 40), device);
    let of = |tensor: &Tensor<Inner<B>, 1>| tensor.clone().into_primitive().tensor();
    let averaged = Inner::<B>::ema(
        vec![of(&held), of(&held)],
        vec![of(&student), of(&held)],
        0.5,
        None,
    );
    let [first, same] = [0, 1].map(|at| values(from_primitive::<Inner<B>>(averaged[at].clone())));
    assert_ne!(first, start);
    assert_eq!(same, start, "the average of a tensor with itself");
    assert_eq!(values(held), start);
    assert_eq!(values(student), draw(2, 40));
}
