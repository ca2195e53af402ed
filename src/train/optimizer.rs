//! AdamW over a module, with its moments under the parameters' names.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorData, TensorMetadata};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernels::{AdamWInput, AdamWState, IbotBackend, TrainBackend, wrap};
use crate::weights::{NamedTensor, ParamPath, Pick, named_tensors};

/// AdamW's constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices; at the start, where `schedule.final_weight_decay` is set.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; a larger one is scaled down to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradient_norm: Option<f64>,
    /// Largest norm of each tensor's gradient; a larger one is scaled down to it (the paper's code).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_each_gradient: Option<f64>,
    /// Whether biases, norms and tokens decay too; the usual recipe spares them.
    pub decay_all: bool,
    /// Factor of the learning rate from each block of the backbone to the one before it; 1 for none.
    pub layer_decay: f64,
    /// Further factor of the learning rate of the patch embedding.
    pub patch_embed_multiplier: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
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

impl AdamWConfig {
    /// Whether the numbers can work.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
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
            if let Some(norm) = norm.filter(|norm| !(norm.is_finite() && *norm > 0.0)) {
                let remedy = "must be above 0, such as 3; leave it out for no clipping";
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

impl AdamWConfig {
    fn gradient_scale(&self, gradient_norm: f64) -> f64 {
        match self.clip_gradient_norm {
            Some(largest) if gradient_norm > largest => largest / gradient_norm,
            _ => 1.0,
        }
    }
}

/// AdamW with the moments of each parameter.
#[derive(Debug)]
pub struct AdamW<B: TrainBackend> {
    config: AdamWConfig,
    step: usize,
    states: BTreeMap<String, AdamWState<B::InnerBackend>>,
}

impl<B: TrainBackend> AdamW<B> {
    /// No step made yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            step: 0,
            states: BTreeMap::new(),
        }
    }

    /// One step; a parameter without a gradient stays as it is, undecayed.
    pub fn step<M: Module<B>>(&mut self, module: M, grads: Gradients<B>, rates: &UpdateRates) -> M {
        self.step += 1;
        let gradient_scale = self.config.gradient_scale(rates.gradient_norm);
        let layers = Layers::of(&module, &self.config);
        module.map(&mut Update {
            path: ParamPath::default(),
            optimizer: self,
            grads: grads.0,
            gradient_scale,
            rates,
            layers,
        })
    }
}

/// The scalars of one update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpdateRates {
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of all gradients together, for `clip_gradient_norm`.
    pub gradient_norm: f64,
    /// Weight decay instead of the configuration's, where a schedule moves it.
    pub weight_decay: Option<f64>,
    /// Whether the heads' prototypes stay as they are.
    pub freeze_prototypes: bool,
}

/// What the learning rate of a parameter is multiplied by, as a function of its name.
///
/// Source: `get_vit_lr_decay_rate` in DINOv2's param_groups.py: the tokens and the patch embedding are layer 0, block i
/// is layer i + 1, norms and heads are above all blocks.
struct Layers {
    blocks: usize,
    decay: f64,
    patch_embed: f64,
}

impl Layers {
    fn of<B: Backend, M: Module<B>>(module: &M, config: &AdamWConfig) -> Self {
        struct Blocks {
            path: ParamPath,
            count: usize,
        }
        impl<B: Backend> ModuleVisitor<B> for Blocks {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.path.enter(name, container_type);
            }

            fn exit_module(&mut self, _name: &str, _container_type: &str) {
                self.path.exit();
            }

            fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<B, D>>) {
                let block = block_of(&self.path.name());
                self.count = self.count.max(block.map_or(0, |block| block + 1));
            }
        }
        let mut blocks = Blocks {
            path: ParamPath::default(),
            count: 0,
        };
        if config.layer_decay < 1.0 {
            module.visit(&mut blocks);
        }
        Self {
            blocks: blocks.count,
            decay: config.layer_decay,
            patch_embed: config.patch_embed_multiplier,
        }
    }

    fn factor(&self, name: &str) -> f64 {
        let above = self.blocks + 1;
        let is_first = [
            "_token",
            "pos_embed",
            "patch_embed.proj.weight",
            "patch_embed.proj.bias",
        ]
        .iter()
        .any(|ending| name.ends_with(ending));
        let layer = match block_of(name) {
            Some(block) => block + 1,
            None if is_first => 0,
            None => above,
        };
        let patch_embed = if name.contains("patch_embed.") {
            self.patch_embed
        } else {
            1.0
        };
        self.decay.powi((above - layer) as i32) * patch_embed
    }
}

/// Number of the block that a parameter belongs to.
fn block_of(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("blocks.")?;
    rest.split('.').next()?.parse().ok()
}

/// A gradient scaled down to norm `largest`, on the device.
fn clipped<B: IbotBackend>(
    grad: FloatTensor<B>,
    largest: f64,
    device: &B::Device,
) -> FloatTensor<B> {
    let squared = B::sum_of_squares(vec![grad.clone()], device);
    // 1e-6 as in torch.nn.utils.clip_grad_norm_
    let scale = (squared.sqrt() + 1e-6).recip() * largest;
    let scale = scale.clamp_max(1.0);
    let shape = grad.shape();
    let flat: Tensor<B, 1> = wrap(B::float_reshape(grad, Shape::new([shape.num_elements()])));
    B::float_reshape((flat * scale).into_primitive().tensor(), shape)
}

