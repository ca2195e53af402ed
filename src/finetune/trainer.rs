//! One step: forward, backward, optimizer.

use std::path::Path;
use std::sync::Arc;

use burn::module::{AutodiffModule as _, Module as _};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

use crate::collective::{Collective, SingleProcess, Wire, gather_counts};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::eval::ClassifierScore;
use crate::files::{load_state_dict, state_dict};
use crate::finetune::classifier::Classifier;
use crate::finetune::config::{FinetuneConfig, LOWER_RATE};
use crate::kernels::{IbotBackend as _, LossScale, TrainBackend, Unscaled};
use crate::method::losses::label_loss;
use crate::ownership::take;
use crate::random::{Random, Stream};
use crate::train::{
    GradientExchange, Gradients, Optimizer, Overlap, Tensors, UpdateRates, misfit,
    named_loss_scale, on_new_nodes, prefixed, stored_loss_scale, subset,
};

/// What the names of the parts of [`ClassifierTrainer::tensors`] begin with.
const CLASSIFIER: &str = "classifier.";
const OPTIMIZER: &str = "optimizer.";

/// A classifier and its optimizer.
#[derive(Debug)]
pub struct ClassifierTrainer<B: TrainBackend> {
    /// What is trained.
    pub classifier: Classifier<B>,
    optimizer: Optimizer<B>,
    config: FinetuneConfig,
    /// Of the next step; none but in f16.
    loss_scale: Option<LossScale<B::InnerBackend>>,
    device: B::Device,
    exchange: GradientExchange,
}

/// The metrics of a step, on the host, of the whole batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierStep {
    /// Mean cross-entropy of the batch against smoothed labels.
    pub loss: f32,
    /// Norm of all gradients together; 0 in a step that is skipped.
    pub gradient_norm: f32,
    /// Whether gradients overflowed f16, so that nothing moves; the next step has half the loss scale.
    pub is_skipped: bool,
    /// Images of the batch.
    pub images: usize,
    /// How many of them had their class as the first guess, before the step.
    pub correct: usize,
}

