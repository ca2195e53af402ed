//! One training step: forward, backward, optimizer, teacher.

mod input;
mod losses;
mod parts;
mod phases;
mod reduction;
mod state;

pub use input::StepInput;
pub use losses::StepLosses;
pub(super) use parts::order_of_sums;
pub use phases::PhaseTimes;
pub use state::Tensors;
pub(super) use state::{
    BACKBONE, CENTERS, MASK_TOKEN, NETWORKS, backbones, backbones_of, load_tensors,
};
pub(crate) use state::{misfit, named_loss_scale, prefixed, stored_loss_scale, subset};

use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::backbone::TrainBackbone;
use crate::collective::{Collective, Pairwise, SingleProcess, Wire, gather_counts};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::kernels::{INITIAL_LOSS_SCALE, LossScale, TrainBackend};
use crate::method::{BatchTargets, HealthStats, Ibot, IbotInput, LossTerms};
use crate::ownership::take;
use crate::precision::Precision;
use crate::train::optim::{
    GradientExchange, Gradients, Optimizer, OptimizerConfig, OrderedGradients, Overlap, Rates,
    ReducedGrads, on_new_nodes,
};
use crate::train::trainer::losses::{Measured, Unread, decide, rows};
use crate::train::trainer::parts::ranges_of_parts;
use crate::train::trainer::phases::{Phase, PhaseClock};
use crate::train::trainer::reduction::all_reduce;

/// How a method is trained.
#[derive(Debug, Clone)]
pub struct TrainerConfig {
    /// AdamW by default.
    pub optimizer: OptimizerConfig,
    /// Seed of drop path, 0 by default.
    pub seed: u64,
    /// Maximum number of images in one forward pass of the student; a larger batch is split, and gradients add up to
    /// those of the whole batch. None, the default, for no bound.
    pub micro_batch_size: Option<usize>,
    /// Number format of matrix products and tokens, f32 by default; [`IbotBackend::check_precision`](crate::kernels::IbotBackend::check_precision)
    /// says whether the device has them.
    pub precision: Precision,
    /// The ranks that have parts of each batch, [`SingleProcess`] by default. All of them make the same steps with the same rates;
    /// batches are shares of one, in the order of the ranks, and none is empty.
    pub collective: Arc<dyn Collective>,
    /// Number format in which ranks exchange gradients, f32 by default.
    pub wire: Wire,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerConfig::default(),
            seed: 0,
            micro_batch_size: None,
            precision: Precision::default(),
            collective: Arc::new(SingleProcess),
            wire: Wire::default(),
        }
    }
}

impl TrainerConfig {
    /// A trainer before its first step.
    pub fn init<B: TrainBackend, M: TrainBackbone<B>>(
        self,
        method: Ibot<B, M>,
        device: B::Device,
        guard: DeviceGuard,
    ) -> Trainer<B, M> {
        Trainer {
            method,
            optimizer: Optimizer::new(self.optimizer),
            seed: self.seed,
            micro_batch_size: self.micro_batch_size,
            precision: self.precision,
            exchange: GradientExchange {
                collective: self.collective,
                wire: self.wire,
                guard,
            },
            loss_scale: LossScale::initial(self.precision, &device),
            pending: Vec::new(),
            grad_scale: None,
            clock: None,
            device,
        }
    }
}

/// The method and its optimizer.
#[derive(Debug)]
pub struct Trainer<B: TrainBackend, M: TrainBackbone<B>> {
    /// Student, teacher and center.
    pub method: Ibot<B, M>,
    /// Moments of the student's parameters.
    pub optimizer: Optimizer<B>,
    seed: u64,
    micro_batch_size: Option<usize>,
    precision: Precision,
    exchange: GradientExchange,
    /// Of the next step; none where gradients cannot vanish.
    loss_scale: Option<LossScale<B::InnerBackend>>,
    /// Steps since the last read, counted as if all were sound.
    pending: Vec<PendingStep<B::InnerBackend>>,
    /// Gradient scale of the last step, `[1]`: 0 from the first step on that diverged.
    grad_scale: Option<Tensor<B::InnerBackend, 1>>,
    /// Times of the phases, if steps are timed.
    clock: Option<PhaseClock>,
    device: B::Device,
}

