//! AdamW over a module, with its moments under the parameters' names.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData, TensorMetadata};
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
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; a larger one is scaled down to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradient_norm: Option<f64>,
    /// Whether biases, norms and tokens decay too; the usual recipe spares them.
    pub decay_all: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.04,
            clip_gradient_norm: None,
            decay_all: false,
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
        if let Some(norm) = self
            .clip_gradient_norm
            .filter(|norm| !(norm.is_finite() && *norm > 0.0))
        {
            let remedy = "must be above 0, such as 3; leave it out for no clipping";
            return Err(Error::config("optimizer.clip_gradient_norm", norm, remedy));
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

    /// One step by gradients whose norm is known, and clipped where the configuration says so; a parameter without a
    /// gradient stays as it is, undecayed.
    pub fn step<M: Module<B>>(
        &mut self,
        module: M,
        grads: Gradients<B>,
        gradient_norm: f64,
        learning_rate: f64,
    ) -> M {
        self.step += 1;
        let gradient_scale = self.config.gradient_scale(gradient_norm);
        module.map(&mut Update {
            path: ParamPath::default(),
            optimizer: self,
            grads: grads.0,
            gradient_scale,
            learning_rate,
        })
    }
}

/// The gradients of one backward pass.
pub struct Gradients<B: AutodiffBackend>(B::Gradients);

impl<B: TrainBackend> Gradients<B> {
    /// Runs the backward pass from a loss of shape `[1]`.
    pub fn of(loss: &Tensor<B, 1>) -> Self {
        Self(loss.backward())
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
            found: Vec<burn::tensor::ops::FloatTensor<B::InnerBackend>>,
        }
        impl<B: TrainBackend> burn::module::ModuleVisitor<B> for Collect<'_, B> {
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
    learning_rate: f64,
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
        let config = &self.optimizer.config;
        let decays = config.decay_all || decays::<D>(&name);
        let device = tensor.device();
        let grad = grad.into_primitive().tensor();
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
            learning_rate: self.learning_rate,
            weight_decay: if decays { config.weight_decay } else { 0.0 },
            betas: config.betas,
            eps: config.eps,
            step: self.optimizer.step,
        });
        self.optimizer.states.insert(name, state);
        let updated = Tensor::from_inner(wrap::<B::InnerBackend, D>(updated)).require_grad();
        Param::from_mapped_value(id, updated, mapper)
    }
}

/// Matrices and kernels decay; biases, norms, positions and tokens do not.
fn decays<const D: usize>(name: &str) -> bool {
    D >= 2 && !name.ends_with("token") && !name.ends_with("pos_embed")
}
