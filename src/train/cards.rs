//! What the model files of a run say of themselves.

use burn::module::Module as _;

use super::RunConfig;
use crate::backbone::TrainBackbone;
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::ibot::Ibot;
use crate::kernels::TrainBackend;
use crate::model::{CARD_FORMAT, DataCard, ModelCard, Preprocessing, fingerprint};

/// Where the weights come from.
pub(super) struct Origin<'a> {
    pub config: &'a RunConfig,
    pub data: &'a DataCard,
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
        let preprocessing = Preprocessing::of(&self.config.augment);
        let of_student =
            fingerprint::<B::InnerBackend, _>(&student, &preprocessing, guard, device)?;
        let teacher = &method.teacher.backbone;
        let of_teacher = fingerprint::<B::InnerBackend, _>(teacher, &preprocessing, guard, device)?;
        let student = ModelCard {
            format: CARD_FORMAT,
            ibot: env!("CARGO_PKG_VERSION").into(),
            encoder: match self.config.method.vit {
                Some(_) => "custom".into(),
                None => self.config.method.encoder_name.clone(),
            },
            network: "student".into(),
            architecture: self.config.method.backbone()?,
            preprocessing,
            parameters: student.num_params(),
            step: self.step,
            data: Some(self.data.clone()),
            licence: self.config.licence.clone(),
            classes: None,
            fingerprint: of_student,
        };
        let teacher = ModelCard {
            network: "teacher".into(),
            fingerprint: of_teacher,
            ..student.clone()
        };
        Ok([student, teacher])
    }
}
