//! Dynamic loss scale (arXiv 1710.03740, section 3.2; `torch.amp.GradScaler`), without a look at it from the host.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::precision::Precision;

/// The scale before the first step. Source: `init_scale` of `torch.amp.GradScaler`.
pub const INITIAL_LOSS_SCALE: f32 = 65_536.0;
/// Sound steps after which it doubles. Source: `growth_interval` there.
pub const GROWTH_INTERVAL: f32 = 2_000.0;
/// Where it stops falling: gradients that overflow even so are not scaled too much, but wrong.
pub const MIN_LOSS_SCALE: f32 = 1.0 / 16_384.0;
/// Where it stops growing: so far from f32's limits that no scaled loss reaches those.
pub const MAX_LOSS_SCALE: f32 = 16_777_216.0;

/// What a loss is multiplied by before its backward pass, so that small gradients do not vanish in f16.
#[derive(Debug, Clone)]
pub struct LossScale<B: Backend> {
    /// The factor, a power of two, `[1]`.
    pub scale: Tensor<B, 1>,
    /// Sound steps since it last changed, `[1]`.
    pub sound_steps: Tensor<B, 1>,
}

impl<B: Backend> LossScale<B> {
    /// That of a run before its first step; none with the range of f32, which bf16 has too.
    pub fn initial(precision: Precision, device: &B::Device) -> Option<Self> {
        let is_half = precision == Precision::F16;
        is_half.then(|| Self::of([INITIAL_LOSS_SCALE, 0.0], device))
    }

    /// This scale after so many sound steps.
    pub fn of([scale, sound_steps]: [f32; 2], device: &B::Device) -> Self {
        let tensor = |value| Tensor::from_floats([value], device);
        Self {
            scale: tensor(scale),
            sound_steps: tensor(sound_steps),
        }
    }
}

/// What [`crate::kernels::IbotBackend::unscale`] gives.
#[derive(Debug, Clone)]
pub struct Unscaled<B: Backend> {
    /// Sum of the squares of all gradients without the scale, `[1]`; 0 in a step that is skipped. Not finite where gradients
    /// overflow at the smallest scale too.
    pub squared_norm: Tensor<B, 1>,
    /// What gradients are to be multiplied by, `[1]`: the inverse of the scale, 0 in a step that is skipped.
    pub factor: Tensor<B, 1>,
    /// For the next step.
    pub next: LossScale<B>,
}

/// See [`crate::kernels::IbotBackend::unscale`].
pub fn reference<B: Backend>(squared_norm: Tensor<B, 1>, state: LossScale<B>) -> Unscaled<B> {
    let LossScale { scale, sound_steps } = state;
    let overflowed = squared_norm.clone().is_finite().bool_not();
    let can_fall = scale.clone().greater_elem(MIN_LOSS_SCALE);
    let skipped = overflowed.clone().bool_and(can_fall);
    let inverse = scale.clone().recip();
    let sound_steps = sound_steps + 1.0;
    let grows = sound_steps.clone().greater_equal_elem(GROWTH_INTERVAL);
    let grown = (scale.clone() * 2.0).clamp_max(MAX_LOSS_SCALE);
    let fallen = scale.clone() * 0.5;
    let next = scale.mask_where(grows.clone(), grown);
    Unscaled {
        squared_norm: (squared_norm * inverse.clone() * inverse.clone())
            .mask_fill(skipped.clone(), 0.0),
        factor: inverse.mask_fill(skipped.clone(), 0.0),
        next: LossScale {
            scale: next.mask_where(skipped.clone(), fallen),
            sound_steps: sound_steps.mask_fill(grows.bool_or(skipped), 0.0),
        },
    }
}
