//! `ibot inspect`: what a model file says of itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ibot::Result;
use ibot::backbone::{encoder_names, encoder_tags, timm_normalization, vit_from_name};
use ibot::error::printable;
use ibot::files::model::{ModelCard, file_hash, read_card};
use ibot::files::{NamedTensor, passed_over, read_weights};
use serde_json::json;

use super::output::answer;

/// Classes that are named, and tensors that are passed over; the others are counted.
const LISTED: usize = 20;

/// Flags of `ibot inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Model file.
    #[arg(required_unless_present = "encoders")]
    file: Option<PathBuf>,
    /// Lists the names that --encoder knows, with the tags of timm's weights and their normalization.
    #[arg(long, conflicts_with_all = ["file", "json"])]
    encoders: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    pub fn run(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return list_encoders();
        };
        let tensors = read_weights(file)?;
        let card = read_card(file)?;
        let parameters: usize = tensors.values().map(|tensor| tensor.values.len()).sum();
        let passed_over = passed_over(file);
        if self.json {
            let shapes: serde_json::Map<String, serde_json::Value> = tensors
                .iter()
                .map(|(name, tensor)| (name.clone(), json!(tensor.shape)))
                .collect();
            let hash = card.as_ref().map(|_| file_hash(file)).transpose()?;
            let all = json!({
                "card": card,
                "blake3": hash,
                "parameters": parameters,
                "tensors": shapes,
                "not_finite": not_finite(&tensors),
                "passed_over": passed_over.into_iter().collect::<BTreeMap<_, _>>(),
            });
            return answer(format_args!("{all:#}"));
        }
        answer(format_args!(
            "{}: {} tensors, {parameters} parameters",
            printable(file),
            tensors.len()
        ))?;
        for (name, count) in not_finite(&tensors) {
            answer(format_args!(
                "damaged: {} has {count} values that are NaN or infinite; no command takes it",
                printable(name)
            ))?;
        }
        if !passed_over.is_empty() {
            let names: Vec<String> = passed_over
                .iter()
                .map(|(name, dtype)| format!("{name} ({dtype})"))
                .collect();
            answer(format_args!("no floats, passed over: {}", listed(&names)))?;
        }
        match card {
            Some(card) => describe(&card, &file_hash(file)?)?,
            None => {
                answer("it does not say what it is: commands need --encoder")?;
                for (name, tensor) in &tensors {
                    answer(format_args!("  {} {:?}", printable(name), tensor.shape))?;
                }
            }
        }
        Ok(())
    }
}

fn list_encoders() -> Result<()> {
    for name in encoder_names() {
        let vit = vit_from_name(&name, 224)?;
        answer(format_args!(
            "{name}: width {}, {} blocks, {} heads, patches of {}",
            vit.embed_dim, vit.depth, vit.num_heads, vit.patch_size
        ))?;
        for tag in encoder_tags(&name) {
            let tagged = format!("{name}.{tag}");
            answer(format_args!("  .{tag}: {}", timm_normalization(&tagged)))?;
        }
    }
    Ok(())
}

/// Tensors with NaN or infinity, and how many of them.
fn not_finite(tensors: &BTreeMap<String, NamedTensor>) -> BTreeMap<&str, usize> {
    let count = |values: &[f32]| values.iter().filter(|value| !value.is_finite()).count();
    let counted = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), count(&tensor.values)));
    counted.filter(|(_, count)| *count > 0).collect()
}

fn describe(card: &ModelCard, hash: &str) -> Result<()> {
    let vit = &card.architecture;
    let preprocessing = &card.preprocessing;
    answer(format_args!(
        "{} of {} by ibot {}, {} steps",
        printable(&card.network),
        printable(&card.encoder),
        printable(&card.ibot),
        card.step
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
        "pictures: shorter side to {:.0}, center {} x {}, {:?}, {}",
        preprocessing.image_size as f64 * 256.0 / 224.0,
        preprocessing.image_size,
        preprocessing.image_size,
        preprocessing.interpolation,
        preprocessing.normalization()
    ))?;
    if let Some(classes) = &card.classes {
        answer(format_args!(
            "tells apart {} classes: {}",
            classes.len(),
            listed(classes)
        ))?;
    }
    if let Some(data) = &card.data {
        answer(format_args!(
            "trained on {} pictures, names {}",
            data.pictures,
            printable(&data.fingerprint)
        ))?;
    }
    answer(format_args!(
        "license: {}",
        printable(card.license.as_deref().unwrap_or("not named"))
    ))?;
    answer(format_args!("BLAKE3 {hash}"))?;
    answer(format_args!(
        "fingerprint: features of {} built-in pictures; commands that load the file compare them",
        ibot::files::model::FINGERPRINT_PICTURES
    ))
}

/// The first names, and how many more there are.
fn listed(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(LISTED).map(printable).collect();
    let first = first.join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
