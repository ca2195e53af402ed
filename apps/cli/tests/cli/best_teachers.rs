//! Which teacher is the best of a run that goes back, through the library: an observer says what each one is worth.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ibot::device::Selected;
use ibot::files::model::read_card;
use ibot::files::read_safetensors;
use ibot::train::{Observer, OnAnomaly, RunConfig, RunRequest, run};
use serde_json::Value;

use crate::{Scratch, ibot};

/// A tiny run into the folder `out`, with more settings.
pub fn request(scratch: &Scratch, out: &str, settings: &str) -> RunRequest {
    let images = scratch.images().into();
    let config = RunConfig::default().merged_with_file(&scratch.0.join("tiny.toml"));
    let config = config.unwrap().merged_with_toml(settings).unwrap();
    RunRequest::new(
        config,
        vec![images],
        scratch.path(out).into(),
        Selected::Flex,
    )
}

/// As [`request`]; its weights grow without bound at the full learning rate, and shrink at half of it (`endings`).
fn too_high(scratch: &Scratch, settings: &str) -> RunRequest {
    const TOO_HIGH: &str = "keep_best = true\n[optimizer]\nweight_decay = 350.0\n\
                            [schedule]\nbase_learning_rate = 0.64\nwarmup_epochs = 0.0\n";
    let mut request = request(scratch, "back", &format!("{settings}{TOO_HIGH}"));
    request.val = request.data.first().cloned();
    request.knn_every = 1;
    request.on_anomaly = OnAnomaly::Rollback;
    request
}

/// Has each teacher be better than all before it, until the run goes back; then none is better than the one that it went back to.
struct Judge {
    run: PathBuf,
    /// The best teacher after each step at which there was another one.
    best: BTreeMap<usize, Vec<u8>>,
    /// Where the run went back to.
    back: Vec<usize>,
    said: String,
}

impl Judge {
    fn of(request: &RunRequest) -> Self {
        Self {
            run: request.out.clone(),
            best: BTreeMap::new(),
            back: Vec::new(),
            said: String::new(),
        }
    }

    /// Changes the accuracies that were measured.
    fn judge(&self, worth: impl Fn(u64) -> f64) {
        let file = self.run.join("evaluations.jsonl");
        let lines = fs::read_to_string(&file).unwrap();
        let lines = lines.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["knn"] = worth(line["step"].as_u64().unwrap()).into();
            format!("{line}\n")
        });
        let lines: String = lines.collect();
        fs::write(file, lines).unwrap();
    }

    fn best(&self) -> Option<(usize, Vec<u8>)> {
        let file = self.run.join("best.safetensors");
        let card = file.exists().then(|| read_card(&file).unwrap().unwrap());
        card.map(|card| (card.step, fs::read(file).unwrap()))
    }
}

impl Observer for Judge {
    fn note(&mut self, line: &str) {
        self.said += &format!("{line}\n");
    }

    fn between_steps(&mut self, _step: usize) {
        if self.back.is_empty() {
            self.judge(|_| -1.0);
            self.best.extend(self.best());
        }
    }

    fn rolled_back(&mut self, to: usize) {
        self.judge(|step| if step == to as u64 { 2.0 } else { -1.0 });
        self.back.push(to);
    }
}

/// Runs; returns the judge once the run went back to a step and ended with the teacher of that, whatever came before and after.
#[track_caller]
fn ends_with_the_teacher_that_it_went_back_to(request: &RunRequest) -> (Judge, usize) {
    let mut judge = Judge::of(request);
    run(request, &AtomicBool::new(false), &mut judge).unwrap();
    let said = &judge.said;
    let [to] = judge.back[..] else {
        panic!("{said}");
    };
    let discarded = judge.best.keys().filter(|step| **step > to);
    assert!(
        discarded.count() > 0,
        "nothing after step {to} was the best: {said}"
    );
    assert!(
        said.contains("rollback: later teachers cannot be compared"),
        "{said}"
    );
    assert!(
        said.contains(&format!("best.safetensors is now the teacher of step {to}")),
        "{said}"
    );
    let (step, bytes) = judge.best().unwrap();
    assert_eq!(step, to, "{said}");
    assert!(bytes == judge.best[&to]);
    let for_timm = fs::read(judge.run.join("model.safetensors")).unwrap();
    assert!(for_timm == bytes);
    (judge, to)
}

/// The teacher of the step that a run goes back to was the best before a later one, of a discarded step, took its file.
#[test]
fn a_run_that_goes_back_has_the_best_teacher_of_that_step() {
    let scratch = Scratch::new("back-to-best");
    let mut request = too_high(&scratch, "health_every = 2\nsteps = 90\n");
    request.keep.last = 1;
    let (_, to) = ends_with_the_teacher_that_it_went_back_to(&request);
    assert!(to > 0);
}

/// `adapt` promises that the best teacher is the weights that were given, where nothing is better.
#[test]
fn a_run_that_goes_back_to_its_start_has_the_weights_that_were_given() {
    let scratch = Scratch::new("back-to-given");
    assert!(ibot(&scratch.train(&["--steps", "2"])).status.success());
    let weights = scratch.path("run/teacher.safetensors");
    let mut request = too_high(&scratch, "steps = 140\n");
    request.config.method.pretrained = true;
    request.pretrained = Some(PathBuf::from(&weights));
    let (judge, to) = ends_with_the_teacher_that_it_went_back_to(&request);
    assert_eq!(to, 0);
    let tensors = |file: &Path| read_safetensors(file).unwrap();
    let best = judge.run.join("best.safetensors");
    assert!(tensors(&best) == tensors(weights.as_ref()));
    let nothing = "no teacher was above the 200.0 % k-NN accuracy of the weights";
    assert!(judge.said.contains(nothing), "{}", judge.said);
}
