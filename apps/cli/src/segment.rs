//! `ibot knn --patches` and `ibot probe --patches`: how well frozen patch features segment images.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ibot::data::drawing::write_drawing;
use ibot::data::{ImageFolder, ImageSource as _, MaskedImages, Masks};
use ibot::embedding::{Embedder, PatchRequest, patch_rows, segment};
use ibot::error::{counted, printable};
use ibot::eval::{PatchRows, spread};
use ibot::memory::machine_bytes;
use ibot::path_text::path_text;
use ibot::{Error, Result};

use super::destination;
use super::masks_sheet::{Example, masks_sheet};
use super::model::ModelArgs;
use super::segmentation_report::{Report, Row, Tested, Way};
use super::split::SplitArgs;

/// Images on the contact sheet.
const EXAMPLES: usize = 12;
/// Default number of held-out splits: each computes the features anew.
const SPLITS: u64 = 1;

/// Flags of `--patches`.
#[derive(Debug, clap::Args)]
pub struct PatchArgs {
    /// Evaluate the features of patches against segmentation masks, instead of one feature per image: mean IoU on held-out
    /// images.
    #[arg(long, requires = "masks")]
    patches: bool,
    /// Folder of PNG masks with the images' relative names (gray level or palette index = class, 255 = ignored), or `alpha`:
    /// the images' own alpha channel, as foreground and background.
    #[arg(long, value_name = "FOLDER", requires = "patches")]
    masks: Option<PathBuf>,
    /// Folder of the masks of --val.
    #[arg(long, value_name = "FOLDER", requires = "masks", requires = "val")]
    val_masks: Option<PathBuf>,
    /// Patches of each training image to keep, drawn at random [default: all].
    #[arg(long, value_name = "COUNT", requires = "patches")]
    patches_per_image: Option<usize>,
    /// PNG file to draw: held-out images, their masks, and the predicted masks.
    #[arg(long, value_name = "FILE", requires = "patches")]
    out: Option<PathBuf>,
}

/// Patches `[N, D]` -> `[N, K]` by each of several classifiers.
type Scores<'a> = Box<dyn Fn(&[f32]) -> Vec<Vec<f64>> + Sync + 'a>;

/// Classifiers that were trained on the same patches.
pub struct Ways<'a> {
    pub ways: Vec<Way>,
    /// The classes that they know.
    pub classes: Vec<u8>,
    /// Patches `[N, D]` -> `[N, K]` by each of them.
    pub scores: Scores<'a>,
}

/// Images to train on and to test on.
struct Pair {
    train: Arc<MaskedImages>,
    test: Arc<MaskedImages>,
}

impl PatchArgs {
    /// Whether patches are to be evaluated.
    pub fn is_on(&self) -> bool {
        self.patches
    }

    /// Refuses settings that cannot work, before the work starts.
    pub fn check(&self, data: &Path) -> Result<()> {
        if self.patches_per_image == Some(0) {
            let remedy = "must be at least 1";
            return Err(Error::config("--patches-per-image", 0, remedy));
        }
        for (flag, masks) in [("--masks", &self.masks), ("--val-masks", &self.val_masks)] {
            let Some(folder) = masks.as_deref().filter(|masks| !is_alpha(masks)) else {
                continue;
            };
            destination::outside(flag, folder, data)?;
            if !folder.is_dir() {
                let remedy = "is no folder; give a folder of PNG masks, or alpha";
                return Err(Error::config(flag, folder.display(), remedy));
            }
        }
        if let Some(out) = &self.out {
            destination::outside("--out", out, data)?;
            let masks = [&self.masks, &self.val_masks].into_iter().flatten();
            for masks in masks.filter(|masks| !is_alpha(masks)) {
                destination::outside_masks("--out", out, masks)?;
            }
            destination::png("--out", out)?;
        }
        Ok(())
    }

