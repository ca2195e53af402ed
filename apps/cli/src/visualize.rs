//! `ibot visualize`: attention, patches and curves as images, and a run as one page.

use std::path::{Path, PathBuf};

use ibot::data::decode::decode_rgb_in;
use ibot::data::drawing::write_drawing;
use ibot::embedding::{Embedder, seen};
use ibot::error::{counted, printable};
use ibot::eval::{foreground, mutual_matches, patch_pca_rgb};
use ibot::{Error, Result};
use image::RgbImage;
use serde::Serialize;

use super::destination;
use super::drawing::{Pair, attention_map, correspondence, patch_colors};
use super::image_names::{ImageName, image_names};
use super::model::ModelArgs;
use super::page::{Columns, Page};
use super::report::{Run, add_curves, add_facts, add_model, add_verdicts, is_curve};

/// Maximum number of lines between two images.
const MAX_MATCHES: usize = 20;
/// Where fewer matches are in the foreground, all are shown.
const LEAST_MATCHES: usize = 4;
/// Maximum side of a drawn image, in pixels.
const MAX_SIDE: u32 = 512;

/// What the name of a drawing of two images ends with.
const CORRESPONDENCE: &str = "-correspondence.png";

/// Flags of `ibot visualize`.
#[derive(Debug, clap::Args)]
pub struct VisualizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images to draw; with several, the first one is compared with each of the others.
    #[arg(long, required = true, num_args = 1..)]
    image: Vec<PathBuf>,
    /// Folder for the drawings.
    #[arg(long)]
    out: PathBuf,
    /// Run folder; draws its curves too. For curves alone: `ibot report RUN`.
    #[arg(long)]
    run: Option<PathBuf>,
    /// Also write report.html, a self-contained page.
    #[arg(long)]
    html: bool,
}

#[derive(Debug, Default, Serialize)]
struct Written {
    #[serde(serialize_with = "ibot::path_text::serialize_all")]
    files: Vec<PathBuf>,
}

/// What has been drawn so far: files, and the page that shows them.
struct Drawing {
    out: PathBuf,
    max_pixels: u64,
    page: Page,
    written: Written,
}

/// An image to draw maps of. It is decoded whenever it is needed, because several photos at full size take gigabytes.
struct Looked<'a> {
    name: ImageName,
    path: &'a Path,
    /// The part that the model sees.
    shown: RgbImage,
}

impl VisualizeArgs {
    pub fn run(&self) -> Result<()> {
        destination::folder("--out", &self.out)?;
        let names = image_names(&self.image);
        destination::drawings(&self.out, |name| {
            is_curve(name) && self.run.is_some() || is_map(&names, name)
        })?;
        let most = self.model.pixels.max_pixels;
        let mut images = self.image.iter();
        images.try_for_each(|path| decode_rgb_in(path, most, self.model.range()).map(|_| ()))?; // before a model is loaded
        let runs: Vec<Run> = self
            .run
            .iter()
            .map(|run| Run::read(run, printable(run)))
            .collect::<Result<_>>()?;
        let embedder = self.model.load()?;
        let named = names.into_iter().zip(&self.image);
        let looked = named.map(|(name, path)| {
            let image = decode_rgb_in(path, most, self.model.range())?;
            Ok(Looked {
                name,
                shown: shown(&embedder, &image)?,
                path,
            })
        });
        let looked: Vec<Looked<'_>> = looked.collect::<Result<_>>()?;
        std::fs::create_dir_all(&self.out).map_err(Error::io(&self.out))?;
        let mut drawing = Drawing {
            out: self.out.clone(),
            max_pixels: most,
            page: Page::new(&format!("What the model sees: {}", self.model.name())),
            written: Written::default(),
        };
        if !runs.is_empty() {
            add_verdicts(&mut drawing.page, &runs)?;
            drawing.written.files = add_curves(&mut drawing.page, &runs, &self.out)?;
        }
        drawing.maps(&embedder, &looked)?;
        drawing.correspondences(&embedder, &looked)?;
        let Drawing {
            mut page,
            mut written,
            ..
        } = drawing;
        if self.html {
            add_model(&mut page, &self.model.name(), &embedder);
            runs.iter().for_each(|run| add_facts(&mut page, run));
            let file = self.out.join("report.html");
            page.write(&file)?;
            written.files.push(file);
        }
        self.model.answer(&written, || {
            let files = written.files.iter();
            let names: Vec<String> = files.map(printable).collect();
            names.join("\n")
        })
    }
}

impl Drawing {
    fn show(&mut self, name: &str, title: &str, image: &RgbImage) -> Result<()> {
        let file = self.out.join(name);
        write_drawing(&file, image)?;
        self.page.image(title, image)?;
        self.written.files.push(file);
        Ok(())
    }

