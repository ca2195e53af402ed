//! The tiles of a folder's images, each an example of its own.
//!
//! Tiles of one image come close to each other, so that it is decoded once an epoch and not once for each of its tiles:
//! the images are shuffled and cut into groups that fit in memory, and the tiles of each group are shuffled. The order is a
//! function of seed, epoch and the sizes of the images.

pub(in crate::data) mod grid;

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use image::RgbImage;
use image::imageops::crop_imm;

use crate::data::ImageSource;
use crate::data::folder::ImageFolder;
use crate::data::folder::config::FolderConfig;
use crate::data::loader::epoch_order;
use crate::data::storage::failure::{Failure, may_pass};
use crate::data::tiles::grid::{TileArea, TileGrid};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::random::{Random, Stream};

/// Decoded bytes of a group. Batches that are made ahead may need two groups at a time.
const GROUP_BYTES: u64 = 512 << 20;
/// Images of a group at least, however large they are: a batch is not to show one image alone.
const GROUP_IMAGES: usize = 4;

/// Every tile of every image of a folder, image by image and row by row.
pub struct Tiles {
    folder: Arc<ImageFolder>,
    grid: TileGrid,
    /// Number of the first tile of each image, and of all of them.
    starts: Vec<usize>,
    /// Size of each upright image that was decoded.
    sizes: Vec<OnceLock<[u32; 2]>>,
    recent: Mutex<Recent>,
}

/// Images that were decoded last.
#[derive(Default)]
struct Recent {
    images: VecDeque<(usize, Arc<Decoded>)>,
    bytes: u64,
}

/// An image, once a thread has decoded it; the others wait.
type Decoded = OnceLock<std::result::Result<RgbImage, Failure>>;

impl FolderConfig {
    /// How images are cut into tiles; None where they are not.
    pub fn tile_grid(&self) -> Option<TileGrid> {
        self.tile.map(|side| TileGrid::new(side, self.tile_overlap))
    }

    /// What is trained on: the images, or their tiles.
    pub fn examples(&self, folder: Arc<ImageFolder>) -> Arc<dyn ImageSource> {
        match self.tile_grid() {
            Some(grid) => Arc::new(Tiles::new(folder, grid)),
            None => folder,
        }
    }
}

impl Tiles {
    /// The tiles of `folder`.
    pub fn new(folder: Arc<ImageFolder>, grid: TileGrid) -> Self {
        let sizes = (0..folder.len()).map(|_| OnceLock::new()).collect();
        let mut starts = vec![0];
        let mut all = 0;
        for image in 0..folder.len() {
            all += grid.count(folder.size(image));
            starts.push(all);
        }
        Self {
            folder,
            grid,
            starts,
            sizes,
            recent: Mutex::default(),
        }
    }

    /// The images.
    pub fn folder(&self) -> &Arc<ImageFolder> {
        &self.folder
    }

    /// The image of tile `index`, and the tile's number in it.
    pub fn place(&self, index: usize) -> (usize, usize) {
        // `starts` rises, because every image has a tile
        let image = self.starts.partition_point(|start| *start <= index) - 1;
        (image, index - self.starts[image])
    }

    /// Where tile `index` lies in its image. That is decoded if it was not yet and its header does not tell how it is turned.
    ///
    /// # Errors
    /// Those of [`ImageSource::decode`].
    pub fn area(&self, index: usize) -> Result<TileArea> {
        let (image, at) = self.place(index);
        let size = self.sizes[image].get().copied();
        let size = size.or_else(|| self.folder.upright_size(image));
        match size.and_then(|size| self.grid.area(size, at)) {
            Some(area) => Ok(area),
            None => self.with_tile(index, |_, area| area),
        }
    }

