//! Flags and steps that all commands with a model share.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ibot::backbone::Normalization;
use ibot::data::{FolderConfig, ImageFolder, Parts, PictureSource as _};
use ibot::embedding::{Embedded, Embedder, FeatureKind, FolderRequest, embed_folder};
use ibot::error::{counted, printable};
use ibot::files::model::{ModelOptions, ModelSource};
use ibot::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::device::DeviceArgs;
use super::flags::in_flags;
use super::output::{answer, say, warn};

/// Which model, where, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Model file from `ibot train`, timm or PyTorch; or hf:OWNER/NAME on the Hugging Face hub.
    #[arg(long, value_name = "FILE")]
    pub model: ModelSource,
    /// timm name of the model, with the tag of its weights, for a file without architecture metadata; `ibot inspect
    /// --encoders` lists them.
    #[arg(long)]
    encoder: Option<String>,
    /// imagenet, half, clip or MEAN/STD, for a file without metadata [default: timm's for --encoder].
    #[arg(long)]
    normalization: Option<Normalization>,
    /// Input size in pixels (default: the model's).
    #[arg(long)]
    image_size: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Images per batch.
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Threads that decode; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    pub workers: usize,
    /// Skip images with more pixels than this.
    #[arg(long, value_name = "COUNT", default_value_t = FolderConfig::default().max_pixels)]
    pub max_pixels: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Default fraction of images to hold out.
pub const HELD_OUT: f64 = 0.2;

/// Labeled folders to train on and to test on; without the second, a fraction of the first is held out.
#[derive(Debug, Clone)]
pub struct SplitFolders {
    pub data: PathBuf,
    pub val: Option<PathBuf>,
}

impl ModelArgs {
    /// Loads the model on its device; reports which, and how far its features are from those in the file.
    pub fn load(&self) -> Result<Embedder> {
        let selected = self.device.select()?;
        self.note(&selected.to_string());
        let (file, options) = self.local()?;
        let embedder = Embedder::load(&file, &options, &selected)?;
        self.note(&embedder.normalization().to_string());
        if let Some(difference) = embedder.fingerprint_difference() {
            let like = match difference {
                0.0 => "equal to".to_owned(),
                _ => format!("within {difference:.1e} of"),
            };
            self.note(&format!(
                "model {}: features of the built-in images are {like} those in the file",
                self.model.display()
            ));
        }
        Ok(embedder)
    }

    /// The file on this machine, and how to read it.
    pub fn local(&self) -> Result<(PathBuf, ModelOptions)> {
        let local = self.model.resolve()?;
        let options = ModelOptions {
            encoder: self.encoder.clone(),
            image_size: self.image_size,
            normalization: self.normalization,
            precision: self.device.precision(),
            described: local.described,
        };
        Ok((local.file, options))
    }

    /// Prints a line for people: on stderr if stdout is for a JSON result.
    pub fn note(&self, line: &str) {
        let line = in_flags(line);
        if self.json {
            warn(line);
        } else {
            say(line);
        }
    }

    /// How folders are read.
    pub fn folder_config(&self) -> FolderConfig {
        FolderConfig {
            max_pixels: self.max_pixels,
            ..FolderConfig::default()
        }
    }

    /// The folders to train on and to test on: those given, or the parts of `data`, which are then reported; only
    /// the first if a fraction of it is held out.
    pub fn split(&self, data: &Path, val: Option<&Path>, is_held_out: bool) -> SplitFolders {
        if val.is_none()
            && !is_held_out
            && let Some(Parts {
                train,
                val: Some(val),
                ..
            }) = Parts::find(data)
        {
            let [root, from, to] = [data, &train, &val].map(printable);
            self.note(&format!(
                "data {root}: has train and test folders; trains on {from}, tests on {to}"
            ));
            return SplitFolders {
                data: train,
                val: Some(val),
            };
        }
        SplitFolders {
            data: data.to_path_buf(),
            val: val.map(Path::to_path_buf),
        }
    }

    /// Scans a folder for images and reports what it holds.
    pub fn scan(&self, path: &Path) -> Result<Arc<ImageFolder>> {
        let folder = ImageFolder::scan(path, &self.folder_config())?;
        self.note(&format!("data {}: {}", printable(path), folder.summary()));
        Ok(Arc::new(folder))
    }

    /// Features of a folder, with a progress bar. Signals are not caught: nothing is lost if one ends the process.
    pub fn embed(
        &self,
        embedder: &Embedder,
        folder: &Arc<ImageFolder>,
        kind: FeatureKind,
        layers: usize,
    ) -> Result<Embedded> {
        self.embed_until(embedder, folder, kind, layers, &AtomicBool::new(false))
    }

    /// The same; `stop` ends it after the current batch, with the features computed so far.
    pub fn embed_until(
        &self,
        embedder: &Embedder,
        folder: &Arc<ImageFolder>,
        kind: FeatureKind,
        layers: usize,
        stop: &AtomicBool,
    ) -> Result<Embedded> {
        let bar = ProgressBar::new(folder.len() as u64);
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {per_sec} ETA {eta}")
        {
            bar.set_style(style);
        }
        let request = FolderRequest {
            kind,
            layers,
            batch_size: self.batch_size,
            workers: self.workers,
        };
        let started = Instant::now();
        let embedded = embed_folder(embedder, folder, &request, &mut |made| {
            bar.set_position(made as u64);
            !stop.load(Ordering::Relaxed)
        })?;
        bar.finish_and_clear();
        let seconds = started.elapsed().as_secs_f64();
        for (path, reason) in &embedded.skipped {
            self.note(&format!("skipped {}: {reason}", printable(path)));
        }
        let count = embedded.set.len();
        self.note(&format!(
            "{} in {seconds:.1} s, {:.1} images/s",
            counted(count, "image"),
            count as f64 / seconds
        ));
        Ok(embedded)
    }

    /// Prints the result: as JSON, or the text.
    pub fn answer(&self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if !self.json {
            return answer(text().trim_end());
        }
        let json = serde_json::to_string_pretty(result).map_err(|error| {
            Error::Training(format!("the result cannot be written as JSON: {error}"))
        })?;
        answer(json)
    }
}
