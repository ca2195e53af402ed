//! The plan of a run, before any of it runs: what a step takes, whether the device has it, and how long all will take.
//!
//! - `network`, `sizes`: entries of each tensor, by formula from the settings
//! - `step`, with `backbone` and `heads`: a step in the order of the trainer, that counts tensors in and out of a `ledger`
//! - `device`: what is known of a memory; `memory`: what a step takes of it; `choice`: parts and checkpointing so that it fits
//! - `timing`: real steps, timed; `report`: all of it in words
//!
//! What an operation takes for itself is counted where it is as large as a layer's result. Measured peaks are within a fifth
//! (`tests/plan`).

mod backbone;
mod choice;
mod device;
mod heads;
mod ledger;
mod memory;
mod network;
mod report;
mod sizes;
mod step;
mod timing;

pub use choice::{Choosable, PlanChoice};
pub use device::{MemoryOf, PlannedDevice};
pub use ledger::{MemoryByKind, Moment};
pub use memory::{LargestTensor, StepMemory, Verdict};
pub use network::Parameters;
pub use timing::StepTiming;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::data::ImageFolder;
use crate::data::loader::too_few;
use crate::device::Selected;
use crate::error::Result;
use crate::train::config::RunConfig;
use crate::train::plan::choice::choose;
use crate::train::plan::timing::time_steps;

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RunLength {
    /// Images to train on.
    pub images: usize,
    /// Steps of an epoch: batches that are full.
    pub steps_per_epoch: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Epochs of the run; the last one may be incomplete.
    pub epochs: usize,
    /// Steps that were made before; 0 of a new run.
    pub made: usize,
}

/// The plan of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The device.
    pub device: PlannedDevice,
    /// Images per step.
    pub batch_size: usize,
    /// Parts and checkpointing.
    pub choice: PlanChoice,
    /// Numbers of parameters.
    pub parameters: Parameters,
    /// What a step takes.
    pub memory: StepMemory,
    /// Whether the device has it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Bytes of a checkpoint on disk; its names and sums add some KiB.
    pub checkpoint_bytes: u64,
    /// How long the run is.
    pub length: RunLength,
    /// How long its steps take; none before [`Plan::time`].
    pub timing: Option<StepTiming>,
}

impl Plan {
    /// The plan of a run of these settings on so many images. Nothing is read, written or opened.
    ///
    /// # Errors
    /// Settings that cannot work, a batch larger than the set of images among them.
    pub fn new(
        config: &RunConfig,
        selected: &Selected,
        images: usize,
        may: Choosable,
    ) -> Result<Self> {
        let config = config.clone().resolved()?;
        let steps_per_epoch = images / config.batch_size;
        if steps_per_epoch == 0 {
            return Err(too_few(images, config.batch_size));
        }
        let steps = config.run_steps(steps_per_epoch);
        let device = PlannedDevice::of(selected);
        let (choice, memory, verdict) = choose(&config, &device, may)?;
        Ok(Self {
            batch_size: config.batch_size,
            parameters: memory.parameters,
            checkpoint_bytes: memory.checkpoint_copy_bytes,
            length: RunLength {
                images,
                steps_per_epoch,
                steps,
                epochs: steps.div_ceil(steps_per_epoch),
                made: 0,
            },
            device,
            choice,
            memory,
            verdict,
            timing: None,
        })
    }

    /// The settings with what the plan chose.
    pub fn applied_to(&self, config: RunConfig) -> RunConfig {
        let mut config = config;
        config.micro_batch_size = self.choice.micro_batch_size;
        config.method.grad_checkpointing = self.choice.grad_checkpointing;
        config
    }

    /// Makes up to `steps` real steps with the settings that were chosen, and notes how long they took; on random views where
    /// there are no `images`. Ends early after half a minute, or when `stop` is set.
    ///
    /// # Errors
    /// A device that failed, images that cannot be read, or [`crate::Error::Stopped`].
    pub fn time(
        &mut self,
        config: &RunConfig,
        selected: &Selected,
        images: Option<Arc<ImageFolder>>,
        steps: usize,
        stop: &AtomicBool,
    ) -> Result<()> {
        let config = self.applied_to(config.clone().resolved()?);
        self.timing = Some(time_steps(&config, selected, images, steps, stop)?);
        Ok(())
    }

    /// Seconds of an epoch; none before [`Plan::time`].
    pub fn epoch_s(&self) -> Option<f64> {
        let timing = self.timing.as_ref()?;
        Some(timing.step_s * self.length.steps_per_epoch as f64)
    }

    /// Seconds of all steps that are left; none before [`Plan::time`]. Evaluations and checkpoints come on top.
    pub fn run_s(&self) -> Option<f64> {
        let timing = self.timing.as_ref()?;
        let left = self.length.steps.saturating_sub(self.length.made);
        Some(timing.step_s * left as f64)
    }
}
