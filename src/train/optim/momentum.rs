//! Optimizers with momentum: SGD and LARS.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata as _};

use crate::kernels::{IbotBackend, flat, shaped};

/// LARS: learning rate of a tensor over its norm by that of its update (`eta` in DINO's utils.py).
const TRUST: f64 = 0.001;

/// What [`momentum_step`] takes.
pub(super) struct MomentumInput<B: IbotBackend> {
    pub param: FloatTensor<B>,
    pub grad: FloatTensor<B>,
    /// The moving sum of updates; none before the first step.
    pub sum: Option<FloatTensor<B>>,
    /// `[1]`, as [`crate::kernels::AdamWInput::grad_scale`].
    pub grad_scale: Option<Tensor<B, 1>>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub momentum: f64,
    /// Whether the update is scaled to the parameter's norm.
    pub lars: bool,
}

/// `sum = momentum * sum + u`, `param -= learning_rate * sum` with `u = grad + weight_decay * param`; for LARS `u` has the
/// norm of the parameter times [`TRUST`].
///
/// Source: `torch.optim.SGD`; `LARS` in DINO's utils.py (arXiv 1708.03888).
pub(super) fn momentum_step<B: IbotBackend>(
    input: MomentumInput<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let shape = input.param.shape();
    // flat, so that one function serves tensors of any rank
    let param = flat::<B>(input.param);
    let mut update = flat::<B>(input.grad);
    // before weight decay: clipping limits the gradient, not the decay
    if let Some(scale) = &input.grad_scale {
        update = update * scale.clone();
    }
    if input.weight_decay != 0.0 {
        update = update + param.clone() * input.weight_decay;
    }
    if input.lars {
        let device = param.device();
        let norm = |tensor: &Tensor<B, 1>| {
            let primitive = tensor.clone().into_primitive().tensor();
            B::sum_of_squares(vec![primitive], &device).sqrt()
        };
        let (of_param, of_update) = (norm(&param), norm(&update));
        // a zero norm, as of a zero-initialized tensor, would freeze it or divide by 0: trust is then 1, as in DINO
        let is_zero = (of_param.clone() * of_update.clone()).equal_elem(0.0);
        let trust = (of_param * TRUST / of_update).mask_fill(is_zero, 1.0);
        update = update * trust;
    }
    let before = input.sum.map(flat::<B>);
    let sum = match &before {
        Some(before) => before.clone() * input.momentum + update,
        None => update,
    };
    let moved = param.clone() - sum.clone() * input.learning_rate;
    let (param, sum) = match input.grad_scale {
        Some(scale) => {
            // a mask, because NaN times 0 is still NaN: only a selection keeps the old values
            let stays = scale.equal_elem(0.0).expand(param.dims());
            // a sum of zeros does the same in the next step as no sum
            let before = before.unwrap_or_else(|| param.zeros_like());
            let param = moved.mask_where(stays.clone(), param);
            (param, sum.mask_where(stays, before))
        }
        None => (moved, sum),
    };
    (shaped(param, shape.clone()), shaped(sum, shape))
}
