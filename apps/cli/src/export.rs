//! `ibot export`: weights for other programs.

use std::path::{Path, PathBuf};

use ibot::backbone::Normalization;
use ibot::error::{counted, printable};
use ibot::files::Role;
use ibot::files::checkpoint::{Checkpoint, Store};
use ibot::files::model::{
    DataCard, LinearClassifier, LoadedModel, ModelOptions, ModelSource, OnnxModel,
    TransformersModel, read_card, read_model,
};
use ibot::precision::Precision;
use ibot::train::{Export, ExportFormat, RunRecord, best_teacher};
use ibot::{Error, Result};

use super::choices::{DTYPES, FORMATS, one_of};
use super::destination;
use super::output::{answer, warn};
use super::python::{file_in_python, transformers_in_python};

/// Files of `--format transformers`, the weights first.
const TRANSFORMERS: [&str; 3] = [
    "model.safetensors",
    "config.json",
    "preprocessor_config.json",
];

/// Flags of `ibot export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Use the checkpoint with the best k-NN accuracy instead of the newest. Of a run with keep_best, timm, onnx and transformers
    /// get the best teacher with or without this; --checkpoint takes another step.
    #[arg(long)]
    best: bool,
    /// Which weights to write, under which names.
    #[arg(long, value_parser = one_of(FORMATS), default_value = "timm")]
    format: ExportFormat,
    /// Which backbone of a run to write, for timm, onnx and transformers [default: teacher].
    #[arg(long, value_enum, conflicts_with = "model")]
    network: Option<Network>,
    /// timm name of the model, with the tag of its weights, for a --model without architecture metadata.
    #[arg(long)]
    encoder: Option<String>,
    /// imagenet, half, clip or MEAN/STD, for a --model without metadata [default: timm's for --encoder].
    #[arg(long)]
    normalization: Option<Normalization>,
    /// Input size in pixels (default: the model's).
    #[arg(long)]
    image_size: Option<usize>,
    /// Type of the weights in the file, to which they are rounded; f16 and bf16 halve it. Not for onnx.
    #[arg(long, value_parser = one_of(DTYPES), default_value = "f32")]
    dtype: Precision,
    /// File to write: .safetensors, .onnx for that format, or a folder for transformers.
    #[arg(long)]
    out: PathBuf,
}

/// Where the weights come from.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// Run folder.
    #[arg(long)]
    run: Option<PathBuf>,
    /// One checkpoint, a folder such as RUN/checkpoints/step-000000120.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Option<PathBuf>,
    /// Model file, folder with config.json, or hf:OWNER/NAME on the Hugging Face hub; for --format onnx and transformers.
    #[arg(long, value_name = "FILE")]
    model: Option<ModelSource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Network {
    Teacher,
    Student,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::Teacher => "teacher",
            Self::Student => "student",
        }
    }
}