    fn maps(&mut self, embedder: &Embedder, looked: &[Looked<'_>]) -> Result<()> {
        self.page.heading("Attention and patch features");
        self.page.text(
            "Attention: which patches the class token of the last block looks at, as multiples of equal attention to all. \
             Patch features: similar colors are similar features.",
        );
        for Looked { name, path, shown } in looked {
            let range = embedder.preprocessing().range;
            let image = decode_rgb_in(path, self.max_pixels, range)?;
            let maps = maps(embedder, &image, shown, &name.title)?;
            self.page.grid(Some(&name.title), Columns::Images);
            for Map { what, title, map } in maps {
                self.show(&format!("{}-{what}.png", name.file), &title, &map)?;
            }
        }
        Ok(())
    }

    /// Matching patches of the first image and each of the others.
    fn correspondences(&mut self, embedder: &Embedder, looked: &[Looked<'_>]) -> Result<()> {
        let Some((first, others)) = looked
            .split_first()
            .filter(|(_, others)| !others.is_empty())
        else {
            return Ok(());
        };
        self.page.heading("Matching patches");
        self.page.text(
            "Patches that are each other's nearest by their features, without the background where the main direction of the features \
             tells it; the thicker a line, the more similar they are.",
        );
        self.page.grid(None, Columns::Pairs);
        let left = patches(embedder, first.path, self.max_pixels)?;
        for other in others {
            let right = patches(embedder, other.path, self.max_pixels)?;
            let matches = mutual_matches(&left, &right, embedder.width());
            let both = [&left[..], &right].concat();
            let front = foreground(&both, embedder.width(), embedder.grid());
            let pairs: Vec<Pair> = in_front(matches, front.as_deref())
                .into_iter()
                .take(MAX_MATCHES)
                .map(|(patches, similarity)| Pair {
                    patches,
                    similarity,
                })
                .collect();
            let title = format!(
                "The most similar patches ({}): {} and {}",
                counted(pairs.len(), "pair"),
                first.name.title,
                other.name.title
            );
            let grid = embedder.grid();
            let image = correspondence(&first.shown, &other.shown, &pairs, grid, &title);
            let (first, other) = (&first.name.file, &other.name.file);
            self.show(&format!("{first}-{other}{CORRESPONDENCE}"), &title, &image)?;
        }
        Ok(())
    }
}

/// Whether a drawing of these images is called so.
fn is_map(names: &[ImageName], name: &str) -> bool {
    let of_image = |image: &ImageName| {
        let rest = name
            .strip_prefix(&image.file)
            .and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| {
            let is_pair =
                |other: &ImageName| rest.strip_prefix(&other.file) == Some(CORRESPONDENCE);
            let is_head = rest.starts_with("attention-head-") && rest.ends_with(".png");
            rest == "attention.png"
                || rest == "patch-pca.png"
                || is_head
                || names.iter().any(is_pair)
        })
    };
    names.iter().any(of_image)
}

/// The matches within the foreground of both images; all where it is not known, or few of them are left.
fn in_front(matches: Vec<([usize; 2], f32)>, front: Option<&[bool]>) -> Vec<([usize; 2], f32)> {
    let Some(front) = front else {
        return matches;
    };
    let of_right = front.len() / 2;
    let is_in_front =
        |([left, right], _): &&([usize; 2], f32)| front[*left] && front[of_right + right];
    let kept: Vec<_> = matches.iter().filter(is_in_front).copied().collect();
    if kept.len() < LEAST_MATCHES.min(matches.len()) {
        matches
    } else {
        kept
    }
}

/// The part of an image that the model sees, at the image's own resolution, from the model's to [`MAX_SIDE`] pixels.
fn shown(embedder: &Embedder, image: &RgbImage) -> Result<RgbImage> {
    let preprocessing = embedder.preprocessing();
    let side = image.width().min(image.height()).min(MAX_SIDE) as usize;
    seen(&preprocessing.at(side.max(preprocessing.image_size)), image)
}

/// Features of the patches of an image.
fn patches(embedder: &Embedder, path: &Path, max_pixels: u64) -> Result<Vec<f32>> {
    let image = decode_rgb_in(path, max_pixels, embedder.preprocessing().range)?;
    Ok(embedder.embed_with_patches(&[image])?.patches)
}

/// A map of an image.
struct Map {
    /// End of its file's name.
    what: String,
    title: String,
    map: RgbImage,
}

/// Attention of each head, mean attention, and the main directions of the patch features.
fn maps(embedder: &Embedder, image: &RgbImage, shown: &RgbImage, name: &str) -> Result<Vec<Map>> {
    let attention = embedder.attention(std::slice::from_ref(image))?;
    let patches = attention.grid[0] * attention.grid[1];
    let heads = attention.values.chunks(patches);
    let mean: Vec<f32> = (0..patches)
        .map(|at| heads.clone().map(|head| head[at]).sum::<f32>() / attention.heads as f32)
        .collect();
    let map = |values: &[f32], what: String, whose: &str| {
        let title = format!("{name}: attention, {whose}");
        let map = attention_map(shown, values, attention.grid, &title);
        Map { what, title, map }
    };
    let mut maps = vec![map(&mean, "attention".to_owned(), "mean over heads")];
    for (head, values) in (1..).zip(heads) {
        let whose = format!("head {head} of {}", attention.heads);
        maps.push(map(values, format!("attention-head-{head}"), &whose));
    }
    let features = embedder.embed_with_patches(std::slice::from_ref(image))?;
    if let Some(colors) = patch_pca_rgb(&features.patches, embedder.width()) {
        let title = format!("{name}: patch features, three main directions (PCA) as colors");
        let map = patch_colors(shown, &colors, attention.grid, &title);
        let what = "patch-pca".to_owned();
        maps.push(Map { what, title, map });
    }
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_of_the_background_are_left_out_where_enough_are_left() {
        let matches: Vec<_> = (0..6).map(|at| ([at, 5 - at], 0.9)).collect();
        let kept = |front: Option<&[bool]>| -> Vec<usize> {
            let kept = in_front(matches.clone(), front).into_iter();
            kept.map(|([left, _], _)| left).collect()
        };
        assert_eq!(kept(None).len(), 6);
        // left 0 is behind, and right 0, whose match is left 5
        let mut front = [true; 12];
        front[0] = false;
        front[6] = false;
        assert_eq!(kept(Some(&front)), [1, 2, 3, 4]);
        front[1] = false;
        assert_eq!(kept(Some(&front)).len(), 6);
    }
}
