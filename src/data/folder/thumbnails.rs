//! Reduces large images when they are decoded, and caches the reduced ones in a folder for the next epoch.
//!
//! Views are the same whether the cache is on, cold, warm, full or damaged: an image is reduced either way, and
//! an entry holds the bytes of the reduced image.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use image::RgbImage;
use walkdir::WalkDir;

use crate::data::decode::value_range::ValueRange;
use crate::data::folder::config::FolderConfig;
use crate::data::storage::cache_folder::is_stale;
use crate::data::storage::opened::length_and_time;
use crate::data::views::crop::resized;
use crate::error::{Error, Result, printable};
use crate::path_text::{absolute, is_inside};
use crate::unfinished::unique_digits;

/// Start of an entry; the digit is the version of resizing and checksum: entries of other versions count as damaged.
const MAGIC: &[u8; 8] = b"ibotrgb2";
/// Bytes before the pixels: magic, length and time of the source, width and height, checksum.
const HEAD: usize = 8 + 8 + 16 + 4 + 4 + 32;
/// Reduces images, and caches them if there is a cache folder.
#[derive(Debug)]
pub(super) struct Thumbnails {
    side: u32,
    cache: Option<Cache>,
}

#[derive(Debug)]
struct Cache {
    folder: PathBuf,
    /// Maximum size in bytes; of several processes that fill it, as one of them counts it.
    most: u64,
    used: AtomicU64,
    has_warned: AtomicBool,
}

/// Where a reduced image is kept, and whose it is.
struct Entry {
    file: PathBuf,
    /// Hash of the image's absolute path, of how far it is reduced, and of its range of values.
    of: blake3::Hash,
    version: Version,
}

/// Size and time of a file, which show whether it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    length: u64,
    /// Nanoseconds since 1970.
    modified: u128,
}

impl Thumbnails {
    /// As `config` says for the images below `folders`; none where images stay as they are.
    ///
    /// # Errors
    /// The cache lies among the images, or cannot be made or listed; [`Error::Stopped`] where `stop` is raised.
    pub fn open(
        config: &FolderConfig,
        folders: &[PathBuf],
        stop: &AtomicBool,
    ) -> Result<Option<Self>> {
        let Some(side) = config.shorter_side else {
            return Ok(None);
        };
        let open = |folder: &PathBuf| Cache::open(folder, config.cache_mib << 20, folders, stop);
        let cache = config.cache.as_ref().map(open).transpose()?;
        Ok(Some(Self { side, cache }))
    }

    /// The same where each of `ranks` processes fills its part of what is free: none sees what the others write.
    pub fn shared_by(&self, ranks: usize) -> Self {
        let share = |cache: &Cache| {
            let used = cache.used.load(Ordering::Relaxed);
            let free = cache.most.saturating_sub(used);
            Cache {
                folder: cache.folder.clone(),
                most: used.saturating_add(free / ranks.max(1) as u64),
                used: AtomicU64::new(used),
                has_warned: AtomicBool::new(false),
            }
        };
        Self {
            side: self.side,
            cache: self.cache.as_ref().map(share),
        }
    }

    /// The size that an image of this one is reduced to; itself where it is small enough.
    pub fn size(&self, [width, height]: [u32; 2]) -> [u32; 2] {
        let shorter = width.min(height);
        if shorter <= self.side {
            return [width, height];
        }
        let scaled = |length: u32| {
            let scaled = u64::from(length) * u64::from(self.side) + u64::from(shorter) / 2;
            (scaled / u64::from(shorter)) as u32
        };
        [scaled(width), scaled(height)]
    }

    /// The reduced image of the file `path`, which `decode` reads with this range.
    ///
    /// # Errors
    /// Those of `decode`; a failing cache only costs time, and a warning.
    pub fn get(
        &self,
        path: &Path,
        range: ValueRange,
        decode: impl FnOnce() -> Result<RgbImage>,
    ) -> Result<RgbImage> {
        let entry = self.cache.as_ref().and_then(|cache| {
            // read before decoding: if the file changes meanwhile, the entry counts as that of an older version
            let version = Version::of(path)?;
            Some((cache, cache.entry(path, self.side, range, version)))
        });
        if let Some((_, entry)) = &entry
            && let Some(image) = entry.read(self.side)
        {
            return Ok(image);
        }
        let image = self.reduce(decode()?)?;
        if let Some((cache, entry)) = &entry {
            cache.write(entry, &image);
        }
        Ok(image)
    }

    fn reduce(&self, image: RgbImage) -> Result<RgbImage> {
        let before = [image.width(), image.height()];
        let size = self.size(before);
        if size == before {
            return Ok(image);
        }
        resized(&image, size)
    }
}

