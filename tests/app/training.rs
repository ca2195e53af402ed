//! A run as an application steers it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ibot::app::{TrainingConfig, TrainingEvent, TrainingHandle};
use ibot::device::{Selected, device_descriptor};
use ibot::error::{Error, Result};
use ibot::method::IbotConfig;
use ibot::train::{
    Interval, Observer, OnDeviceLost, PatchColors, RunConfig, RunRequest, StepMetrics, run,
};

use crate::PATIENCE;
use crate::device::host;
use crate::tiny_model::Scratch;

const TINY: &str = "
batch_size = 4
[method]
image_size = 16
projector_hidden_dim = 16
projector_bottleneck_dim = 8
n_cls_prototypes = 24
n_patch_prototypes = 12
[method.vit]
patch_size = 8
embed_dim = 16
depth = 1
num_heads = 2
";

/// A run of 12 images, three steps an epoch.
pub fn request(scratch: &Scratch, steps: usize) -> RunRequest {
    let mut images = scratch.images(12);
    let folder = images.remove(0).parent().unwrap().to_path_buf();
    let toml = scratch.path("tiny.toml");
    std::fs::write(&toml, TINY).unwrap();
    let mut config = RunConfig::default().merged_with_file(&toml).unwrap();
    config.steps = Some(steps);
    config.health_every = 2;
    let mut request = RunRequest::new(config, vec![folder], scratch.path("run"), Selected::Flex);
    request.checkpoint_every = Interval::Steps(5);
    request
}

fn started(scratch: &Scratch, steps: usize) -> TrainingHandle {
    let request = request(scratch, steps);
    TrainingConfig::default().start(request).unwrap()
}

fn is_last(event: &TrainingEvent) -> bool {
    matches!(
        event,
        TrainingEvent::Finished(_) | TrainingEvent::Cancelled { .. } | TrainingEvent::Failed(_)
    )
}

/// All events up to one that `is_it`.
#[track_caller]
fn until(training: &TrainingHandle, is_it: impl Fn(&TrainingEvent) -> bool) -> Vec<TrainingEvent> {
    let mut events = Vec::new();
    loop {
        let event = training.next_event(PATIENCE);
        let event = event.unwrap_or_else(|| panic!("nothing more: {events:?}"));
        let found = is_it(&event);
        let over = is_last(&event);
        events.push(event);
        if found {
            return events;
        }
        assert!(!over, "{events:?}");
    }
}