    /// Trains on patches of `layers` blocks side by side, tests on other images, and prints what came of it. `chosen` is the
    /// name of what the classifiers choose.
    pub fn report<'a>(
        &self,
        model: &ModelArgs,
        split: &SplitArgs,
        embedder: &Embedder,
        layers: usize,
        chosen: &'static str,
        train: impl Fn(PatchRows) -> Option<Ways<'a>>,
    ) -> Result<()> {
        let folders = model.split(
            split.data()?,
            split.val.as_deref(),
            split.held_out.is_some(),
        )?;
        let data = model.scan(&folders.data)?;
        let (pairs, images, without_mask) = match &folders.val {
            None => self.split(model, embedder, split, &data)?,
            Some(val) => self.pair(model, embedder, split, &data, val)?,
        };
        let request = PatchRequest {
            layers,
            batch_size: model.batch_size,
            workers: model.workers,
        };
        self.check_memory(model, embedder, &request, &pairs)?;
        let mut tested = Vec::new();
        for pair in &pairs {
            tested.push(self.test(model, embedder, &request, pair, &train)?);
        }
        let rows: Vec<Row> = (0..tested[0].ways.len())
            .filter_map(|way| Row::new(&tested, way, self.masks() == Masks::Alpha))
            .collect();
        // hours of work are printed even where their drawing fails
        let drawn = self.draw(model, embedder, &pairs[0].test, &tested[0], &rows);
        let constant = tested
            .iter()
            .filter_map(|of| of.confusions.first()?.constant().mean_iou());
        let report = Report {
            model: model.name(),
            data: path_text(&folders.data),
            val: folders.val.as_deref().map(path_text),
            masks: self.masks.as_deref().map(path_text).unwrap_or_default(),
            images,
            without_mask,
            tested: tested.iter().map(|of| of.images).sum(),
            splits: pairs.len(),
            image_size: embedder.preprocessing().image_size,
            grid: embedder.grid(),
            patches: tested[0].patches,
            constant_mean_iou: spread(&constant.collect::<Vec<_>>()).map_or(0.0, |of| of.mean),
            rows,
            out: (self.out.as_deref().filter(|_| drawn.is_ok())).map(path_text),
            chosen,
        };
        model.answer(&report, || report.text())?;
        drawn
    }

    /// Draws what the best classifier predicts for images of one split, if that was asked for.
    fn draw(
        &self,
        model: &ModelArgs,
        embedder: &Embedder,
        images: &MaskedImages,
        tested: &Tested,
        rows: &[Row],
    ) -> Result<()> {
        let Some(out) = &self.out else {
            return Ok(());
        };
        let best = (0..rows.len()).max_by(|a, b| rows[*a].mean_iou.total_cmp(&rows[*b].mean_iou));
        let best = best.unwrap_or(0);
        let name = &tested.ways[best].classifier;
        let sheet = masks_sheet(model, embedder, images, &tested.examples, best, name)?;
        write_drawing(out, &sheet)
    }

    fn masks(&self) -> Masks {
        masks_in(self.masks.as_deref().unwrap_or(Path::new("alpha")))
    }

    /// Where the masks of the images to train on and of those to test on are: `is_part` where both are parts of one data set,
    /// which the masks then have too.
    fn masks_of_parts(
        &self,
        data: &ImageFolder,
        val: &ImageFolder,
        is_part: bool,
    ) -> Result<(Masks, Masks)> {
        match (self.masks(), &self.val_masks) {
            (Masks::Alpha, None) => Ok((Masks::Alpha, Masks::Alpha)),
            (masks, Some(val)) => Ok((masks, masks_in(val))),
            (Masks::Folder(root), None) if is_part => {
                let [data, val] = [data, val].map(|part| {
                    let name = part.root().file_name().unwrap_or_default();
                    Masks::Folder(root.join(name))
                });
                Ok((data, val))
            }
            (Masks::Folder(_), None) => {
                let remedy = "needs --val-masks, the folder of its masks";
                Err(Error::config("--val", val.root().display(), remedy))
            }
        }
    }

    /// Pairs of parts of one folder, the number of images with masks, and of those without.
    fn split(
        &self,
        model: &ModelArgs,
        embedder: &Embedder,
        split: &SplitArgs,
        data: &ImageFolder,
    ) -> Result<(Vec<Pair>, usize, usize)> {
        let (all, without) = masked(model, embedder, data, self.masks())?;
        let splits = split.splits(data.root(), &all.folder().labels(), SPLITS)?;
        let pairs = splits.iter().map(|split| Pair {
            train: Arc::new(all.part(&split.kept)),
            test: Arc::new(all.part(&split.held_out)),
        });
        Ok((pairs.collect(), all.len(), without))
    }

    /// The same of two folders.
    fn pair(
        &self,
        model: &ModelArgs,
        embedder: &Embedder,
        split: &SplitArgs,
        data: &ImageFolder,
        val: &Path,
    ) -> Result<(Vec<Pair>, usize, usize)> {
        let val = model.scan(val)?;
        let (masks, val_masks) = self.masks_of_parts(data, &val, split.val.is_none())?;
        let (train, without) = masked(model, embedder, data, masks)?;
        let (test, more_without) = masked(model, embedder, &val, val_masks)?;
        let images = train.len() + test.len();
        let pair = Pair {
            train: Arc::new(train),
            test: Arc::new(test),
        };
        Ok((vec![pair], images, without + more_without))
    }

    /// Says what the patches to train on take, and refuses what is more than half of the machine's memory.
    fn check_memory(
        &self,
        model: &ModelArgs,
        embedder: &Embedder,
        request: &PatchRequest,
        pairs: &[Pair],
    ) -> Result<()> {
        let shape = request.shape(embedder);
        let of_image = shape.grid[0] * shape.grid[1];
        let of_image = self.patches_per_image.unwrap_or(of_image).min(of_image);
        let images = pairs.iter().map(|pair| pair.train.len()).max().unwrap_or(0);
        let bytes = (images * of_image * shape.width * size_of::<f32>()) as u64;
        let gigabytes = bytes as f64 / 1e9;
        let size = format!(
            "{} with {of_image} patches of {} values each take {gigabytes:.2} GB of memory",
            counted(images, "training image"),
            shape.width
        );
        model.note(&size);
        match machine_bytes().filter(|machine| bytes > machine / 2) {
            None => Ok(()),
            Some(machine) => {
                let remedy = "keep fewer with --patches-per-image, or take a smaller --image-size";
                let half = machine as f64 / 2e9;
                Err(Error::Unsupported(format!(
                    "{size}, more than {half:.2} GB, half of this machine's: {remedy}"
                )))
            }
        }
    }

    fn test<'a>(
        &self,
        model: &ModelArgs,
        embedder: &Embedder,
        request: &PatchRequest,
        pair: &Pair,
        train: impl Fn(PatchRows) -> Option<Ways<'a>>,
    ) -> Result<Tested> {
        let bar = ModelArgs::bar(pair.train.len());
        let (kept, seed) = (self.patches_per_image, 0);
        let (rows, visited) =
            patch_rows(embedder, &pair.train, request, kept, seed, &mut |made| {
                bar.set_position(made as u64);
            })?;
        bar.finish_and_clear();
        model.note_skipped(&visited.skipped);
        check_classes(&pair.train, &rows)?;
        let (patches, known) = (rows.len(), rows.classes());
        let none = || Error::data(pair.train.folder().root(), "has no patch to train on");
        let Ways {
            ways,
            classes,
            scores,
        } = train(rows).ok_or_else(none)?;
        let bar = ModelArgs::bar(pair.test.len());
        let (mut examples, mut images) = (Vec::new(), 0);
        let (confusions, visited) = segment(
            embedder,
            &pair.test,
            request,
            &classes,
            &*scores,
            &mut |seen| {
                bar.inc(1);
                images += 1;
                if is_example(seen.sample, pair.test.len()) {
                    examples.push(Example::new(seen));
                }
                Ok(())
            },
        )?;
        bar.finish_and_clear();
        model.note_skipped(&visited.skipped);
        if confusions.iter().all(|confusion| confusion.total() == 0) {
            let reason = "every pixel of the masks to test on is ignored (255)";
            return Err(Error::data(pair.test.folder().root(), reason));
        }
        Ok(Tested {
            ways,
            known,
            patches,
            images,
            confusions,
            examples,
        })
    }
}

