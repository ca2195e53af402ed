//! The losses of a step: on the device first, on the host once they are read.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::kernels::{GradScaleInput, IbotBackend, LossScale};
use crate::method::{IbotConfig, LossTerms};

/// What a step measured, on the device.
pub(super) struct Measured<B: Backend> {
    pub terms: LossTerms<B>,
    /// Sum of the squares of all gradients, `[1]`, of the scaled loss where there is a scale.
    pub squared_norm: Tensor<B, 1>,
    pub loss_scale: Option<LossScale<B>>,
}

/// What the device decided about a step: the factor of its gradients, and the loss scale of the next one.
pub(super) struct Decided<B: Backend> {
    /// What its gradients are to be multiplied by, `[1]`; where it is 0, nothing moves.
    pub grad_scale: Tensor<B, 1>,
    /// What the next step gets as `before`, `[1]`.
    pub next_before: Tensor<B, 1>,
    /// The loss scale of the next step.
    pub loss_scale: Option<LossScale<B>>,
    pub unread: Unread<B>,
}

/// The scale of the gradients of a whole batch, and the row of scalars that [`Unread::losses`] reads; `before` is
/// [`Decided::next_before`] of the step before.
pub(super) fn decide<B: IbotBackend>(
    measured: Measured<B>,
    config: &IbotConfig,
    max_norm: Option<f64>,
    before: Option<Tensor<B, 1>>,
) -> Decided<B> {
    let terms = measured.terms;
    let has_visible = terms.visible.is_some();
    let has_koleo = terms.koleo.is_some();
    // all terms, and not only their sum, so that an error can name the one that is not finite;
    // the order is that of `Unread::losses`
    let mut scalars = vec![terms.weighted(config), terms.cls, terms.patch];
    scalars.extend(terms.visible);
    scalars.extend(terms.koleo);
    let mut squared_norm = measured.squared_norm;
    let used = measured.loss_scale.map(|state| {
        let used = state.scale.clone();
        let unscaled = B::unscale(squared_norm.clone(), state);
        squared_norm = unscaled.squared_norm;
        scalars.extend([used, unscaled.factor.clone()]);
        (unscaled.factor, unscaled.next)
    });
    scalars.push(squared_norm);
    let found = B::grad_scale(GradScaleInput {
        scalars,
        max_norm,
        before,
    });
    let (factor, loss_scale) = used.unzip();
    let clipped = found.grad_scale.clone();
    Decided {
        grad_scale: match &factor {
            Some(factor) => clipped * factor.clone(),
            None => clipped,
        },
        // not times the factor: a step that is skipped does not stop those after it
        next_before: found.grad_scale,
        unread: Unread {
            scalars: found.scalars,
            has_visible,
            has_koleo,
            is_scaled: factor.is_some(),
        },
        loss_scale,
    }
}

/// The scalars of a step in one row on the device.
#[derive(Debug)]
pub(super) struct Unread<B: Backend> {
    pub scalars: Tensor<B, 1>,
    has_visible: bool,
    has_koleo: bool,
    is_scaled: bool,
}

impl<B: Backend> Unread<B> {
    /// The step's losses, from `values` that start with its row.
    pub fn losses(&self, values: &mut impl Iterator<Item = f32>) -> Result<StepLosses> {
        let mut next = || {
            let missing = || Error::Device("a step has fewer scalars than expected".into());
            values.next().ok_or_else(missing)
        };
        let (loss, loss_cls, loss_patch) = (next()?, next()?, next()?);
        let loss_visible = self.has_visible.then(&mut next).transpose()?;
        let loss_koleo = self.has_koleo.then(&mut next).transpose()?;
        let loss_scale = self.is_scaled.then(&mut next).transpose()?;
        let factor = self.is_scaled.then(&mut next).transpose()?;
        Ok(StepLosses {
            loss,
            loss_cls,
            loss_patch,
            loss_visible,
            loss_koleo,
            loss_scale,
            is_skipped: factor == Some(0.0),
            gradient_norm: next()?.sqrt(), // the device sums squares
        })
    }
}

/// The rows of several steps in one; reads it from the device.
pub(super) fn rows<'a, B: Backend>(unread: impl Iterator<Item = &'a Unread<B>>) -> TensorData {
    let rows: Vec<Tensor<B, 1>> = unread.map(|step| step.scalars.clone()).collect();
    Tensor::cat(rows, 0).into_data()
}

/// The losses of a step, on the host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepLosses {
    /// All losses by their weights.
    pub loss: f32,
    /// Cross-entropy of class tokens across views.
    pub loss_cls: f32,
    /// Cross-entropy of masked patches.
    pub loss_patch: f32,
    /// Cross-entropy of visible patches; none where its weight is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_visible: Option<f32>,
    /// KoLeo regularizer; none where its weight is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_koleo: Option<f32>,
    /// What the loss was multiplied by for its backward pass; none where gradients cannot vanish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// Whether its gradients overflowed f16, so that nothing moved; the next step has half the scale.
    #[serde(rename = "skipped", skip_serializing_if = "std::ops::Not::not")]
    pub is_skipped: bool,
    /// Norm of all gradients together, before the optimizer; 0 in a step that is skipped.
    pub gradient_norm: f32,
}

impl StepLosses {
    /// The first term that is not a finite number.
    pub fn non_finite(&self) -> Option<(&'static str, f32)> {
        [
            ("loss_cls", self.loss_cls),
            ("loss_patch", self.loss_patch),
            ("loss_visible", self.loss_visible.unwrap_or(0.0)),
            ("loss_koleo", self.loss_koleo.unwrap_or(0.0)),
            ("loss", self.loss),
            ("gradient_norm", self.gradient_norm),
        ]
        .into_iter()
        .find(|(_, value)| !value.is_finite())
    }
}
