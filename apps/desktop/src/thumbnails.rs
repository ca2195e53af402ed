//! Thumbnails for the screen: made on two threads, the newest request first; few are kept.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use eframe::egui::{ColorImage, Context, TextureHandle, TextureOptions};
use ibot::data::decode::decode_rgb_in;
use ibot::data::{FolderConfig, ValueRange};
use image::RgbImage;

use super::background::Newest;

/// Longer side, in pixels.
const SIDE: u32 = 192;
/// Maximum number of waiting requests; the user has scrolled past older ones.
const WAITING: usize = 256;
/// Maximum number of textures, each at most 144 KiB.
const KEPT: usize = 1024;
const THREADS: usize = 2;

/// State of an image's thumbnail.
pub enum Thumbnail<'a> {
    Coming,
    Ready(&'a TextureHandle),
    /// It cannot be read.
    Broken,
}

/// The thumbnails of one folder.
pub struct Thumbnails {
    maker: Newest<(usize, PathBuf), (usize, Option<ColorImage>)>,
    asked: HashSet<usize>,
    textures: HashMap<usize, Option<TextureHandle>>,
}

impl Thumbnails {
    pub fn new(ctx: &Context) -> Self {
        Self {
            maker: Newest::start(ctx, THREADS, WAITING, make),
            asked: HashSet::new(),
            textures: HashMap::new(),
        }
    }

    /// Takes what was made since the last frame; if there are too many, frees those far from `visible`.
    pub fn receive(&mut self, ctx: &Context, visible: &Range<usize>) {
        while let Some(Ok((index, image))) = self.maker.take() {
            self.asked.remove(&index);
            let name = format!("thumbnail {index}");
            let texture = image.map(|image| ctx.load_texture(name, image, TextureOptions::LINEAR));
            self.textures.insert(index, texture);
        }
        if self.textures.len() > KEPT {
            let near = visible.start.saturating_sub(KEPT / 4)..visible.end + KEPT / 4;
            self.textures.retain(|index, _| near.contains(index));
        }
    }

    /// Thumbnail of image number `index` at `path`; requested if it is not there yet.
    pub fn get(&mut self, index: usize, path: &Path) -> Thumbnail<'_> {
        if !self.textures.contains_key(&index)
            && self.asked.insert(index)
            && let Some((oldest, _)) = self.maker.ask((index, path.to_path_buf()))
        {
            self.asked.remove(&oldest);
        }
        match self.textures.get(&index) {
            None => Thumbnail::Coming,
            Some(Some(texture)) => Thumbnail::Ready(texture),
            Some(None) => Thumbnail::Broken,
        }
    }
}

/// For the screen; none if it cannot be read.
fn make((index, path): (usize, PathBuf)) -> (usize, Option<ColorImage>) {
    let image = decode_rgb_in(&path, FolderConfig::default().max_pixels, ValueRange::Auto).ok();
    let small = image.map(|image| color_image(&reduced(&image, SIDE)));
    (index, small)
}

/// The image, with at most `longest` pixels a side.
pub fn reduced(image: &RgbImage, longest: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let longer = width.max(height).max(1);
    let side = |side: u32| (u64::from(side) * u64::from(longest) / u64::from(longer)).max(1) as u32;
    if longer <= longest {
        image.clone()
    } else {
        image::imageops::thumbnail(image, side(width), side(height))
    }
}

/// For egui.
pub fn color_image(image: &RgbImage) -> ColorImage {
    let size = [image.width() as usize, image.height() as usize];
    ColorImage::from_rgb(size, image.as_raw())
}
