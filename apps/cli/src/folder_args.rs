//! Flags about how image folders are read.
//!
//! `FolderArgs` is of `ibot train`, whose flags change settings; `PixelArgs` of the other commands.

use std::path::PathBuf;

use ibot::data::{FolderConfig, ValueRange};

/// Heading of these flags in --help.
const IMAGES: &str = "Images";

/// How image folders are read; keys of [folder].
#[derive(Debug, Clone, clap::Args)]
pub struct FolderArgs {
    /// Cache large images in this folder, reduced to twice the side of a view.
    #[arg(long, value_name = "DIR", help_heading = IMAGES)]
    cache: Option<PathBuf>,
    /// Skip images with more pixels than this.
    #[arg(long, value_name = "COUNT", help_heading = IMAGES)]
    max_pixels: Option<u64>,
    /// Pixel values that become black and white in images with more than 8 bits: auto (measured), full, or BLACK,WHITE
    /// such as 0,4095.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true, help_heading = IMAGES)]
    range: Option<ValueRange>,
    /// Cut images into tiles of this many pixels, each an example to train on.
    #[arg(long, value_name = "PIXELS", help_heading = IMAGES)]
    tile: Option<u32>,
    /// Pixels that neighboring tiles share at least.
    #[arg(long, value_name = "PIXELS", help_heading = IMAGES)]
    tile_overlap: Option<u32>,
    /// Read the folder anew, without an index of it.
    #[arg(long, help_heading = IMAGES)]
    no_index: bool,
}

impl FolderArgs {
    /// Sets what the flags say.
    pub fn apply(&self, config: &mut FolderConfig) {
        fn set<T: Clone>(target: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                target.clone_from(value);
            }
        }
        set(&mut config.max_pixels, self.max_pixels.as_ref());
        set(&mut config.range, self.range.as_ref());
        set(&mut config.tile_overlap, self.tile_overlap.as_ref());
        config.tile = self.tile.or(config.tile);
        config.index &= !self.no_index;
        if self.cache.is_some() {
            config.cache.clone_from(&self.cache);
        }
    }
}

/// Which images are read, and their values.
#[derive(Debug, Clone, clap::Args)]
pub struct PixelArgs {
    /// Skip images with more pixels than this.
    #[arg(long, value_name = "COUNT", default_value_t = FolderConfig::default().max_pixels)]
    pub max_pixels: u64,
    /// Values that become black and white in images with more than 8 bits: auto (the model's if there is one, else measured), full,
    /// or BLACK,WHITE such as 0,4095.
    #[arg(
        long,
        value_name = "RANGE",
        default_value = "auto",
        allow_hyphen_values = true
    )]
    pub range: ValueRange,
}
