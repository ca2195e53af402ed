//! How an image folder is read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::decode::value_range::ValueRange;
use crate::data::folder::order::Shuffle;
use crate::error::{Error, Result};

/// Sides of tiles.
const TILES: std::ops::RangeInclusive<u32> = 16..=1 << 16;

/// How a folder is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderConfig {
    /// Images with more pixels are skipped. Default 100_000_000.
    pub max_pixels: u64,
    /// Values that become black and white in images with more than 8 bits: "auto", from 0 to the largest value of as many
    /// bits (8 to 16) as hold 99.9 % of the values in up to 64 of the images, floats of 0 to 1 as they are; "full", all
    /// values of 16 bits, floats from 0 to 1; or [black, white]. A run and its model files keep what was measured. Default
    /// "auto".
    pub range: ValueRange,
    /// Images whose shorter side is longer are reduced to it first, in pixels. Default none (with `cache`, twice
    /// `method.image_size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shorter_side: Option<u32>,
    /// Side of the tiles that images far larger than the input are cut into, in pixels; each tile is an example to train on.
    /// Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tile: Option<u32>,
    /// Pixels that neighboring tiles share at least. Default 0.
    pub tile_overlap: u32,
    /// Folder that keeps reduced images, so that each is decoded once and not in each epoch. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Largest size of the cache, in MiB, for all processes of a run together. Default 16384.
    pub cache_mib: u64,
    /// Whether a set of 20 000 images or more, in one folder, is kept as an index in the user's cache folder: the next start looks
    /// at folders that changed, and opens no file of the others. Default true.
    pub index: bool,
    /// How the images of an epoch are mixed: "all", each may come at any place; "blocks", for disks and servers, blocks of 4096
    /// neighbors come in random order and images are mixed within 16 blocks. Tiles have an order of their own. Default "all".
    pub shuffle: Shuffle,
}

impl Default for FolderConfig {
    fn default() -> Self {
        Self {
            max_pixels: 100_000_000,
            range: ValueRange::Auto,
            shorter_side: None,
            tile: None,
            tile_overlap: 0,
            cache: None,
            cache_mib: 16 << 10,
            index: true,
            shuffle: Shuffle::All,
        }
    }
}

impl FolderConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// A value out of its range; the error names the key, the value and the range.
    pub fn validate(&self) -> Result<()> {
        if let Some(side) = self
            .shorter_side
            .filter(|side| !(1..=1 << 16).contains(side))
        {
            return Err(Error::config(
                "folder.shorter_side",
                side,
                "give 1 to 65536 pixels",
            ));
        }
        if self.cache_mib > 1 << 40 {
            let remedy = "give a whole number up to 2^40";
            return Err(Error::config("folder.cache_mib", self.cache_mib, remedy));
        }
        self.range.validate()?;
        match self.tile {
            Some(side) if !(TILES.contains(&side)) => {
                let remedy = "give 16 to 65536 pixels, such as twice the input's size";
                return Err(Error::config("folder.tile", side, remedy));
            }
            Some(side) if self.tile_overlap >= side => {
                let remedy = format!("must be less than folder.tile = {side}");
                let overlap = self.tile_overlap;
                return Err(Error::config("folder.tile_overlap", overlap, remedy));
            }
            None if self.tile_overlap > 0 => {
                let remedy = "needs folder.tile, the side of a tile";
                let overlap = self.tile_overlap;
                return Err(Error::config("folder.tile_overlap", overlap, remedy));
            }
            _ => {}
        }
        if let (Some(cache), Some(_)) = (&self.cache, self.tile) {
            let remedy = "cannot be combined with folder.tile: tiles are cut from whole images, which are decoded once an epoch; leave \
                          one of them out";
            return Err(Error::config("folder.cache", cache.display(), remedy));
        }
        match (&self.cache, self.shorter_side) {
            (Some(cache), None) => {
                let remedy = "needs folder.shorter_side, the size of the cached images";
                Err(Error::config("folder.cache", cache.display(), remedy))
            }
            _ => Ok(()),
        }
    }
}
