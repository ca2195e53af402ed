//! One training step: forward, backward, optimizer, teacher.

use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;

use super::{AdamW, AdamWConfig, Gradients, Rates, UpdateRates};
use crate::backbone::TrainBackbone;
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::ibot::{Ibot, IbotInput, IbotOutput};
use crate::kernels::TrainBackend;
use crate::random::{Random, Stream};

/// The method and its optimizer.
#[derive(Debug)]
pub struct Trainer<B: TrainBackend, M: TrainBackbone<B>> {
    /// Student, teacher and center.
    pub method: Ibot<B, M>,
    /// Moments of the student's parameters.
    pub optimizer: AdamW<B>,
    /// Seed of what training drops.
    pub seed: u64,
    steps: u64,
    device: B::Device,
    guard: DeviceGuard,
}

/// Views and masks of one step, on the device.
#[derive(Debug, Clone)]
pub struct StepInput<B: AutodiffBackend> {
    /// G times `[B, 3, S, S]`.
    pub global_views: Vec<Tensor<B::InnerBackend, 4>>,
    /// L times `[B, 3, s, s]`, for the student alone; may be empty.
    pub local_views: Vec<Tensor<B::InnerBackend, 4>>,
    /// `[G B, N]`, view by view, true where the student does not see.
    pub masks: Vec<bool>,
}

/// What a step measured, on the host.
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

impl<B: TrainBackend, M: TrainBackbone<B>> Trainer<B, M> {
    /// A trainer that has made no step.
    pub fn new(
        method: Ibot<B, M>,
        optimizer: AdamWConfig,
        device: B::Device,
        guard: DeviceGuard,
    ) -> Self {
        Self {
            method,
            optimizer: AdamW::new(optimizer),
            seed: 0,
            steps: 0,
            device,
            guard,
        }
    }

    /// The device that it trains on.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// One step. On an error the trainer comes back as it was, but for the center: neither weights nor moments move
    /// by a loss or gradient that is not finite.
    ///
    /// # Errors
    /// [`Error::Training`] that names the term which is not finite, or input that does not fit; [`Error::Device`]
    /// where the device failed.
    pub fn step(mut self, input: &StepInput<B>, rates: &Rates) -> (Self, Result<StepLosses>) {
        let (grads, losses) = match self.differentiate(input, rates) {
            Ok(found) => found,
            Err(error) => return (self, Err(error)),
        };
        self.method.student = self.optimizer.step(
            self.method.student,
            grads,
            &UpdateRates {
                learning_rate: rates.learning_rate,
                gradient_norm: f64::from(losses.gradient_norm),
                weight_decay: rates.weight_decay,
                freeze_prototypes: rates.freeze_prototypes,
            },
        );
        self.steps += 1;
        self.method = self.method.update_teacher(rates.ema_decay);
        (self, Ok(losses))
    }

    fn differentiate(
        &mut self,
        input: &StepInput<B>,
        rates: &Rates,
    ) -> Result<(Gradients<B>, StepLosses)> {
        let output = self.method.forward_crops(IbotInput {
            global_views: &input.global_views,
            local_views: &input.local_views,
            masks: &input.masks,
            temperature_cls: rates.temperature_teacher,
            temperature_patch: rates
                .temperature_teacher_patch
                .unwrap_or(rates.temperature_teacher),
            random: Random::new(self.seed, self.steps, 0, Stream::DropPath),
        })?;
        let grads = Gradients::of(&output.loss);
        let losses = self.read(output, &grads)?;
        match losses.non_finite() {
            None => Ok((grads, losses)),
            Some((term, value)) => Err(Error::Training(format!(
                "{term} is {value}: a lower schedule.base_learning_rate or higher temperatures may help"
            ))),
        }
    }

    /// All scalars of a step in one read.
    fn read(&self, output: IbotOutput<B>, grads: &Gradients<B>) -> Result<StepLosses> {
        let squared_norm = grads.squared_norm(&self.method.student, &self.device);
        let mut scalars = vec![
            output.loss.inner(),
            output.loss_cls,
            output.loss_patch,
            squared_norm,
        ];
        let (has_visible, has_koleo) = (output.loss_visible.is_some(), output.loss_koleo.is_some());
        scalars.extend(output.loss_visible);
        scalars.extend(output.loss_koleo);
        let count = scalars.len();
        let scalars = Tensor::cat(scalars, 0);
        let data = self
            .guard
            .read::<B::InnerBackend, _>(&self.device, || scalars.into_data())?;
        let mut values = data.iter::<f32>();
        let mut next = || {
            let missing = || Error::Device(format!("{count} scalars expected, fewer read"));
            values.next().ok_or_else(missing)
        };
        let [loss, loss_cls, loss_patch, squared_norm] = [next()?, next()?, next()?, next()?];
        let loss_visible = has_visible.then(&mut next).transpose()?;
        let loss_koleo = has_koleo.then(&mut next).transpose()?;
        Ok(StepLosses {
            loss,
            loss_cls,
            loss_patch,
            loss_visible,
            loss_koleo,
            gradient_norm: squared_norm.sqrt(),
        })
    }
}
