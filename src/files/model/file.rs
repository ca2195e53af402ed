//! Model files, read and written.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::backend::Backend;

use crate::backbone::{Normalization, VisionTransformer, VitConfig, split_tag, vit_from_name};
use crate::data::{AugmentConfig, ValueRange, length_and_time};
use crate::error::{Error, Result, printable};
use crate::files::foreign::{Role, backbone_of, network_prefix};
use crate::files::misfit::{encoders_alike, misfit};
use crate::files::model::card::{CARD, CUSTOM, ModelCard, Preprocessing, read_card};
use crate::files::model::described::{Described, LocalModel};
use crate::files::model::description::described_folder;
use crate::files::model::normalization::Normalized;
use crate::files::other_files::refuse_other_files;
use crate::files::safetensors::write_safetensors_with;
use crate::files::sharded::parts_of;
use crate::files::state_dict::{NamedTensor, load_state_dict};
use crate::files::weights::{read_weights, with_positions};
use crate::precision::Precision;
use crate::random::Random;

/// How to read a file without metadata, and what to change in one with metadata.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelOptions {
    /// timm name of the backbone, for a file without a card.
    pub encoder: Option<String>,
    /// Side of the square input in pixels; positions are resampled to it. By default that of the metadata, and without any the
    /// size that the file has positions for, as in timm.
    pub image_size: Option<usize>,
    /// Mean and deviation of red, green and blue, for a file without a card; where absent, those that timm has for the
    /// encoder's name.
    pub normalization: Option<Normalization>,
    /// Which values of images with more than 8 bits become black and white; by default those of the file's metadata.
    pub range: ValueRange,
    /// Number format of matrix products and tokens, f32 by default.
    pub precision: Precision,
    /// Metadata from other sources for a file without its own; explicit options take precedence.
    pub described: Described,
}

/// A model file on the host.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// Its metadata; none for a file of another program.
    pub card: Option<ModelCard>,
    /// timm name of the backbone, `custom` for one of its own shape.
    pub encoder: String,
    /// Shape of the backbone.
    pub architecture: VitConfig,
    /// Its normalization, and why it is that one.
    pub normalization: Normalized,
    /// How an image becomes its input, `image_size` of the options included.
    pub preprocessing: Preprocessing,
    /// Weights under timm's names.
    pub tensors: BTreeMap<String, NamedTensor>,
    /// BLAKE3 of the file.
    pub hash: String,
}

impl LoadedModel {
    /// The backbone on a device, with the weights, which leave `tensors`; `path` is the file's.
    ///
    /// # Errors
    /// [`Error::Weights`] that names what does not fit the architecture; [`Error::Config`] for an architecture that cannot
    /// be.
    pub fn backbone<B: Backend>(
        &mut self,
        path: &Path,
        device: &B::Device,
    ) -> Result<VisionTransformer<B>> {
        let fresh = self.architecture.init::<B>(&mut Random::blank(), device)?;
        let alike = encoders_alike(&self.tensors);
        let (backbone, mut report) = load_state_dict(fresh, std::mem::take(&mut self.tensors));
        report.ignore_classifier();
        if report.is_clean() {
            return Ok(backbone);
        }
        let encoder = split_tag(&self.encoder).0;
        let is_other = !alike.is_empty() && !alike.iter().any(|name| name == encoder);
        let misfit = || misfit(path, &report, &self.architecture);
        let reason = match &self.card {
            Some(_) => format!(
                "the weights do not fit the file's architecture: {}",
                misfit()
            ),
            None if is_other => format!(
                "does not fit `encoder` {encoder}: its shapes suggest {}",
                alike.join(" or ")
            ),
            None => format!("does not fit `encoder` {encoder}: {}", misfit()),
        };
        Err(Error::Weights {
            path: path.to_path_buf(),
            reason,
        })
    }
}

/// Reads a model file, or the one in a folder with a `config.json`.
///
/// # Errors
/// [`Error::Io`] and [`Error::Weights`] where it cannot be read, was written by a newer program, does not say what it is and
/// the options do not either, or holds NaN; [`Error::Config`] for options that it contradicts.
pub fn read_model(path: &Path, options: &ModelOptions) -> Result<LoadedModel> {
    if let Some(LocalModel { file, described }) = described_folder(path)? {
        let options = ModelOptions {
            described,
            ..options.clone()
        };
        return read_model(&file, &options);
    }
    refuse_other_files(path)?;
    undisturbed(path, || read_file(path, options))
}

