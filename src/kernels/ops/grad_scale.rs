//! What a step measured, and how far its gradients may move the parameters: without a look at it from the host.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What [`crate::kernels::IbotBackend::grad_scale`] takes.
#[derive(Debug, Clone)]
pub struct GradScaleInput<B: Backend> {
    /// Losses, `[1]` each, and last the sum of the squares of all gradients.
    pub scalars: Vec<Tensor<B, 1>>,
    /// Largest norm of all gradients together; a larger one is scaled down to it. Source: `torch.nn.utils.clip_grad_norm_`. Differs: its
    /// 1e-6, added to the norm, is left out, as a norm of 0 is not clipped here.
    pub max_norm: Option<f64>,
    /// The scale of the step before, `[1]`; none for 1.
    pub before: Option<Tensor<B, 1>>,
}

/// What [`crate::kernels::IbotBackend::grad_scale`] gives.
#[derive(Debug, Clone)]
pub struct GradScale<B: Backend> {
    /// All scalars in a row.
    pub scalars: Tensor<B, 1>,
    /// `[1]`, what all gradients are to be multiplied by: `grad_scale` and `found_inf` of torch's fused AdamW in one. It
    /// is 0, and nothing may move, where a scalar is not finite or the scale of the step before is 0: so after a step that
    /// went wrong none changes anything, until the host reads the scalars.
    pub grad_scale: Tensor<B, 1>,
}

pub(in crate::kernels) fn reference<B: Backend>(input: GradScaleInput<B>) -> GradScale<B> {
    let last = input.scalars.len() - 1;
    let scalars = Tensor::cat(input.scalars, 0);
    // on wgpu burn tests the bits here (cubecl's is_nan and is_inf), so it works where a compiler assumes finite math too, as
    // Metal's does
    let broken = scalars.clone().is_finite().bool_not().float().sum_dim(0);
    let mut stays = broken.greater_elem(0.0);
    if let Some(before) = input.before {
        stays = stays.bool_or(before.equal_elem(0.0));
    }
    let norm = scalars.clone().narrow(0, last, 1).sqrt();
    let scale = match input.max_norm {
        // 0 / 0 is NaN, which clamping may or may not pass on
        Some(largest) => (norm.clamp_min(f32::MIN_POSITIVE).recip() * largest).clamp_max(1.0),
        None => Tensor::ones([1], &scalars.device()),
    };
    GradScale {
        grad_scale: scale.mask_fill(stays, 0.0),
        scalars,
    }
}
