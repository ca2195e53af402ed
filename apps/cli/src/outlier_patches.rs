//! `ibot outliers --patches`: patches that look like no normal one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ibot::data::{ImageFolder, ImageSource as _};
use ibot::embedding::{Embedder, PatchDistances, PatchRequest, normal_patches, patch_distances};
use ibot::error::counted;
use ibot::memory::machine_bytes;
use ibot::path_text::{absolute, path_text};
use ibot::{Error, Result};

use serde::Serialize;

use super::model::ModelArgs;
use super::same_images::counterparts;

/// An image and how far it is from others.
#[derive(Debug, Clone, Serialize)]
pub struct Outlier {
    pub path: String,
    pub label: Option<String>,
    /// Euclidean distance of features of length one, from 0 to 2.
    pub distance: f32,
    /// The nearest image, or the image with the nearest patch.
    pub nearest: String,
    /// Row and column of the patch that is farthest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<[usize; 2]>,
    #[serde(skip)]
    pub map: Option<PatchMap>,
}

/// Flags of `--patches`.
#[derive(Debug, clap::Args)]
pub struct PatchesArgs {
    /// Compare patches instead of whole images: an image's distance is that of its farthest patch from the nearest normal one.
    #[arg(long)]
    patches: bool,
    /// Patches of each normal image to keep, drawn at random [default: all].
    #[arg(long, value_name = "COUNT", requires = "patches")]
    patches_per_image: Option<usize>,
    /// Number of final blocks whose patch features are concatenated.
    #[arg(long, value_name = "BLOCKS", default_value_t = 1, requires = "patches")]
    layers: usize,
}

/// Distance of each patch, row by row.
pub type PatchMap = Vec<f32>;

/// A model, and the images that it is to compare.
pub struct PatchMaps<'a> {
    pub model: &'a ModelArgs,
    pub embedder: &'a Embedder,
    pub data: Arc<ImageFolder>,
    /// Normal images; without them, those of `data`.
    pub reference: Option<Arc<ImageFolder>>,
}

impl PatchesArgs {
    pub fn is_on(&self) -> bool {
        self.patches
    }

    /// The farthest patch of each image with all distances, and the number of normal images.
    pub fn outliers(&self, of: &PatchMaps<'_>) -> Result<(Vec<Outlier>, usize)> {
        if self.patches_per_image == Some(0) {
            return Err(Error::config(
                "--patches-per-image",
                0,
                "must be at least 1",
            ));
        }
        let (model, embedder) = (of.model, of.embedder);
        let request = PatchRequest {
            layers: self.layers,
            batch_size: model.batch_size,
            workers: model.workers,
        };
        let normal_images = of.reference.as_ref().unwrap_or(&of.data);
        self.check_memory(of, &request, normal_images.len())?;
        let bar = ModelArgs::bar(normal_images.len());
        let kept = self.patches_per_image;
        let (normal, visited) =
            normal_patches(embedder, normal_images, &request, kept, 0, &mut |made| {
                bar.set_position(made as u64);
            })?;
        bar.finish_and_clear();
        model.note_skipped(&visited.skipped);
        let reference = normal.owners().len();
        let columns = embedder.grid()[1];
        let bar = ModelArgs::bar(of.data.len());
        let mut outliers = Vec::new();
        let reference_images = of.reference.as_ref();
        let places = reference_images.map(|reference| places_in(reference, &of.data));
        let places = places.transpose()?;
        let see = &mut |found: PatchDistances| {
            bar.inc(1);
            outliers.extend(outlier(&of.data, normal_images, found, columns)?);
            Ok(())
        };
        let visited = patch_distances(
            embedder,
            &of.data,
            &request,
            &normal,
            places.as_deref(),
            see,
        )?;
        bar.finish_and_clear();
        model.note_skipped(&visited.skipped);
        Ok((outliers, reference))
    }

    /// Says what the normal patches take, and refuses what is more than half of the machine's memory.
    fn check_memory(
        &self,
        of: &PatchMaps<'_>,
        request: &PatchRequest,
        images: usize,
    ) -> Result<()> {
        let shape = request.shape(of.embedder);
        let patches = shape.grid[0] * shape.grid[1];
        let patches = self.patches_per_image.unwrap_or(patches).min(patches);
        let bytes = (images * patches * shape.width * size_of::<f32>()) as u64;
        let size = format!(
            "{} with {patches} patches of {} values each take {:.2} GB of memory",
            counted(images, "normal image"),
            shape.width,
            bytes as f64 / 1e9
        );
        of.model.note(&size);
        match machine_bytes().filter(|machine| bytes > machine / 2) {
            None => Ok(()),
            Some(machine) => {
                let half = machine as f64 / 2e9;
                let remedy = "keep fewer with --patches-per-image, or give fewer with --reference";
                Err(Error::Unsupported(format!(
                    "{size}, more than {half:.2} GB, half of this machine's: {remedy}"
                )))
            }
        }
    }
}

/// The place of each image of `data` in `reference`; [`usize::MAX`] where it is not there.
fn places_in(reference: &ImageFolder, data: &ImageFolder) -> Result<Vec<usize>> {
    let same = counterparts(data, reference)?;
    let places = (0..reference.len()).map(|at| Ok((absolute(reference.name(at))?, at)));
    let places: HashMap<PathBuf, usize> = places.collect::<Result<_>>()?;
    let place = |at| {
        let other = same.get(&absolute(data.name(at))?);
        let place = other.and_then(|other| places.get(other));
        Ok(place.copied().unwrap_or(usize::MAX))
    };
    (0..data.len()).map(place).collect()
}

/// The image of these distances; none where no patch of another image is there to compare with.
fn outlier(
    data: &ImageFolder,
    normal: &ImageFolder,
    found: PatchDistances,
    columns: usize,
) -> Result<Option<Outlier>> {
    let farthest = found.distances.iter().enumerate();
    let farthest = farthest.filter_map(|(at, distance)| distance.map(|distance| (at, distance)));
    let farthest = farthest.max_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    let Some((at, distance)) = farthest else {
        return Ok(None);
    };
    let text = |path: PathBuf| Ok::<_, Error>(path_text(&absolute(&path)?));
    let label = data.label(found.sample);
    let values = found.distances.iter();
    Ok(Some(Outlier {
        path: text(data.name(found.sample))?,
        label: label.and_then(|label| data.classes().get(label).cloned()),
        distance: distance.mean,
        nearest: text(normal.name(distance.nearest))?,
        patch: Some([at / columns.max(1), at % columns.max(1)]),
        map: Some(
            values
                .map(|distance| distance.map_or(f32::NAN, |distance| distance.mean))
                .collect(),
        ),
    }))
}
