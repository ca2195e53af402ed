//! Launch of `shaders/loss_scale.wgsl`.

use burn::tensor::Tensor;

use super::info::info;
use super::launch::{Kernel, contiguous, empty, launch, shader, tensor};
use crate::kernels::backends::Gpu;
use crate::kernels::ops::loss_scale::{
    GROWTH_INTERVAL, LossScale, MAX_LOSS_SCALE, MIN_LOSS_SCALE, Unscaled,
};

pub(super) fn kernel() -> Kernel {
    Kernel::new(shader!("loss_scale"), 1, Vec::new())
}

/// See [`crate::kernels::IbotBackend::unscale`].
pub(super) fn unscale(squared_norm: Tensor<Gpu, 1>, state: LossScale<Gpu>) -> Unscaled<Gpu> {
    let squared_norm = contiguous(squared_norm);
    let (scale, sound_steps) = (contiguous(state.scale), contiguous(state.sound_steps));
    let [norm, factor, next_scale, next_steps] = [(); 4].map(|()| empty(&scale, [1]));
    launch(
        &scale.client,
        kernel(),
        1,
        &[
            &squared_norm,
            &scale,
            &sound_steps,
            &norm,
            &factor,
            &next_scale,
            &next_steps,
        ],
        &info! { growth_interval: GROWTH_INTERVAL, smallest: MIN_LOSS_SCALE, largest: MAX_LOSS_SCALE },
    );
    Unscaled {
        squared_norm: tensor(norm),
        factor: tensor(factor),
        next: LossScale {
            scale: tensor(next_scale),
            sound_steps: tensor(next_steps),
        },
    }
}