impl ExportArgs {
    pub fn run(&self) -> Result<()> {
        self.check()?;
        let what = match (
            &self.source.model,
            &self.source.checkpoint,
            &self.source.run,
        ) {
            (Some(model), ..) => self.export_model(model)?,
            (None, Some(path), _) => {
                let path = std::path::absolute(path).map_err(Error::io(path))?;
                let run = path.ancestors().nth(2).unwrap_or(&path);
                self.export_checkpoint(&Checkpoint::read(&path)?, &path, run, None)?
            }
            (None, None, run) => {
                let run = run.as_deref().unwrap_or(Path::new("."));
                if !run.is_dir() {
                    return Err(Error::checkpoint(run, "is not a folder; give a run folder"));
                }
                let store = Store::of_run(run);
                let best = self.best_teacher(run)?;
                let checkpoint = self.newest(&store, run, best.is_some())?;
                let path = store.path(checkpoint.manifest.step);
                self.export_checkpoint(&checkpoint, &path, run, best)?
            }
        };
        answer(format_args!("{}: {what}", printable(&self.out)))?;
        match self.format {
            ExportFormat::Transformers => answer(transformers_in_python(&self.out)),
            ExportFormat::Timm => {
                let line = read_card(&self.out)?.and_then(|card| file_in_python(&self.out, &card));
                line.map_or(Ok(()), answer)
            }
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        self.check_out()?;
        if let Some(network) = self.network.filter(|_| self.format.holds_both()) {
            let remedy = "works with --format timm, onnx or transformers only; the other formats hold both networks";
            return Err(Error::config("--network", network.name(), remedy));
        }
        let source = &self.source;
        let takes_models = [ExportFormat::Onnx, ExportFormat::Transformers].contains(&self.format);
        if let Some(model) = source.model.as_ref().filter(|_| !takes_models) {
            let remedy = "works with --format onnx or transformers only; the other formats need --run or --checkpoint";
            return Err(Error::config("--model", model.display(), remedy));
        }
        if self.format == ExportFormat::Onnx && self.dtype != Precision::F32 {
            let remedy = "works with safetensors only; ONNX models are written in f32";
            return Err(Error::config("--dtype", self.dtype, remedy));
        }
        // clap cannot check these: `requires` conflicts with the flags that are given
        if self.best && source.run.is_none() {
            return Err(Error::config("--best", true, "needs --run"));
        }
        let image_size = self.image_size.map(|side| side.to_string());
        let normalization = self.normalization.map(|values| values.to_string());
        for (flag, value) in [
            ("--encoder", &self.encoder),
            ("--image-size", &image_size),
            ("--normalization", &normalization),
        ] {
            if let Some(value) = value.as_ref().filter(|_| source.model.is_none()) {
                return Err(Error::config(flag, value, "needs --model"));
            }
        }
        Ok(())
    }

    /// Refuses a name that is none of the format's.
    fn check_out(&self) -> Result<()> {
        destination::outside_runs("--out", &self.out)?;
        let ending = self.out.extension().and_then(|ending| ending.to_str());
        let end = match self.format {
            ExportFormat::Transformers => {
                if self.out.is_file() || matches!(ending, Some("safetensors" | "onnx" | "bin")) {
                    let remedy = "must be a folder for --format transformers";
                    return Err(Error::config("--out", self.out.display(), remedy));
                }
                for name in TRANSFORMERS {
                    destination::outside_runs("--out", &self.out.join(name))?;
                }
                let weights = self.out.join(TRANSFORMERS[0]);
                return destination::own_weights("--out", &weights, &TRANSFORMERS[1..]);
            }
            ExportFormat::Onnx => "onnx",
            _ => "safetensors",
        };
        if ending != Some(end) {
            let remedy = format!("must end in .{end}");
            return Err(Error::config("--out", self.out.display(), remedy));
        }
        if self.format == ExportFormat::Onnx {
            return Ok(());
        }
        destination::own_weights("--out", &self.out, &[])
    }

    fn export_model(&self, source: &ModelSource) -> Result<String> {
        let local = source.resolve()?;
        let weights = self.out.join(TRANSFORMERS[0]);
        destination::other_than("--out", &weights, &local.file)?;
        let options = ModelOptions {
            encoder: self.encoder.clone(),
            image_size: self.image_size,
            normalization: self.normalization,
            described: local.described,
            ..ModelOptions::default() // nothing is computed
        };
        let model = read_model(&local.file, &options)?;
        let LoadedModel {
            card,
            architecture,
            normalization,
            preprocessing,
            mut tensors,
            ..
        } = model;
        let side = preprocessing.image_size;
        let classes = card.as_ref().and_then(|card| card.classes.as_ref());
        let what = match classes.filter(|_| self.format == ExportFormat::Onnx) {
            Some(classes) => {
                let classifier = LinearClassifier::read(&local.file, card.as_ref())?;
                let head = classifier.tensors().into_iter();
                tensors.extend(head.map(|(name, tensor)| (name.to_owned(), tensor)));
                format!("a classifier of {} classes with its head", classes.len())
            }
            None => "the backbone".to_owned(),
        };
        match self.format {
            ExportFormat::Transformers => TransformersModel {
                source: &local.file,
                architecture: &architecture,
                preprocessing: &preprocessing,
                card: card.as_ref(),
                tensors,
                mask_token: None,
                dtype: self.dtype,
            }
            .write(&self.out)?,
            _ => OnnxModel {
                source: &local.file,
                architecture: &architecture,
                preprocessing: &preprocessing,
                card: card.as_ref(),
                tensors,
            }
            .write(&self.out)?,
        }
        Ok(format!(
            "{what}, for images of {side} x {side}, {normalization}"
        ))
    }

    fn export_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        path: &Path,
        run: &Path,
        best: Option<LoadedModel>,
    ) -> Result<String> {
        let data = RunRecord::read(run)?.map(|record| DataCard {
            images: record.images,
            fingerprint: record.fingerprint,
        });
        let network = match self.network {
            Some(Network::Student) => Role::Student,
            Some(Network::Teacher) | None => Role::Teacher,
        };
        let mut export = Export::from_checkpoint(checkpoint, path, data)?.with_dtype(self.dtype);
        let best_step = best
            .as_ref()
            .and_then(|best| Some(best.card.as_ref()?.step));
        if let Some((best, step)) = best.zip(best_step) {
            export = export.with_teacher(best.tensors, step);
        }
        export.write(self.format, network, &self.out)?;
        let weights = match (self.format, network) {
            (ExportFormat::Ibot, _) => "student and teacher with heads, under iBOT's names",
            (ExportFormat::StablePretraining, _) => {
                "student and teacher with heads, under stable-pretraining's names"
            }
            (_, Role::Student) => "the student's backbone",
            (_, Role::Teacher) if best_step.is_some() => "the best teacher's backbone",
            (_, Role::Teacher) => "the teacher's backbone",
        };
        let step = best_step.unwrap_or(checkpoint.manifest.step);
        Ok(format!("{weights}, after {}", counted(step, "step")))
    }

    /// The best teacher of a run with `keep_best`, which is what other commands take a run for; none where the format holds more than
    /// a teacher, or the student is asked for.
    fn best_teacher(&self, run: &Path) -> Result<Option<LoadedModel>> {
        let is_asked_for = !self.format.holds_both() && self.network != Some(Network::Student);
        let best = best_teacher(run).filter(|_| is_asked_for);
        let read = |best: PathBuf| {
            let model = read_model(&best, &ModelOptions::default())?;
            match model.card {
                Some(_) => Ok(model),
                None => Err(Error::data(
                    best,
                    "does not say of which step it is; give --checkpoint",
                )),
            }
        };
        best.map(read).transpose()
    }

    /// The newest good checkpoint of a run, or its best; reports the damaged ones that it skips.
    fn newest(&self, store: &Store, run: &Path, has_best: bool) -> Result<Checkpoint> {
        if self.best && !has_best {
            let best = store.best()?.ok_or_else(|| {
                let reason = "has no checkpoint with a k-NN accuracy; leave out --best, or train with --knn-every and --val or --held-out";
                Error::checkpoint(run, reason)
            })?;
            return Checkpoint::read(&store.path(best));
        }
        let (newest, damaged) = store.newest()?;
        for damaged in damaged {
            warn(format_args!(
                "skipped a damaged checkpoint: {}",
                damaged.error
            ));
        }
        newest.ok_or_else(|| Error::checkpoint(run, "has no checkpoint to export"))
    }
}