/// Gradients of a batch, what it measured, and how far they move the parameters where the loss was scaled.
type Measured<B> = (
    Gradients<B>,
    ClassifierStep,
    Option<Unscaled<<B as AutodiffBackend>::InnerBackend>>,
);

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
            loss_scale: LossScale::initial(config.precision, &device),
            device,
            exchange: GradientExchange {
                collective: Arc::new(SingleProcess),
                wire: Wire::F32,
                guard,
            },
        }
    }

    /// The same as one of several ranks, each of which has a share of every batch, in the order of the ranks.
    #[must_use]
    pub fn with_collective(mut self, collective: Arc<dyn Collective>) -> Self {
        self.exchange.collective = collective;
        self
    }

    /// Steps made.
    pub fn steps(&self) -> usize {
        self.optimizer.steps()
    }

    /// The device that it trains on.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// Classifier, state of the optimizer and loss scale, to resume from; reads them from the device.
    pub fn tensors(&self) -> Tensors {
        let classifier = prefixed(CLASSIFIER, state_dict(&self.classifier.valid()));
        let optimizer = prefixed(OPTIMIZER, self.optimizer.tensors());
        let loss_scale = self.loss_scale.as_ref().map(named_loss_scale);
        classifier.chain(optimizer).chain(loss_scale).collect()
    }

    /// Restores the state after `step` steps from [`ClassifierTrainer::tensors`], which were read from `source`.
    ///
    /// # Errors
    /// [`Error::Weights`] that names what does not fit; the trainer must not be used after that.
    pub fn restore(&mut self, step: usize, tensors: &Tensors, source: &Path) -> Result<()> {
        let classifier = take(&mut self.classifier);
        let (mut classifier, report) = load_state_dict(classifier, subset(tensors, CLASSIFIER));
        if !report.is_clean() {
            return Err(misfit(source, "the classifier", report));
        }
        if self.config.freeze {
            classifier.backbone = classifier.backbone.no_grad();
        }
        self.classifier = classifier;
        self.optimizer
            .restore(step, subset(tensors, OPTIMIZER), &self.device)
            .map_err(|report| misfit(source, "the optimizer", report))?;
        let stored = stored_loss_scale(tensors, source)?;
        if let (Some(loss_scale), Some(stored)) = (&mut self.loss_scale, stored) {
            *loss_scale = LossScale::of(stored, &self.device);
        }
        Ok(())
    }

    /// One step. On an error the trainer is unchanged: a loss or gradient that is not finite updates nothing.
    ///
    /// # Shapes
    /// `images` `[B, 3, H, W]`, `labels` `[B]`: those of this rank, which may have none.
    ///
    /// # Errors
    /// [`Error::NotFinite`] that names the term; [`Error::Device`] where the device failed; as [`Collective`].
    pub fn step(
        &mut self,
        images: Tensor<B::InnerBackend, 4>,
        labels: &[usize],
        learning_rate: f64,
    ) -> Result<ClassifierStep> {
        // a step that was not finite, or a user's own backward pass, left the parameters unchanged
        self.classifier = on_new_nodes(take(&mut self.classifier));
        let (gradients, measured, unscaled) = self.measure(images, labels)?;
        let rates = UpdateRates {
            learning_rate,
            ..UpdateRates::default()
        };
        let (grad_scale, loss_scale) = unscaled.map(|found| (found.factor, found.next)).unzip();
        self.loss_scale = loss_scale;
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
        let (gradients, measured, _) = self.measure(images, labels)?;
        Ok((gradients, measured))
    }

    fn measure(&self, images: Tensor<B::InnerBackend, 4>, labels: &[usize]) -> Result<Measured<B>> {
        let ranks = &*self.exchange.collective;
        let of_ranks = gather_counts(ranks, [labels.len()])?;
        let sum = |counts: &[[usize; 1]]| counts.iter().map(|[count]| count).sum::<usize>();
        let (before, batch) = (sum(&of_ranks[..ranks.rank()]), sum(&of_ranks));
        let overlap = (ranks.size() > 1).then(|| Overlap::begin(&self.classifier));
        let (loss, logits) = self.loss(images, labels, before);
        // the mean of the whole batch is the sum of these
        let loss = match ranks.size() {
            1 => loss,
            _ => loss * (labels.len() as f64 / batch.max(1) as f64),
        };
        let scale = self.loss_scale.as_ref();
        let (gradients, loss) = match overlap {
            None => (
                Gradients::backward_scaled(loss.clone(), scale),
                loss.inner(),
            ),
            Some(overlap) => self.backward_over_ranks(overlap, loss)?,
        };
        let mut squared_norm = gradients.squared_norm(&self.classifier, &self.device);
        let mut factor = Tensor::ones([1], &self.device);
        let unscaled = self.loss_scale.clone().map(|state| {
            let found = B::InnerBackend::unscale(squared_norm.clone(), state);
            squared_norm = found.squared_norm.clone();
            factor = found.factor.clone();
            found
        });
        // loss, norm, scale and hits in one read, because each read waits for the device
        let mut wanted = vec![loss, squared_norm, factor];
        wanted.extend(logits);
        let data = self
            .exchange
            .guard
            .read::<B::InnerBackend, _>(&self.device, || Tensor::cat(wanted, 0).into_data())?;
        let values: Vec<f32> = data.iter::<f32>().collect();
        let [loss, squared_norm, factor, logits @ ..] = values.as_slice() else {
            let reason = format!(
                "{} numbers read where loss, norm and scale were expected",
                values.len()
            );
            return Err(Error::Device(reason));
        };
        let correct = ClassifierScore::from_logits(logits, labels).first;
        let measured = ClassifierStep {
            loss: *loss,
            gradient_norm: squared_norm.sqrt(),
            is_skipped: *factor == 0.0,
            images: batch,
            correct: sum(&gather_counts(ranks, [correct])?),
        };
        for (term, value) in [
            ("loss", measured.loss),
            ("gradient_norm", measured.gradient_norm),
        ] {
            if !value.is_finite() {
                return Err(Error::not_finite(format!("{term} is {value}"), LOWER_RATE));
            }
        }
        Ok((gradients, measured, unscaled))
    }

    /// The mean loss of this rank's images, which have `before` images of other ranks before them, and their logits in one row; a
    /// constant where it has none.
    fn loss(
        &self,
        images: Tensor<B::InnerBackend, 4>,
        labels: &[usize],
        before: usize,
    ) -> (Tensor<B, 1>, Option<Tensor<B::InnerBackend, 1>>) {
        if labels.is_empty() {
            return (Tensor::zeros([1], &self.device).require_grad(), None);
        }
        let mut generators = self.generators(before, labels.len());
        let images = Tensor::from_inner(images);
        let forward = || self.classifier.training_logits(images, &mut generators);
        let logits = self.config.precision.autocast(forward);
        let loss = label_loss(logits.clone(), labels, self.config.label_smoothing);
        let [batch, classes] = logits.dims();
        (loss, Some(logits.inner().reshape([batch * classes])))
    }

    /// The backward pass, with gradients and the loss summed over all ranks.
    fn backward_over_ranks(
        &self,
        overlap: Overlap<B>,
        loss: Tensor<B, 1>,
    ) -> Result<(Gradients<B>, Tensor<B::InnerBackend, 1>)> {
        let scale = self.loss_scale.as_ref();
        let (mut gradients, early) = overlap.backward(loss.clone(), scale, &self.exchange)?;
        let own = gradients.take_in_order(&self.classifier);
        let (sums, loss) = own.all_reduce(early, loss.inner(), &self.exchange)?;
        gradients.put_in_order(&self.classifier, sums);
        Ok((gradients, loss))
    }

    /// One generator an image for what this step drops, from image number `before` of the batch on; none where nothing is dropped.
    fn generators(&self, before: usize, images: usize) -> Vec<Random> {
        if self.config.drop_path() == 0.0 {
            return Vec::new();
        }
        let of_image = |at: usize| {
            let (seed, step) = (self.config.seed, self.steps() as u64);
            Random::new(seed, step, at as u64, Stream::DropPath(0))
        };
        (before..before + images).map(of_image).collect()
    }
}
