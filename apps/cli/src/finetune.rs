//! `ibot finetune`.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use ibot::error::{counted, printable};
use ibot::finetune::{
    ClassifierStep, EpochMetrics, FinetuneConfig, FinetuneObserver, FinetuneReport,
    FinetuneRequest, FinetuneStart, HeldOut, finetune,
};
use ibot::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::classification_report::{Accuracy, top5_text};
use super::images::LabeledImages;
use super::model::{HELD_OUT, ModelArgs};
use super::output::answer_json;
use super::ranks::RankArgs;
use super::screen::is_quiet;
use super::signals::stop_on_signal;

/// Flags of `ibot finetune`; the defaults are BEiT's recipe as iBOT's authors use it.
#[derive(Debug, clap::Args)]
pub struct FinetuneArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: LabeledImages,
    /// Run folder. The same command resumes an interrupted run in it.
    #[arg(long)]
    out: PathBuf,
    /// Labeled image folder to test on [default: --data's val or test folder, else a held-out fraction of --data].
    #[arg(long)]
    val: Option<PathBuf>,
    /// Fraction of each class of --data to hold out if there is no --val [default: 0.2].
    #[arg(long, value_name = "SHARE", conflicts_with = "val")]
    held_out: Option<f64>,
    /// Passes over the data.
    #[arg(long, default_value_t = FinetuneConfig::default().epochs)]
    epochs: usize,
    /// Peak learning rate at a batch size of 256; the run uses this times batch size / 256.
    #[arg(long, default_value_t = FinetuneConfig::default().learning_rate)]
    learning_rate: f64,
    /// Layer-wise learning rate decay: factor from each block to the one before it; 0.65 for ViT-B, 1 for none.
    #[arg(long, default_value_t = FinetuneConfig::default().layer_decay)]
    layer_decay: f64,
    /// Drop path rate of the last block; it grows linearly from 0 over the blocks.
    #[arg(long, default_value_t = FinetuneConfig::default().drop_path)]
    drop_path: f64,
    /// Label smoothing: fraction of each target that is spread over all classes.
    #[arg(long, default_value_t = FinetuneConfig::default().label_smoothing)]
    label_smoothing: f64,
    /// Weight decay of matrices.
    #[arg(long, default_value_t = FinetuneConfig::default().weight_decay)]
    weight_decay: f64,
    /// Freeze the backbone and train only the linear layer.
    #[arg(long)]
    freeze: bool,
    /// Seed of the head, the held-out part, order and views.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    ranks: RankArgs,
}

impl FinetuneArgs {
    pub fn run(mut self) -> Result<()> {
        if self.ranks.mixed_devices {
            let remedy = "is for `ibot train`: fine-tune on devices of one kind";
            return Err(Error::config("--mixed-devices", "given", remedy));
        }
        self.model.join(&self.ranks)?;
        self.model.ranks.end(self.tuned())
    }

    fn tuned(&self) -> Result<()> {
        let model = &self.model;
        let (file, options) = model.local()?;
        let val = self.val.as_deref();
        let split = model.split(self.data.path(), val, self.held_out.is_some())?;
        let request = FinetuneRequest {
            config: FinetuneConfig {
                precision: model.device.precision(),
                seed: self.seed,
                epochs: self.epochs,
                batch_size: model.batch_size,
                workers: model.workers,
                learning_rate: self.learning_rate,
                layer_decay: self.layer_decay,
                weight_decay: self.weight_decay,
                drop_path: self.drop_path,
                label_smoothing: self.label_smoothing,
                freeze: self.freeze,
                ..FinetuneConfig::default()
            },
            model: file,
            options,
            data: split.data,
            held_out: match split.val {
                Some(val) => HeldOut::Folder(val),
                None => HeldOut::Share(self.held_out.unwrap_or(HELD_OUT)),
            },
            folder: model.folder_config(),
            out: self.out.clone(),
            selected: model.device.select()?,
            collective: model.ranks.collective.clone(),
        };
        model.say_device(&request.selected)?;
        let stop = stop_on_signal()?;
        let mut progress = Progress {
            model,
            bar: ProgressBar::hidden(),
            epochs: self.epochs,
            classes: 0,
        };
        let report = finetune(&request, &stop, &mut progress)?;
        progress.bar.finish_and_clear();
        if model.ranks.is_first() {
            answer_json(model.json, &report, || table(&report))
        } else {
            Ok(())
        }
    }
}

/// A progress bar, and one line per epoch.
struct Progress<'a> {
    model: &'a ModelArgs,
    bar: ProgressBar,
    epochs: usize,
    classes: usize,
}

impl FinetuneObserver for Progress<'_> {
    fn note(&mut self, line: &str) {
        self.bar.suspend(|| self.model.note(line));
    }

    fn started(&mut self, start: &FinetuneStart) {
        self.classes = start.classes.len();
        self.note(&format!(
            "run {}: {} classes, {} to train on and {} held out, {}, {:.2} M trained parameters",
            printable(&start.out),
            start.classes.len(),
            counted(start.images, "image"),
            start.held_out,
            counted(start.steps, "step"),
            start.parameters as f64 / 1e6
        ));
        if std::io::stderr().is_terminal() && !is_quiet() {
            self.bar = ProgressBar::new(start.steps as u64).with_position(start.made as u64);
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            let template = "{percent:>3} % {bar:16} {pos}/{len}  {msg}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
        }
    }

    fn step(&mut self, steps: usize, measured: &ClassifierStep) {
        self.bar.set_position(steps as u64);
        self.bar.set_message(format!("loss {:.4}", measured.loss));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        let top5 = top5_text(metrics.top5, self.classes);
        let top5 = top5.map_or_else(String::new, |top5| format!("{top5} "));
        self.note(&format!(
            "epoch {}/{} loss {:.4} train {:.1} % top-1 {:.1} % {top5}lr {:.1e} {:.1} images/s",
            metrics.epoch,
            self.epochs,
            metrics.loss,
            100.0 * metrics.train_accuracy,
            100.0 * metrics.top1,
            metrics.learning_rate,
            metrics.images_per_s
        ));
    }
}

fn table(report: &FinetuneReport) -> String {
    let mut text = format!(
        "{}, {} classes; 95 % interval\n",
        counted(report.held_out, "held-out image"),
        report.classes.len()
    );
    for (name, exported) in [("best", &report.best), ("last", &report.last)] {
        let accuracy = Accuracy {
            top1: exported.top1,
            top5: exported.top5,
            top1_interval: exported.top1_interval,
        };
        let _ = writeln!(
            text,
            "{name}  epoch {:4}  {}  {}",
            exported.epoch,
            accuracy.text(report.classes.len()),
            printable(&exported.file)
        );
    }
    // not known of a run of an earlier version
    let last = report.epochs.last();
    if let Some(last) = last.filter(|of| of.most_frequent_class > 0.0) {
        let _ = writeln!(
            text,
            "always guessing the most frequent class: top-1 {:.1} %",
            100.0 * last.most_frequent_class
        );
    }
    text + "the best epoch was selected on this set, so its accuracy is optimistic"
}
