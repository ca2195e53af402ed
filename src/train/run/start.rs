//! A complete run: from an image folder, or from its own newest checkpoint, to two exported backbones.

use std::sync::atomic::AtomicBool;

use burn::module::Module as _;
use burn_autodiff::Autodiff;

use crate::backbone::VisionTransformer;
use crate::data::PictureSource as _;
use crate::device::{DeviceGuard, Selected};
use crate::error::{Error, Result};
use crate::files::model::DataCard;
use crate::kernels::{IbotBackend, OnBackend, TrainBackend};
use crate::train::run::evaluation::{Pictures, When};
use crate::train::run::folder::RunFolder;
use crate::train::run::observer::{Observer, RunStart};
use crate::train::run::request::{OnDeviceLost, RunRequest};
use crate::train::run::setup::{RunSetup, loader};
use crate::train::run::train_loop::{DueEvaluation, TrainLoop};

/// Runs on the selected device until the end, a failure, or `stop`; continues on the CPU after a GPU failure if
/// `on_device_lost` allows it.
///
/// # Errors
/// Before anything is written: invalid settings, pictures, weights or run folder. Afterwards: a device that
/// failed, a disk that is full, a loss that is not finite, or [`Error::Interrupted`], with the newest checkpoint in the
/// run folder.
pub fn run(request: &RunRequest, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<()> {
    let may_go_on = request.on_device_lost == OnDeviceLost::Cpu
        && matches!(request.selected, Selected::Wgpu { .. });
    match run_on_device(request, stop, observer) {
        Err(error @ Error::Device(_)) if may_go_on => {
            observer.note(&format!(
                "{error}\n`on_device_lost` cpu: resuming on the CPU"
            ));
            let on_cpu = RunRequest {
                selected: Selected::Flex,
                allow_changes: true, // the backend changes
                ..request.clone()
            };
            run_on_device(&on_cpu, stop, observer)
        }
        result => result,
    }
}

fn run_on_device(
    request: &RunRequest,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<()> {
    let guard = DeviceGuard::install(&request.selected)?;
    observer.note(&request.selected.to_string());
    let setup = RunSetup {
        request,
        guard: guard.clone(),
        stop,
    };
    // burn panics after a device fault; here that becomes an error with the cause
    guard.catch(|| request.selected.dispatch(Start { setup, observer }))?
}

struct Start<'a> {
    setup: RunSetup<'a>,
    observer: &'a mut dyn Observer,
}

impl OnBackend for Start<'_> {
    type Output = Result<()>;

    fn run<B: IbotBackend>(self, device: B::Device) -> Self::Output {
        train::<Autodiff<B>>(&self.setup, device, self.observer)
    }
}

type VitLoop<'a, B> = TrainLoop<'a, B, VisionTransformer<B>>;

fn train<B: TrainBackend>(
    setup: &RunSetup<'_>,
    device: B::Device,
    observer: &mut dyn Observer,
) -> Result<()> {
    let (mut training, start) = set_up::<B>(setup, &device, observer)?;
    // without a validation set, evaluating the untrained teacher takes time and shows little
    if training.is_new() && training.has_val() {
        let before = DueEvaluation {
            when: When::Before,
            with_knn: true,
        };
        training.evaluate(&before, observer)?;
    }
    observer.started(&start);
    if start.made >= start.steps {
        observer.note(
            "the run is complete; raise `epochs` or `steps` with `allow_changes` to train longer",
        );
    }
    // the run may have been stopped after a step but before its evaluation
    if let Some(owed) = training.owed_evaluation()? {
        training.evaluate(&owed, observer)?;
    }
    training.run(observer)?;
    training.finish(observer)
}

/// From settings and folders to the next step. Everything is checked before the first picture is read, because there
/// may be many.
fn set_up<'a, B: TrainBackend>(
    setup: &'a RunSetup<'_>,
    device: &B::Device,
    observer: &mut dyn Observer,
) -> Result<(VitLoop<'a, B>, RunStart)> {
    let request = setup.request;
    let config = request.config.clone().resolved()?;
    setup.check_request(&config)?;
    let mut folder = RunFolder::open(&request.out, request.keep, observer)?;
    let mut record = setup.record(&config)?;
    let newest = folder.continued(&record, request.allow_changes, observer)?;
    let mut trainer = setup.trainer::<B>(&config, newest.is_some(), device, observer)?;
    let (train, val) = setup.pictures(&config, observer)?;
    record.pictures = train.len();
    record.fingerprint = train.fingerprint();
    folder.same_pictures(&record, request.allow_changes, observer)?;
    let began = newest.as_ref().map(|newest| newest.manifest.clone());
    let made = began.as_ref().map(|manifest| manifest.step);
    let loader = loader(&config, train.clone(), made.unwrap_or(0))?;
    if let Some(newest) = newest {
        // before `folder.begin`, which changes the folder: a checkpoint that does not fit must leave it as it was
        trainer.restore(newest.manifest.step, newest.tensors, folder.path())?;
    }
    let card = DataCard {
        pictures: record.pictures,
        fingerprint: record.fingerprint.clone(),
    };
    folder.begin(record, &config, made, observer)?;
    let parameters = trainer.method.student.num_params();
    let pictures = Pictures { train, card, val };
    let count = pictures.card.pictures;
    let from = began.as_ref();
    let training = TrainLoop::new(setup, trainer, config, folder, loader, pictures, from);
    let start = RunStart {
        steps: training.schedule.steps,
        made: made.unwrap_or(0),
        epochs: training.schedule.epochs(),
        steps_per_epoch: training.schedule.steps_per_epoch,
        pictures: count,
        parameters,
        out: request.out.clone(),
    };
    Ok((training, start))
}
