//! What is written and evaluated at the ends of short epochs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ibot::files::model::read_card;
use ibot::train::{Evaluation, EvaluationTime, Interval, Observer, run};

use crate::tiny_model::Scratch;
use crate::training::request;

/// Steps at which something happened.
#[derive(Default)]
struct Heard {
    teacher: PathBuf,
    evaluated: Vec<usize>,
    checkpoints: Vec<usize>,
    /// Of the teachers that were in the folder before the run ended.
    exported: BTreeSet<usize>,
}

impl Observer for Heard {
    fn evaluated(&mut self, _: EvaluationTime, evaluation: &Evaluation) {
        self.evaluated.push(evaluation.step);
    }

    fn checkpoint(&mut self, step: usize) {
        self.checkpoints.push(step);
    }

    fn between_steps(&mut self, step: usize) {
        // it is written in the background
        let started = Instant::now();
        while step == 8 && !self.teacher.exists() && started.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.teacher.exists() {
            let card = read_card(&self.teacher).unwrap().unwrap();
            self.exported.insert(card.step);
        }
    }
}

/// Twelve steps, three an epoch.
fn heard(name: &str, health_every: usize, keep_best: bool) -> Heard {
    let scratch = Scratch::new(name);
    let mut request = request(&scratch, 12);
    request.checkpoint_every = Interval::Steps(1000);
    request.config.health_every = health_every;
    request.config.metrics_every = 1;
    request.config.keep_best = keep_best;
    let mut heard = Heard {
        teacher: request.out.join("teacher.safetensors"),
        ..Heard::default()
    };
    run(&request, &AtomicBool::new(false), &mut heard).unwrap();
    let last = read_card(&heard.teacher).unwrap().unwrap();
    assert_eq!(last.step, 12, "{name}");
    heard
}

#[test]
fn short_epochs_do_not_each_write_files() {
    let plain = heard("short", 6, false);
    assert_eq!(plain.exported, [6].into());
    assert_eq!(
        (plain.evaluated, plain.checkpoints),
        (vec![6, 12], vec![12])
    );
    // with a checkpoint before each comparison
    let best = heard("short-best", 6, true);
    assert_eq!(best.exported, [6].into());
    assert_eq!(best.evaluated, [0, 6, 12]);
    assert_eq!(best.checkpoints, [6, 12]);
    // without health checks as with those that are the default: fewer than the run has steps
    for keep_best in [false, true] {
        let unwatched = heard("short-unwatched", 0, keep_best);
        assert!(unwatched.exported.is_empty());
        assert_eq!(unwatched.evaluated.last(), Some(&12));
        assert_eq!(unwatched.checkpoints, [12]);
    }
    // epochs that are not short
    let long = heard("long-best", 3, true);
    assert_eq!(long.evaluated, [0, 3, 6, 9, 12]);
    assert_eq!(long.checkpoints, [3, 6, 9, 12]);
}
