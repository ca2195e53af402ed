//! `ibot inspect`: describes a model file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ibot::Result;
use ibot::backbone::{VitConfig, encoder_names, encoder_tags, timm_normalization, vit_from_name};
use ibot::data::ValueRange;
use ibot::embedding::{EmbeddingTable, TableKind};
use ibot::error::{counted, printable};
use ibot::files::model::{
    Described, LocalModel, ModelCard, ModelSource, Preprocessing, file_hash, read_card,
};
use ibot::files::{NamedTensor, network_prefix, passed_over, read_weights};
use serde_json::json;

use super::output::answer;
use super::python::{file_in_python, folder_in_python, transformers_in_python};

/// Maximum number of classes and of skipped tensors that are named; the others are counted.
const LISTED: usize = 20;

/// The weights in a folder that timm and transformers open.
const MODEL_FILE: &str = "model.safetensors";

/// A tensor that every backbone under timm's names has.
const TIMM_TENSOR: &str = "patch_embed.proj.weight";

/// Flags of `ibot inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Model file, run folder, or another folder with config.json.
    #[arg(required_unless_present = "encoders")]
    file: Option<PathBuf>,
    /// List the names that --encoder knows, with the tags of timm's weights and their normalization.
    #[arg(long, conflicts_with_all = ["file", "json"])]
    encoders: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    pub fn run(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return list_encoders();
        };
        let LocalModel { file, described } = ModelSource::File(file.clone()).resolve()?;
        let file = &file;
        if let Some(kind) = TableKind::of(file) {
            return self.table(file, kind);
        }
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
                "damaged: {} has {count} values that are NaN or infinite; no command can use it",
                printable(name)
            ))?;
        }
        if !passed_over.is_empty() {
            let names: Vec<String> = passed_over
                .iter()
                .map(|(name, dtype)| format!("{name} ({dtype})"))
                .collect();
            answer(format_args!("not floats, skipped: {}", listed(&names)))?;
        }
        match card {
            Some(card) => describe_with_card(file, &card, &tensors)?,
            None => {
                describe_without_card(&described)?;
                for (name, tensor) in &tensors {
                    answer(format_args!("  {} {:?}", printable(name), tensor.shape))?;
                }
            }
        }
        Ok(())
    }
}

impl InspectArgs {
    /// Describes a file of features.
    fn table(&self, file: &Path, kind: TableKind) -> Result<()> {
        let table = match kind {
            TableKind::Images => Some(EmbeddingTable::read(file)?),
            TableKind::Patches | TableKind::Tiles => None,
        };
        if self.json {
            let all = json!({
                "features_of": kind.to_string(),
                "images": table.as_ref().map(EmbeddingTable::len),
                "width": table.as_ref().map(|table| table.width),
                "model": table.as_ref().map(|table| &table.model),
                "recipe": table.as_ref().map(|table| &table.recipe),
            });
            return answer(format_args!("{all:#}"));
        }
        let name = printable(file);
        let Some(table) = table else {
            return answer(format_args!("{name}: features of {kind}, not a model"));
        };
        let (images, width) = (counted(table.len(), "image"), table.width);
        answer(format_args!(
            "{name}: features of {images}, {width} values each; not a model"
        ))?;
        let said = [
            ("features", table.recipe),
            ("BLAKE3 of their model", table.model),
        ];
        for (what, said) in said {
            if let Some(said) = said {
                answer(format_args!("{what}: {}", printable(&said)))?;
            }
        }
        Ok(())
    }
}

fn describe_with_card(
    file: &Path,
    card: &ModelCard,
    tensors: &BTreeMap<String, NamedTensor>,
) -> Result<()> {
    let holds_both = network_prefix(tensors.keys().map(String::as_str)).is_some();
    describe(card, holds_both, &file_hash(file)?)?;
    if holds_both {
        return answer(
            "for timm: `ibot export --run FOLDER --out NEW.safetensors` writes a backbone alone",
        );
    }
    let is_timm = tensors.contains_key(TIMM_TENSOR);
    in_python(file, card, is_timm).map_or(Ok(()), answer)
}

/// How the model is opened in Python: by its folder, if it is one for that; `is_timm` of weights under timm's names.
fn in_python(file: &Path, card: &ModelCard, is_timm: bool) -> Option<String> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let is_folder = file.ends_with(MODEL_FILE) && folder.join("config.json").is_file();
    match (is_folder, is_timm) {
        (true, true) => Some(folder_in_python(folder)),
        (true, false) => Some(transformers_in_python(folder)),
        (false, true) => file_in_python(file, card),
        (false, false) => None,
    }
}

fn describe_without_card(described: &Described) -> Result<()> {
    match (&described.architecture, &described.preprocessing) {
        (Some(vit), Some(preprocessing)) => {
            let encoder = described.encoder.as_deref().unwrap_or("custom");
            answer(format_args!("{encoder}, by config.json"))?;
            describe_shape(vit, preprocessing)
        }
        (Some(_), None) if described.refused.is_some() => answer(format_args!(
            "config.json {}",
            described.refused.as_deref().unwrap_or_default()
        )),
        _ => answer("no architecture in the file; commands with --model need --encoder"),
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

/// What the card says; `holds_both` of a file with student and teacher, whose card is the teacher's.
fn describe(card: &ModelCard, holds_both: bool, hash: &str) -> Result<()> {
    let network = if holds_both {
        "student and teacher with heads".to_owned()
    } else {
        printable(&card.network)
    };
    answer(format_args!(
        "{network} of {} by ibot {}, {}",
        printable(&card.encoder),
        printable(&card.ibot),
        counted(card.step, "step")
    ))?;
    describe_shape(&card.architecture, &card.preprocessing)?;
    if let Some(classes) = &card.classes {
        answer(format_args!(
            "{} classes: {}",
            classes.len(),
            listed(classes)
        ))?;
    }
    if let Some(data) = &card.data {
        answer(format_args!(
            "{} (dataset hash {})",
            counted(data.images, "training image"),
            printable(&data.fingerprint)
        ))?;
    }
    answer(format_args!(
        "license: {}",
        printable(card.license.as_deref().unwrap_or("not given"))
    ))?;
    answer(format_args!("BLAKE3 {hash}"))?;
    let of = if holds_both { "the teacher's " } else { "" };
    answer(format_args!(
        "fingerprint: {of}features of {} built-in images, compared whenever the file is loaded",
        ibot::files::model::FINGERPRINT_IMAGES
    ))
}

fn describe_shape(vit: &VitConfig, preprocessing: &Preprocessing) -> Result<()> {
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
    let side = preprocessing.image_size;
    let fit = match preprocessing.fit.shorter_side(side) {
        Some(shorter) => format!("shorter side to {shorter}, center crop {side} x {side}"),
        None => format!("stretched to {side} x {side}"),
    };
    let range = match preprocessing.range {
        ValueRange::Auto => String::new(),
        range => format!(", range {range}"),
    };
    answer(format_args!(
        "preprocessing: {fit}, {:?}, {}{range}",
        preprocessing.interpolation,
        preprocessing.normalization()
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