fn steps(events: &[TrainingEvent]) -> Vec<usize> {
    let step = |event: &TrainingEvent| match event {
        TrainingEvent::Step(metrics) => Some(metrics.step),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

#[test]
fn a_run_tells_what_happens() {
    let scratch = Scratch::new("events");
    let (tell, told) = std::sync::mpsc::channel();
    let config = TrainingConfig {
        patches_every: Some(Duration::ZERO),
        on_event: Some(Box::new(move || {
            let _ = tell.send(());
        })),
    };
    let training = config.start(request(&scratch, 7)).unwrap();
    let events = until(&training, is_last);
    training.wait().unwrap();
    assert!(training.is_over());
    assert!(told.try_iter().count() >= events.len());
    assert!(matches!(&events[0], TrainingEvent::Note(line) if line.contains("flex")));
    assert_eq!(steps(&events), [1, 2, 3, 4, 5, 6, 7]);
    let count = |is: &dyn Fn(&TrainingEvent) -> bool| events.iter().filter(|e| is(e)).count();
    assert_eq!(
        count(&|e| matches!(e, TrainingEvent::Started(start) if start.steps_per_epoch == 3)),
        1
    );
    assert_eq!(
        count(&|e| matches!(e, TrainingEvent::Epoch { epoch: 1, step: 3 })),
        1
    );
    assert_eq!(
        count(&|e| matches!(e, TrainingEvent::Epoch { epoch: 2, step: 6 })),
        1
    );
    assert_eq!(count(&|e| matches!(e, TrainingEvent::Checkpoint(5))), 1);
    assert_eq!(count(&|e| matches!(e, TrainingEvent::Checkpoint(7))), 1);
    assert!(count(&|e| matches!(e, TrainingEvent::Evaluated(..))) >= 2);
    assert!(count(&|e| matches!(e, TrainingEvent::Step(m) if m.health.is_some())) >= 3);
    let Some(TrainingEvent::Patches { images, .. }) = events
        .iter()
        .find(|e| matches!(e, TrainingEvent::Patches { .. }))
    else {
        panic!("no patches: {events:?}");
    };
    let sides = |shown: &PatchColors| [shown.image.dimensions(), shown.colors.dimensions()];
    let sides: Vec<_> = images.iter().map(sides).collect();
    assert_eq!(sides, [[(16, 16), (2, 2)]; 4], "views and their patches");
    let Some(TrainingEvent::Finished(out)) = events.last() else {
        panic!("{events:?}");
    };
    assert!(out.join("teacher.safetensors").exists());
}

/// Also where that is before its first step, while its images are looked for.
#[test]
fn a_run_that_is_cancelled_at_once_is_cancelled() {
    let scratch = Scratch::new("cancelled-at-once");
    let training = started(&scratch, 1_000_000);
    training.cancel();
    let events = until(&training, is_last);
    let last = events.last().unwrap();
    assert!(matches!(last, TrainingEvent::Cancelled { .. }), "{last:?}");
    assert!(matches!(training.wait(), Err(Error::Interrupted { .. })));
}

#[test]
fn a_paused_run_stands_still_and_goes_on() {
    let scratch = Scratch::new("pause");
    let training = started(&scratch, 100_000);
    until(&training, |e| matches!(e, TrainingEvent::Step(_)));
    training.pause();
    assert!(training.is_paused());
    until(&training, |e| matches!(e, TrainingEvent::Paused(_)));
    std::thread::sleep(Duration::from_millis(300));
    assert!(training.events().is_empty(), "it stands still");
    training.resume();
    let events = until(&training, |e| matches!(e, TrainingEvent::Step(_)));
    assert!(matches!(events[0], TrainingEvent::Resumed));

    // cancelled while it is paused: with a checkpoint, at once
    training.pause();
    let events = until(&training, |e| matches!(e, TrainingEvent::Paused(_)));
    let Some(TrainingEvent::Paused(at)) = events.last().cloned() else {
        panic!("{events:?}");
    };
    training.cancel();
    let events = until(&training, is_last);
    assert!(steps(&events).is_empty());
    assert!(
        events
            .iter()
            .any(|e| matches!(e, TrainingEvent::Checkpoint(step) if *step == at))
    );
    assert!(matches!(events.last(), Some(TrainingEvent::Cancelled { step, .. }) if *step == at));
    assert!(matches!(training.wait(), Err(Error::Interrupted { step, .. }) if step == at));

    // the same request goes on from there, and a dropped handle leaves a checkpoint too
    let training = started(&scratch, 100_000);
    let events = until(&training, |e| matches!(e, TrainingEvent::Step(_)));
    assert_eq!(steps(&events), [at + 1]);
    drop(training);
    let newest = ibot::files::checkpoint::Store::new(scratch.path("run/checkpoints")).newest();
    assert!(newest.unwrap().0.unwrap().manifest.step > at);
}

#[test]
fn a_run_that_cannot_work_says_why() {
    let scratch = Scratch::new("failed");
    let mut request = request(&scratch, 3);
    request.config.method = IbotConfig {
        encoder_name: "resnet50".into(),
        ..IbotConfig::default()
    };
    let training = TrainingConfig::default().start(request).unwrap();
    let events = until(&training, is_last);
    assert!(matches!(events.last(), Some(TrainingEvent::Failed(why)) if why.contains("resnet50")));
    assert!(
        training
            .wait()
            .unwrap_err()
            .to_string()
            .contains("resnet50")
    );
}

/// Takes the images away after the first step.
struct Thief(std::path::PathBuf);

impl Observer for Thief {
    fn step(&mut self, metrics: &StepMetrics) {
        if metrics.step == 1 {
            std::fs::rename(&self.0, self.0.with_extension("gone")).unwrap();
        }
    }
}

/// Steps go on with the images that were decoded before; an evaluation decodes them again.
#[test]
fn an_evaluation_without_images_keeps_the_state() {
    let scratch = Scratch::new("unevaluated");
    let mut request = request(&scratch, 60);
    request.config.metrics_every = 1;
    request.checkpoint_every = Interval::Steps(1000);
    let mut thief = Thief(request.data[0].clone());
    let ended = run(&request, &AtomicBool::new(false), &mut thief);
    let message = ended.unwrap_err().to_string();
    let newest = ibot::files::checkpoint::Store::of_run(&request.out).newest();
    let step = newest.unwrap().0.unwrap().manifest.step;
    for said in [
        format!("evaluation after step {step}: "),
        format!("the state after step {step} is in "),
    ] {
        assert!(message.contains(&said), "{said}: {message}");
    }
}

/// Destroys a device after step 5, once.
struct Destroyer {
    device: Option<wgpu::Device>,
    steps: Vec<usize>,
    notes: String,
}

impl Observer for Destroyer {
    fn note(&mut self, line: &str) {
        self.notes += line;
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.steps.push(metrics.step);
        if let Some(device) = self.device.take_if(|_| metrics.step == 5) {
            device.destroy();
        }
    }
}

/// Eight steps in a folder of their own, a checkpoint every other step, on a device that is lost after the fifth.
fn lose_the_device(
    scratch: &Scratch,
    on_lost: OnDeviceLost,
) -> Option<(RunRequest, Destroyer, Result<()>)> {
    let host = host(device_descriptor)?;
    let mut request = request(scratch, 8);
    request.config.metrics_every = 1;
    request.checkpoint_every = Interval::Steps(2);
    request.out = scratch.path(&format!("{on_lost:?}"));
    request.selected = host.existing().adopt().unwrap();
    request.on_device_lost = on_lost;
    let mut destroyer = Destroyer {
        device: Some(host.device.clone()),
        steps: Vec::new(),
        notes: String::new(),
    };
    let ended = run(&request, &AtomicBool::new(false), &mut destroyer);
    Some((request, destroyer, ended))
}

/// `--on-device-lost cpu` is what stopping and going on by hand from the newest checkpoint is, bit for bit.
#[test]
fn a_run_that_loses_its_device_goes_on_on_the_cpu() {
    let scratch = Scratch::new("lost");
    let Some((by_itself, seen, ended)) = lose_the_device(&scratch, OnDeviceLost::Cpu) else {
        return;
    };
    ended.unwrap();
    assert_eq!(seen.steps, [1, 2, 3, 4, 5, 5, 6, 7, 8], "{}", seen.notes);
    for said in [
        "device lost",
        "`on_device_lost` cpu",
        "resuming from step 4",
        "backend flex",
    ] {
        assert!(seen.notes.contains(said), "{said}: {}", seen.notes);
    }

    // no device any more, and no other settings for that
    let mut other = by_itself.clone();
    other.config.method.temperature_student = 0.2;
    let ended = run(
        &other,
        &AtomicBool::new(false),
        &mut ibot::train::NoObserver,
    );
    let message = ended.unwrap_err().to_string();
    for said in ["other settings", "temperature_student"] {
        assert!(message.contains(said), "{said}: {message}");
    }

    let (by_hand, seen, ended) = lose_the_device(&scratch, OnDeviceLost::Stop).unwrap();
    let message = ended.unwrap_err().to_string();
    assert!(message.contains("device lost"), "{message}");
    assert_eq!(seen.steps, [1, 2, 3, 4, 5]);
    let on_cpu = RunRequest {
        selected: Selected::Flex,
        allow_changes: true,
        ..by_hand.clone()
    };
    run(
        &on_cpu,
        &AtomicBool::new(false),
        &mut ibot::train::NoObserver,
    )
    .unwrap();

    let bytes = |request: &RunRequest, file: &str| std::fs::read(request.out.join(file)).unwrap();
    for file in [
        "checkpoints/step-000000008/state.safetensors",
        "teacher.safetensors",
    ] {
        assert!(
            bytes(&by_itself, file) == bytes(&by_hand, file),
            "{file} differs"
        );
    }
}
