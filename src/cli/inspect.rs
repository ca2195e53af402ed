//! `ibot inspect`: what a model file says of itself.

use std::path::PathBuf;

use ibot::error::printable;
use ibot::model::{ModelOptions, read_model};
use ibot::weights::read_weights;
use ibot::{Error, Result};
use serde_json::json;

use super::output::answer;

/// Classes that are named; the others are counted.
const LISTED: usize = 20;

/// Flags of `ibot inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Model file.
    file: PathBuf,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    pub fn run(&self) -> Result<()> {
        let options = ModelOptions::default();
        let (card, hash) = match read_model(&self.file, &options) {
            Ok(model) => (model.card, Some(model.hash)),
            Err(Error::Config { .. }) => (None, None), // it does not say what it is: its tensors do
            Err(error) => return Err(error),
        };
        let tensors = read_weights(&self.file)?;
        let parameters: usize = tensors.values().map(|tensor| tensor.values.len()).sum();
        if self.json {
            let shapes: serde_json::Map<String, serde_json::Value> = tensors
                .iter()
                .map(|(name, tensor)| (name.clone(), json!(tensor.shape)))
                .collect();
            let all = json!({ "card": card, "blake3": hash, "parameters": parameters, "tensors": shapes });
            return answer(format_args!("{all:#}"));
        }
        answer(format_args!(
            "{}: {} tensors, {parameters} parameters",
            printable(&self.file),
            tensors.len()
        ))?;
        let Some(card) = card else {
            answer("it does not say what it is: commands need --encoder")?;
            for (name, tensor) in &tensors {
                answer(format_args!("  {name} {:?}", tensor.shape))?;
            }
            return Ok(());
        };
        let vit = &card.architecture;
        let preprocessing = &card.preprocessing;
        answer(format_args!(
            "{} of {} by ibot {}, {} steps",
            card.network, card.encoder, card.ibot, card.step
        ))?;
        answer(format_args!(
            "transformer: width {}, {} blocks, {} heads, patches of {} in {} x {}, {} registers",
            vit.embed_dim,
            vit.depth,
            vit.num_heads,
            vit.patch_size,
            vit.img_size,
            vit.img_size,
            vit.reg_tokens
        ))?;
        answer(format_args!(
            "pictures: shorter side to {:.0}, center {} x {}, {:?}, mean {:?}, std {:?}",
            preprocessing.image_size as f64 * 256.0 / 224.0,
            preprocessing.image_size,
            preprocessing.image_size,
            preprocessing.interpolation,
            preprocessing.mean,
            preprocessing.std
        ))?;
        if let Some(classes) = &card.classes {
            answer(format_args!("tells apart {}", listed(classes)))?;
        }
        if let Some(data) = &card.data {
            answer(format_args!(
                "trained on {} pictures, names {}",
                data.pictures, data.fingerprint
            ))?;
        }
        answer(format_args!(
            "licence: {}",
            card.licence.as_deref().unwrap_or("not named")
        ))?;
        answer(format_args!("BLAKE3 {}", hash.unwrap_or_default()))?;
        answer(format_args!(
            "fingerprint: features of {} built-in pictures; commands that load the file compare them",
            ibot::model::FINGERPRINT_PICTURES
        ))?;
        Ok(())
    }
}

/// The number of classes, and the names of the first ones.
fn listed(classes: &[String]) -> String {
    let names = classes[..classes.len().min(LISTED)].join(", ");
    match classes.len().saturating_sub(LISTED) {
        0 => format!("{} classes: {names}", classes.len()),
        more => format!("{} classes: {names} and {more} more", classes.len()),
    }
}