/// What `read` makes of a file that nobody writes meanwhile: a running training may replace it between two looks.
fn undisturbed<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = length_and_time(path);
    let found = read();
    match (before, length_and_time(path)) {
        (Some(before), Some(after)) if before != after => Err(Error::Weights {
            path: path.to_path_buf(),
            reason: "was replaced while it was read: try again".to_owned(),
        }),
        _ => found,
    }
}

fn read_file(path: &Path, options: &ModelOptions) -> Result<LoadedModel> {
    let card = read_card(path)?;
    let named = named(path, card.as_ref(), options)?;
    let weights = read_weights(path)?;
    let network = network_prefix(weights.keys().map(String::as_str)).map(str::to_owned);
    let tensors = backbone_of(path, weights, Role::Teacher)?.tensors;
    let Some((encoder, mut architecture)) = named else {
        return Err(nameless(path, &tensors));
    };
    let is_told = options.image_size.is_some() || options.described.preprocessing.is_some();
    if card.is_none() && !is_told {
        architecture.img_size = size_of_positions(&tensors, &architecture);
    }
    let normalization = normalization(card.as_ref(), options, &encoder, network.as_deref());
    let own = card.as_ref().map(|card| &card.preprocessing);
    let preprocessing = match own.or(options.described.preprocessing.as_ref()) {
        Some(own) => own.at(options.image_size.unwrap_or(own.image_size)),
        None => Preprocessing {
            image_size: architecture.img_size,
            ..Preprocessing::from_augment(&AugmentConfig::default())
        },
    };
    let preprocessing = Preprocessing {
        mean: normalization.values.mean,
        std: normalization.values.std,
        range: options.range.or(preprocessing.range),
        ..preprocessing
    };
    preprocessing.range.validate()?;
    check_input(path, preprocessing.image_size, architecture.patch_size)?;
    let (prefix, grid) = (architecture.prefix_positions(), [architecture.side(); 2]);
    Ok(LoadedModel {
        card,
        encoder,
        normalization,
        preprocessing,
        tensors: with_positions(path, tensors, prefix, grid)?,
        architecture,
        hash: file_hash(path)?,
    })
}

/// Refuses an input that is no grid of patches, or is larger than any.
fn check_input(path: &Path, side: usize, patch: usize) -> Result<()> {
    if (1..=1 << 14).contains(&side) && side.is_multiple_of(patch) {
        return Ok(());
    }
    let reason = format!(
        "its input of {side} pixels is no multiple of its patches of {patch}, or larger than 16384"
    );
    Err(Error::Weights {
        path: path.to_path_buf(),
        reason,
    })
}

/// Name and shape of a file, where it or the options say them.
fn named(
    path: &Path,
    card: Option<&ModelCard>,
    options: &ModelOptions,
) -> Result<Option<(String, VitConfig)>> {
    let refused = options.described.refused.as_ref();
    if let Some(reason) = refused.filter(|_| card.is_none() && options.encoder.is_none()) {
        return Err(Error::Weights {
            path: path.to_path_buf(),
            reason: format!("cannot be used as its description says, which {reason}"),
        });
    }
    let named = match card {
        Some(card) => {
            refuse_contradiction(path, card, options)?;
            Some((card.encoder.clone(), card.architecture.clone()))
        }
        None => named_elsewhere(options)?,
    };
    if let (Some(size), Some((_, vit))) = (options.image_size, &named)
        && (size == 0 || !size.is_multiple_of(vit.patch_size))
    {
        let remedy = format!("must be a multiple of the patch size {}", vit.patch_size);
        return Err(Error::config("image_size", size, remedy));
    }
    Ok(named)
}

/// Name and shape of a file without a card: by its encoder's name, or by the numbers of its description.
fn named_elsewhere(options: &ModelOptions) -> Result<Option<(String, VitConfig)>> {
    let described = &options.described;
    let own = described.preprocessing.as_ref().map(|own| own.image_size);
    let size = options.image_size.or(own);
    let size = size.unwrap_or(AugmentConfig::default().image_size);
    let encoder = options.encoder.as_ref();
    if let Some(vit) = described.architecture.clone().filter(|_| encoder.is_none()) {
        let encoder = described.encoder.clone();
        let vit = VitConfig {
            img_size: size,
            ..vit
        };
        return Ok(Some((encoder.unwrap_or_else(|| CUSTOM.into()), vit)));
    }
    let encoder = encoder.or(described.encoder.as_ref());
    let named = |encoder: &String| {
        Ok((
            encoder.clone(),
            vit_from_name(encoder, size).map_err(of_flag)?,
        ))
    };
    encoder.map(named).transpose()
}