impl Cache {
    fn open(folder: &Path, most: u64, images: &[PathBuf], stop: &AtomicBool) -> Result<Self> {
        let folder = absolute(folder)?;
        for of_images in images {
            if is_inside(&folder, of_images) {
                let remedy = "is inside the image folder; choose another folder";
                return Err(Error::config("folder.cache", folder.display(), remedy));
            }
        }
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let mut used = 0;
        for entry in WalkDir::new(&folder) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let entry = entry.map_err(|error| Error::io(&folder)(error.into()))?;
            let Ok(metadata) = entry.metadata() else {
                continue; // another process removed it
            };
            if !metadata.is_file() {
                continue;
            }
            // removes only its own temporary files: the folder may hold others
            let name = entry.file_name().to_string_lossy();
            let is_temporary =
                entry.depth() == 1 && name.starts_with("ibot-") && name.ends_with(".tmp");
            if is_temporary && is_stale(&metadata) {
                let _ = fs::remove_file(entry.path());
            } else {
                used += metadata.len();
            }
        }
        Ok(Self {
            folder,
            most,
            used: AtomicU64::new(used),
            has_warned: AtomicBool::new(false),
        })
    }

    /// Where the reduced image of a file is kept.
    fn entry(&self, path: &Path, side: u32, range: ValueRange, version: Version) -> Entry {
        let path = absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&side.to_le_bytes());
        hasher.update(path.as_os_str().as_encoded_bytes());
        if let ValueRange::Between(range) = range {
            for bound in range {
                hasher.update(&bound.to_le_bytes());
            }
        }
        let of = hasher.finalize();
        let name = of.to_hex();
        // 256 folders, as some file systems are slow with many files in one
        let folder = self.folder.join(&name[..2]);
        Entry {
            file: folder.join(format!("{}.rgb", &name[2..32])),
            of,
            version,
        }
    }

    /// Stores an image if there is room; it replaces the entry of another version of its file.
    fn write(&self, entry: &Entry, image: &RgbImage) {
        let length = (HEAD + image.as_raw().len()) as u64;
        let freed = fs::metadata(&entry.file).map_or(0, |old| old.len());
        let used = self.used.fetch_add(length, Ordering::Relaxed) + length;
        if used.saturating_sub(freed) > self.most {
            self.used.fetch_sub(length, Ordering::Relaxed);
            self.warn("is full (folder.cache_mib); other images are decoded in each epoch");
            return;
        }
        match self.write_file(entry, image) {
            Ok(()) => {
                self.used.fetch_sub(freed, Ordering::Relaxed);
            }
            Err(error) => {
                self.used.fetch_sub(length, Ordering::Relaxed);
                self.warn(&format!(
                    "cannot be written: {error}; images are decoded in each epoch"
                ));
            }
        }
    }

    /// Written under a unique name first: another process may write the same entry.
    fn write_file(&self, entry: &Entry, image: &RgbImage) -> std::io::Result<()> {
        let temporary = self.folder.join(format!("ibot-{}.tmp", unique_digits()?));
        let size = [image.width(), image.height()];
        let head = entry.head(size, image.as_raw());
        let mut file = File::create_new(&temporary)?;
        let written = file
            .write_all(&[&head[..], image.as_raw()].concat())
            .and_then(|()| entry.file.parent().map_or(Ok(()), fs::create_dir_all))
            .and_then(|()| fs::rename(&temporary, &entry.file));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Warns once: the same problem would repeat for each image.
    fn warn(&self, what: &str) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            log::warn!("cache {}: {what}", printable(&self.folder));
        }
    }
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let (length, modified) = length_and_time(path)?;
        let since = |from: SystemTime, to: SystemTime| to.duration_since(from).ok();
        Some(Self {
            length,
            modified: since(UNIX_EPOCH, modified)?.as_nanos(),
        })
    }
}

impl Entry {
    /// The bytes before the pixels. The checksum covers them too, and which image the entry is of: two files of equal
    /// length, time and size, as an archive gives them, have different ones.
    fn head(&self, [width, height]: [u32; 2], pixels: &[u8]) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let (fields, checksum) = head.split_at_mut(HEAD - 32);
        let mut rest: &mut [u8] = fields;
        for bytes in [
            &MAGIC[..],
            &self.version.length.to_le_bytes(),
            &self.version.modified.to_le_bytes(),
            &width.to_le_bytes(),
            &height.to_le_bytes(),
        ] {
            let (field, after) = rest.split_at_mut(bytes.len());
            field.copy_from_slice(bytes);
            rest = after;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.of.as_bytes());
        hasher.update(fields).update(pixels);
        checksum.copy_from_slice(hasher.finalize().as_bytes());
        head
    }

    /// The cached image; none if it is missing, damaged, or of another file or version.
    fn read(&self, side: u32) -> Option<RgbImage> {
        let mut file = File::open(&self.file).ok()?;
        let mut found = [0; HEAD];
        file.read_exact(&mut found).ok()?;
        let number = |at: usize| Some(u32::from_le_bytes(found[at..at + 4].try_into().ok()?));
        let [width, height] = [number(32)?, number(36)?];
        let length = 3 * u64::from(width) * u64::from(height);
        let is_whole = file.metadata().ok()?.len() == HEAD as u64 + length;
        if !is_whole || width.min(height) > side {
            return None;
        }
        let mut pixels = vec![0; usize::try_from(length).ok()?];
        file.read_exact(&mut pixels).ok()?;
        if self.head([width, height], &pixels) != found {
            return None;
        }
        RgbImage::from_raw(width, height, pixels)
    }
}
