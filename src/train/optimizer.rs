//! The optimizer over a module, with what it remembers under the parameters' names.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::ops::FloatTensor;
use serde::{Deserialize, Serialize};

use super::Gradients;
use super::state::{to_device, to_host};
use super::update::{Put, State, Take, moved};
use crate::error::{Error, Result};
use crate::kernels::{AdamWState, GradScaleInput, IbotBackend, TrainBackend};
use crate::weights::NamedTensor;

/// Rule by which a gradient moves a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (arXiv 1711.05101); the choice for transformers.
    #[default]
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// The same with each matrix's update scaled to its norm, for large batches (arXiv 1708.03888).
    Lars,
}

/// The optimizer's constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Update rule: "adamw", "sgd" or "lars". Default `"adamw"`. Source: `optimizer` of the official code.
    pub name: OptimizerKind,
    /// Momentum of `sgd` and `lars`. Default 0.9. Source: DINO.
    pub momentum: f64,
    /// Decay rates of the two moments of `adamw`. Default `[0.9, 0.999]`. Source: PyTorch.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment of `adamw`. Default 1e-8. Source: PyTorch.
    pub eps: f64,
    /// Weight decay of matrices, decoupled in `adamw`; the value at the start if `schedule.final_weight_decay` is set.
    /// Default 0.04. Source: the paper.
    pub weight_decay: f64,
    /// Largest L2 norm of all gradients together; larger ones are scaled down to it. Default none. Source: DINOv2, 3.0
    /// there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradient_norm: Option<f64>,
    /// Largest L2 norm of each tensor's gradient; larger ones are scaled down to it. Default none. Source: `clip_grad`
    /// of the official code, 3.0 there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_each_gradient: Option<f64>,
    /// Whether biases, norms and tokens decay too. Default false. Source: DINO and the official code exempt them.
    pub decay_all: bool,
    /// Factor of the learning rate from each block of the backbone to the one before it; 1 for none. Default 1.0.
    /// Source: DINOv2, 0.9 there.
    pub layer_decay: f64,
    /// Further factor of the learning rate of the patch embedding. Default 1.0. Source: DINOv2, 0.2 there.
    pub patch_embed_multiplier: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerKind::AdamW,
            momentum: 0.9,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.04,
            clip_gradient_norm: None,
            clip_each_gradient: None,
            decay_all: false,
            layer_decay: 1.0,
            patch_embed_multiplier: 1.0,
        }
    }
}

impl OptimizerConfig {
    /// Whether the numbers can work.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.momentum) {
            let remedy = "must be from 0 to below 1";
            return Err(Error::config("optimizer.momentum", self.momentum, remedy));
        }
        if self.betas.iter().any(|beta| !(0.0..1.0).contains(beta)) {
            let value = format!("{:?}", self.betas);
            return Err(Error::config(
                "optimizer.betas",
                value,
                "must be from 0 to below 1",
            ));
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(Error::config(
                "optimizer.eps",
                self.eps,
                "must be above 0, such as 1e-8",
            ));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            let remedy = "must be 0 or above, such as 0.04";
            return Err(Error::config(
                "optimizer.weight_decay",
                self.weight_decay,
                remedy,
            ));
        }
        for (key, norm) in [
            ("clip_gradient_norm", self.clip_gradient_norm),
            ("clip_each_gradient", self.clip_each_gradient),
        ] {
            // smaller ones come out as 0 in f32, which stands for a step that went wrong
            if let Some(norm) = norm.filter(|norm| !(norm.is_finite() && *norm >= 1e-10)) {
                let remedy = "must be at least 1e-10, such as 3; leave it out for no clipping";
                return Err(Error::config(format!("optimizer.{key}"), norm, remedy));
            }
        }
        for (key, factor) in [
            ("layer_decay", self.layer_decay),
            ("patch_embed_multiplier", self.patch_embed_multiplier),
        ] {
            if !(factor > 0.0 && factor <= 1.0) {
                let remedy = "must be above 0 and at most 1, which is none";
                return Err(Error::config(format!("optimizer.{key}"), factor, remedy));
            }
        }
        Ok(())
    }
}

const FIRST: &str = "first.";
const SECOND: &str = "second.";
const SUM: &str = "sum.";

/// An optimizer with what it remembers of each parameter.
#[derive(Debug)]
pub struct Optimizer<B: TrainBackend> {
    config: OptimizerConfig,
    step: usize,
    states: BTreeMap<String, State<B::InnerBackend>>,
}

impl<B: TrainBackend> Optimizer<B> {
    /// No step made yet.
    pub fn new(config: OptimizerConfig) -> Self {
        Self {
            config,
            step: 0,
            states: BTreeMap::new(),
        }
    }

