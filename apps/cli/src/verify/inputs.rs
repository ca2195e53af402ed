//! What checks compute on: numbers that are the same on every backend.

use ibot::burn::tensor::backend::AutodiffBackend;
use ibot::burn::tensor::{DType, Tensor, TensorData};

use super::compare::Measured;
use ibot::error::{Error, Result};
use ibot::kernels::{IbotBackend, TrainBackend};
use ibot::precision::Precision;
use ibot::random::{Random, Stream};

/// The backend without gradients.
pub(super) type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// What f32 sums of a few thousand terms may differ by. A device that is right within what Vulkan and Metal allow (exp
/// 3 + 2 |x| ULP, log 2^-21, division 2.5 ULP) stays ten times below in all checks that have this bar.
pub(super) const BAR: f64 = 1e-4;

/// The largest of the whole numbers of [`whole`]. A sum of n products of two of them is at most 4 n, and f32 holds all whole
/// numbers up to 2^24.
const LARGEST_WHOLE: usize = 2;

fn drawn<B: IbotBackend, const D: usize>(
    stream: u64,
    shape: [usize; D],
    device: &B::Device,
    draw: impl Fn(&mut Random) -> f64 + Sync,
) -> Tensor<B, D> {
    let mut random = Random::new(stream, 3, 0, Stream::Init);
    let values = random.fill(shape.iter().product(), draw);
    let drawn = Tensor::from_data(TensorData::new(values, shape), device);
    B::rounded(drawn, Precision::current()) // so that all backends begin with the same numbers
}

/// Numbers of a normal distribution.
pub(super) fn tensor<B: IbotBackend, const D: usize>(
    stream: u64,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    drawn(stream, shape, device, Random::normal)
}

/// Rows as the backend keeps tokens.
pub(super) fn tokens<B: TrainBackend>(leaf: &Tensor<B, 2>) -> Tensor<B, 2> {
    leaf.clone().cast(Inner::<B>::token_dtype())
}

/// Whole numbers from -2 to 2: whatever order a device sums their products in, f32 has the exact result.
pub(super) fn whole<B: IbotBackend, const D: usize>(
    stream: u64,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    drawn(stream, shape, device, |random| {
        random.below(2 * LARGEST_WHOLE + 1) as f64 - LARGEST_WHOLE as f64
    })
}

/// `y`, and the gradients of a weighted sum of it by the named `leaves`.
pub(super) fn with_gradients<B: TrainBackend, const D: usize>(
    y: Tensor<B, 2>,
    leaves: &[(&str, &Tensor<B, D>)],
) -> Result<Vec<Measured>> {
    let y = y.cast(DType::F32);
    let weights = tensor::<B, 2>(99, y.dims(), &y.device());
    let grads = (y.clone() * weights).sum_dim(1).sum_dim(0).backward();
    let mut all = vec![Measured::of("result", y, BAR)];
    for (name, leaf) in leaves {
        let gradient = leaf.grad(&grads).ok_or_else(|| missing(name))?;
        all.push(Measured::of(gradient_of(name), gradient, BAR));
    }
    Ok(all)
}

pub(super) fn gradient_of(name: &str) -> String {
    format!("gradient of {name}")
}

pub(super) fn missing(name: &str) -> Error {
    Error::Device(format!("the gradient of {name} is missing"))
}