/// Least and greatest number of images that a health check looks at, if the batch has them: one alone cannot show a collapse.
const IMAGES_CHECKED: [usize; 2] = [2, 16];

/// A step whose losses have not been read.
#[derive(Debug)]
struct PendingStep<B: Backend> {
    unread: Unread<B>,
    /// Whether the centers of class tokens and patches had a value before it.
    had_centers: [bool; 2],
    /// The loss scale that it ran with.
    loss_scale: Option<LossScale<B>>,
}

/// Gradients, targets and losses of a batch.
type Differentiated<B> = (
    Gradients<B>,
    BatchTargets<B>,
    LossTerms<<B as AutodiffBackend>::InnerBackend>,
);

impl<B: TrainBackend, M: TrainBackbone<B>> Trainer<B, M> {
    /// The device that it trains on.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// One step. On an error the trainer is unchanged: a loss or gradient that is not finite updates nothing.
    ///
    /// # Errors
    /// [`Error::NotFinite`] that names the term, [`Error::Training`] for input that does not fit, [`Error::Device`] if
    /// the device failed.
    pub fn step(&mut self, input: &StepInput<B>, rates: &Rates) -> Result<StepLosses> {
        let made = self.advance(input, rates);
        let (mut losses, sound) = self.read_losses();
        sound.and(made)?;
        let missing = || Error::Training("a step has no losses".into());
        losses.pop().ok_or_else(missing)
    }

    /// One step, without a read from the device; [`Trainer::read_losses`] later returns whether it was sound. A loss or
    /// gradient that is not finite updates nothing, and neither does any step after it until then.
    ///
    /// # Errors
    /// Input that does not fit; the trainer is unchanged.
    pub fn advance(&mut self, input: &StepInput<B>, rates: &Rates) -> Result<()> {
        // everything that can be refused is refused here, before anything is updated
        let (grads, targets, terms) = self.differentiate(input, rates)?;
        let squared_norm = grads.squared_norm(&self.method.student, &self.device);
        let measured = Measured {
            terms,
            squared_norm,
            loss_scale: self.loss_scale.clone(),
        };
        let max_norm = self.optimizer.max_norm();
        let before = self.grad_scale.take();
        // decided on the device: reading the losses here would stall it in each step
        let decided = decide(measured, self.method.config(), max_norm, before);
        let scale = decided.grad_scale;
        let centers = [&self.method.center, &self.method.patch_center];
        self.pending.push(PendingStep {
            unread: decided.unread,
            loss_scale: std::mem::replace(&mut self.loss_scale, decided.loss_scale),
            // a center's first update cannot be gated by the scale: `take_back` unsets it instead
            had_centers: centers.map(|center| center.value().is_some()),
        });
        // moved out, not cloned: only a sole owner of the tensors updates in place
        let student = take(&mut self.method.student);
        self.method.student =
            self.optimizer
                .step(student, grads, &rates.of_optimizer(), Some(scale.clone()));
        self.passed(Phase::Optimizer);
        // after the losses: DINO centers a batch by the batches before it
        self.method.update_centers(&targets, Some(&scale));
        drop(targets); // may share the teacher's prototypes, which can be updated in place only by a sole owner
        // after the optimizer, as in the paper's Algorithm 1: the teacher averages the updated student
        let (decay, scale) = (rates.ema_decay, Some(scale));
        if rates.freeze_backbone {
            // the average of two equal numbers may round to another one
            self.method.update_teacher_heads(decay, scale);
        } else {
            self.method.update_teacher(decay, scale);
        }
        self.passed(Phase::Ema);
        // the next step gets it: after a step that diverged, all scales are 0 until `read_losses` reports it
        self.grad_scale = Some(decided.next_before);
        Ok(())
    }

