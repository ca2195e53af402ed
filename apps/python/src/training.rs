//! A run on a thread of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ibot::app::{TrainingConfig, TrainingHandle};
use ibot::data::{ImageFolder, parts_of};
use ibot::device::{BackendChoice, Selected, select};
use ibot::files::checkpoint::Keep;
use ibot::files::model::{LocalModel, ModelSource, Normalized};
use ibot::train::plan::Choosable;
use ibot::train::presets::{STABLE_PRETRAINING, preset};
use ibot::train::recommended::{StartFrom, recommended_with, training_examples};
use ibot::train::{Interval, PretrainedParts, RunConfig, RunRecord, RunRequest};
use ibot::{Error, Result};
use pyo3::prelude::*;

use crate::choice::{ON_ANOMALY, ON_DEVICE_LOST, PRETRAINED_PARTS, choice};
use crate::errors::raised;
use crate::events::as_json;
use crate::waiting::{LOOK, done};

/// What `ibot_train.train` is given.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Request {
    data: Vec<PathBuf>,
    out: PathBuf,
    /// The settings that are given, as JSON.
    settings: String,
    preset: Option<String>,
    config: Option<PathBuf>,
    encoder: Option<String>,
    pretrained: Option<OsString>,
    pretrained_parts: String,
    val: Option<PathBuf>,
    knn_every: usize,
    checkpoint_every: String,
    keep: usize,
    on_anomaly: String,
    on_device_lost: String,
    backend: String,
    device: Option<String>,
    allow_changes: bool,
}

impl Request {
    fn resolved(self, stop: &AtomicBool) -> Result<RunRequest> {
        // wrong arguments are told before weights are downloaded
        let checkpoint_every = self.checkpoint_every.parse::<Interval>()?;
        let backend = self.backend.parse::<BackendChoice>()?;
        let keep = self.kept()?;
        let on_anomaly = choice("on_anomaly", &self.on_anomaly, ON_ANOMALY)?;
        let on_device_lost = choice("on_device_lost", &self.on_device_lost, ON_DEVICE_LOST)?;
        let pretrained_parts = self.parts()?;
        let pretrained = self.pretrained.clone().map(ModelSource::from);
        let pretrained = pretrained.map(|of| of.resolve()).transpose()?;
        let selected = select(backend, self.device.as_deref())?;
        let sources = self.sources()?;
        if sources.is_empty() {
            return Err(Error::config("data", "[]", "give an image folder"));
        }
        let weights = pretrained.as_ref().map(|file| (file, pretrained_parts));
        let (base, scanned) = self.base(&sources, weights, &selected, stop)?;
        let config = self.applied_to(base, pretrained.as_ref())?.resolved()?;
        Ok(RunRequest {
            scanned,
            pretrained: pretrained.map(|local| local.file),
            pretrained_parts,
            val: self.val,
            knn_every: self.knn_every,
            checkpoint_every,
            keep,
            on_anomaly,
            on_device_lost,
            allow_changes: self.allow_changes,
            ..RunRequest::new(config, sources, self.out, selected)
        })
    }

    fn kept(&self) -> Result<Keep> {
        if self.keep == 0 {
            return Err(Error::config("keep", 0, "give 1 or more"));
        }
        Ok(Keep {
            last: self.keep,
            ..Keep::default()
        })
    }

    /// What is loaded of the weights.
    fn parts(&self) -> Result<PretrainedParts> {
        let parts = choice("pretrained_parts", &self.pretrained_parts, PRETRAINED_PARTS)?;
        if parts != PretrainedParts::default() && self.pretrained.is_none() {
            let remedy = "needs weights: name their file with `pretrained`";
            let given = &self.pretrained_parts;
            return Err(Error::config("pretrained_parts", given, remedy));
        }
        Ok(parts)
    }

    /// The folders to train on: of a data set in parts, the part `train`.
    fn sources(&self) -> Result<Vec<PathBuf>> {
        let part = |data: &PathBuf| {
            let parts = parts_of(data)?;
            Ok(parts.map_or(data.clone(), |parts| parts.train))
        };
        self.data.iter().map(part).collect()
    }

