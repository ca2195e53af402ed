//! The metadata in the model files of a run.

use burn::module::Module;

use crate::backbone::{Backbone, TrainBackbone};
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::files::model::{CARD_FORMAT, DataCard, ModelCard, Preprocessing, fingerprint};
use crate::kernels::{IbotBackend, TrainBackend};
use crate::method::Ibot;
use crate::train::config::RunConfig;

/// Where the weights come from.
pub(in crate::train) struct Origin<'a> {
    pub config: &'a RunConfig,
    /// None if that is not known.
    pub data: Option<&'a DataCard>,
    pub step: usize,
}

impl Origin<'_> {
    /// The cards of student and teacher; takes both fingerprints on the device.
    pub fn cards<B: TrainBackend, M: TrainBackbone<B>>(
        &self,
        method: &Ibot<B, M>,
        guard: &DeviceGuard,
        device: &B::Device,
    ) -> Result<[ModelCard; 2]> {
        let student = method.student.network.backbone.valid();
        let teacher = &method.teacher.backbone;
        Ok([
            self.card::<B::InnerBackend, _>("student", &student, guard, device)?,
            self.card::<B::InnerBackend, _>("teacher", teacher, guard, device)?,
        ])
    }

    /// The card of one network; takes its fingerprint on the device.
    pub fn card<B: IbotBackend, M: Backbone<B>>(
        &self,
        network: &str,
        backbone: &M,
        guard: &DeviceGuard,
        device: &B::Device,
    ) -> Result<ModelCard> {
        let preprocessing = Preprocessing {
            range: self.config.folder.range,
            ..Preprocessing::from_augment(&self.config.augment)
        };
        Ok(ModelCard {
            format: CARD_FORMAT,
            ibot: env!("CARGO_PKG_VERSION").into(),
            encoder: match self.config.method.vit {
                Some(_) => "custom".into(),
                None => self.config.method.encoder_name.clone(),
            },
            network: network.into(),
            architecture: self.config.method.backbone()?,
            fingerprint: fingerprint::<B, _>(backbone, &preprocessing, guard, device)?,
            preprocessing,
            parameters: Module::<B>::num_params(backbone),
            step: self.step,
            data: self.data.cloned(),
            license: self.config.license.clone(),
            classes: None,
        })
    }
}
