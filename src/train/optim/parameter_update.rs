//! One optimizer step: all parameters that have a gradient are taken out of the module, updated together, and put back.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata as _};

use crate::files::ParamPath;
use crate::kernels::{
    AdamWInput, AdamWState, AdamWTensor, IbotBackend, TrainBackend, flat, shaped, wrap,
};
use crate::train::optim::config::{OptimizerConfig, OptimizerKind, UpdateRates};
use crate::train::optim::gradients::Gradients;
use crate::train::optim::layers::{LayerDecay, decays, is_before_heads, is_prototype};
use crate::train::optim::momentum::{MomentumInput, momentum_step};

/// Optimizer state of a parameter.
#[derive(Debug)]
pub(super) enum State<B: IbotBackend> {
    Moments(AdamWState<B>),
    Sum(FloatTensor<B>),
}

/// A parameter to update.
pub(super) struct Moving<B: IbotBackend> {
    pub name: String,
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    learning_rate: f64,
    weight_decay: f64,
    is_matrix: bool,
    /// Steps in which it was frozen.
    frozen_steps: usize,
}

/// Takes the parameters that have a gradient out of a module, so that the update is their only owner and works in place.
pub(super) struct Take<'a, B: TrainBackend> {
    path: ParamPath,
    config: &'a OptimizerConfig,
    rates: &'a UpdateRates,
    grads: Gradients<B>,
    layers: LayerDecay,
    taken: Vec<Moving<B::InnerBackend>>,
    is_taken: Vec<bool>,
}

impl<'a, B: TrainBackend> Take<'a, B> {
    /// The module without the parameters to update, for each parameter whether it is one of them, and these parameters.
    pub fn from<M: Module<B>>(
        module: M,
        grads: Gradients<B>,
        config: &'a OptimizerConfig,
        rates: &'a UpdateRates,
    ) -> (M, Vec<bool>, Vec<Moving<B::InnerBackend>>) {
        let mut take = Self {
            path: ParamPath::default(),
            layers: LayerDecay::new(&module, config),
            config,
            rates,
            grads,
            taken: Vec::new(),
            is_taken: Vec::new(),
        };
        let hollow = module.map(&mut take);
        (hollow, take.is_taken, take.taken)
    }

    fn take<const D: usize>(&mut self, tensor: Tensor<B, D>, grad: Tensor<B::InnerBackend, D>) {
        let (name, config) = (self.path.name(), self.config);
        // a schedule overrides the configured value
        let weight_decay = self.rates.weight_decay.unwrap_or(config.weight_decay);
        let decays = decays::<D>(&name, config);
        let device = tensor.device();
        let mut grad = grad.into_primitive().tensor();
        if let Some(largest) = config.clip_each_gradient {
            let loss_scale = self.grads.loss_scale.as_ref();
            grad = clipped::<B::InnerBackend>(grad, largest, loss_scale, &device);
        }
        self.taken.push(Moving {
            param: tensor.inner().into_primitive().tensor(),
            grad,
            learning_rate: self.rates.learning_rate * self.layers.factor(&name),
            weight_decay: if decays { weight_decay } else { 0.0 },
            is_matrix: D >= 2,
            // One without a gradient until `mask_start_epoch` counts all steps, as in the official code, where it has gradients
            // of 0 until then.
            frozen_steps: if is_before_heads(&name) {
                self.rates.frozen_backbone_steps
            } else if is_prototype(&name) {
                self.rates.frozen_prototype_steps
            } else {
                0
            },
            name,
        });
    }
}

impl<B: TrainBackend> ModuleMapper<B> for Take<'_, B> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let (name, rates) = (self.path.name(), self.rates);
        let frozen = (rates.freeze_prototypes && is_prototype(&name))
            || (rates.freeze_backbone && is_before_heads(&name));
        // a frozen parameter is treated as one without a gradient: it also keeps its moments and does not decay
        let grad = tensor
            .grad_remove(&mut self.grads.by_node)
            .filter(|_| !frozen);
        self.is_taken.push(grad.is_some());
        let Some(grad) = grad else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let placeholder = Tensor::empty([1; D], &tensor.device()); // burn modules cannot lack a parameter
        self.take(tensor, grad);
        Param::from_mapped_value(id, placeholder, mapper)
    }
}

/// Puts the parameters back in the same order.
pub(super) struct Put<B: TrainBackend> {
    pub is_taken: std::vec::IntoIter<bool>,
    pub moved: std::vec::IntoIter<FloatTensor<B::InnerBackend>>,
}