/// Whether an image is on the contact sheet: [`EXAMPLES`] of so many are, evenly spaced, and all of fewer.
fn is_example(sample: usize, of: usize) -> bool {
    let before = |sample: usize| sample * EXAMPLES / of.max(1);
    before(sample) != before(sample + 1)
}

fn is_alpha(masks: &Path) -> bool {
    masks == Path::new("alpha")
}

fn masks_in(masks: &Path) -> Masks {
    if is_alpha(masks) {
        Masks::Alpha
    } else {
        Masks::Folder(masks.to_path_buf())
    }
}

/// The images of a folder that have masks, and the number of the others, of which the first is named.
fn masked(
    model: &ModelArgs,
    embedder: &Embedder,
    folder: &ImageFolder,
    masks: Masks,
) -> Result<(MaskedImages, usize)> {
    let preprocessing = embedder.preprocessing();
    let view = (preprocessing.fit, preprocessing.image_size);
    let (images, without) = MaskedImages::new(folder, masks, view, model.pixels.max_pixels)?;
    if let Some(first) = without.first() {
        let (count, first) = (counted(without.len(), "image"), printable(first));
        model.note(&format!("{count} without a mask left out, {first} first"));
    }
    Ok((images, without.len()))
}

/// Refuses masks to train on that are of one class.
fn check_classes(images: &MaskedImages, rows: &PatchRows) -> Result<()> {
    let refused = |reason: String| Err(Error::data(images.folder().root(), reason));
    match rows.classes().as_slice() {
        [] => refused("every pixel of the masks to train on is ignored (255)".to_owned()),
        [class] => refused(format!(
            "every pixel of the masks to train on is of class {class} or ignored (255); a figure that is written as 255 must be \
             another number, such as 1"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_images_are_shown_or_all() {
        for count in [1, 11, 12, 13, 25, 1000] {
            let shown = (0..count).filter(|sample| is_example(*sample, count));
            assert_eq!(shown.count(), count.min(EXAMPLES), "of {count}");
        }
    }
}
