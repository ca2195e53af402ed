//! A checkpoint as a file for other programs, made on the CPU.

use std::path::{Path, PathBuf};

use burn_flex::Flex;

use crate::device::DeviceGuard;
use crate::error::{Error, Result, require};
use crate::files::checkpoint::Checkpoint;
use crate::files::model::{DataCard, ModelCard, OnnxModel, TransformersModel, write_model_as};
use crate::files::{MethodWeights, Role, ibot_names, load_state_dict, stable_pretraining_names};
use crate::method::PrototypeNorm;
use crate::precision::Precision;
use crate::random::{Random, Stream};
use crate::train::config::RunConfig;
use crate::train::trainer::Tensors;
use crate::train::weights::cards::Origin;
use crate::train::weights::method_weights::from_trainer;

/// Layers of the heads of stable-pretraining.
const REFERENCE_LAYERS: usize = 3;

/// Which weights a file holds, and under whose names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// One backbone under timm's names.
    Timm,
    /// Student and teacher with heads, mask token and centers, under the names of the official iBOT or DINOv2.
    Ibot,
    /// Student and teacher with heads and mask token, as a state dict of stable-pretraining's iBOT.
    StablePretraining,
    /// One backbone as an ONNX model.
    Onnx,
    /// One backbone as a folder for Hugging Face's transformers.
    Transformers,
}

impl ExportFormat {
    /// Whether a file of this format holds student and teacher.
    pub fn holds_both(self) -> bool {
        matches!(self, Self::Ibot | Self::StablePretraining)
    }
}

/// The weights of a checkpoint, ready to export.
#[derive(Debug, Clone)]
pub struct Export {
    /// The checkpoint.
    source: PathBuf,
    config: RunConfig,
    weights: MethodWeights,
    step: usize,
    data: Option<DataCard>,
    dtype: Precision,
}

impl Export {
    /// Loads the checkpoint in the folder `source`; `data` is what its run was trained on, if known.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] or [`Error::Config`] if this version cannot read its settings; [`Error::Weights`] if
    /// its weights hold NaN or infinity.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        source: &Path,
        data: Option<DataCard>,
    ) -> Result<Self> {
        let manifest = &checkpoint.manifest;
        let config = RunConfig::default().merged_with_toml(&manifest.config);
        let config = config.map_err(|message| {
            let reason = format!("this version cannot read its settings: {message}");
            Error::checkpoint(source, reason)
        })?;
        let config = config.resolved()?;
        let weights = from_trainer(&checkpoint.tensors, &config.method);
        weights.check_finite(source)?;
        Ok(Self {
            source: source.to_path_buf(),
            weights,
            config,
            step: manifest.step,
            data,
            dtype: Precision::F32,
        })
    }

    /// The same with the teacher of another step, under timm's names.
    pub fn with_teacher(mut self, tensors: Tensors, step: usize) -> Self {
        self.weights.teacher.backbone.tensors = tensors;
        Self { step, ..self }
    }

    /// The same with entries of another type, to which weights are rounded; [`ExportFormat::Onnx`] has f32 alone.
    pub fn with_dtype(self, dtype: Precision) -> Self {
        Self { dtype, ..self }
    }

    /// Writes a file with metadata, as each model file has; `network` is for the formats that hold one network, and
    /// the metadata of the others is the teacher's.
    ///
    /// # Errors
    /// [`Error::Config`] if the format cannot hold the heads or the type of the entries, [`Error::Weights`] if the checkpoint's weights do not
    /// fit its settings, [`Error::Io`].
    pub fn write(&self, format: ExportFormat, network: Role, out: &Path) -> Result<()> {
        let tensors = match format {
            ExportFormat::Timm => self.backbone(network),
            ExportFormat::Ibot => ibot_names(&self.weights),
            ExportFormat::StablePretraining => {
                self.check_reference()?;
                let method = &self.config.method;
                let ema_decays = [method.ema_decay_start, method.ema_decay_end];
                stable_pretraining_names(&self.weights, ema_decays)
            }
            ExportFormat::Onnx => {
                let is_met = self.dtype == Precision::F32;
                let remedy = "ONNX models are written in f32; use `format` timm or transformers for other types";
                require(is_met, "dtype", self.dtype, remedy)?;
                let card = self.card(network)?;
                let model = OnnxModel {
                    source: &self.source,
                    architecture: &card.architecture,
                    preprocessing: &card.preprocessing,
                    card: Some(&card),
                    tensors: self.backbone(network),
                };
                return model.write(out);
            }
            ExportFormat::Transformers => {
                let card = self.card(network)?;
                let model = TransformersModel {
                    source: &self.source,
                    architecture: &card.architecture,
                    preprocessing: &card.preprocessing,
                    card: Some(&card),
                    tensors: self.backbone(network),
                    mask_token: self.weights.student.backbone.mask_token.clone(),
                    dtype: self.dtype,
                };
                return model.write(out);
            }
        };
        let network = if format.holds_both() {
            Role::Teacher
        } else {
            network
        };
        write_model_as(out, &self.card(network)?, &tensors, self.dtype)
    }

    /// A backbone as a file of this type gives it back.
    fn backbone(&self, network: Role) -> Tensors {
        let network = match network {
            Role::Student => &self.weights.student,
            Role::Teacher => &self.weights.teacher,
        };
        let mut tensors = network.backbone.tensors.clone();
        if self.dtype != Precision::F32 {
            let values = tensors.values_mut().flat_map(|tensor| &mut tensor.values);
            values.for_each(|x| *x = self.dtype.nearest(*x));
        }
        tensors
    }

    /// The card of a network, whose features Flex computes.
    fn card(&self, network: Role) -> Result<ModelCard> {
        let device = Default::default();
        let mut random = Random::new(0, 0, 0, Stream::Init);
        let fresh = (self.config.method.backbone()?).init::<Flex>(&mut random, &device)?;
        let (backbone, report) = load_state_dict(fresh, self.backbone(network));
        if !report.is_clean() {
            let reason = format!("the checkpoint does not fit its settings: {report}");
            return Err(Error::Weights {
                path: self.source.clone(),
                reason,
            });
        }
        let origin = Origin {
            config: &self.config,
            data: self.data.as_ref(),
            step: self.step,
        };
        let name = match network {
            Role::Student => "student",
            Role::Teacher => "teacher",
        };
        origin.card::<Flex, _>(name, &backbone, &DeviceGuard::Cpu, &device)
    }

    /// Refuses heads that stable-pretraining does not have.
    fn check_reference(&self) -> Result<()> {
        let method = &self.config.method;
        let fits = method.prototype_norm == PrototypeNorm::None
            && method.projector_layers == REFERENCE_LAYERS
            && !method.teacher_shares_head();
        if fits {
            return Ok(());
        }
        let remedy = format!(
            "supports only heads of {REFERENCE_LAYERS} layers with prototype_norm = \"none\" and shared_head = false; \
             the run has others: use `format` ibot"
        );
        Err(Error::config("format", "stable-pretraining", remedy))
    }
}
