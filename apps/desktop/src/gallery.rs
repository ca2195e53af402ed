//! The open folder: its images, and their features as they are computed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eframe::egui::{Context, ProgressBar, Ui};
use ibot::app::{EmbedRequest, ImageFeatures, Job};
use ibot::data::{FolderConfig, ImageFolder, ImageSource as _, parts_of};
use ibot::error::{Error, Result, counted, printable};
use ibot::eval::nearest;

use super::background::Background;
use super::model::{Model, Origin};
use super::words::in_window;

/// Features are stored in blocks of so many images.
const BLOCK: usize = 1024;

/// An image of the folder and its cosine similarity.
pub type Neighbor = (usize, f32);

/// Folder, images and features.
#[derive(Default)]
pub struct Gallery {
    folder: Option<PathBuf>,
    scanning: Option<Background<Result<(ImageFolder, TrainingImages)>>>,
    images: Arc<Vec<PathBuf>>,
    to_train_on: TrainingImages,
    /// What was left out, or went wrong.
    message: Option<String>,
    embedding: Option<Job<Vec<Result<ImageFeatures>>>>,
    features: Features,
    /// What made the features; none before the first.
    origin: Option<Origin>,
    unreadable: usize,
}

/// The images that a run trains on: all of a folder, or those of its part `train`, as `ibot train` takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrainingImages {
    /// Where they are.
    pub source: PathBuf,
    pub count: usize,
    /// Their folders of the first level.
    pub classes: usize,
    /// Whether the folder has other parts, which are left out.
    pub is_part: bool,
}

impl TrainingImages {
    /// Those of a folder that was scanned.
    ///
    /// # Errors
    /// Where the folder cannot be listed.
    pub fn of(folder: &Path, scanned: &ImageFolder) -> Result<Self> {
        let Some(parts) = parts_of(folder)? else {
            return Ok(Self {
                source: folder.to_path_buf(),
                count: scanned.len(),
                classes: scanned.classes().len(),
                is_part: false,
            });
        };
        let is_of_part = |index: &usize| scanned.name(*index).starts_with(&parts.train);
        let indices: Vec<usize> = (0..scanned.len()).filter(is_of_part).collect();
        let labels = indices.iter().filter_map(|index| scanned.label(*index));
        Ok(Self {
            classes: labels.collect::<BTreeSet<_>>().len(),
            count: indices.len(),
            is_part: indices.len() < scanned.len(),
            source: parts.train,
        })
    }
}

/// The features so far. A clone shares them, for a search on another thread.
#[derive(Clone, Default)]
pub struct Features {
    /// Rows of all images in order, zeros for one that cannot be read: [`BLOCK`] or some more in each block but the last.
    blocks: Vec<Arc<Vec<f32>>>,
    width: usize,
}

impl Features {
    /// None yet, of so many numbers each.
    pub fn new(width: usize) -> Self {
        Self {
            blocks: Vec::new(),
            width,
        }
    }

    /// Adds whole rows.
    pub fn extend(&mut self, rows: Vec<f32>) {
        match self.blocks.last_mut() {
            // copied where a search has it: a block, and not all
            Some(last) if last.len() < BLOCK * self.width => Arc::make_mut(last).extend(rows),
            _ => self.blocks.push(Arc::new(rows)),
        }
    }

    /// Number of images with a row.
    pub fn len(&self) -> usize {
        let numbers: usize = self.blocks.iter().map(|block| block.len()).sum();
        numbers / self.width.max(1)
    }

    /// The images most similar to number `index`, without itself; none for one that cannot be read.
    pub fn nearest(&self, index: usize, count: usize) -> Vec<Neighbor> {
        let width = self.width.max(1);
        let mut rows = self
            .blocks
            .iter()
            .flat_map(|block| block.chunks_exact(width));
        let query = rows.nth(index);
        let Some(query) = query.filter(|query| query.iter().any(|x| *x != 0.0)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut first = 0;
        for block in &self.blocks {
            // one that cannot be read is like none, and takes no one's place
            let is_zero = |row: &[f32]| row.iter().all(|x| *x == 0.0);
            let zeros = block.chunks_exact(width).filter(|row| is_zero(row)).count();
            let near = nearest(block, self.width, query, count + 1 + zeros).into_iter();
            let near = near.filter(|(row, _)| !is_zero(&block[row * width..][..width]));
            found.extend(near.map(|(row, likeness)| (first + row, likeness)));
            first += block.len() / width;
        }
        found.retain(|&(other, _)| other != index);
        // stable: equal ones stay in the order of images
        found.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        found.truncate(count);
        found
    }
}

impl Gallery {
    /// Scans a folder for images, in place of the one before.
    pub fn open(&mut self, ctx: &Context, folder: PathBuf) {
        let scanned = folder.clone();
        let scan = move || {
            let found = ImageFolder::scan(&scanned, &FolderConfig::default())?;
            let to_train_on = TrainingImages::of(&scanned, &found)?;
            Ok((found, to_train_on))
        };
        *self = Self {
            scanning: Some(Background::start(ctx, scan)),
            folder: Some(folder),
            ..Self::default()
        };
    }

