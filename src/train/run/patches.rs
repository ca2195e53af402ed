//! What the teacher's patches look like.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use image::{DynamicImage, RgbImage};

use crate::backbone::Backbone;
use crate::data::view::Augmenter;
use crate::data::{AugmentConfig, ImageFolder, PictureSource as _};
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::eval::patch_pca_rgb;
use crate::picture::{Captioned, contact_sheet};

/// Pictures that are shown, from all over the folder.
const SHOWN: usize = 4;
/// Side of each in pixels.
const SIDE: u32 = 160;

/// A few pictures of the folder, each beside its patches in the colors of their three main directions; none where no
/// picture can be read.
///
/// # Errors
/// [`crate::Error::Device`].
pub(super) fn patch_picture<B: Backend, M: Backbone<B>>(
    backbone: &M,
    pictures: &ImageFolder,
    augment: &AugmentConfig,
    guard: &DeviceGuard,
    device: &B::Device,
) -> Result<Option<RgbImage>> {
    let places = (0..SHOWN).map(|at| at * pictures.len() / SHOWN);
    let shown: Vec<RgbImage> = places.filter_map(|at| pictures.decode(at).ok()).collect();
    if shown.is_empty() {
        return Ok(None);
    }
    let (mut augmenter, entries) = (Augmenter::new(augment), augment.view_len());
    let mut pixels = vec![0.0; shown.len() * entries];
    for (picture, out) in shown.iter().zip(pixels.chunks_mut(entries)) {
        augmenter.eval_view(picture)?;
        augmenter.write(out);
    }
    let side = augment.image_size;
    let pixels = TensorData::new(pixels, [shown.len(), 3, side, side]);
    let tokens = backbone.tokens(Tensor::<B, 4>::from_data(pixels, device), None);
    let [count, patches, width] = tokens.patches.dims();
    let data = guard.read::<B, _>(device, || tokens.patches.into_data())?;
    let features: Vec<f32> = data.iter::<f32>().collect();
    let Some(colors) = patch_pca_rgb(&features, width) else {
        return Ok(None);
    };
    let rows = patches.isqrt(); // views are square
    let grid = |at: usize| {
        let of_picture = &colors[at * patches..(at + 1) * patches];
        RgbImage::from_fn(rows as u32, rows as u32, |x, y| {
            image::Rgb(of_picture[y as usize * rows + x as usize])
        })
    };
    let cells: Vec<DynamicImage> = shown
        .into_iter()
        .take(count)
        .enumerate()
        .flat_map(|(at, picture)| [picture.into(), grid(at).into()])
        .collect();
    let cells: Vec<Captioned<'_>> = cells
        .iter()
        .map(|picture| Captioned {
            picture,
            caption: "",
        })
        .collect();
    Ok(Some(contact_sheet(
        "patches by their main directions",
        &cells,
        2,
        SIDE,
    )))
}
