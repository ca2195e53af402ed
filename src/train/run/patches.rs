//! The teacher's patch features as colors.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use image::{Rgb, RgbImage};

use crate::backbone::Backbone;
use crate::data::views::view::Augmenter;
use crate::data::{AugmentConfig, ImageFolder, ImageSource as _};
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::eval::patch_pca_rgb;

/// Number of images, spread evenly over the folder.
const SHOWN: usize = 4;

/// A training image, and its patch features of the teacher as colors.
#[derive(Debug, Clone)]
pub struct PatchColors {
    /// The teacher's input: resized, and cropped to `S x S` pixels.
    pub image: RgbImage,
    /// One pixel per patch: its place along the three main directions of all patches shown, as red, green and blue.
    pub colors: RgbImage,
}

/// A few images of the folder with their patch features as colors; none if no image can be read.
///
/// # Errors
/// [`crate::Error::Device`].
pub(super) fn patch_colors<B: Backend, M: Backbone<B>>(
    backbone: &M,
    images: &ImageFolder,
    augment: &AugmentConfig,
    guard: &DeviceGuard,
    device: &B::Device,
) -> Result<Vec<PatchColors>> {
    let places = (0..SHOWN).map(|at| at * images.len() / SHOWN);
    let shown: Vec<RgbImage> = places.filter_map(|at| images.decode(at).ok()).collect();
    if shown.is_empty() {
        return Ok(Vec::new());
    }
    let (mut augmenter, entries) = (Augmenter::new(augment), augment.view_len());
    let mut pixels = vec![0.0; shown.len() * entries];
    let mut views = Vec::with_capacity(shown.len());
    for (image, out) in shown.iter().zip(pixels.chunks_mut(entries)) {
        views.push(augmenter.eval_view(image)?.image());
        augmenter.write(out);
    }
    let side = augment.image_size;
    let pixels = TensorData::new(pixels, [shown.len(), 3, side, side]);
    let tokens = backbone.tokens(Tensor::<B, 4>::from_data(pixels, device), None);
    let [_, patches, width] = tokens.patches.dims();
    let data = guard.read::<B, _>(device, || tokens.patches.into_data())?;
    let features: Vec<f32> = data.iter::<f32>().collect();
    let Some(colors) = patch_pca_rgb(&features, width) else {
        return Ok(Vec::new());
    };
    let rows = patches.isqrt(); // views are square
    let pairs = views.into_iter().zip(colors.chunks_exact(patches));
    let pairs = pairs.map(|(image, colors)| {
        let color = |x, y| Rgb(colors[y as usize * rows + x as usize]);
        PatchColors {
            image,
            colors: RgbImage::from_fn(rows as u32, rows as u32, color),
        }
    });
    Ok(pairs.collect())
}