    /// [`Trainer::advance`] with a wait for the device after each phase, and how long each took.
    ///
    /// # Errors
    /// As [`Trainer::advance`]; [`Error::Device`] where the device failed.
    pub fn advance_timed(&mut self, input: &StepInput<B>, rates: &Rates) -> Result<PhaseTimes> {
        self.clock = Some(PhaseClock::start());
        let made = self.advance(input, rates);
        let clock = self.clock.take();
        made?;
        let untimed = || Error::Training("no phase was timed".into());
        clock.ok_or_else(untimed)?.times()
    }

    fn passed(&mut self, phase: Phase) {
        if let Some(clock) = &mut self.clock {
            clock.passed(phase, self.exchange.guard.check_sync::<B>(&self.device));
        }
    }

    /// The losses of the steps since the last read, in one transfer. On [`Error::NotFinite`] the trainer is as it was after
    /// the last of the returned steps.
    ///
    /// # Errors
    /// [`Error::NotFinite`] that names the term, of the step after the returned ones;
    /// [`Error::Device`] if the device failed.
    pub fn read_losses(&mut self) -> (Vec<StepLosses>, Result<()>) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return (Vec::new(), Ok(()));
        }
        // one transfer for all steps, because each waits for the device
        let rows = || rows(pending.iter().map(|step| &step.unread));
        let data = match self
            .exchange
            .guard
            .read::<B::InnerBackend, _>(&self.device, rows)
        {
            Ok(data) => data,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let mut values = data.iter::<f32>();
        let mut sound = Vec::with_capacity(pending.len());
        for step in &pending {
            let losses = match step.unread.losses(&mut values) {
                Ok(losses) => losses,
                Err(error) => return (sound, Err(error)),
            };
            if let Some((term, value)) = losses.non_finite() {
                // this step and all later ones ran with a scale of 0
                self.take_back(pending.len() - sound.len(), step);
                let error = Error::not_finite(
                    format!("{term} is {value}"),
                    "a lower schedule.base_learning_rate or higher temperatures may help",
                );
                return (sound, Err(error));
            }
            sound.push(losses);
        }
        (sound, Ok(()))
    }

    /// Takes back the last steps, from `first` on, which changed nothing but a center that had no value, and the loss scale.
    fn take_back(&mut self, steps: usize, first: &PendingStep<B::InnerBackend>) {
        self.optimizer.take_back(steps);
        self.grad_scale = None;
        self.loss_scale.clone_from(&first.loss_scale);
        let centers = [&mut self.method.center, &mut self.method.patch_center];
        for (center, had_value) in centers.into_iter().zip(first.had_centers) {
            if !had_value {
                center.set(None);
            }
        }
    }

    /// To be called after tensors were replaced: forgets unread losses, and sets the loss scale.
    pub(super) fn set_loss_scale(&mut self, loss_scale: Option<[f32; 2]>) {
        self.pending.clear();
        self.grad_scale = None;
        // of f16 alone: another precision goes on without, and f16 after another one begins with the first
        if self.loss_scale.is_some() {
            let state = loss_scale.unwrap_or([INITIAL_LOSS_SCALE, 0.0]);
            self.loss_scale = Some(LossScale::of(state, &self.device));
        }
    }

    /// Health statistics of the first images of a batch: few, because they take a forward pass of both networks.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn health_stats(
        &self,
        input: &StepInput<B>,
        rates: &Rates,
    ) -> Result<HealthStats<B::InnerBackend>> {
        // the least has room where one image has: nothing is kept for a backward pass
        let [least, most] = IMAGES_CHECKED;
        let most = self.micro_batch_size.unwrap_or(most).clamp(least, most);
        let first = input.cut(0..most.min(input.images()));
        let input = self.method_input(first, rates, 0);
        self.precision.autocast(|| self.method.health_stats(&input))
    }

    fn method_input(&self, part: StepInput<B>, rates: &Rates, first: u64) -> IbotInput<B> {
        let step = self.optimizer.steps() as u64;
        IbotInput {
            // numbered by the whole batch, so that a batch in parts draws what it draws in one piece
            drop_path_rngs: part.generators(self.seed, step, first),
            global_views: part.global_views,
            local_views: part.local_views,
            masks: part.masks,
            temperature_cls: rates.temperature_teacher,
            temperature_patch: rates
                .temperature_teacher_patch
                .unwrap_or(rates.temperature_teacher),
            freeze_backbone: rates.freeze_backbone,
        }
    }

    /// Gradients, targets and losses of a batch; the gradients are those of the scaled loss.
    fn differentiate(&mut self, input: &StepInput<B>, rates: &Rates) -> Result<Differentiated<B>> {
        let exchange = self.exchange.clone();
        let ranks = &*exchange.collective;
        let (before, is_one_part) = self.shares(input.images())?;
        // of a batch in parts, gradients are complete after the last part alone
        let overlaps = ranks.size() > 1 && is_one_part;
        let parts = input.parts(self.micro_batch_size);
        let inputs = parts
            .into_iter()
            .map(|(first, part)| self.method_input(part, rates, before + first));
        let inputs = inputs.collect();
        let precision = self.precision;
        let targets = precision.autocast(|| self.method.prepare(inputs, ranks))?;
        // in the order of `Pairwise`, as over ranks: the same parts on more ranks have the same sums
        let (mut sums, mut terms) = (Pairwise::default(), Pairwise::default());
        let (mut last, mut early) = (None, ReducedGrads::default());
        for index in 0..targets.parts() {
            // an earlier backward pass has removed these parameters from burn's graph, see `on_new_nodes`
            self.method.student = on_new_nodes(take(&mut self.method.student));
            let overlap = overlaps.then(|| Overlap::begin(&self.method.student));
            let output = precision.autocast(|| self.method.losses(&targets, index));
            self.passed(Phase::Forward);
            // one backward pass per part frees its activations before the next part, which is what parts are for
            let scale = self.loss_scale.as_ref();
            let mut of_part = match overlap {
                None => Gradients::backward_scaled(output.loss, scale),
                Some(overlap) => {
                    let (others, sent) = overlap.backward(output.loss, scale, &exchange)?;
                    early = sent;
                    others
                }
            };
            let in_order = of_part.take_in_order(&self.method.student);
            sums.push(in_order, OrderedGradients::plus);
            terms.push(output.terms, LossTerms::plus);
            last = Some(of_part);
            self.passed(Phase::Backward);
        }
        let no_image = || Error::Training("the batch has no image".into());
        let sums = sums.finish(OrderedGradients::plus).ok_or_else(no_image)?;
        let terms = terms.finish(LossTerms::plus).ok_or_else(no_image)?;
        let mut grads = last.ok_or_else(no_image)?;
        let (sums, terms) = all_reduce(sums, terms, early, &exchange)?;
        grads.put_in_order(&self.method.student, sums);
        self.passed(Phase::Exchange);
        Ok((grads, targets, terms))
    }

    /// The number in the batch of this rank's first image of so many, and whether each rank has its share in one part.
    fn shares(&self, images: usize) -> Result<(u64, bool)> {
        let ranks = &*self.exchange.collective;
        let of_ranks = gather_counts(ranks, [images])?;
        let before = of_ranks[..ranks.rank()].iter();
        let before = before.map(|[images]| *images as u64).sum();
        let parts = |images| ranges_of_parts(images, self.micro_batch_size).len();
        let is_one_part = of_ranks.iter().all(|[images]| parts(*images) == 1);
        Ok((before, is_one_part))
    }
}
