//! The losses of a step: on the device first, on the host once they are read.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::kernels::{GradScale, GradScaleInput, IbotBackend};
use crate::method::{IbotConfig, LossTerms};

/// The scale of the gradients of a whole batch, and the row of scalars that [`Unread::losses`] reads; `before` is
/// the scale of the step before.
pub(super) fn grad_scale<B: IbotBackend>(
    terms: LossTerms<B>,
    config: &IbotConfig,
    squared_norm: Tensor<B, 1>,
    max_norm: Option<f64>,
    before: Option<Tensor<B, 1>>,
) -> (Tensor<B, 1>, Unread<B>) {
    let has_visible = terms.visible.is_some();
    let has_koleo = terms.koleo.is_some();
    // all terms, and not only their sum, so that an error can name the one that is not finite;
    // the order is that of `Unread::losses`
    let mut scalars = vec![terms.weighted(config), terms.cls, terms.patch];
    scalars.extend(terms.visible);
    scalars.extend(terms.koleo);
    scalars.push(squared_norm);
    let GradScale {
        scalars,
        grad_scale,
    } = B::grad_scale(GradScaleInput {
        scalars,
        max_norm,
        before,
    });
    let unread = Unread {
        scalars,
        has_visible,
        has_koleo,
    };
    (grad_scale, unread)
}

/// The scalars of a step in one row on the device.
#[derive(Debug)]
pub(super) struct Unread<B: Backend> {
    pub scalars: Tensor<B, 1>,
    has_visible: bool,
    has_koleo: bool,
}

impl<B: Backend> Unread<B> {
    /// The step's losses, from `values` that start with its row.
    pub fn losses(&self, values: &mut impl Iterator<Item = f32>) -> Result<StepLosses> {
        let mut next = || {
            let missing = || Error::Device("a step has fewer scalars than expected".into());
            values.next().ok_or_else(missing)
        };
        Ok(StepLosses {
            loss: next()?,
            loss_cls: next()?,
            loss_patch: next()?,
            loss_visible: self.has_visible.then(&mut next).transpose()?,
            loss_koleo: self.has_koleo.then(&mut next).transpose()?,
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
    /// Norm of all gradients together, before the optimizer.
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
