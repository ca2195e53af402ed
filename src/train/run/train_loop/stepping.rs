//! One step of a run, and reading its metrics.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::backbone::TrainBackbone;
use crate::collective::all_ok;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::kernels::TrainBackend;
use crate::train::health::Health;
use crate::train::optim::Rates;
use crate::train::run::metrics::StepMetrics;
use crate::train::run::train_loop::TrainLoop;
use crate::train::trainer::StepInput;

/// The inputs of a step.
type StepArgs<B> = (StepInput<B>, Rates);

impl<B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'_, B, M> {
    /// One batch and one step; then, if a read is due, the metrics of the steps since the last read, up to the first
    /// step that diverged. On any error, the trainer is as it was after the last sound step.
    pub(super) fn one_step(&mut self) -> (Vec<StepMetrics>, Result<()>) {
        let started = Instant::now();
        let before = self.step - self.window.steps();
        let made = self.make_step();
        let made = made.and_then(|made| Ok((made, self.all_read_now()?)));
        if let Ok((_, false)) = made {
            self.window.took(started.elapsed());
            return (Vec::new(), Ok(()));
        }
        // a failed step reads too: the losses of the steps before it may hold the cause
        let (losses, sound) = self.trainer.read_losses();
        log::debug!("the losses up to step {} are read", self.step);
        // only sound steps are returned and count
        self.step = before + losses.len();
        if !losses.is_empty() {
            self.knn = None; // that of an earlier step
        }
        let looked = sound
            .and(made)
            .and_then(|((input, rates), _)| self.check_health(&input, &rates));
        self.window.took(started.elapsed());
        let batch_size = self.config.batch_size;
        let mut read = self.window.finish(&losses, batch_size, &self.setup.guard);
        let (health, sound) = match looked {
            Ok(health) => (health, Ok(())),
            Err(error) => (None, Err(error)),
        };
        if let Some((metrics, mut health)) = read.last_mut().zip(health) {
            health.loss_scale = metrics.losses.loss_scale;
            // early targets are uniform in a healthy run too
            let past_warmup = self.step > self.schedule.warmup_steps();
            if past_warmup {
                metrics.anomalies = self.monitor.observe(&health);
            }
            metrics.health = Some(health);
        }
        let sound = sound
            .and_then(|()| self.share_anomalies(read.last_mut()))
            .and_then(|()| self.follow_rank_0());
        (read, sound)
    }

    /// One batch and one step without reading its losses; returns its inputs.
    fn make_step(&mut self) -> Result<StepArgs<B>> {
        let input = self.next_input();
        // a rank without a batch is known to all before they wait for its part of the step
        let (input, data_wait_s) = all_ok(self.ranks(), input)?;
        log::debug!("step {} begins", self.step + 1);
        let weight_decay = self.config.optimizer.weight_decay;
        let method = &self.config.method;
        let mut rates = self.schedule.rates(method, weight_decay, self.step);
        rates.learning_rate *= self.learning_rate_factor; // of the rollbacks so far
        let advanced = self.trainer.advance(&input, &rates);
        advanced.map_err(|error| self.parted(error))?;
        self.step += 1;
        self.window.add(self.step, rates, data_wait_s);
        self.upload_ahead();
        Ok((input, rates))
    }

    /// The batch of the next step on the device, and the seconds of the wait for its images.
    fn next_input(&mut self) -> Result<(StepInput<B>, f64)> {
        if self.setup.stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        if let Some(ahead) = self.ahead.take() {
            return Ok((ahead?, 0.0));
        }
        let started = Instant::now();
        let batch = self.loader.next_batch_until(self.setup.stop)?;
        let data_wait_s = started.elapsed().as_secs_f64();
        Ok((self.upload(batch), data_wait_s))
    }

    /// Sends the batch of the next step to the device, if the loader has it: behind the launches of this step, which a GPU
    /// still works on, and before anything is read from it, which waits for them.
    fn upload_ahead(&mut self) {
        // who splits a batch has no memory for another one
        let has_room = self.config.micro_batch_size.is_none();
        if has_room && self.step < self.schedule.steps {
            let batch = self.loader.next_if_ready().transpose();
            // an error is that of the next step: this one was sound
            self.ahead = batch.map(|batch| batch.map(|batch| self.upload(batch)));
        }
    }

    fn upload(&self, batch: Batch) -> StepInput<B> {
        let Batch { epoch, index, .. } = batch;
        log::debug!("batch {index} of epoch {epoch} is sent to the device");
        StepInput::upload(batch, &self.config.augment, self.trainer.device())
    }

    /// Whether metrics are read after this step: at the end of their interval, and before anything about the run is
    /// written or reported.
    pub(super) fn reads_now(&self) -> bool {
        let ends_epoch = self.step.is_multiple_of(self.schedule.steps_per_epoch);
        self.window.is_over(self.config.metrics_every)
            || self.is_health_check_due()
            || ends_epoch
            || self.step == self.schedule.steps
            || self.due.is_due(self.step)
            || self.setup.stop.load(Ordering::Relaxed)
    }

    pub(super) fn is_health_check_due(&self) -> bool {
        let every = self.config.health_every;
        every > 0 && self.step.is_multiple_of(every)
    }

    /// The run's health, at the steps that check it; rank 0 does it for all.
    fn check_health(&self, input: &StepInput<B>, rates: &Rates) -> Result<Option<Health>> {
        if !self.is_health_check_due() {
            return Ok(None);
        }
        let check = || {
            let stats = self.trainer.health_stats(input, rates)?;
            Health::read(stats, &self.setup.guard, self.trainer.device())
        };
        let health = self.is_first().then(check).transpose();
        all_ok(self.ranks(), health)
    }
}