    /// What is remembered of each parameter, as `first.NAME` and `second.NAME`, or `sum.NAME`; reads it from the device.
    pub fn tensors(&self) -> BTreeMap<String, NamedTensor> {
        let mut tensors = BTreeMap::new();
        for (name, state) in &self.states {
            let mut add = |kind: &str, tensor: &FloatTensor<B::InnerBackend>| {
                let tensor = to_host::<B::InnerBackend>(tensor.clone());
                tensors.insert(format!("{kind}{name}"), tensor);
            };
            match state {
                State::Moments(state) => {
                    add(FIRST, &state.first_moment);
                    add(SECOND, &state.second_moment);
                }
                State::Sum(sum) => add(SUM, sum),
            }
        }
        tensors
    }

    /// The state after `step` steps from the tensors of [`Optimizer::tensors`].
    ///
    /// # Errors
    /// The names of those that belong to another optimizer.
    pub fn restore(
        &mut self,
        step: usize,
        mut tensors: BTreeMap<String, NamedTensor>,
        device: &B::Device,
    ) -> std::result::Result<(), String> {
        let mut states = BTreeMap::new();
        let load = |tensor: &NamedTensor| to_device::<B::InnerBackend>(tensor, device);
        let is_adamw = self.config.name == OptimizerKind::AdamW;
        let main = if is_adamw { FIRST } else { SUM };
        let names: Vec<String> = tensors
            .keys()
            .filter_map(|key| Some(key.strip_prefix(main)?.to_owned()))
            .collect();
        for name in names {
            let Some(first) = tensors.remove(&format!("{main}{name}")) else {
                continue;
            };
            let state = match (is_adamw, tensors.remove(&format!("{SECOND}{name}"))) {
                (false, _) => State::Sum(load(&first)),
                (true, Some(second)) if second.shape == first.shape => State::Moments(AdamWState {
                    first_moment: load(&first),
                    second_moment: load(&second),
                }),
                (true, _) => return Err(format!("{SECOND}{name} is missing or misshapen")),
            };
            states.insert(name, state);
        }
        if let Some(name) = tensors.into_keys().next() {
            return Err(format!("{name} belongs to another optimizer"));
        }
        (self.step, self.states) = (step, states);
        Ok(())
    }

    /// What clipping by the norm of all gradients of `module` together multiplies them by, `[1]`; none without it.
    pub fn grad_scale<M: Module<B>>(
        &self,
        module: &M,
        grads: &Gradients<B>,
    ) -> Option<Tensor<B::InnerBackend, 1>> {
        let max_norm = Some(self.config.clip_gradient_norm?);
        let device = module.devices().into_iter().next()?;
        let input = GradScaleInput {
            scalars: vec![grads.squared_norm(module, &device)],
            max_norm,
            before: None,
        };
        Some(B::InnerBackend::grad_scale(input).grad_scale)
    }

    /// One step; a parameter without a gradient stays as it is, undecayed.
    ///
    /// # Shapes
    /// `grad_scale` `[1]` or none multiplies all gradients: where it is 0, nothing moves but the number of the step.
    pub fn step<M: Module<B>>(
        &mut self,
        module: M,
        grads: Gradients<B>,
        rates: &UpdateRates,
        grad_scale: Option<Tensor<B::InnerBackend, 1>>,
    ) -> M {
        self.step += 1;
        let (hollow, is_taken, taken) = Take::from(module, grads.0, &self.config, rates);
        let (mut names, mut moving) = (Vec::new(), Vec::new());
        for of_param in taken {
            let state = self.states.remove(&of_param.name);
            names.push(of_param.name.clone());
            moving.push((of_param, state));
        }
        let mut params = Vec::new();
        let moved = moved(moving, grad_scale, &self.config, self.step);
        for (name, (param, state)) in names.into_iter().zip(moved) {
            params.push(param);
            self.states.insert(name, state);
        }
        hollow.map(&mut Put::<B> {
            is_taken: is_taken.into_iter(),
            moved: params.into_iter(),
        })
    }

    /// Forgets the last steps, which moved nothing.
    pub(super) fn take_back(&mut self, steps: usize) {
        self.step -= steps;
    }

    /// For [`GradScaleInput::max_norm`].
    pub fn max_norm(&self) -> Option<f64> {
        self.config.clip_gradient_norm
    }
}

/// The scalars of one update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpdateRates {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay instead of the configuration's, where a schedule moves it.
    pub weight_decay: Option<f64>,
    /// Whether the heads' prototypes stay as they are.
    pub freeze_prototypes: bool,
}
