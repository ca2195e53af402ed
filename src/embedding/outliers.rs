//! Patches that look like none of those of normal images.

use std::sync::Arc;

use crate::data::{ImageFolder, ImageSource as _};
use crate::embedding::embedder::Embedder;
use crate::embedding::patches::{PatchRequest, Visited, drawn, room, visit_patches};
use crate::error::{Error, Result};
use crate::eval::{Distance, NormalRows};

/// The patches of a folder's images, to compare others with; at most `per_image` of each image, drawn from the seed. Their
/// owners are places in the folder. `progress` gets the number of images after each batch.
///
/// Takes `4 D` bytes of memory for each patch.
///
/// # Errors
/// Those of [`visit_patches`]; [`Error::Unsupported`] where the memory is not there; [`Error::Data`] without an image.
pub fn normal_patches(
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &PatchRequest,
    per_image: Option<usize>,
    seed: u64,
    progress: &mut dyn FnMut(usize),
) -> Result<(NormalRows, Visited)> {
    let shape = request.shape(embedder);
    let of_image = shape.grid[0] * shape.grid[1];
    let most = folder.len() * per_image.unwrap_or(of_image).min(of_image);
    let (mut rows, mut owners) = (room(most, shape.width)?, Vec::new());
    let mut made = 0;
    let visited = visit_patches(embedder, folder.clone(), request, &mut |batch| {
        for (sample, patches) in batch.images() {
            for at in drawn(of_image, per_image, seed, sample) {
                rows.extend_from_slice(&patches[at * shape.width..(at + 1) * shape.width]);
                owners.push(sample);
            }
        }
        made += batch.samples.len();
        progress(made);
        Ok(true)
    })?;
    let none = || {
        Error::data(
            folder.root(),
            "has no image whose patches could be computed",
        )
    };
    let normal = NormalRows::new(rows, shape.width, owners).ok_or_else(none)?;
    Ok((normal, visited))
}

/// Distance of each patch of an image from the nearest normal one, row by row, `[N]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchDistances {
    /// Place of the image in its folder.
    pub sample: usize,
    /// `[N]`; none where there is no normal patch of another image.
    pub distances: Vec<Option<Distance>>,
}

/// Distances of the patches of all images of a folder from `normal` ones, in the folder's order, handed to `see` image by
/// image. An image's own patches are passed over: `places` has the place of each image of the folder among the normal ones, or
/// [`usize::MAX`]; none where these are of the same folder.
///
/// # Errors
/// As [`normal_patches`], and those of `see`.
pub fn patch_distances(
    embedder: &Embedder,
    folder: &Arc<ImageFolder>,
    request: &PatchRequest,
    normal: &NormalRows,
    places: Option<&[usize]>,
    see: &mut dyn FnMut(PatchDistances) -> Result<()>,
) -> Result<Visited> {
    let shape = request.shape(embedder);
    let mut of_image = |sample: usize, patches: &[f32]| {
        let place = places.map_or(sample, |places| places[sample]);
        let own = vec![place; patches.len() / shape.width.max(1)];
        let distances = normal.distances(patches, Some(&own), 1);
        see(PatchDistances { sample, distances })
    };
    let owners = normal.owners();
    // all patches of the folder are there already
    if places.is_none() && normal.len() == owners.len() * shape.grid[0] * shape.grid[1] {
        for owner in owners {
            of_image(owner, normal.rows_of(owner))?;
        }
        return Ok(Visited::default());
    }
    visit_patches(embedder, folder.clone(), request, &mut |batch| {
        for (sample, patches) in batch.images() {
            of_image(sample, patches)?;
        }
        Ok(true)
    })
}
