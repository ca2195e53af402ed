//! A model file or folder of another program, read as the commands read it.

use std::path::Path;

use ibot::files::model::{ModelOptions, read_model};
use ibot::kernels::{IbotBackend, TrainBackend};

use crate::case::{Case, Comparison, values};

/// The model is at the path `model` beside the case; `encoder` and `image_size` are as the flags of that name.
pub fn check<B: TrainBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    on_inner::<B::InnerBackend>(case, device)
}

fn on_inner<B: IbotBackend>(case: &Case, device: &B::Device) -> Result<Comparison, String> {
    let text = |key: &str| case.config[key].as_str();
    let folder = case.path.parent().unwrap_or(Path::new(""));
    let path = folder.join(text("model").ok_or("no path `model` in the config")?);
    let size = case.config["image_size"].as_u64();
    let options = ModelOptions {
        encoder: text("encoder").map(str::to_owned),
        image_size: size.map(|size| size as usize),
        ..ModelOptions::default()
    };
    let mut model = read_model(&path, &options).map_err(|error| error.to_string())?;
    let backbone = model.backbone::<B>(&path, device);
    let backbone = backbone.map_err(|error| error.to_string())?;
    let images = case.tensor::<B, 4>("images", device)?;
    let mut comparison = Comparison::default();
    let tokens = values(backbone.forward_features(images.clone(), None));
    comparison.forward(case, "tokens", tokens)?;
    comparison.forward(
        case,
        "attention",
        values(backbone.last_selfattention(images)),
    )?;
    Ok(comparison)
}