    /// What the settings start from: the preset; under a file, the reference's; in a folder with a run, the run's; else
    /// what the number of images and the device recommend, for which the images are looked at.
    fn base(
        &self,
        sources: &[PathBuf],
        weights: Option<(&LocalModel, PretrainedParts)>,
        selected: &Selected,
        stop: &AtomicBool,
    ) -> Result<(RunConfig, Option<Arc<ImageFolder>>)> {
        let pretrained = weights.map(|(file, _)| file);
        if let Some(name) = &self.preset {
            return Ok((preset(name)?, None));
        }
        if self.config.is_some() {
            return Ok((preset(STABLE_PRETRAINING)?, None));
        }
        if let Some(begun) = RunRecord::read(&self.out)? {
            return Ok((begun.config(&self.out)?, None));
        }
        // wrong settings are told before the images are looked at
        let given = self.applied_to(RunConfig::default(), pretrained)?;
        let mut folder = given.clone().resolved()?.folder;
        folder.cache = None;
        let images = ImageFolder::scan_all(sources, &folder, stop)?;
        let model = |config: RunConfig| (config.method.encoder_name, config.method.vit);
        let names_model = given.method.image_size != RunConfig::default().method.image_size
            || model(given.clone()) != model(RunConfig::default());
        let parts = weights.map(|(_, parts)| parts);
        let from = match (parts, names_model) {
            (Some(PretrainedParts::All), _) => StartFrom::Heads,
            (Some(PretrainedParts::Backbone), _) => StartFrom::Backbone,
            (None, true) => StartFrom::NamedModel {
                patch_size: given.method.backbone()?.patch_size,
            },
            (None, false) => StartFrom::AnyModel,
        };
        let images = Arc::new(images);
        let count = training_examples(&images, &given.resolved()?);
        let own = |config| self.applied_to(config, pretrained);
        let may = Choosable {
            micro_batch_size: true,
            // given as false, it stays
            grad_checkpointing: !self.has("method", "grad_checkpointing")?,
        };
        let config = recommended_with(count, selected, from, may, &own)?.config;
        Ok((config, Some(images)))
    }

    /// `config`, then what comes with the weights to start from, then the file, then the keywords.
    fn applied_to(
        &self,
        mut config: RunConfig,
        pretrained: Option<&LocalModel>,
    ) -> Result<RunConfig> {
        if let Some(model) = pretrained {
            config.method.pretrained = true;
            let named = self.with_file(config.clone(), Some(model))?.method;
            let encoder = named.vit.is_none().then_some(named.encoder_name.as_str());
            let own = Normalized::of_file(&model.file, &model.described, encoder)?;
            if let Some(own) = own {
                (config.augment.mean, config.augment.std) = (own.values.mean, own.values.std);
            }
        }
        let config = self.with_file(config, pretrained)?;
        let given = self.given()?;
        let merged = config.merged_with_toml(&given.to_string());
        merged.map_err(|message| {
            let names: Vec<&str> = given.keys().map(String::as_str).collect();
            Error::config("settings", names.join(", "), message)
        })
    }

    /// `config` with the file, and the encoder that a keyword names; without a file, the encoder of the weights.
    fn with_file(&self, config: RunConfig, pretrained: Option<&LocalModel>) -> Result<RunConfig> {
        let mut config = match &self.config {
            Some(path) => config.merged_with_file(path)?,
            None => config,
        };
        let of_weights = pretrained.filter(|_| self.config.is_none());
        let described = of_weights.map(|model| &model.described);
        config.set_encoder(self.encoder.as_ref(), described);
        Ok(config)
    }

    /// The settings that are given as keywords.
    fn given(&self) -> Result<toml::Table> {
        serde_json::from_str(&self.settings)
            .map_err(|error| Error::config("settings", &self.settings, error.to_string()))
    }

    /// Whether a keyword sets this key of a table.
    fn has(&self, table: &str, key: &str) -> Result<bool> {
        let given = self.given()?;
        let table = given.get(table).and_then(toml::Value::as_table);
        Ok(table.is_some_and(|table| table.contains_key(key)))
    }
}

/// A run; dropping it ends the run with a checkpoint.
#[pyclass(frozen)]
pub struct Training {
    handle: Arc<TrainingHandle>,
    /// The process that has the thread.
    process: u32,
}

impl Drop for Training {
    /// Ends the run here, without the GIL: other threads of Python go on meanwhile.
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // a forked process has no thread to wait for; a clone that stays keeps the handle from waiting
            std::mem::forget(self.handle.clone());
            return;
        }
        self.handle.cancel();
        Python::attach(|py| py.detach(|| self.handle.wait()).ok());
    }
}

#[pymethods]
impl Training {
    #[new]
    fn new(py: Python<'_>, request: Request) -> PyResult<Self> {
        let start = |stop: &AtomicBool| TrainingConfig::default().start(request.resolved(stop)?);
        let handle = done(py, start)?;
        Ok(Self {
            handle: Arc::new(handle),
            process: std::process::id(),
        })
    }

    /// The next event as JSON; None if there is none within a tenth of a second.
    fn next_event(&self, py: Python<'_>) -> Option<String> {
        let event = py.detach(|| self.handle.next_event(LOOK));
        event.map(|event| as_json(&event).to_string())
    }

    /// Ends the run after the current step, with a checkpoint.
    fn cancel(&self) {
        self.handle.cancel();
    }

    /// Waits for the end of the run; Ctrl-C ends the waiting.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        while !self.handle.is_over() {
            py.detach(|| std::thread::sleep(LOOK));
            py.check_signals()?;
        }
        py.detach(|| self.handle.wait()).map_err(raised)
    }
}
