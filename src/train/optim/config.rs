//! Which optimizer, with which settings.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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
    /// Its rule.
    pub name: OptimizerKind,
    /// Momentum of `sgd` and `lars`.
    pub momentum: f64,
    /// Decay rates of the two moments of `adamw`.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay of matrices, decoupled in `adamw`; at the start, where `schedule.final_weight_decay` is set.
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
