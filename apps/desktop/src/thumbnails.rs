//! Thumbnails for the screen: made on two threads, the newest request first; few are kept.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use eframe::egui::{ColorImage, Context, TextureHandle, TextureOptions};
use ibot::data::decode::decode_rgb_in;
use ibot::data::{FolderConfig, ValueRange};
use image::RgbImage;

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
    queue: Arc<Queue>,
    made: Receiver<(usize, Option<ColorImage>)>,
    asked: HashSet<usize>,
    textures: HashMap<usize, Option<TextureHandle>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    stack: Vec<(usize, PathBuf)>,
    closed: bool,
}

impl Thumbnails {
    pub fn new(ctx: &Context) -> Self {
        let queue = Arc::new(Queue::default());
        let (sender, made) = channel();
        for _ in 0..THREADS {
            let (queue, sender, ctx) = (queue.clone(), sender.clone(), ctx.clone());
            std::thread::spawn(move || work(&queue, &sender, &ctx));
        }
        Self {
            queue,
            made,
            asked: HashSet::new(),
            textures: HashMap::new(),
        }
    }

    /// Takes what was made since the last frame; if there are too many, frees those far from `visible`.
    pub fn receive(&mut self, ctx: &Context, visible: &Range<usize>) {
        while let Ok((index, image)) = self.made.try_recv() {
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
        if !self.textures.contains_key(&index) && self.asked.insert(index) {
            let mut waiting = self.queue.lock();
            waiting.stack.push((index, path.to_path_buf()));
            if waiting.stack.len() > WAITING {
                let (oldest, _) = waiting.stack.remove(0);
                self.asked.remove(&oldest);
            }
            drop(waiting);
            self.queue.changed.notify_one();
        }
        match self.textures.get(&index) {
            None => Thumbnail::Coming,
            Some(Some(texture)) => Thumbnail::Ready(texture),
            Some(None) => Thumbnail::Broken,
        }
    }
}

impl Drop for Thumbnails {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest request; none once the folder is closed.
    fn next(&self) -> Option<(usize, PathBuf)> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(wish) = waiting.stack.pop() {
                return Some(wish);
            }
            let woken = self.changed.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(queue: &Queue, sender: &Sender<(usize, Option<ColorImage>)>, ctx: &Context) {
    while let Some((index, path)) = queue.next() {
        let image = decode_rgb_in(&path, FolderConfig::default().max_pixels, ValueRange::Auto).ok();
        let small = image.map(|image| color_image(&reduced(&image, SIDE)));
        if sender.send((index, small)).is_err() {
            return;
        }
        ctx.request_repaint();
    }
}

/// The image, with at most `longest` pixels a side.
pub fn reduced(image: &RgbImage, longest: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let longer = width.max(height).max(1);
    let side = |side: u32| (u64::from(side) * u64::from(longest) / u64::from(longer)).max(1) as u32;
    match longer <= longest {
        true => image.clone(),
        false => image::imageops::thumbnail(image, side(width), side(height)),
    }
}

/// For egui.
pub fn color_image(image: &RgbImage) -> ColorImage {
    let size = [image.width() as usize, image.height() as usize];
    ColorImage::from_rgb(size, image.as_raw())
}
