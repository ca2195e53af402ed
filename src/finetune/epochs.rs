//! Epoch by epoch: train, measure, write.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::module::{AutodiffModule as _, Module as _};

use crate::collective::{all_ok, any_rank};
use crate::data::Loader;
use crate::error::{Error, Result, printable};
use crate::eval::ClassifierScore;
use crate::files::model::{CARD_FORMAT, ModelCard, fingerprint};
use crate::finetune::config::LOWER_RATE;
use crate::finetune::folder::{BEST, FinetuneFolder, LAST};
use crate::finetune::labeled::LabeledImages;
use crate::finetune::observer::{EpochMetrics, FinetuneObserver, FinetuneReport};
use crate::finetune::resuming::{Place, Sums, checkpoint, report};
use crate::finetune::score::{Evaluator, known};
use crate::finetune::setup::{FinetuneSetup, Origin};
use crate::finetune::trainer::ClassifierTrainer;
use crate::kernels::TrainBackend;
use crate::train::{Schedule, check_same_tensors};

/// A run between its first step and its last.
pub(super) struct Epochs<'a> {
    setup: &'a FinetuneSetup<'a>,
    origin: Origin,
    schedule: Schedule,
    loader: Loader,
    images: LabeledImages,
    /// The run folder, on rank 0.
    folder: Option<FinetuneFolder>,
    /// Images that were already reported as unreadable.
    told: BTreeSet<PathBuf>,
    /// Where it is.
    place: Place,
    /// The epochs before it.
    epochs: Vec<EpochMetrics>,
    /// When the last checkpoint was written; none before the first.
    saved: Option<Instant>,
}

/// Shortest time between two checkpoints: what a killed run may lose, beside the epoch that it is in.
const SAVE_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Training metrics of an epoch.
struct Trained {
    loss: f64,
    accuracy: f64,
    learning_rate: f64,
    images_per_s: f64,
}

impl<'a> Epochs<'a> {
    pub fn new(
        setup: &'a FinetuneSetup<'a>,
        origin: Origin,
        schedule: Schedule,
        loader: Loader,
        images: LabeledImages,
        folder: Option<FinetuneFolder>,
    ) -> Self {
        Self {
            setup,
            origin,
            schedule,
            loader,
            images,
            folder,
            told: BTreeSet::new(),
            place: Place::default(),
            epochs: Vec::new(),
            saved: None,
        }
    }

