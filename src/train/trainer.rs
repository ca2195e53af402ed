//! One training step: forward, backward, optimizer, teacher.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};
use serde::Serialize;

use super::{Gradients, Optimizer, OptimizerConfig, Rates, UpdateRates};
use crate::backbone::TrainBackbone;
use crate::config::IbotConfig;
use crate::data::{AugmentConfig, Batch};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::ibot::{Ibot, IbotInput, IbotOutput, Probe};
use crate::kernels::TrainBackend;
use crate::random::{Random, Stream};

/// The method and its optimizer.
#[derive(Debug)]
pub struct Trainer<B: TrainBackend, M: TrainBackbone<B>> {
    /// Student, teacher and center.
    pub method: Ibot<B, M>,
    /// Moments of the student's parameters.
    pub optimizer: Optimizer<B>,
    /// Seed of what training drops.
    pub seed: u64,
    /// Most pictures that the student sees at once; a larger batch is cut into parts, whose gradients add up to those of
    /// the whole. None for no bound.
    pub most_at_once: Option<usize>,
    pub(super) steps: u64,
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

impl<B: AutodiffBackend> StepInput<B> {
    /// A batch on the device.
    pub fn upload(batch: Batch, augment: &AugmentConfig, device: &B::Device) -> Self {
        let images = batch.samples.len();
        let mut views = batch.views.into_iter();
        let mut take = |count: usize, side: usize| {
            let shape = [images, 3, side, side];
            let views = views.by_ref().take(count);
            views
                .map(|view| Tensor::from_data(TensorData::new(view, shape), device))
                .collect()
        };
        Self {
            global_views: take(augment.global_views, augment.image_size),
            local_views: take(augment.local_views, augment.local_size),
            masks: batch.masks,
        }
    }

    /// The batch in parts of at most so many pictures, as equal as can be, each with the number of its first picture.
    fn parts(&self, most: Option<usize>) -> Vec<(u64, Self)> {
        let batch = self.global_views.first().map_or(0, |view| view.dims()[0]);
        let count = batch.div_ceil(most.unwrap_or(batch).max(1)).max(1);
        if count == 1 {
            return vec![(0, self.clone())];
        }
        let patches = self.masks.len() / (self.global_views.len() * batch);
        let part = |at: usize| {
            let (start, end) = (at * batch / count, (at + 1) * batch / count);
            let cut = |views: &[Tensor<B::InnerBackend, 4>]| {
                let views = views.iter().cloned();
                views
                    .map(|view| view.narrow(0, start, end - start))
                    .collect()
            };
            let of_view = self.masks.chunks(batch * patches);
            let part = Self {
                global_views: cut(&self.global_views),
                local_views: cut(&self.local_views),
                masks: of_view
                    .flat_map(|view| view[start * patches..end * patches].iter().copied())
                    .collect(),
            };
            (start as u64, part)
        };
        (0..count).map(part).collect()
    }

    /// A generator for each image of each view, view by view; the first picture is number `first` of its batch.
    fn generators(&self, seed: u64, step: u64, first: u64) -> Vec<Random> {
        let views = self.global_views.iter().chain(&self.local_views).zip(0..);
        let of_view = |(view, number): (&Tensor<B::InnerBackend, 4>, u32)| {
            let pictures = first..first + view.dims()[0] as u64;
            pictures.map(move |at| Random::new(seed, step, at, Stream::DropPath(number)))
        };
        views.flat_map(of_view).collect()
    }
}

/// Most pictures that a probe looks at.
const PROBED: usize = 16;

/// The losses of a part or of several, on the device.
struct Scalars<B: Backend> {
    loss: Tensor<B, 1>,
    loss_cls: Tensor<B, 1>,
    loss_patch: Tensor<B, 1>,
    loss_visible: Option<Tensor<B, 1>>,
    loss_koleo: Option<Tensor<B, 1>>,
}

impl<B: Backend> Scalars<B> {
    fn of<A: AutodiffBackend<InnerBackend = B>>(output: IbotOutput<A>) -> Self {
        Self {
            loss: output.loss.inner(),
            loss_cls: output.loss_cls,
            loss_patch: output.loss_patch,
            loss_visible: output.loss_visible,
            loss_koleo: output.loss_koleo,
        }
    }

