//! One step of a run, and the reading of its metrics.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::backbone::TrainBackbone;
use crate::error::Result;
use crate::kernels::TrainBackend;
use crate::train::health::Health;
use crate::train::optim::Rates;
use crate::train::run::metrics::StepMetrics;
use crate::train::run::train_loop::TrainLoop;
use crate::train::trainer::StepInput;

/// What a step was made of.
type Made<B> = (StepInput<B>, Rates);

impl<B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'_, B, M> {
    /// One batch and one step; then, where it is time to read, the metrics of the steps since the last reading, as far as
    /// they were sound. Whatever happens, the trainer is as it was after the last sound step.
    pub(super) fn one_step(&mut self) -> (Vec<StepMetrics>, Result<()>) {
        let started = Instant::now();
        let before = self.step - self.interval.steps();
        let made = self.make_step();
        if made.is_ok() && !self.reads_now() {
            self.interval.took(started.elapsed());
            return (Vec::new(), Ok(()));
        }
        let (losses, sound) = self.trainer.read_losses();
        self.step = before + losses.len();
        if !losses.is_empty() {
            self.knn = None; // that of an earlier step
        }
        let looked = sound
            .and(made)
            .and_then(|(input, rates)| self.look(&input, &rates));
        self.interval.took(started.elapsed());
        let batch_size = self.config.batch_size;
        let mut read = self.interval.end(&losses, batch_size, &self.setup.guard);
        let (health, sound) = match looked {
            Ok(health) => (health, Ok(())),
            Err(error) => (None, Err(error)),
        };
        if let Some((metrics, health)) = read.last_mut().zip(health) {
            let past_warmup = self.step > self.schedule.warmup_steps();
            if past_warmup {
                metrics.sick = self.monitor.see(&health);
            }
            metrics.health = Some(health);
        }
        (read, sound)
    }

    /// One batch and one step, whose losses nobody has read; gives what it was made of.
    fn make_step(&mut self) -> Result<Made<B>> {
        let started = Instant::now();
        let batch = self.loader.next_batch_until(self.setup.stop)?;
        let data_wait_s = started.elapsed().as_secs_f64();
        log::debug!("step {} begins", self.step + 1);
        let weight_decay = self.config.optimizer.weight_decay;
        let method = &self.config.method;
        let mut rates = self.schedule.rates(method, weight_decay, self.step);
        rates.learning_rate *= self.learning_rate_factor;
        let device = self.trainer.device().clone();
        let input = StepInput::<B>::upload(batch, &self.config.augment, &device);
        self.trainer.advance(&input, &rates)?;
        self.step += 1;
        self.interval.add(self.step, rates, data_wait_s);
        Ok((input, rates))
    }

    /// Whether metrics are read after this step: at the end of their interval, and before anything that is written or
    /// said of the run.
    fn reads_now(&self) -> bool {
        let ends_epoch = self.step.is_multiple_of(self.schedule.steps_per_epoch);
        self.interval.is_over(self.config.metrics_every)
            || self.is_looked_at()
            || ends_epoch
            || self.step == self.schedule.steps
            || self.due.is_due(self.step)
            || self.setup.stop.load(Ordering::Relaxed)
    }

    fn is_looked_at(&self) -> bool {
        let every = self.config.health_every;
        every > 0 && self.step.is_multiple_of(every)
    }

    /// The run's health, at the steps that are looked at.
    fn look(&self, input: &StepInput<B>, rates: &Rates) -> Result<Option<Health>> {
        if !self.is_looked_at() {
            return Ok(None);
        }
        let probe = self.trainer.probe(input, rates)?;
        Health::read(probe, &self.setup.guard, self.trainer.device()).map(Some)
    }
}
