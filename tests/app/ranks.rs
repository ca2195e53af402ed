//! Runs of several ranks in one folder, as threads of this process.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ibot::collective::{Collective, LocalRanks};
use ibot::device::Selected;
use ibot::error::{Error, Result};
use ibot::files::checkpoint::{Checkpoint, Store};
use ibot::train::{Interval, Observer, OnAnomaly, RunConfig, RunRequest, StepMetrics, run};

use crate::tiny_model::Scratch;

/// Four parts of each batch, on any number of ranks up to 4, and targets over all of them.
const TINY: &str = "
batch_size = 8
micro_batch_size = 2
metrics_every = 1
health_every = 2
keep_best = true
[augment]
local_views = 2
local_size = 8
[method]
image_size = 16
projector_hidden_dim = 16
projector_bottleneck_dim = 8
n_cls_prototypes = 24
n_patch_prototypes = 12
cls_targets = \"sinkhorn\"
patch_targets = \"centering\"
koleo_weight = 0.1
drop_path_rate = 0.2
[method.vit]
patch_size = 8
embed_dim = 16
depth = 2
num_heads = 2
";

/// 12 steps on 25 images, three an epoch.
fn request(scratch: &Scratch, out: &str) -> RunRequest {
    let mut images = scratch.images(25);
    let folder = images.remove(0).parent().unwrap().to_path_buf();
    let toml = scratch.path("tiny.toml");
    std::fs::write(&toml, TINY).unwrap();
    let mut config = RunConfig::default().merged_with_file(&toml).unwrap();
    config.steps = Some(12);
    let mut request = RunRequest::new(config, vec![folder], scratch.path(out), Selected::Flex);
    request.checkpoint_every = Interval::Steps(5);
    request
}

/// In place of a step at which a run is stopped: it is, once it has gone back.
const WHEN_BACK: usize = 0;

/// Notes and steps of a rank, whose step number `at` stops another one.
#[derive(Default)]
struct Stopper {
    at: usize,
    stops: Option<Arc<AtomicBool>>,
    steps: Vec<usize>,
    notes: String,
}

