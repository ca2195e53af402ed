//! Images of a folder together with their segmentation masks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use image::RgbImage;

use crate::data::ImageSource;
use crate::data::decode::label_map::LabelMap;
use crate::data::decode::{decode_rgba, on_white};
use crate::data::folder::ImageFolder;
use crate::data::views::eval_fit::EvalFit;
use crate::error::{Error, Result, printable};
use crate::lock::lock;

/// Where the mask of an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Masks {
    /// A PNG file of the image's relative name in this folder: `cats/1.png` for `cats/1.jpg`; see [`LabelMap::read`].
    Folder(PathBuf),
    /// The image's own alpha channel; see [`LabelMap::of_alpha`].
    Alpha,
}

/// The images of a folder that have masks. Each is decoded together with its mask, which then waits to be taken.
pub struct MaskedImages {
    folder: ImageFolder,
    masks: Masks,
    /// How the evaluation view is cut, and its side.
    view: (EvalFit, usize),
    max_pixels: u64,
    seen: Mutex<BTreeMap<usize, Result<Vec<u8>>>>,
}

impl MaskedImages {
    /// Those images of `folder` that have a mask file, or all of them with [`Masks::Alpha`], for views that are cut like this and have so many pixels
    /// per side; and
    /// the paths of the others.
    ///
    /// # Errors
    /// [`Error::Data`] where no image has a mask file, and the message says where that of the first one would be; or where two have the
    /// same.
    pub fn new(
        folder: &ImageFolder,
        masks: Masks,
        view: (EvalFit, usize),
        max_pixels: u64,
    ) -> Result<(Self, Vec<PathBuf>)> {
        let has_mask = |at: &usize| match &masks {
            Masks::Folder(root) => mask_path(root, folder, *at).is_ok_and(|path| path.is_file()),
            Masks::Alpha => true,
        };
        let (with, without): (Vec<usize>, Vec<usize>) = (0..folder.len()).partition(has_mask);
        if let (Masks::Folder(root), true) = (&masks, with.is_empty()) {
            let [image, mask] = [folder.name(0), mask_path(root, folder, 0)?].map(printable);
            let reason = format!("has no mask of any image: that of {image} would be {mask}");
            return Err(Error::data(root, reason));
        }
        if let Masks::Folder(root) = &masks {
            let mut owners = BTreeMap::new();
            for at in &with {
                let mask = mask_path(root, folder, *at)?;
                if let Some(other) = owners.insert(mask.clone(), *at) {
                    let [one, two] = [other, *at].map(|at| printable(folder.name(at)));
                    let reason = format!(
                        "is the mask of two images, {one} and {two}: rename one of them and its mask"
                    );
                    return Err(Error::data(mask, reason));
                }
            }
        }
        let images = Self {
            folder: folder.part(&with),
            masks,
            view,
            max_pixels,
            seen: Mutex::default(),
        };
        let without = without.into_iter().map(|at| folder.name(at)).collect();
        Ok((images, without))
    }

    /// The images at these places.
    #[must_use]
    pub fn part(&self, places: &[usize]) -> Self {
        Self {
            folder: self.folder.part(places),
            masks: self.masks.clone(),
            view: self.view,
            max_pixels: self.max_pixels,
            seen: Mutex::default(),
        }
    }

    /// The images.
    pub fn folder(&self) -> &ImageFolder {
        &self.folder
    }

    /// The classes in the evaluation view of an image that was decoded, `[S, S]`; each can be taken once.
    ///
    /// # Errors
    /// [`Error::Data`] or [`Error::Io`] where the mask cannot be read, or has another size than the image.
    pub fn take(&self, index: usize) -> Result<Vec<u8>> {
        let mut seen = lock(&self.seen);
        let missing = || Error::data(self.name(index), "its mask was not read");
        seen.remove(&index).unwrap_or_else(|| Err(missing()))
    }

    fn read(&self, root: &Path, index: usize, image: &RgbImage) -> Result<Vec<u8>> {
        let path = mask_path(root, &self.folder, index)?;
        let map = LabelMap::read(&path, self.max_pixels)?;
        let [width, height] = map.size;
        if image.dimensions() != (width, height) {
            let (pixels, name) = (image.dimensions(), printable(self.name(index)));
            let reason = format!(
                "is {width} x {height} pixels, but its image {name} is {} x {}; a mask has a class for each pixel of the upright image",
                pixels.0, pixels.1
            );
            return Err(Error::data(path, reason));
        }
        Ok(map.seen(self.view.0, self.view.1))
    }
}

/// The mask of image `index`.
fn mask_path(root: &Path, folder: &ImageFolder, index: usize) -> Result<PathBuf> {
    let inside = folder.relative_path(index);
    if inside.has_root() {
        // joined, it would be the image itself
        let reason = "is listed by its absolute path, and masks are found by relative names; give the image folder, or a list with `FOLDER/./NAME` in each line";
        return Err(Error::data(folder.name(index), reason));
    }
    Ok(root.join(inside).with_extension("png"))
}

impl ImageSource for MaskedImages {
    fn len(&self) -> usize {
        self.folder.len()
    }

    fn name(&self, index: usize) -> PathBuf {
        self.folder.name(index)
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.folder.label(index)
    }

    fn image_bytes(&self, index: usize) -> u64 {
        // a byte of its map of classes beside the three of its color; or RGBA and what it is on white
        let of_pixel = match self.masks {
            Masks::Folder(_) => 4,
            Masks::Alpha => 7,
        };
        self.folder.image_bytes(index) / 3 * of_pixel
    }

    fn decode(&self, index: usize) -> Result<RgbImage> {
        let (image, seen) = match &self.masks {
            Masks::Folder(root) => {
                let image = self.folder.decode(index)?;
                let seen = self.read(root, index, &image);
                (image, seen)
            }
            Masks::Alpha => {
                let image = decode_rgba(&self.name(index), self.max_pixels, self.folder.range())?;
                let seen = LabelMap::of_alpha(&image).seen(self.view.0, self.view.1);
                (on_white(&image), Ok(seen))
            }
        };
        let mut all = lock(&self.seen);
        all.insert(index, seen);
        Ok(image)
    }
}
