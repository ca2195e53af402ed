//! The events of a training run, kept until the application takes them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock::lock;
use crate::train::health::Anomaly;
use crate::train::{Evaluation, EvaluationTime, PatchColors, RunStart, StepMetrics};

/// Maximum number of events that wait for the application: some hours of steps.
const KEPT: usize = 1 << 16;

/// Something that happened in a run.
#[derive(Debug, Clone)]
pub enum TrainingEvent {
    /// A log line: the backend, a skipped image.
    Note(String),
    /// The first step is about to run.
    Started(RunStart),
    /// A step is done: losses, rates, speed, memory and, at some steps, health.
    Step(Box<StepMetrics>),
    /// An epoch is done.
    Epoch {
        /// Epochs done.
        epoch: usize,
        /// Steps made.
        step: usize,
    },
    /// The teacher was evaluated: k-NN, RankMe, standard deviation of its features.
    Evaluated(EvaluationTime, Evaluation),
    /// A new anomaly, such as a collapse.
    Anomalies {
        /// Steps made.
        step: usize,
        /// Each with its remedy, as text.
        anomalies: Vec<Anomaly>,
    },
    /// The run went back to the checkpoint of this step.
    RolledBack(usize),
    /// A checkpoint of this step was copied to the host; it is written in the background.
    Checkpoint(usize),
    /// A few training images, each with its patch features as colors (PCA). Only the newest event of this kind waits.
    Patches {
        /// Steps made.
        step: usize,
        /// At least one.
        images: Vec<PatchColors>,
    },
    /// The run is paused after this step.
    Paused(usize),
    /// The run was resumed.
    Resumed,
    /// The last event of a complete run; its files are in this folder.
    Finished(PathBuf),
    /// The last event of a cancelled run; starting it again resumes from here.
    Cancelled {
        /// Steps made; 0 where it was cancelled before it read its checkpoint.
        step: usize,
        /// The run folder.
        run: PathBuf,
    },
    /// The last event of a run that failed, and why.
    Failed(String),
}

/// The events that the application has not taken yet.
#[derive(Default)]
pub(super) struct Events {
    waiting: Mutex<VecDeque<TrainingEvent>>,
    changed: Condvar,
}

impl Events {
    pub fn push(&self, event: TrainingEvent) {
        let mut waiting = lock(&self.waiting);
        if matches!(event, TrainingEvent::Patches { .. }) {
            waiting.retain(|event| !matches!(event, TrainingEvent::Patches { .. }));
        }
        if waiting.len() == KEPT {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        self.changed.notify_all();
    }

    pub fn take(&self) -> Vec<TrainingEvent> {
        lock(&self.waiting).drain(..).collect()
    }

    pub fn next(&self, timeout: Duration) -> Option<TrainingEvent> {
        let waiting = lock(&self.waiting);
        let is_empty = |waiting: &mut VecDeque<TrainingEvent>| waiting.is_empty();
        let changed = self.changed.wait_timeout_while(waiting, timeout, is_empty);
        let (mut waiting, _) = changed.unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_does_not_ask_costs_little() {
        let events = Events::default();
        let patches = |step| TrainingEvent::Patches {
            step,
            images: Vec::new(),
        };
        events.push(TrainingEvent::Checkpoint(0));
        events.push(patches(1));
        events.push(patches(2));
        let all = events.take();
        let [
            TrainingEvent::Checkpoint(0),
            TrainingEvent::Patches { step: 2, .. },
        ] = &all[..]
        else {
            panic!("{all:?}");
        };
        for step in 0..=KEPT {
            events.push(TrainingEvent::Checkpoint(step));
        }
        let all = events.take();
        assert_eq!(all.len(), KEPT);
        assert!(matches!(all[0], TrainingEvent::Checkpoint(1)));
        assert!(events.next(Duration::ZERO).is_none());
    }
}
