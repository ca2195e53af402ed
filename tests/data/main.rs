//! The data pipeline: formats, folders, views and the loader.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod archive_links;
mod bombs;
mod budget;
#[cfg(feature = "cloud")]
mod cloud;
mod folders;
mod formats;
mod hostile;
mod index;
mod lists;
mod loading;
mod masks;
mod memory;
mod mutations;
mod odd;
mod orientations;
mod pillow;
mod pixels;
mod ranges;
mod reading;
#[cfg(feature = "cloud")]
mod server;
mod shards;
mod shares;
mod skipping;
mod stand_ins;
mod surveys;
mod tables;
mod thumbnails;
mod tiles;
mod torchvision;
#[cfg(unix)]
mod unix;
mod vanishing;
mod views;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use ibot::Result;
use ibot::data::ImageSource;
use image::{Rgb, RgbImage};

/// More than any image of the tests has.
const MAX_PIXELS: u64 = 1 << 20;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/images")
        .join(name)
}

fn fixture_json(name: &str) -> serde_json::Value {
    let text = fs::read_to_string(fixture(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// An image with gradients, edges and noise, 40 x 30.
fn texture() -> RgbImage {
    image::open(fixture("texture.png")).unwrap().into_rgb8()
}

/// What is printed must not move the cursor, color the screen or start a line that is none.
fn is_printable(text: &str) -> bool {
    !text.contains(|c: char| {
        c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

/// A folder that is gone after the test.
struct TempFolder(PathBuf);

impl TempFolder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ibot-data-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Copies a fixture under another name.
    fn copy(&self, name: &str, from: &str) -> PathBuf {
        self.write(name, fs::read(fixture(from)).unwrap())
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Small images made on demand, each different; what happens at one of them is up to a test.
struct MadeImages {
    count: usize,
    decoded: AtomicUsize,
    before: Box<dyn Fn(usize) -> Result<()> + Send + Sync>,
    bytes: u64,
}

impl MadeImages {
    fn new(count: usize) -> Self {
        Self {
            count,
            decoded: AtomicUsize::new(0),
            before: Box::new(|_| Ok(())),
            bytes: u64::MAX,
        }
    }

    /// Calls `before` at every decoding.
    fn with(count: usize, before: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Self {
        Self {
            before: Box::new(before),
            ..Self::new(count)
        }
    }
}

impl ImageSource for MadeImages {
    fn len(&self) -> usize {
        self.count
    }

    fn name(&self, index: usize) -> PathBuf {
        PathBuf::from(format!("image {index}"))
    }

    fn label(&self, index: usize) -> Option<usize> {
        Some(index % 3)
    }

    fn decode(&self, index: usize) -> Result<RgbImage> {
        self.decoded.fetch_add(1, Ordering::SeqCst);
        (self.before)(index)?;
        let shade = (index * 7 % 200) as u8;
        let color = |x: u32, y: u32| Rgb([shade, (x * 9) as u8, (y * 11) as u8]);
        Ok(RgbImage::from_fn(20 + index as u32 % 5, 18, color))
    }

    fn decoded_bytes(&self) -> u64 {
        self.bytes
    }
}
