//! Whether training is healthy, measured without labels.

use std::fmt;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::method::{HealthStats, TargetStats};

/// Perplexity of the mean targets below which they count as one prototype.
const ONE_PROTOTYPE: f64 = 1.1;
/// Fraction of the largest possible entropy above which targets carry no information.
const UNIFORM: f64 = 0.99;
/// [`Health::feature_std`] below which all images look alike.
const FLAT: f64 = 0.02;
/// Magnitude of logits at which f32 no longer resolves the softmax's differences; a healthy run stays below 100.
const EXPLODING: f64 = 1e4;
/// Loss scale below which gradients are not too small for f16, but too large.
const VANISHED: f32 = 1.0;
/// Number of consecutive checks that must agree: a single batch may be odd, and a new run starts uniform.
const PERSISTENT: usize = 3;

/// The teacher's targets of one head.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TargetHealth {
    /// Mean entropy of a row's targets, in nats.
    pub entropy: f64,
    /// Prototypes that are in use: exp of the entropy of the mean targets, 1 to K.
    pub perplexity: f64,
    /// Largest magnitude of a logit.
    pub largest_logit: f64,
}

/// Health metrics of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Health {
    /// Images that were looked at.
    pub images: usize,
    /// Class tokens.
    pub cls: TargetHealth,
    /// Masked patches; none without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<TargetHealth>,
    /// Fraction of views whose most likely prototype is the same in student and teacher.
    pub agreement: f64,
    /// Scaled standard deviation of the teacher's class tokens: 0 if all images get the same feature, about 1 at most.
    pub feature_std: f64,
    /// What the loss of the last step was multiplied by; in f16 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
}

/// A problem of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anomaly {
    /// All class tokens have one prototype.
    CollapsedToOnePrototype,
    /// All masked patches have one prototype.
    PatchesCollapsedToOnePrototype,
    /// The class tokens' targets are uniform and carry no information.
    UniformTeacher,
    /// The patches' targets are uniform and carry no information.
    UniformTeacherOfPatches,
    /// All images have the same feature.
    FlatFeatures,
    /// Logits too large for f32's resolution, or not finite.
    ExplodingLogits,
    /// The loss scale of f16 fell to nothing: gradients overflow whatever it is.
    VanishedLossScale,
}

impl Anomaly {
    /// Suggested remedy.
    fn remedy(self) -> &'static str {
        match self {
            Self::CollapsedToOnePrototype | Self::PatchesCollapsedToOnePrototype => {
                "Sinkhorn targets, a lower center momentum or a higher teacher temperature may help"
            }
            Self::UniformTeacher | Self::UniformTeacherOfPatches => {
                "a lower teacher temperature, fewer prototypes or a higher learning rate may help"
            }
            Self::FlatFeatures => "method.koleo_weight or a lower learning rate may help",
            Self::ExplodingLogits => {
                "a lower learning rate or optimizer.clip_gradient_norm may help"
            }
            Self::VanishedLossScale => "a lower learning rate or `precision` f32 may help",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::CollapsedToOnePrototype => "collapsed to one prototype",
            Self::PatchesCollapsedToOnePrototype => "patches collapsed to one prototype",
            Self::UniformTeacher => "uniform teacher",
            Self::UniformTeacherOfPatches => "uniform teacher of patches",
            Self::FlatFeatures => "flat features",
            Self::ExplodingLogits => "exploding logits",
            Self::VanishedLossScale => "vanished loss scale",
        };
        write!(f, "{name}: {}", self.remedy())
    }
}

/// What to do with a run that collapses or diverges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAnomaly {
    /// Report it and continue.
    #[default]
    Warn,
    /// Write a checkpoint and stop the run.
    Stop,
    /// Go back to a checkpoint from before it, or to the start, with half the learning rate; stop the run after three
    /// rollbacks.
    Rollback,
}

impl Health {
    /// Reads statistics from the device, in one transfer.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn read<B: Backend>(
        stats: HealthStats<B>,
        guard: &DeviceGuard,
        device: &B::Device,
    ) -> Result<Self> {
        let (images, has_patches) = (stats.images, stats.patch.is_some());
        let mut scalars = vec![stats.agreement, stats.feature_std];
        for targets in [Some(stats.cls), stats.patch].into_iter().flatten() {
            let TargetStats {
                entropy,
                entropy_of_mean,
                largest_logit,
            } = targets;
            scalars.extend([entropy, entropy_of_mean, largest_logit]);
        }
        let scalars = Tensor::cat(scalars, 0);
        let data = guard.read::<B, _>(device, || scalars.into_data())?;
        let mut values = data.iter::<f64>();
        let mut next = || {
            let missing = || Error::Device("the health metrics are incomplete".into());
            values.next().ok_or_else(missing)
        };
        let (agreement, feature_std) = (next()?, next()?);
        let mut targets = || -> Result<TargetHealth> {
            Ok(TargetHealth {
                entropy: next()?,
                perplexity: next()?.exp(),
                largest_logit: next()?,
            })
        };
        Ok(Self {
            images,
            cls: targets()?,
            patch: has_patches.then(&mut targets).transpose()?,
            agreement,
            feature_std,
            loss_scale: None,
        })
    }

    /// The problems of this batch alone; `prototypes` are those of class tokens and patches.
    fn symptoms(&self, prototypes: [usize; 2]) -> Vec<Anomaly> {
        let mut found = Vec::new();
        let heads = [
            (
                Some(self.cls),
                Anomaly::CollapsedToOnePrototype,
                Anomaly::UniformTeacher,
            ),
            (
                self.patch,
                Anomaly::PatchesCollapsedToOnePrototype,
                Anomaly::UniformTeacherOfPatches,
            ),
        ];
        // all views of one image look alike: that is what is learned
        let has_others = self.images > 1;
        for ((targets, collapsed, uniform), prototypes) in heads.into_iter().zip(prototypes) {
            // a single prototype always looks collapsed
            let Some(targets) = targets.filter(|_| prototypes > 1) else {
                continue;
            };
            if targets.perplexity < ONE_PROTOTYPE && has_others {
                found.push(collapsed);
            }
            if targets.entropy > UNIFORM * (prototypes as f64).ln() {
                found.push(uniform);
            }
        }
        if self.feature_std < FLAT && has_others {
            found.push(Anomaly::FlatFeatures);
        }
        let mut heads = [Some(self.cls), self.patch].into_iter().flatten();
        // a GPU's maximum ignores NaN; the entropy does not
        if heads.any(|head| {
            !head.entropy.is_finite() || !(0.0..EXPLODING).contains(&head.largest_logit)
        }) {
            found.push(Anomaly::ExplodingLogits);
        }
        if self.loss_scale.is_some_and(|scale| scale < VANISHED) {
            found.push(Anomaly::VanishedLossScale);
        }
        found
    }
}

