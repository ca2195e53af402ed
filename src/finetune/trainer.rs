//! One step: forward, backward, optimizer.

use burn::tensor::Tensor;

use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::finetune::classifier::Classifier;
use crate::finetune::config::{FinetuneConfig, LOWER_RATE};
use crate::finetune::loss_scale::HostLossScale;
use crate::finetune::score::Score;
use crate::kernels::TrainBackend;
use crate::method::losses::label_loss;
use crate::ownership::take;
use crate::random::{Random, Stream};
use crate::train::{Gradients, Optimizer, UpdateRates, on_new_nodes};

/// A classifier and its optimizer.
#[derive(Debug)]
pub struct ClassifierTrainer<B: TrainBackend> {
    /// What is trained.
    pub classifier: Classifier<B>,
    optimizer: Optimizer<B>,
    config: FinetuneConfig,
    steps: usize,
    /// Of the next step; none but in f16.
    loss_scale: Option<HostLossScale>,
    device: B::Device,
    guard: DeviceGuard,
}

/// The metrics of a step, on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierStep {
    /// Mean cross-entropy of the batch against smoothed labels.
    pub loss: f32,
    /// Norm of all gradients together; 0 in a step that is skipped.
    pub gradient_norm: f32,
    /// Whether gradients overflowed f16, so that nothing moves; the next step has half the loss scale.
    pub is_skipped: bool,
    /// Pictures of the batch.
    pub pictures: usize,
    /// How many of them had their class as the first guess, before the step.
    pub correct: usize,
}

impl<B: TrainBackend> ClassifierTrainer<B> {
    /// A trainer before its first step.
    pub fn new(
        classifier: Classifier<B>,
        config: &FinetuneConfig,
        device: B::Device,
        guard: DeviceGuard,
    ) -> Self {
        Self {
            classifier,
            optimizer: Optimizer::new(config.optimizer()),
            config: config.clone(),
            steps: 0,
            loss_scale: HostLossScale::first(config.precision),
            device,
            guard,
        }
    }

    /// Steps made.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The device that it trains on.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// One step. On an error the trainer is unchanged: a loss or gradient that is not finite updates nothing.
    ///
    /// # Shapes
    /// `images` `[B, 3, H, W]`, `labels` `[B]`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] that names the term; [`Error::Device`] where the device failed.
    pub fn step(
        &mut self,
        images: Tensor<B::InnerBackend, 4>,
        labels: &[usize],
        learning_rate: f64,
    ) -> Result<ClassifierStep> {
        // a step that was not finite, or a user's own backward pass, left the parameters unchanged
        (self.classifier, _) = on_new_nodes(take(&mut self.classifier), None);
        let (gradients, measured) = self.differentiate(images, labels)?;
        let rates = UpdateRates {
            learning_rate,
            ..UpdateRates::default()
        };
        self.steps += 1;
        let used = self.loss_scale;
        self.loss_scale = used.map(|scale| scale.next(measured.is_skipped));
        if measured.is_skipped {
            return Ok(measured);
        }
        let inverse = |used: HostLossScale| Tensor::from_floats([used.scale.recip()], &self.device);
        let grad_scale = used.map(inverse);
        let classifier = take(&mut self.classifier);
        self.classifier = self
            .optimizer
            .step(classifier, gradients, &rates, grad_scale);
        Ok(measured)
    }

    /// Gradients of a batch, in f16 those of the scaled loss, and what it measured; see [`ClassifierTrainer::step`].
    ///
    /// # Errors
    /// As [`ClassifierTrainer::step`].
    pub fn differentiate(
        &self,
        images: Tensor<B::InnerBackend, 4>,
        labels: &[usize],
    ) -> Result<(Gradients<B>, ClassifierStep)> {
        let images = Tensor::from_inner(images);
        let mut generators = self.generators(labels.len());
        let forward = || self.classifier.training_logits(images, &mut generators);
        let logits = self.config.precision.autocast(forward);
        let loss = label_loss(logits.clone(), labels, self.config.label_smoothing);
        let gradients = Gradients::backward(&match self.loss_scale {
            Some(used) => loss.clone() * used.scale,
            None => loss.clone(),
        });
        let squared_norm = gradients.squared_norm(&self.classifier, &self.device);
        let [batch, classes] = logits.dims();
        // loss, norm and hits in one read, because each read waits for the device
        let logits = logits.inner().reshape([batch * classes]);
        let wanted = Tensor::cat(vec![loss.inner(), squared_norm, logits], 0);
        let data = self
            .guard
            .read::<B::InnerBackend, _>(&self.device, || wanted.into_data())?;
        let values: Vec<f32> = data.iter::<f32>().collect();
        let [loss, squared_norm, logits @ ..] = values.as_slice() else {
            let reason = format!(
                "{} numbers read where loss and norm were expected",
                values.len()
            );
            return Err(Error::Device(reason));
        };
        let overflows = self.loss_scale.is_some_and(HostLossScale::can_fall);
        let is_skipped = overflows && loss.is_finite() && !squared_norm.is_finite();
        let scale = self.loss_scale.map_or(1.0, |used| used.scale);
        let measured = ClassifierStep {
            loss: *loss,
            gradient_norm: match is_skipped {
                true => 0.0,
                false => squared_norm.sqrt() / scale,
            },
            is_skipped,
            pictures: batch,
            correct: Score::from_logits(logits, labels).first,
        };
        for (term, value) in [
            ("loss", measured.loss),
            ("gradient_norm", measured.gradient_norm),
        ] {
            if !value.is_finite() {
                return Err(Error::not_finite(format!("{term} is {value}"), LOWER_RATE));
            }
        }
        Ok((gradients, measured))
    }

    /// One generator an image for what this step drops; none where nothing is dropped.
    fn generators(&self, images: usize) -> Vec<Random> {
        if self.config.drop_path() == 0.0 {
            return Vec::new();
        }
        let of_image = |at: usize| {
            let (seed, step) = (self.config.seed, self.steps as u64);
            Random::new(seed, step, at as u64, Stream::DropPath(0))
        };
        (0..images).map(of_image).collect()
    }
}