    /// The open folder, if any.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Its images.
    pub fn images(&self) -> Arc<Vec<PathBuf>> {
        self.images.clone()
    }

    /// Those that a run trains on.
    pub fn to_train_on(&self) -> &TrainingImages {
        &self.to_train_on
    }

    /// Whether the images of a folder were found since the last call.
    pub fn receive_scan(&mut self) -> bool {
        let Some(found) = self.scanning.as_ref().and_then(Background::take) else {
            return false;
        };
        self.scanning = None;
        match found {
            Ok(Ok((folder, to_train_on))) => {
                let paths = (0..folder.len()).map(|index| folder.name(index));
                self.images = Arc::new(paths.collect());
                self.to_train_on = to_train_on;
                let skipped = folder.summary().skipped.len();
                self.message =
                    (skipped > 0).then(|| format!("{} skipped", counted(skipped, "file")));
                return true;
            }
            Ok(Err(error)) => self.message = Some(in_window(&error.to_string())),
            Err(error) => self.message = Some(error.into()),
        }
        false
    }

    /// Embeds all images, or goes on after those that the same model has embedded, on whichever device.
    pub fn embed(&mut self, ctx: &Context, model: &Model) {
        let Some((handle, info)) = model.ready() else {
            return;
        };
        let origin = model.origin();
        let before = self.embedding.take();
        if self.origin.is_some() && self.origin == origin {
            let finished = before.map(|mut job| job.take_finished());
            self.add(finished.unwrap_or_default());
        } else {
            self.features = Features::new(info.width);
            self.unreadable = 0;
            self.origin = origin;
        }
        let rest = self.images.get(self.features.len()..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        let ctx = ctx.clone();
        let request = EmbedRequest::new(rest.iter().map(PathBuf::as_path));
        let request = request.on_progress(move |_| ctx.request_repaint());
        self.embedding = Some(handle.embed(request));
    }

    /// Ends the embedding; what is done stays.
    pub fn cancel(&mut self) {
        if let Some(job) = &self.embedding {
            job.cancel();
        }
    }

    /// Takes the features that are done, and an error, which is of the device or of the model's file: those of images are among
    /// the features.
    pub fn receive_features(&mut self, model: &mut Model) {
        let Some(mut job) = self.embedding.take() else {
            return;
        };
        let is_over = job.is_over();
        self.add(job.take_finished());
        match is_over.then(|| job.wait()) {
            None => self.embedding = Some(job),
            Some(Ok(rest)) => self.add(rest),
            Some(Err(Error::Stopped)) => {}
            Some(Err(error)) => model.fail(&error),
        }
    }

    fn add(&mut self, made: Vec<Result<ImageFeatures>>) {
        let mut rows = Vec::new();
        for made in made {
            match made {
                Ok(made) => rows.extend(made.cls),
                Err(_) => {
                    self.unreadable += 1;
                    rows.resize(rows.len() + self.features.width, 0.0);
                }
            }
        }
        if !rows.is_empty() {
            self.features.extend(rows);
        }
    }

    /// The features so far.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Whether more are coming.
    pub fn is_embedding(&self) -> bool {
        self.embedding.is_some()
    }

    /// Images with a feature, and all.
    pub fn progress(&self) -> [usize; 2] {
        [self.features.len(), self.images.len()]
    }

    /// Progress on one line, with buttons.
    pub fn show(&mut self, ui: &mut Ui, model: &Model) {
        let Some(folder) = &self.folder else {
            ui.label("Open a folder of images, or drop one here.");
            return;
        };
        ui.label(printable(folder));
        if self.scanning.is_some() {
            ui.spinner();
            ui.label("Scanning for images");
            return;
        }
        let [done, all] = self.progress();
        if self.embedding.is_some() {
            let share = done as f32 / all.max(1) as f32;
            let text = format!("{done} of {all} embedded");
            ui.add(ProgressBar::new(share).desired_width(220.0).text(text));
            if ui.button("Cancel").on_hover_text("Esc").clicked() {
                self.cancel();
            }
        } else {
            ui.label(format!("{}, {done} embedded", counted(all, "image")));
            let wants = done < all && model.ready().is_some();
            if wants && ui.button("Embed").clicked() {
                self.embed(ui.ctx(), model);
            }
        }
        if self.unreadable > 0 {
            ui.label(format!("{} unreadable", self.unreadable));
        }
        if let Some(message) = &self.message {
            ui.label(message);
        }
    }
}