    /// With the next part: shares add up, KoLeo is the whole batch's in each part.
    fn plus(self, next: Self, config: &IbotConfig) -> Self {
        let twice = next
            .loss_koleo
            .clone()
            .map(|koleo| koleo * config.koleo_weight);
        let loss = self.loss + next.loss;
        let visible = self.loss_visible.zip(next.loss_visible);
        Self {
            loss: match twice {
                Some(koleo) => loss - koleo,
                None => loss,
            },
            loss_cls: self.loss_cls + next.loss_cls,
            loss_patch: self.loss_patch + next.loss_patch,
            loss_visible: visible.map(|(before, next)| before + next),
            loss_koleo: next.loss_koleo,
        }
    }
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
        optimizer: OptimizerConfig,
        device: B::Device,
        guard: DeviceGuard,
    ) -> Self {
        Self {
            method,
            optimizer: Optimizer::new(optimizer),
            seed: 0,
            most_at_once: None,
            steps: 0,
            device,
            guard,
        }
    }

    /// The device that it trains on.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// One step. On an error the trainer comes back as it was: nothing moves by a loss or gradient that is not finite.
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

    /// What the first pictures of a batch show of the run's health: few, because it takes a forward of both networks.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn probe(&self, input: &StepInput<B>, rates: &Rates) -> Result<Probe<B::InnerBackend>> {
        let most = self.most_at_once.unwrap_or(PROBED).min(PROBED);
        let parts = input.parts(Some(most));
        let (first, part) = &parts[0]; // there is always one
        self.method.probe(&self.method_input(part, rates, *first))
    }

    fn method_input<'a>(
        &self,
        part: &'a StepInput<B>,
        rates: &Rates,
        first: u64,
    ) -> IbotInput<'a, B> {
        IbotInput {
            global_views: &part.global_views,
            local_views: &part.local_views,
            masks: &part.masks,
            temperature_cls: rates.temperature_teacher,
            temperature_patch: rates
                .temperature_teacher_patch
                .unwrap_or(rates.temperature_teacher),
            of_images: part.generators(self.seed, self.steps, first),
        }
    }

    fn differentiate(
        &mut self,
        input: &StepInput<B>,
        rates: &Rates,
    ) -> Result<(Gradients<B>, StepLosses)> {
        let parts = input.parts(self.most_at_once);
        let inputs = parts
            .iter()
            .map(|(first, part)| self.method_input(part, rates, *first));
        let inputs: Vec<IbotInput<'_, B>> = inputs.collect();
        let targets = self.method.targets(&inputs)?;
        let mut whole: Option<(Gradients<B>, Scalars<B::InnerBackend>)> = None;
        for (index, input) in inputs.into_iter().enumerate() {
            let output = self.method.losses(input, &targets, index)?;
            let grads = Gradients::of(&output.loss);
            let scalars = Scalars::of(output);
            whole = Some(match whole {
                None => (grads, scalars),
                Some((before, sums)) => (
                    before.plus(grads, &self.method.student),
                    sums.plus(scalars, self.method.config()),
                ),
            });
        }
        let (grads, scalars) =
            whole.ok_or_else(|| Error::Training("a batch without a picture".into()))?;
        let losses = self.read(scalars, &grads)?;
        match losses.non_finite() {
            None => {
                self.method.update_centers(&targets);
                Ok((grads, losses))
            }
            Some((term, value)) => Err(Error::Training(format!(
                "{term} is {value}: a lower schedule.base_learning_rate or higher temperatures may help"
            ))),
        }
    }

    /// All scalars of a step in one read.
    fn read(&self, found: Scalars<B::InnerBackend>, grads: &Gradients<B>) -> Result<StepLosses> {
        let squared_norm = grads.squared_norm(&self.method.student, &self.device);
        let mut scalars = vec![found.loss, found.loss_cls, found.loss_patch, squared_norm];
        let (has_visible, has_koleo) = (found.loss_visible.is_some(), found.loss_koleo.is_some());
        scalars.extend(found.loss_visible);
        scalars.extend(found.loss_koleo);
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
