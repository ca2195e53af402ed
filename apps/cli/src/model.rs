//! Flags and steps that all commands with a model share.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ibot::backbone::Normalization;
use ibot::data::{FolderConfig, ImageFolder, ImageSource as _, Parts, ValueRange, parts_of};
use ibot::device::Selected;
use ibot::embedding::{
    Embedded, Embedder, EmbeddingTable, FeatureKind, FolderRequest, Reused, embed_changed,
};
use ibot::error::{counted, printable};
use ibot::files::model::{ModelOptions, ModelSource};
use ibot::{Error, Result};
use indicatif::ProgressBar;
use serde::Serialize;

use super::bar::images_bar;
use super::device::DeviceArgs;
use super::flags::in_flags;
use super::folder_args::PixelArgs;
use super::left_out::LeftOutLog;
use super::output::{answer_json, say, warn};
use super::ranks::{RankArgs, Ranks};
use super::screen::{is_quiet, warning};

/// Which model, where, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Run folder, or model file from `ibot train`, timm or PyTorch; a folder of timm or transformers; or hf:OWNER/NAME on the
    /// Hugging Face hub.
    #[arg(long, value_name = "FILE", required = true)]
    pub model: Option<ModelSource>,
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
    #[command(flatten)]
    pub pixels: PixelArgs,
    /// The range of the model, or of the first folder that has one.
    #[arg(skip)]
    known_range: OnceLock<ValueRange>,
    /// The images that the answer is not about.
    #[arg(skip)]
    pub left_out: LeftOutLog,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// The processes that share the images.
    #[arg(skip = Ranks::alone())]
    pub ranks: Ranks,
    /// Whether their devices may be of different kinds.
    #[arg(skip)]
    mixed_devices: bool,
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
    /// Joins the other processes, if there are any; images are shared with them from then on.
    ///
    /// # Errors
    /// As [`RankArgs::join`].
    pub fn join(&mut self, flags: &RankArgs) -> Result<()> {
        self.ranks = flags.join(&mut self.device)?;
        self.workers = self.ranks.workers(self.workers);
        self.mixed_devices = flags.mixed_devices;
        Ok(())
    }

    /// Says where each of several processes computes.
    ///
    /// # Errors
    /// As [`Ranks::say_device`].
    pub fn say_device(&self, selected: &Selected) -> Result<()> {
        let note = |line: &str| self.note(line);
        self.ranks.say_device(selected, self.mixed_devices, &note)
    }

    /// Loads the model on its device; reports which, and how far its features are from those in the file.
    pub fn load(&self) -> Result<Embedder> {
        let selected = self.device.select()?;
        if self.ranks.is_alone() {
            self.note(&selected.to_string());
        }
        self.say_device(&selected)?;
        let (file, options) = self.local()?;
        let embedder = Embedder::load(&file, &options, &selected)?;
        self.note(&embedder.normalization().to_string());
        self.learn_range(embedder.preprocessing().range);
        if let Some(difference) = embedder.fingerprint_difference() {
            let like = match difference {
                0.0 => "equal to".to_owned(),
                _ => format!("within {difference:.1e} of"),
            };
            self.note(&format!(
                "model {}: features of the built-in images are {like} those in the file",
                self.name()
            ));
        }
        Ok(embedder)
    }

    /// The file on this machine, and how to read it.
    pub fn local(&self) -> Result<(PathBuf, ModelOptions)> {
        let model = self.model.as_ref().ok_or_else(|| {
            let remedy = "give a model file, or a file from `ibot embed`: --features FILE";
            Error::config("--model", "absent", remedy)
        })?;
        let local = model.resolve()?;
        let options = ModelOptions {
            encoder: self.encoder.clone(),
            image_size: self.image_size,
            normalization: self.normalization,
            range: self.pixels.range,
            precision: self.device.precision(),
            described: local.described,
        };
        Ok((local.file, options))
    }

    /// The model as it was given, to print.
    pub fn name(&self) -> String {
        let model = self.model.as_ref();
        model.map_or_else(String::new, |model| model.display().to_string())
    }

    /// Prints a line for people: on stderr if stdout is for a JSON result.
    pub fn note(&self, line: &str) {
        let line = in_flags(line);
        if is_quiet() {
            // as `say`
        } else if self.json {
            warn(line);
        } else {
            say(line);
        }
    }

    /// How folders are read.
    pub fn folder_config(&self) -> FolderConfig {
        FolderConfig {
            max_pixels: self.pixels.max_pixels,
            range: self.range(),
            ..FolderConfig::default()
        }
    }

    /// The range of values: as given, else the model's, else that of the first folder with images of more than 8 bits.
    pub fn range(&self) -> ValueRange {
        self.pixels
            .range
            .or(self.known_range.get().copied().unwrap_or_default())
    }

    fn learn_range(&self, range: ValueRange) {
        if !range.is_auto() {
            // the first one stays
            let _ = self.known_range.set(range);
        }
    }

    /// The folders to train on and to test on: those given, or the parts of `data`, which are then reported; only
    /// the first if a fraction of it is held out.
    ///
    /// # Errors
    /// Those of [`parts_of`].
    pub fn split(
        &self,
        data: &Path,
        val: Option<&Path>,
        is_held_out: bool,
    ) -> Result<SplitFolders> {
        if val.is_none()
            && !is_held_out
            && let Some(Parts {
                train,
                val: Some(val),
                ..
            }) = parts_of(data)?
        {
            let [root, from, to] = [data, &train, &val].map(printable);
            self.note(&format!(
                "data {root}: has train and test folders; trains on {from}, tests on {to}"
            ));
            return Ok(SplitFolders {
                data: train,
                val: Some(val),
            });
        }
        Ok(SplitFolders {
            data: data.to_path_buf(),
            val: val.map(Path::to_path_buf),
        })
    }

    /// Scans a folder for images and reports what it holds.
    pub fn scan(&self, path: &Path) -> Result<Arc<ImageFolder>> {
        let sources = [path.to_path_buf()];
        let never = AtomicBool::new(false);
        let folder = ImageFolder::scan_all(&sources, &self.folder_config(), &never)?;
        self.learn_range(folder.range());
        self.note(&format!("data {}: {}", printable(path), folder.summary()));
        self.left_out.skip(&folder.summary().skipped);
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
        let request = self.request(kind, layers);
        let never = AtomicBool::new(false);
        let (embedded, _) = self.embed_changed(embedder, folder, &request, &[], &never)?;
        Ok(embedded)
    }

    /// The features that the flags ask for.
    pub fn request(&self, kind: FeatureKind, layers: usize) -> FolderRequest {
        FolderRequest {
            kind,
            layers,
            batch_size: self.batch_size,
            workers: self.workers,
        }
    }

    /// The same, without those that are in `tables`; `stop` ends it after the current batch, with the features so far. Of
    /// several processes the first gets all features, and the others go no further.
    pub fn embed_changed(
        &self,
        embedder: &Embedder,
        folder: &Arc<ImageFolder>,
        request: &FolderRequest,
        tables: &[&EmbeddingTable],
        stop: &AtomicBool,
    ) -> Result<(Embedded, Reused)> {
        let bar = Self::bar(folder.len());
        let ranks = &*self.ranks.collective;
        let started = Instant::now();
        let (embedded, reused) =
            embed_changed(ranks, embedder, folder, request, tables, &mut |made, of| {
                bar.set_length(of as u64);
                bar.set_position(made as u64);
                !stop.load(Ordering::Relaxed)
            })?;
        bar.finish_and_clear();
        let seconds = started.elapsed().as_secs_f64();
        self.note_skipped(&embedded.skipped);
        let Reused { kept, computed } = reused;
        if kept > 0 {
            let kept = counted(kept, "image");
            self.note(&format!(
                "{kept} unchanged, whose features are there already"
            ));
        }
        if kept == 0 || computed > 0 {
            self.note(&format!(
                "{} in {seconds:.1} s, {:.1} images/s",
                counted(computed, "image"),
                computed as f64 / seconds
            ));
        }
        Ok((embedded, reused))
    }

    /// A progress bar over so many images, where somebody can see it.
    pub fn bar(images: usize) -> ProgressBar {
        if std::io::stderr().is_terminal() && !is_quiet() {
            images_bar(images)
        } else {
            ProgressBar::hidden()
        }
    }

    /// Names images that could not be read; they are part of the answer.
    pub fn note_skipped(&self, skipped: &[(PathBuf, String)]) {
        for (path, reason) in skipped {
            self.note(&format!("skipped {}: {reason}", printable(path)));
        }
        self.left_out.skip(skipped);
    }

    /// Prints the result: as JSON, with the images that were left out, or the text. These are counted where nothing has named them.
    pub fn answer(&self, result: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if let Some(count) = self.left_out.count().filter(|_| is_quiet()) {
            let listed = if self.json { "" } else { "; --json lists them" };
            warn(warning(format_args!("WARNING {count} left out{listed}")));
        }
        answer_json(self.json, &self.left_out.answer(result), text)
    }
}