/// Follows the health metrics of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthMonitor {
    prototypes: [usize; 2],
    /// The problems of the last checks, and for how many checks in a row.
    seen: Vec<(Anomaly, usize)>,
}

impl HealthMonitor {
    /// Nothing seen yet; `prototypes` are those of class tokens and patches.
    pub fn new(prototypes: [usize; 2]) -> Self {
        Self {
            prototypes,
            seen: Vec::new(),
        }
    }

    /// The problems that this check and those before it confirm.
    pub fn observe(&mut self, health: &Health) -> Vec<Anomaly> {
        let now = health.symptoms(self.prototypes);
        self.seen.retain(|(anomaly, _)| now.contains(anomaly)); // a count starts over once it is interrupted
        for anomaly in now {
            match self.seen.iter_mut().find(|(seen, _)| *seen == anomaly) {
                Some((_, times)) => *times += 1,
                None => self.seen.push((anomaly, 1)),
            }
        }
        let lasting = self.seen.iter().filter(|(_, times)| *times >= PERSISTENT);
        lasting.map(|(anomaly, _)| *anomaly).collect()
    }

    /// The step of the last check without a finding, of those every `every` steps up to `step`; `step` itself where `every` is
    /// 0, for no checks.
    pub fn last_healthy(&self, step: usize, every: usize) -> usize {
        let since = step.checked_rem(every).unwrap_or(0);
        let longest = self.seen.iter().map(|(_, times)| *times).max();
        (step - since).saturating_sub(longest.unwrap_or(0) * every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: Health = Health {
        images: 16,
        cls: TargetHealth {
            entropy: 1.0,
            perplexity: 20.0,
            largest_logit: 3.0,
        },
        patch: None,
        agreement: 0.5,
        feature_std: 0.7,
        loss_scale: None,
    };

    #[test]
    fn a_verdict_needs_three_probes_in_a_row() {
        let mut monitor = HealthMonitor::new([64, 64]);
        let flat = Health {
            feature_std: 0.001,
            ..HEALTHY
        };
        for health in [flat, flat, HEALTHY, flat, flat] {
            assert_eq!(monitor.observe(&health), []);
        }
        // as a checkpoint keeps it
        let kept = serde_json::to_value(&monitor).unwrap();
        assert_eq!(
            serde_json::from_value::<HealthMonitor>(kept).unwrap(),
            monitor
        );
        assert_eq!(monitor.last_healthy(17, 3), 9); // of the checks at 3, 6, 9, 12 and 15
        assert_eq!(monitor.observe(&flat), [Anomaly::FlatFeatures]);
        assert_eq!(monitor.last_healthy(18, 3), 9);
        assert_eq!(monitor.observe(&HEALTHY), []);
        assert_eq!(
            [3, 0].map(|every| monitor.last_healthy(23, every)),
            [21, 23]
        );
    }

    #[test]
    fn one_image_is_no_collapse() {
        let alike = |images| Health {
            images,
            cls: TargetHealth {
                perplexity: 1.0,
                ..HEALTHY.cls
            },
            feature_std: 0.0,
            ..HEALTHY
        };
        assert_eq!(alike(1).symptoms([64, 64]), []);
        let collapsed = [Anomaly::CollapsedToOnePrototype, Anomaly::FlatFeatures];
        assert_eq!(alike(2).symptoms([64, 64]), collapsed);
    }

    #[test]
    fn each_anomaly_has_its_sign() {
        let of = |entropy, perplexity, largest_logit| TargetHealth {
            entropy,
            perplexity,
            largest_logit,
        };
        let symptoms = |cls, patch| {
            Health {
                cls,
                patch,
                ..HEALTHY
            }
            .symptoms([64, 32])
        };
        let fine = HEALTHY.cls;
        assert_eq!(symptoms(fine, Some(fine)), []);
        assert_eq!(
            symptoms(of(0.0, 1.0, 3.0), None),
            [Anomaly::CollapsedToOnePrototype]
        );
        assert_eq!(
            symptoms(fine, Some(of(32_f64.ln(), 32.0, 3.0))),
            [Anomaly::UniformTeacherOfPatches]
        );
        for (scale, expected) in [(1.0, vec![]), (0.5, vec![Anomaly::VanishedLossScale])] {
            let loss_scale = Some(scale);
            let scaled = Health {
                loss_scale,
                ..HEALTHY
            };
            assert_eq!(scaled.symptoms([64, 32]), expected);
        }
        for logit in [1e5, f64::NAN, f64::INFINITY] {
            let found = symptoms(of(1.0, 20.0, logit), None);
            assert_eq!(found, [Anomaly::ExplodingLogits]);
        }
    }
}