/// The gradients of one backward pass.
pub struct Gradients<B: AutodiffBackend>(B::Gradients);

impl<B: TrainBackend> Gradients<B> {
    /// Runs the backward pass from a loss of shape `[1]`.
    pub fn of(loss: &Tensor<B, 1>) -> Self {
        Self(loss.backward())
    }

    /// The sum of both, parameter by parameter of `module`.
    pub fn plus<M: Module<B>>(self, other: Self, module: &M) -> Self {
        struct Add<B: TrainBackend> {
            sum: B::Gradients,
            other: B::Gradients,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for Add<B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let tensor = param.val();
                let Some(more) = tensor.grad_remove(&mut self.other) else {
                    return;
                };
                let sum = match tensor.grad(&self.sum) {
                    Some(grad) => grad + more,
                    None => more,
                };
                tensor.grad_replace(&mut self.sum, sum);
            }
        }
        let mut add = Add::<B> {
            sum: self.0,
            other: other.0,
        };
        module.visit(&mut add);
        Self(add.sum)
    }

    /// The gradient of one parameter, if it has one.
    pub fn get<const D: usize>(&self, tensor: &Tensor<B, D>) -> Option<Tensor<B::InnerBackend, D>> {
        tensor.grad(&self.0)
    }

    /// All gradients by timm's name, in timm's layout; parameters without one are left out.
    pub fn by_name<M: Module<B>>(&self, module: &M) -> BTreeMap<String, NamedTensor> {
        named_tensors(module, self)
    }

    /// Sum of the squares of all gradients of `module`, on the device, `[1]`.
    pub fn squared_norm<M: Module<B>>(
        &self,
        module: &M,
        device: &B::Device,
    ) -> Tensor<B::InnerBackend, 1> {
        struct Collect<'a, B: TrainBackend> {
            grads: &'a Gradients<B>,
            found: Vec<FloatTensor<B::InnerBackend>>,
        }
        impl<B: TrainBackend> ModuleVisitor<B> for Collect<'_, B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let grad = self.grads.get(&param.val());
                self.found
                    .extend(grad.map(|grad| grad.into_primitive().tensor()));
            }
        }
        let mut collect = Collect {
            grads: self,
            found: Vec::new(),
        };
        module.visit(&mut collect);
        B::InnerBackend::sum_of_squares(collect.found, device)
    }
}

impl<B: TrainBackend> Pick<B> for Gradients<B> {
    fn pick<const D: usize>(&self, param: Tensor<B, D>) -> Option<TensorData> {
        self.get(&param).map(Tensor::into_data)
    }
}

struct Update<'a, B: TrainBackend> {
    path: ParamPath,
    optimizer: &'a mut AdamW<B>,
    grads: B::Gradients,
    gradient_scale: f64,
    rates: &'a UpdateRates,
    layers: Layers,
}

impl<B: TrainBackend> ModuleMapper<B> for Update<'_, B> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let Some(grad) = tensor.grad_remove(&mut self.grads) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let name = self.path.name();
        if self.rates.freeze_prototypes && is_prototype(&name) {
            return Param::from_mapped_value(id, tensor, mapper);
        }
        let config = &self.optimizer.config;
        let weight_decay = self.rates.weight_decay.unwrap_or(config.weight_decay);
        let decays = config.decay_all || decays::<D>(&name);
        let device = tensor.device();
        let mut grad = grad.into_primitive().tensor();
        if let Some(largest) = config.clip_each_gradient {
            grad = clipped::<B::InnerBackend>(grad, largest, &device);
        }
        let state = self
            .optimizer
            .states
            .remove(&name)
            .unwrap_or_else(|| AdamWState::zeros(grad.shape(), &device));
        let (updated, state) = B::InnerBackend::adamw(AdamWInput {
            param: tensor.inner().into_primitive().tensor(),
            grad,
            state,
            gradient_scale: self.gradient_scale,
            learning_rate: self.rates.learning_rate * self.layers.factor(&name),
            weight_decay: if decays { weight_decay } else { 0.0 },
            betas: config.betas,
            eps: config.eps,
            step: self.optimizer.step,
        });
        self.optimizer.states.insert(name, state);
        let updated = Tensor::from_inner(wrap::<B::InnerBackend, D>(updated)).require_grad();
        Param::from_mapped_value(id, updated, mapper)
    }
}

/// Whether a parameter belongs to the last layer of a head.
fn is_prototype(name: &str) -> bool {
    name.ends_with("prototypes.weight") || name.ends_with("prototype_length")
}

/// Matrices and kernels decay; biases, norms, positions and tokens do not.
fn decays<const D: usize>(name: &str) -> bool {
    D >= 2 && !name.ends_with("token") && !name.ends_with("pos_embed")
}