    /// All epochs from a place on, behind those that are complete.
    pub fn run<B: TrainBackend>(
        mut self,
        mut trainer: ClassifierTrainer<B>,
        place: Place,
        epochs: Vec<EpochMetrics>,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<FinetuneReport> {
        let wanted = self.setup.request.config.epochs;
        (self.place, self.epochs) = (place, epochs);
        self.saved = (place != Place::default()).then(Instant::now);
        for epoch in place.epoch + 1..=wanted {
            let made = self.epoch(&mut trainer, epoch, observer);
            let metrics = made.map_err(|error| self.failed(error, epoch))?;
            observer.epoch(&metrics);
            self.epochs.push(metrics);
            self.place = Place {
                epoch,
                ..Place::default()
            };
            let is_due = self
                .saved
                .is_some_and(|saved| saved.elapsed() >= SAVE_INTERVAL);
            // clocks differ
            let is_due = any_rank(self.setup.ranks(), self.folder.is_some() && is_due)?;
            if is_due && epoch < wanted {
                self.save(&trainer)?;
            }
        }
        let files = FinetuneFolder::files(&self.setup.request.out);
        let report = report(&self.origin, &self.images, self.epochs, files)?;
        if let Some(folder) = &self.folder {
            folder.remove_checkpoints()?;
        }
        Ok(report)
    }

    /// Writes a checkpoint of this place, if all ranks have the same weights.
    fn save<B: TrainBackend>(&mut self, trainer: &ClassifierTrainer<B>) -> Result<()> {
        let folder = self.folder.as_ref();
        let config = &self.setup.request.config;
        let settings = folder.map_or("", FinetuneFolder::settings);
        let (guard, device) = (&self.setup.guard, trainer.device());
        let made = || checkpoint(trainer, &self.place, &self.epochs, config, settings);
        let checkpoint = guard.read::<B::InnerBackend, _>(device, made)??;
        let ranks = self.setup.ranks();
        check_same_tensors(&checkpoint.tensors, trainer.steps(), ranks)?;
        let saved = folder.map_or(Ok(()), |folder| folder.save(&checkpoint));
        all_ok(ranks, saved)?;
        self.saved = Some(Instant::now());
        Ok(())
    }

    /// Trains, measures and writes.
    fn epoch<B: TrainBackend>(
        &mut self,
        trainer: &mut ClassifierTrainer<B>,
        epoch: usize,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<EpochMetrics> {
        let started = Instant::now();
        let trained = self.train(trainer, observer)?;
        if self.saved.is_none() {
            // before the first classifier: a folder with classifiers and no checkpoint is then a complete run, or damaged
            self.save(trainer)?;
        }
        let Some(score) = self.score(trainer, observer)? else {
            return Err(self.interrupted(trainer));
        };
        let metrics = EpochMetrics {
            epoch,
            step: trainer.steps(),
            loss: trained.loss,
            train_accuracy: trained.accuracy,
            top1: score.top1(),
            top5: score.top5(),
            tested: score.images,
            most_frequent_class: self.images.most_frequent_class(),
            learning_rate: trained.learning_rate,
            images_per_s: trained.images_per_s,
            epoch_s: started.elapsed().as_secs_f64(),
        };
        let is_best = self.epochs.iter().all(|of| metrics.top1 > of.top1);
        let written = match &mut self.folder {
            Some(folder) => {
                let files: &[&str] = if is_best { &[BEST, LAST] } else { &[LAST] };
                export(self.setup, &self.origin, folder, trainer, files)
                    .and_then(|()| folder.log(&metrics))
            }
            None => Ok(()),
        };
        all_ok(self.setup.ranks(), written)?;
        Ok(metrics)
    }

    /// Each image of an epoch once, from this place on.
    fn train<B: TrainBackend>(
        &mut self,
        trainer: &mut ClassifierTrainer<B>,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<Trained> {
        let started = Instant::now();
        let side = self.origin.preprocessing.image_size;
        let before = self.place.sums.images;
        let mut learning_rate = self
            .schedule
            .learning_rate(trainer.steps().saturating_sub(1));
        for at in self.place.batch..self.schedule.steps_per_epoch {
            self.place.batch = at;
            let batch = self.loader.next_batch_until(self.setup.stop);
            let batch = match all_ok(self.setup.ranks(), batch) {
                Err(Error::Stopped) => return Err(self.interrupted(trainer)),
                batch => batch?,
            };
            self.note_skipped(self.loader.take_skipped(), observer);
            let labels = known(&batch.labels)?;
            let pixels = batch.views.into_iter().next().unwrap_or_default();
            let images = pixels.into_tensor(side, trainer.device());
            learning_rate = self.schedule.learning_rate(trainer.steps());
            let measured = trainer.step(images, &labels, learning_rate)?;
            let sums = &mut self.place.sums;
            sums.loss += f64::from(measured.loss) * measured.images as f64;
            sums.correct += measured.correct;
            sums.images += measured.images;
            self.place.batch = at + 1;
            observer.step(trainer.steps(), &measured);
        }
        let Sums {
            loss,
            correct,
            images,
        } = self.place.sums;
        let count = images as f64;
        Ok(Trained {
            loss: loss / count,
            accuracy: correct as f64 / count,
            learning_rate,
            images_per_s: (images - before) as f64 / started.elapsed().as_secs_f64(),
        })
    }

    /// Of the held-out images; none where the user stopped it.
    fn score<B: TrainBackend>(
        &mut self,
        trainer: &ClassifierTrainer<B>,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<Option<ClassifierScore>> {
        let config = &self.setup.request.config;
        let evaluator = Evaluator {
            folder: &self.images.held_out,
            augment: &self.origin.preprocessing.augment(),
            batch_size: config.batch_size,
            workers: config.workers,
            stop: self.setup.stop,
            ranks: self.setup.ranks(),
        };
        let classifier = trainer.classifier.valid();
        let guard = &self.setup.guard;
        // freed before and after: training and evaluation need buffers of different sizes and cannot reuse each other's
        guard.free_unused();
        let score = || evaluator.score(&classifier, guard, trainer.device());
        let found = config.precision.autocast(score)?;
        guard.free_unused();
        Ok(found.map(|(score, skipped)| {
            self.note_skipped(skipped, observer);
            score
        }))
    }

    /// Saves a checkpoint of a stopped run and the newest classifier, and returns its error.
    fn interrupted<B: TrainBackend>(&mut self, trainer: &ClassifierTrainer<B>) -> Error {
        let written = self.save(trainer).and_then(|()| {
            let exported = match &self.folder {
                Some(folder) => export(self.setup, &self.origin, folder, trainer, &[LAST]),
                None => Ok(()),
            };
            all_ok(self.setup.ranks(), exported)
        });
        match written {
            Ok(()) => Error::Interrupted {
                step: trainer.steps(),
                run: self.setup.request.out.clone(),
            },
            Err(error) => error,
        }
    }

    /// The error, with the path of the classifiers of earlier epochs, which are not overwritten.
    fn failed(&self, error: Error, epoch: usize) -> Error {
        let kept = match epoch {
            1 => "no epoch was finished".to_owned(),
            _ => format!(
                "the classifier after epoch {} and the best one are in {}",
                epoch - 1,
                printable(&self.setup.request.out)
            ),
        };
        match error {
            Error::Device(reason) => Error::Device(format!("epoch {epoch}: {reason}; {kept}")),
            Error::Ranks(reason) => Error::Ranks(format!("epoch {epoch}: {reason}; {kept}")),
            error @ (Error::Training(_)
            | Error::NotFinite { .. }
            | Error::Loader(_)
            | Error::Unsupported(_)) => Error::Training(format!("epoch {epoch}: {error}; {kept}")),
            other => other,
        }
    }

    fn note_skipped(
        &mut self,
        skipped: Vec<(PathBuf, String)>,
        observer: &mut dyn FinetuneObserver,
    ) {
        for (path, reason) in skipped {
            let line = format!("skipped {}: {reason}", printable(&path));
            if self.told.insert(path) {
                observer.note(&line);
            }
        }
    }
}

/// Writes the newest classifier into files of the run folder, once the device is known to be sound at the end of the read.
fn export<B: TrainBackend>(
    setup: &FinetuneSetup<'_>,
    origin: &Origin,
    folder: &FinetuneFolder,
    trainer: &ClassifierTrainer<B>,
    files: &[&str],
) -> Result<()> {
    let (guard, device) = (&setup.guard, trainer.device());
    let classifier = trainer.classifier.valid();
    let Origin {
        encoder,
        architecture,
        preprocessing,
        data,
        license,
        classes,
    } = origin;
    let features =
        fingerprint::<B::InnerBackend, _>(&classifier.backbone, preprocessing, guard, device)?;
    if features.iter().any(|value| !value.is_finite()) {
        return Err(Error::not_finite(
            "the features of the built-in images are not finite",
            LOWER_RATE,
        ));
    }
    let card = ModelCard {
        format: CARD_FORMAT,
        ibot: env!("CARGO_PKG_VERSION").into(),
        encoder: encoder.clone(),
        network: "classifier".into(),
        architecture: architecture.clone(),
        preprocessing: preprocessing.clone(),
        parameters: classifier.num_params(),
        step: trainer.steps(),
        data: Some(data.clone()),
        license: license.clone(),
        classes: Some(classes.clone()),
        fingerprint: features,
    };
    let tensors = guard.read::<B::InnerBackend, _>(device, || classifier.tensors())?;
    let mut files = files.iter();
    files.try_for_each(|file| folder.export(file, &card, &tensors))
}