/// The image size that a backbone has positions for; that of `architecture` where they are no square, which is refused later.
fn size_of_positions(tensors: &BTreeMap<String, NamedTensor>, architecture: &VitConfig) -> usize {
    let positions = tensors.get("pos_embed").and_then(|of| of.shape.get(1));
    let patches = positions.map_or(0, |of| of.saturating_sub(architecture.prefix_positions()));
    let side = patches.isqrt();
    if side * side == patches && side > 0 {
        side * architecture.patch_size
    } else {
        architecture.img_size
    }
}

/// BLAKE3 of a file; of a model in several files, that of its index and of all of them.
///
/// # Errors
/// [`Error::Io`]; [`Error::Weights`] where an index names a file that is not there.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let parts = parts_of(path)?.unwrap_or_default();
    let parts = parts.into_iter().map(|part| part.file);
    for file in std::iter::once(path.to_path_buf()).chain(parts) {
        std::fs::File::open(&file)
            .and_then(|file| hasher.update_reader(file).map(drop))
            .map_err(Error::io(&file))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The first that is known: the file's own, the requested one, the description's, that of the name.
fn normalization(
    card: Option<&ModelCard>,
    options: &ModelOptions,
    encoder: &str,
    network: Option<&str>,
) -> Normalized {
    let (asked, hub) = (options.normalization, options.described.normalization);
    match (card, asked, hub) {
        (Some(card), ..) => Normalized::of_card(card.preprocessing.normalization()),
        (None, Some(values), _) => Normalized {
            values,
            why: "as requested".into(),
        },
        (None, None, Some(values)) => Normalized::described(values, &options.described),
        (None, None, None) => Normalized::of_name(encoder, network),
    }
}

/// Commands that load a model have no settings, and call the name of the encoder so.
fn of_flag(error: Error) -> Error {
    match error {
        Error::Config { value, remedy, .. } => Error::config("encoder", value, remedy),
        other => other,
    }
}

/// The error for a file of another program without the name of its encoder.
fn nameless(path: &Path, tensors: &BTreeMap<String, NamedTensor>) -> Error {
    let alike = encoders_alike(tensors);
    let remedy = if alike.is_empty() {
        "; `encoder_names` lists the known names".into()
    } else {
        format!(", such as {} (suggested by its shapes)", alike.join(" or "))
    };
    Error::Weights {
        path: path.to_path_buf(),
        reason: format!(
            "has no architecture metadata. Give the timm name of its model by `encoder`{remedy}"
        ),
    }
}

/// Refuses options that contradict the file's metadata.
fn refuse_contradiction(path: &Path, card: &ModelCard, options: &ModelOptions) -> Result<()> {
    let file = printable(path);
    if let Some(encoder) = &options.encoder
        && split_tag(encoder).0 != split_tag(&card.encoder).0
    {
        let own = printable(&card.encoder);
        let remedy = format!("{file} is {own} by its metadata; leave this out");
        return Err(Error::config("encoder", printable(encoder), remedy));
    }
    let own = card.preprocessing.normalization();
    if let Some(asked) = options.normalization.filter(|asked| *asked != own) {
        let remedy = format!("{file} was trained with {own} by its metadata; leave this out");
        return Err(Error::config("normalization", asked, remedy));
    }
    Ok(())
}

/// Writes a model file, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_model(
    path: &Path,
    card: &ModelCard,
    tensors: &BTreeMap<String, NamedTensor>,
) -> Result<()> {
    write_model_as(path, card, tensors, Precision::F32)
}

/// [`write_model`] with entries of another type, to which they are rounded.
///
/// # Errors
/// As [`crate::files::write_safetensors_with`].
pub fn write_model_as(
    path: &Path,
    card: &ModelCard,
    tensors: &BTreeMap<String, NamedTensor>,
    dtype: Precision,
) -> Result<()> {
    let card = serde_json::to_string(card)
        .map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
    let metadata = BTreeMap::from([
        (CARD.to_owned(), card),
        ("format".to_owned(), "pt".to_owned()),
    ]);
    write_safetensors_with(path, tensors, &metadata, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_while_it_is_read_is_refused() {
        let path = std::env::temp_dir().join(format!("ibot-replaced-{}", std::process::id()));
        std::fs::write(&path, "one").unwrap();
        assert_eq!(undisturbed(&path, || Ok(1)).unwrap(), 1);
        let replaced = undisturbed(&path, || {
            std::fs::write(&path, "another").unwrap();
            Ok(1)
        });
        let error = replaced.unwrap_err().to_string();
        assert!(error.contains("was replaced while it was read"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
