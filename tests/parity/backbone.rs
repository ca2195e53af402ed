//! timm's vision transformer alone.

use ibot::backbone::{Backbone, VitConfig};
use ibot::files::load_state_dict;
use ibot::kernels::{IbotBackend, TrainBackend};
use ibot::random::{Random, Stream};

use crate::case::{Case, Comparison, values};

/// The configuration in `vit`; what this crate does not know fails instead of being ignored.
pub fn vit_config(case: &Case) -> Result<VitConfig, String> {
    serde_json::from_value(case.config["vit"].clone()).map_err(|error| error.to_string())
}

pub fn check<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    on_inner::<B::InnerBackend>(case, device)
}

fn on_inner<B: IbotBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let mut random = Random::new(0, 0, 0, Stream::Init);
    let config = vit_config(case)?;
    let model = config
        .init::<B>(&mut random, device)
        .map_err(|error| error.to_string())?;
    let (model, report) = load_state_dict(model, case.under("model."));
    if !report.is_clean() {
        return Err(report.to_string());
    }
    let images = case.tensor::<B, 4>("images", device)?;
    let mut comparison = Comparison::default();
    let features = values(model.forward_features(images.clone(), None));
    comparison.forward(case, "features", features)?;
    comparison.forward(case, "pooled", values(model.embed(images)))?;
    Ok(comparison)
}