impl<B: TrainBackend> ModuleMapper<B> for Put<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let was_taken = self.is_taken.next().unwrap_or(false);
        match was_taken.then(|| self.moved.next()).flatten() {
            Some(moved) => {
                let (id, _, mapper) = param.consume();
                // the update runs off the graph, so the result must ask for gradients again
                let moved = Tensor::from_inner(wrap::<B::InnerBackend, D>(moved)).require_grad();
                Param::from_mapped_value(id, moved, mapper)
            }
            None => param,
        }
    }
}

/// A gradient scaled down to norm `largest`, on the device; of a loss that was multiplied by `loss_scale`, `[1]`, to as many times that.
fn clipped<B: IbotBackend>(
    grad: FloatTensor<B>,
    largest: f64,
    loss_scale: Option<&Tensor<B, 1>>,
    device: &B::Device,
) -> FloatTensor<B> {
    // on the device: reading each tensor's norm would make the host wait
    let norm = B::sum_of_squares(vec![grad.clone()], device).sqrt();
    let norm = match loss_scale {
        Some(loss_scale) => norm / loss_scale.clone(),
        None => norm,
    };
    // 1e-6 as in torch.nn.utils.clip_grad_norm_
    let scale = (norm + 1e-6).recip() * largest;
    let scale = scale.clamp_max(1.0); // clipping shrinks gradients, never enlarges them
    let shape = grad.shape();
    shaped(flat::<B>(grad) * scale, shape)
}

/// Updates all parameters by the configuration's rule; returns them with their optimizer state.
///
/// # Shapes
/// `grad_scale` `[1]`, as [`AdamWInput::grad_scale`].
pub(super) fn moved<B: IbotBackend>(
    moving: Vec<(Moving<B>, Option<State<B>>)>,
    grad_scale: Option<Tensor<B, 1>>,
    config: &OptimizerConfig,
    step: usize,
) -> Vec<(FloatTensor<B>, State<B>)> {
    if config.name != OptimizerKind::AdamW {
        let moving = moving.into_iter();
        let by_momentum = |(moving, state): (Moving<B>, Option<State<B>>)| {
            let sum = match state {
                Some(State::Sum(sum)) => Some(sum),
                _ => None,
            };
            let (param, sum) = momentum_step::<B>(MomentumInput {
                param: moving.param,
                grad: moving.grad,
                sum,
                grad_scale: grad_scale.clone(),
                learning_rate: moving.learning_rate,
                weight_decay: moving.weight_decay,
                momentum: config.momentum,
                // as in DINO's LARS, biases and norms get plain momentum
                lars: config.name == OptimizerKind::Lars && moving.is_matrix,
            });
            (param, State::Sum(sum))
        };
        return moving.map(by_momentum).collect();
    }
    // all tensors of one age in one call, which a GPU runs in a few launches instead of one per tensor
    let frozen_steps: Vec<usize> = moving.iter().map(|(of, _)| of.frozen_steps).collect();
    let mut by_age = BTreeMap::<usize, Vec<_>>::new();
    for of in moving {
        by_age.entry(of.0.frozen_steps).or_default().push(of);
    }
    let moved = by_age.into_iter().map(|(frozen, moving)| {
        let own_step = step - frozen.min(step - 1);
        let moved = adamw::<B>(moving, grad_scale.clone(), config, own_step);
        (frozen, moved.into_iter())
    });
    let mut moved: BTreeMap<_, _> = moved.collect();
    let in_order = frozen_steps.iter();
    in_order
        .filter_map(|frozen| moved.get_mut(frozen)?.next())
        .collect()
}

/// AdamW's update number `step`, from 1, of all tensors.
fn adamw<B: IbotBackend>(
    moving: Vec<(Moving<B>, Option<State<B>>)>,
    grad_scale: Option<Tensor<B, 1>>,
    config: &OptimizerConfig,
    step: usize,
) -> Vec<(FloatTensor<B>, State<B>)> {
    if moving.is_empty() {
        return Vec::new();
    }
    let tensors = moving.into_iter().map(|(moving, state)| AdamWTensor {
        state: match state {
            Some(State::Moments(state)) => state,
            _ => AdamWState::zeros(moving.param.shape(), &B::float_device(&moving.param)),
        },
        param: moving.param,
        grad: moving.grad,
        learning_rate: moving.learning_rate,
        weight_decay: moving.weight_decay,
    });
    let moved = B::adamw(AdamWInput {
        tensors: tensors.collect(),
        grad_scale,
        betas: config.betas,
        eps: config.eps,
        step,
    });
    let moved = moved.into_iter();
    moved
        .map(|(param, state)| (param, State::Moments(state)))
        .collect()
}