    fn with_tile<T>(&self, index: usize, take: impl FnOnce(&RgbImage, TileArea) -> T) -> Result<T> {
        let (image, at) = self.place(index);
        let failed = |reason: &str| Error::data(self.folder.name(image), reason);
        let decoded = self.decoded(image);
        let decode = || {
            let decoded = self.folder.decode(image);
            decoded.map_err(|error| Failure::of(&error))
        };
        let pixels = decoded.get_or_init(decode).as_ref().map_err(|failure| {
            let error = failure.error(&self.folder.name(image));
            if may_pass(&error) {
                self.forget(image, &decoded);
            }
            error
        })?;
        let size = [pixels.width(), pixels.height()];
        let [width, height] = self.folder.size(image);
        // a PNG file may be turned by what lies behind its pixels, where a scan does not look
        if size != [width, height] && size != [height, width] {
            return Err(failed("has another size than when the folder was scanned"));
        }
        // equal for all of its tiles, whichever thread is first
        let _ = self.sizes[image].set(size);
        let area = self.grid.area(size, at);
        let area = area.ok_or_else(|| failed("has fewer tiles than its size says"))?;
        Ok(take(pixels, area))
    }

    /// The place of an image among the recent ones.
    fn decoded(&self, image: usize) -> Arc<Decoded> {
        let mut recent = lock(&self.recent);
        let found = recent.images.iter().position(|(of, _)| *of == image);
        if let Some((of, decoded)) = found.and_then(|at| recent.images.remove(at)) {
            recent.images.push_back((of, decoded.clone()));
            return decoded;
        }
        let decoded = Arc::new(Decoded::new());
        recent.images.push_back((image, decoded.clone()));
        recent.bytes += self.bytes(image);
        while recent.bytes > 2 * GROUP_BYTES && recent.images.len() > 2 * GROUP_IMAGES {
            if let Some((of, _)) = recent.images.pop_front() {
                recent.bytes -= self.bytes(of);
            }
        }
        decoded
    }

    /// Lets go of an image that could not be read, so that it is read again.
    fn forget(&self, image: usize, failed: &Arc<Decoded>) {
        let mut recent = lock(&self.recent);
        let place = (recent.images.iter()).position(|(_, decoded)| Arc::ptr_eq(decoded, failed));
        if place.and_then(|at| recent.images.remove(at)).is_some() {
            recent.bytes -= self.bytes(image);
        }
    }

    /// Bytes of a decoded image.
    fn bytes(&self, image: usize) -> u64 {
        let [width, height] = self.folder.size(image);
        3 * u64::from(width) * u64::from(height)
    }

    /// The images of an epoch, in groups that are decoded together.
    fn groups(&self, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
        let mut groups = Vec::new();
        let (mut group, mut bytes) = (Vec::new(), 0);
        for image in epoch_order(seed, epoch, self.folder.len()) {
            let more = self.bytes(image);
            if bytes + more > GROUP_BYTES && group.len() >= GROUP_IMAGES {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
            group.push(image);
            bytes += more;
        }
        groups.push(group);
        groups
    }
}

impl ImageSource for Tiles {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn name(&self, index: usize) -> PathBuf {
        self.folder.name(self.place(index).0)
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.folder.label(self.place(index).0)
    }

    fn decode(&self, index: usize) -> Result<RgbImage> {
        self.with_tile(index, |image, area| {
            crop_imm(image, area.x, area.y, area.width, area.height).to_image()
        })
    }

    fn of_one_file(&self, index: usize) -> Range<usize> {
        let image = self.place(index).0;
        self.starts[image]..self.starts[image + 1]
    }

    /// Of the tile: whole images have a bound of their own.
    fn image_bytes(&self, index: usize) -> u64 {
        let side = u64::from(self.grid.side());
        let [width, height] = self.folder.size(self.place(index).0).map(u64::from);
        3 * width.min(side) * height.min(side)
    }

    fn decoded_bytes(&self) -> u64 {
        let side = u64::from(self.grid.side());
        let tile = |image| {
            let [width, height] = self.folder.size(image).map(u64::from);
            let count = self.grid.count(self.folder.size(image)) as u64;
            3 * count * width.min(side) * height.min(side)
        };
        (0..self.folder.len()).map(tile).sum()
    }

    fn order(&self, seed: u64, epoch: usize) -> Option<Vec<usize>> {
        // another stream than that of the images, whose index is 0
        let mut random = Random::new(seed, epoch as u64, 1, Stream::Shuffle);
        let mut order = Vec::with_capacity(self.len());
        for group in self.groups(seed, epoch) {
            let start = order.len();
            for image in group {
                order.extend(self.starts[image]..self.starts[image + 1]);
            }
            random.shuffle(&mut order[start..]);
        }
        Some(order)
    }
}
