//! What the commands that use a model have in common.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ibot::backbone::Normalization;
use ibot::data::{FolderConfig, ImageFolder, Parts, PictureSource as _};
use ibot::embedding::{Embedded, Embedder, FeatureKind, FolderRequest, embed_folder};
use ibot::error::printable;
use ibot::files::model::{ModelOptions, ModelSource};
use ibot::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::device::DeviceArgs;
use super::output::{answer, say, warn};

/// Which model, where, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Model file: a backbone that `ibot train` wrote, or a file of timm or PyTorch; or hf:OWNER/NAME on the hub.
    #[arg(long, value_name = "FILE")]
    pub model: ModelSource,
    /// timm name of the model, with the tag of its weights, for a file that does not say what it is; `ibot inspect --encoders`
    /// lists them.
    #[arg(long)]
    encoder: Option<String>,
    /// imagenet, half, clip or MEAN/STD, for a file that does not say it [default: what timm has for --encoder].
    #[arg(long)]
    normalization: Option<Normalization>,
    /// Side of the square input in pixels, where it is to be another one than the file's.
    #[arg(long)]
    image_size: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Pictures a batch.
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Threads that decode; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    pub workers: usize,
    /// Pictures with more pixels are skipped.
    #[arg(long, value_name = "COUNT", default_value_t = FolderConfig::default().max_pixels)]
    pub max_pixels: u64,
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Share of the pictures that is held out where nothing else is said.
pub const HELD_OUT: f64 = 0.2;

/// Labeled folders to learn from and to test on; without the second, a share of the first is held out.
#[derive(Debug, Clone)]
pub struct SplitFolders {
    pub data: PathBuf,
    pub val: Option<PathBuf>,
}

impl ModelArgs {
    /// The model on its device; says which, and how far the device is off the one that wrote the file.
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
                "model {}: features of the built-in pictures are {like} those in the file",
                self.model.display()
            ));
        }
        Ok(embedder)
    }

    /// The file on this machine, and how it is to be read.
    pub fn local(&self) -> Result<(PathBuf, ModelOptions)> {
        let local = self.model.resolve()?;
        let options = ModelOptions {
            encoder: self.encoder.clone(),
            image_size: self.image_size,
            normalization: self.normalization,
            described: local.described,
        };
        Ok((local.file, options))
    }

    /// A line for people: standard output is for the result where that is JSON.
    pub fn note(&self, line: &str) {
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

    /// The folders to learn from and to test on: those that were named, or the parts of `data`, and then says which; only
    /// the first where a share of it is held out.
    pub fn split(&self, data: &Path, val: Option<&Path>, is_held_out: bool) -> SplitFolders {
        if val.is_none()
            && !is_held_out
            && let Some(Parts {
                train,
                val: Some(val),
                ..
            }) = Parts::of(data)
        {
            let [root, from, to] = [data, &train, &val].map(printable);
            self.note(&format!("data {root}: has parts; tests on {to} by {from}"));
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

    /// The pictures of a folder; says what there is.
    pub fn scan(&self, path: &Path) -> Result<Arc<ImageFolder>> {
        let folder = ImageFolder::scan(path, &self.folder_config())?;
        self.note(&format!("data {}: {}", printable(path), folder.summary()));
        Ok(Arc::new(folder))
    }

    /// Features of a folder, with a bar. No signal is waited for: nothing is lost where one ends the process.
    pub fn embed(
        &self,
        embedder: &Embedder,
        folder: &Arc<ImageFolder>,
        kind: FeatureKind,
        layers: usize,
    ) -> Result<Embedded> {
        self.embed_until(embedder, folder, kind, layers, &AtomicBool::new(false))
    }

    /// The same; `stop` ends it after the batch that is under way, with the features made so far.
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
            "{count} pictures in {seconds:.1} s, {:.1} images/s",
            count as f64 / seconds
        ));
        Ok(embedded)
    }

    /// Prints the result: as JSON, or the text.
    pub fn answer(&self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if !self.json {
            return answer(text().trim_end());
        }
        let json = serde_json::to_string_pretty(result)
            .map_err(|error| Error::Training(format!("a result that is no JSON: {error}")))?;
        answer(json)
    }
}