impl Observer for Stopper {
    fn note(&mut self, line: &str) {
        self.notes += line;
        self.notes += "\n";
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.steps.push(metrics.step);
        if let Some(stop) = self.stops.take_if(|_| metrics.step == self.at) {
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn rolled_back(&mut self, _: usize) {
        if let Some(stop) = self.stops.take_if(|_| self.at == WHEN_BACK) {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// How a run ended on each rank, and what it said.
fn train(
    request: &RunRequest,
    ranks: usize,
    stop_at: usize,
    change: fn(&mut RunRequest, usize),
) -> Vec<(Result<()>, Stopper)> {
    // the last rank is the one that is stopped: as by a signal that reached it alone
    let stopped = Arc::new(AtomicBool::new(false));
    let ranks = LocalRanks::group(ranks).into_iter().map(|collective| {
        let (rank, is_last) = (
            collective.rank(),
            collective.rank() + 1 == collective.size(),
        );
        let mut request = request.clone();
        change(&mut request, rank);
        request.collective = Arc::new(collective);
        let stop = if is_last {
            stopped.clone()
        } else {
            Arc::default()
        };
        let mut observer = Stopper {
            at: stop_at,
            stops: Some(stopped.clone()),
            ..Stopper::default()
        };
        thread::spawn(move || {
            let ended = run(&request, &stop, &mut observer);
            (ended, observer)
        })
    });
    let ranks: Vec<_> = ranks.collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

fn unchanged(_: &mut RunRequest, _: usize) {}

/// The tensors of the newest checkpoint, bit by bit, and its step.
fn newest(out: &Path) -> (usize, Vec<(String, Vec<u32>)>) {
    let Checkpoint { manifest, tensors } = Store::of_run(out).newest().unwrap().0.unwrap();
    let tensors = tensors.into_iter().map(|(name, tensor)| {
        let bits = tensor.values.iter().map(|value| value.to_bits());
        (name, bits.collect())
    });
    (manifest.step, tensors.collect())
}

/// The numbers of all steps and evaluations that a run computed, without times.
fn lines(out: &Path) -> Vec<String> {
    let of_file = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let lines = of_file("metrics.jsonl") + &of_file("evaluations.jsonl");
    let times = ["_s", "resident_mib"];
    let without_times = |line: &str| {
        let values: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).unwrap();
        let numbers = values
            .iter()
            .filter(|(key, _)| !times.iter().any(|time| key.ends_with(time)));
        numbers
            .map(|(key, value)| format!("{key} {value}\n"))
            .collect()
    };
    lines.lines().map(without_times).collect()
}

#[test]
fn a_run_goes_on_with_other_numbers_of_ranks() {
    let scratch = Scratch::new("ranks");
    let alone = request(&scratch, "alone");
    run(
        &alone,
        &AtomicBool::new(false),
        &mut ibot::train::NoObserver,
    )
    .unwrap();

    let together = request(&scratch, "together");
    let mut files = None;
    for (ranks, stop_at, from, to) in [(2, 4, 0, 4), (4, 8, 4, 8), (1, 99, 8, 12)] {
        let ended = train(&together, ranks, stop_at, unchanged);
        for (rank, (ended, observer)) in ended.iter().enumerate() {
            match ended {
                Ok(()) => assert_eq!(to, 12),
                Err(Error::Interrupted { step, .. }) => assert_eq!(*step, to, "rank {rank}"),
                Err(error) => panic!("rank {rank} of {ranks}: {error}"),
            }
            let steps: Vec<usize> = match rank {
                0 => (from + 1..=to).collect(),
                _ => Vec::new(), // told by rank 0 alone
            };
            assert_eq!(observer.steps, steps, "rank {rank} of {ranks}");
        }
        let notes = &ended[0].1.notes;
        if from > 0 {
            assert!(notes.contains("the same to the last bit"), "{notes}");
        }
        assert_eq!(newest(&together.out).0, to);
        let found: BTreeSet<_> = std::fs::read_dir(&together.out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files.get_or_insert_with(|| found.clone()), &found);
    }
    let (found, expected) = (newest(&together.out), newest(&alone.out));
    assert_eq!(found.1.len(), expected.1.len());
    for (found, expected) in found.1.iter().zip(&expected.1) {
        assert!(found == expected, "{} differs", found.0);
    }
    assert_eq!(lines(&together.out), lines(&alone.out));
}

/// As on one rank, which passes over them.
#[test]
fn damaged_images_are_no_error_where_a_rank_has_no_others() {
    let scratch = Scratch::new("damaged-share");
    let request = request(&scratch, "run");
    let mut files: Vec<_> = std::fs::read_dir(&request.data[0])
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    // the share of the last of three ranks, and more
    for file in &files[15..] {
        let mut bytes = std::fs::read(file).unwrap();
        bytes[50..].fill(0); // its header stays
        std::fs::write(file, bytes).unwrap();
    }
    for (ended, _) in train(&request, 3, 99, unchanged) {
        ended.unwrap();
    }
}

#[test]
fn ranks_that_differ_are_named() {
    let scratch = Scratch::new("differ");
    let whole = request(&scratch, "whole");
    train(&whole, 2, 99, unchanged);
    let messages = |out, change| -> Vec<String> {
        let ended = train(&request(&scratch, out), 3, 99, change);
        let error = |(ended, _): (Result<()>, Stopper)| ended.unwrap_err().to_string();
        ended.into_iter().map(error).collect()
    };
    let of_settings = messages("settings", |request, rank| {
        request.config.seed = u64::from(rank == 1);
    });
    let own = "its settings differ from those of rank 0: seed is 1 and not 0";
    let of_others = format!("rank 1: {own}");
    assert_eq!(of_settings, [&of_others, own, &of_others]);
    let of_options = messages("options", |request, rank| {
        request.mixed_devices = rank == 2;
    });
    for message in of_options {
        assert!(
            message.contains("`on_anomaly` of rank 2 differ"),
            "{message}"
        );
    }
    let of_weights = messages("weights", |request, rank| {
        let teacher = request
            .out
            .parent()
            .unwrap()
            .join("whole/teacher.safetensors");
        request.pretrained = (rank == 2).then_some(teacher);
    });
    for message in of_weights {
        let expected = "step 0: weights, centers or moments of rank 2 differ from those of rank 0";
        assert!(message.contains(expected), "{message}");
    }
    let of_folders = messages("folders", |request, rank| {
        if rank == 1 {
            request.data[0].push("nothing");
        }
    });
    assert!(of_folders[0].starts_with("rank 1: "), "{}", of_folders[0]);
    assert!(of_folders[1].contains("nothing"), "{}", of_folders[1]);
    assert!(!scratch.path("folders").exists());
}

#[test]
fn more_ranks_than_images_in_a_batch_are_refused() {
    let scratch = Scratch::new("many");
    for (ended, _) in train(&request(&scratch, "many"), 9, 99, unchanged) {
        let message = ended.unwrap_err().to_string();
        assert!(
            message.contains("batch_size = 8: must be at least the number of ranks, 9"),
            "{message}"
        );
    }
}

/// Weight decay multiplies weights by 1 - 3.5 in a step, and by 1 - 1.75 at half the rate: their logits explode, or not.
fn too_high(scratch: &Scratch, out: &str) -> RunRequest {
    let mut request = request(scratch, out);
    let config = &mut request.config;
    config.steps = Some(45);
    config.schedule.base_learning_rate = 0.32;
    config.schedule.warmup_epochs = 0.0;
    config.optimizer.weight_decay = 350.0;
    request.on_anomaly = OnAnomaly::Rollback;
    request
}

/// On several ranks as on one, and as where the run was killed once it had gone back: the checkpoint has the lower rate, and
/// the moments of the optimizer are its own.
#[test]
fn ranks_go_back_together() {
    let scratch = Scratch::new("back");
    let alone = too_high(&scratch, "alone");
    let ended = train(&alone, 1, 99, unchanged);
    let (ended, observer) = &ended[0];
    let notes = &observer.notes;
    assert!(ended.is_ok(), "{ended:?}\n{notes}");
    assert!(notes.contains("with 0.5 of"), "{notes}");
    let together = too_high(&scratch, "together");
    for stop_at in [WHEN_BACK, 99] {
        for (ended, observer) in train(&together, 2, stop_at, unchanged) {
            match ended {
                Ok(()) => assert_eq!(stop_at, 99),
                Err(Error::Interrupted { .. }) => assert_eq!(stop_at, WHEN_BACK),
                Err(error) => panic!("{error}\n{}", observer.notes),
            }
        }
    }
    assert!(newest(&together.out) == newest(&alone.out));
    assert_eq!(lines(&together.out), lines(&alone.out));
}

#[test]
fn ranks_give_up_together() {
    let scratch = Scratch::new("give-up");
    let mut diverging = request(&scratch, "give-up");
    diverging.config.schedule.base_learning_rate = 1e30;
    diverging.on_anomaly = OnAnomaly::Rollback;
    diverging.checkpoint_every = Interval::Steps(1);
    let ended = train(&diverging, 2, 99, unchanged);
    let messages = ended.iter().map(|(ended, _)| ended.as_ref().unwrap_err());
    let messages: Vec<String> = messages.map(ToString::to_string).collect();
    assert_eq!(messages[0], messages[1]);
    let notes = &ended[0].1.notes;
    assert!(notes.contains("rollback 3 of 3"), "{notes}\n{messages:?}");
}

/// One on Flex and one on NdArray, which takes its tensors from the other.
#[test]
fn a_rank_on_another_kind_of_device_follows() {
    let scratch = Scratch::new("mixed");
    let mut request = request(&scratch, "mixed");
    request.mixed_devices = true;
    request.config.metrics_every = 3;
    let ended = train(&request, 2, 99, |request, rank| {
        if rank == 1 {
            request.selected = Selected::NdArray;
        }
    });
    for (ended, _) in ended {
        ended.unwrap();
    }
    assert_eq!(newest(&request.out).0, 12);
}
