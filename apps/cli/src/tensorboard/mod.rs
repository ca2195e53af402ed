//! Writes the events of a run for TensorBoard, and passes them on to another observer.

mod event;
mod record;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};

use image::DynamicImage;

use ibot::Result;
use ibot::data::ScanSummary;
use ibot::device::Selected;
use ibot::train::health::Anomaly;
use ibot::train::{Evaluation, EvaluationTime, Observer, PatchColors, RunStart, StepMetrics};

use self::writer::EventWriter;
use super::drawing::{Captioned, contact_sheet};

/// Folder of the event files in the run folder.
pub const FOLDER: &str = "tensorboard";
/// Side of each image of a sheet, in pixels.
const SIDE: u32 = 160;

/// Writes scalars and images to `RUN/tensorboard`, and passes all events on.
pub struct TensorBoard<'a> {
    inner: &'a mut dyn Observer,
    writer: Option<EventWriter>,
}

impl<'a> TensorBoard<'a> {
    /// Nothing is written before the run starts.
    pub fn new(inner: &'a mut dyn Observer) -> Self {
        Self {
            inner,
            writer: None,
        }
    }

    /// A file that cannot be written ends the curves, not the run.
    fn write(&mut self, write: impl FnOnce(&mut EventWriter) -> Result<()>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        if let Err(error) = write(writer) {
            self.writer = None;
            self.inner
                .note(&format!("TensorBoard events stopped: {error}"));
        }
    }

    fn open(&mut self, folder: PathBuf, made: usize) {
        match EventWriter::create(&folder) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => self
                .inner
                .note(&format!("TensorBoard events cannot be written: {error}")),
        }
        self.write(|writer| writer.purge_from(made as u64 + 1));
    }
}

impl Observer for TensorBoard<'_> {
    fn note(&mut self, line: &str) {
        self.inner.note(line);
    }

    fn device(&mut self, selected: &Selected) {
        self.inner.device(selected);
    }

    fn scanned(&mut self, sources: &[PathBuf], found: &ScanSummary) {
        self.inner.scanned(sources, found);
    }

    fn held_out(&mut self, held_out: usize, kept: usize) {
        self.inner.held_out(held_out, kept);
    }

    fn started(&mut self, start: &RunStart) {
        self.inner.started(start);
        self.open(start.out.join(FOLDER), start.start_step);
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.inner.step(metrics);
        let (losses, rates) = (&metrics.losses, &metrics.rates);
        let mut points = vec![
            ("loss/all", losses.loss),
            ("loss/cls", losses.loss_cls),
            ("loss/patch", losses.loss_patch),
            ("gradient/norm", losses.gradient_norm),
            ("schedule/learning_rate", rates.learning_rate as f32),
            (
                "schedule/temperature_teacher",
                rates.temperature_teacher as f32,
            ),
            ("schedule/ema_decay", rates.ema_decay as f32),
            ("speed/images_per_s", metrics.images_per_s as f32),
        ];
        points.extend(losses.loss_visible.map(|loss| ("loss/visible", loss)));
        points.extend(
            losses
                .loss_scale
                .map(|scale| ("gradient/loss_scale", scale)),
        );
        points.extend(losses.loss_koleo.map(|loss| ("loss/koleo", loss)));
        if let Some(health) = &metrics.health {
            points.push(("health/agreement", health.agreement as f32));
            points.push(("health/feature_std", health.feature_std as f32));
            points.push(("health/cls_entropy", health.cls.entropy as f32));
            points.push(("health/cls_perplexity", health.cls.perplexity as f32));
            if let Some(patch) = health.patch {
                points.push(("health/patch_entropy", patch.entropy as f32));
                points.push(("health/patch_perplexity", patch.perplexity as f32));
            }
        }
        let step = metrics.step as u64;
        self.write(|writer| {
            let mut points = points.into_iter();
            points.try_for_each(|(tag, value)| writer.scalar(tag, step, value))
        });
    }

    fn evaluating(&mut self, when: EvaluationTime) {
        self.inner.evaluating(when);
    }

    fn evaluated(&mut self, when: EvaluationTime, evaluation: &Evaluation) {
        self.inner.evaluated(when, evaluation);
        let step = evaluation.step as u64;
        let points = [
            ("evaluation/knn", evaluation.knn),
            ("evaluation/rank_me", evaluation.rank_me),
            ("evaluation/feature_std", evaluation.feature_std),
        ];
        self.write(|writer| {
            let mut known = points
                .into_iter()
                .filter_map(|(tag, value)| Some((tag, value?)));
            known.try_for_each(|(tag, value)| writer.scalar(tag, step, value as f32))
        });
    }

    fn anomalies(&mut self, step: usize, found: &[Anomaly]) {
        self.inner.anomalies(step, found);
    }

    fn rolled_back(&mut self, to: usize) {
        self.inner.rolled_back(to);
        self.write(|writer| writer.purge_from(to as u64 + 1));
    }

    fn checkpoint(&mut self, step: usize) {
        self.inner.checkpoint(step);
    }

    fn between_steps(&mut self, step: usize) {
        self.inner.between_steps(step);
    }

    fn wants_patches(&self, ends_epoch: bool) -> bool {
        (ends_epoch && self.writer.is_some()) || self.inner.wants_patches(ends_epoch)
    }

    fn patches(&mut self, step: usize, images: &[PatchColors]) {
        self.inner.patches(step, images);
        let both = |shown: &PatchColors| [&shown.image, &shown.colors].map(Clone::clone);
        let both = images.iter().flat_map(both);
        let both: Vec<_> = both.map(DynamicImage::ImageRgb8).collect();
        let caption = "";
        let cells = both.iter().map(|image| Captioned { image, caption });
        let cells: Vec<_> = cells.collect();
        let sheet = contact_sheet("patches by their main directions", &cells, 2, SIDE);
        self.write(|writer| writer.image("patches/pca", step as u64, &sheet));
    }

    fn finished(&mut self, out: &Path) {
        self.write(|writer| writer.sync());
        self.inner.finished(out);
    }
}
