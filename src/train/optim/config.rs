//! Which optimizer, with which settings.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, require};

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
    /// Largest L2 norm of all gradients together; larger ones are scaled down to it. Not with `clip_each_gradient`. Default
    /// none. Source: DINOv2, 3.0 there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradient_norm: Option<f64>,
    /// Largest L2 norm of each tensor's gradient; larger ones are scaled down to it. Not with `clip_gradient_norm`. Default
    /// none. Source: `clip_grad` of the official code, 3.0 there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_each_gradient: Option<f64>,
    /// Whether positions, tokens and the lengths of prototypes decay too. Default false. Source: timm exempts them; in the
    /// official code, DINO and DINOv2 they decay.
    pub decay_tokens: bool,
    /// Whether all parameters decay, biases and norms too. Default false. Source: the official code, DINO and DINOv2 exempt these;
    /// the reference's trainer exempts none.
    pub decay_all: bool,
    /// Factor of the learning rate from each block of the backbone to the one before it; 1 for none. Default 1.0.
    /// Source: DINOv2, 0.9 there.
    pub layer_decay: f64,
    /// Further factor of the learning rate of the patch embedding. Default 1.0. Source: DINOv2, 0.2 there.
    #[serde(alias = "patch_embed_multiplier")]
    pub patch_embed_lr_mult: f64,
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
            decay_tokens: false,
            decay_all: false,
            layer_decay: 1.0,
            patch_embed_lr_mult: 1.0,
        }
    }
}

impl OptimizerConfig {
    /// Whether the numbers can work.
    ///
    /// # Errors
    /// [`crate::Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        // in f32, the number format of the update: there 0.99999999 is 1, and 1e-60 is 0
        let below_1 = |value: &f64| *value >= 0.0 && (*value as f32) < 1.0;
        let remedy = "must be from 0 to below 1, at most 0.9999999";
        let key = "optimizer.momentum";
        require(below_1(&self.momentum), key, self.momentum, remedy)?;
        let betas = format!("{:?}", self.betas);
        let is_met = self.betas.iter().all(below_1);
        require(is_met, "optimizer.betas", betas, remedy)?;
        let eps = self.eps as f32;
        // with an eps of 0, a gradient of 0 is divided by 0; GPUs may take what is not normal for 0
        let is_met = eps.is_finite() && eps >= f32::MIN_POSITIVE;
        let remedy = "must be at least 1.2e-38, the smallest normal number of f32, such as 1e-8";
        require(is_met, "optimizer.eps", self.eps, remedy)?;
        let is_met = self.weight_decay.is_finite() && self.weight_decay >= 0.0;
        let (key, remedy) = ("optimizer.weight_decay", "must be 0 or above, such as 0.04");
        require(is_met, key, self.weight_decay, remedy)?;
        for (key, norm) in [
            ("clip_gradient_norm", self.clip_gradient_norm),
            ("clip_each_gradient", self.clip_each_gradient),
        ] {
            // smaller scales round to 0 in f32, and a scale of 0 marks a step that diverged
            let is_met = norm.is_none_or(|norm| norm.is_finite() && norm >= 1e-10);
            let remedy = "must be at least 1e-10, such as 3; leave it out for no clipping";
            let (key, norm) = (format!("optimizer.{key}"), norm.unwrap_or_default());
            require(is_met, key, norm, remedy)?;
        }
        if let (Some(_), Some(each)) = (self.clip_gradient_norm, self.clip_each_gradient) {
            // the norm is that of the gradients before each is clipped, so that both together would shrink them twice
            let remedy = "cannot be combined with `optimizer.clip_gradient_norm`; give one of them";
            return Err(Error::config("optimizer.clip_each_gradient", each, remedy));
        }
        for (key, factor) in [
            ("layer_decay", self.layer_decay),
            ("patch_embed_lr_mult", self.patch_embed_lr_mult),
        ] {
            let is_met = factor > 0.0 && factor <= 1.0;
            let remedy = "must be above 0 and at most 1 (no decay)";
            require(is_met, format!("optimizer.{key}"), factor, remedy)?;
        }
        Ok(())
    }
}

/// The scalars of one update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpdateRates {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay instead of the configuration's, if a schedule changes it.
    pub weight_decay: Option<f64>,
    /// Whether the heads' prototypes are frozen.
    pub freeze_prototypes: bool,
    /// Whether the backbone is frozen.
    pub freeze_backbone: bool,
    /// Steps before this one in which the backbone was; its bias correction counts from its own first step.
    pub frozen_backbone_steps: usize,
    /// The same of the prototypes.
    pub frozen_prototype_steps: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_as_the_update_has_them() {
        let with_eps = |eps| OptimizerConfig {
            eps,
            ..OptimizerConfig::default()
        };
        for eps in [0.0, 1e-60, 1e-39, 1e39, f64::NAN] {
            let message = with_eps(eps).validate().unwrap_err().to_string();
            assert!(message.contains("optimizer.eps"), "{message}");
        }
        assert!(
            [1.2e-38, 1e-8, 1e3]
                .map(with_eps)
                .iter()
                .all(|it| it.validate().is_ok())
        );
        let with_beta = |beta| OptimizerConfig {
            betas: [0.9, beta],
            ..OptimizerConfig::default()
        };
        for beta in [-0.1, 1.0, 0.999_999_99] {
            let message = with_beta(beta).validate().unwrap_err().to_string();
            assert!(message.contains("optimizer.betas"), "{message}");
        }
        assert!(
            [0.0, 0.999_999_9]
                .map(with_beta)
                .iter()
                .all(|it| it.validate().is_ok())
        );
    }
}
