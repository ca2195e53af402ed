//! `ibot visualize`: attention, patches and curves as pictures, and a run as one page.

use std::path::{Path, PathBuf};

use ibot::data::decode::decode_rgb;
use ibot::data::drawing::write_drawing;
use ibot::embedding::Embedder;
use ibot::error::printable;
use ibot::eval::{mutual_matches, patch_pca_rgb};
use ibot::{Error, Result};
use image::RgbImage;
use serde::Serialize;

use super::curves::curves;
use super::destination;
use super::model::ModelArgs;
use super::picture::{correspondence, heat_map, patch_colors};
use super::picture_names::{PictureName, picture_names};
use super::report::Page;

/// Maximum number of lines between two pictures.
const MAX_MATCHES: usize = 24;

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
    /// Run folder; draws its curves too.
    #[arg(long)]
    run: Option<PathBuf>,
    /// Also write report.html, a self-contained page.
    #[arg(long)]
    html: bool,
}

#[derive(Debug, Default, Serialize)]
struct Written {
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
    name: PictureName,
    path: &'a Path,
    /// As the model sees it.
    shown: RgbImage,
}

impl VisualizeArgs {
    pub fn run(&self) -> Result<()> {
        destination::folder("--out", &self.out)?;
        let most = self.model.max_pixels;
        let mut pictures = self.image.iter();
        pictures.try_for_each(|path| decode_rgb(path, most).map(|_| ()))?; // before a model is loaded
        let curves = self.run.as_deref().map(curves).transpose()?;
        let embedder = self.model.load()?;
        let named = picture_names(&self.image).into_iter().zip(&self.image);
        let looked = named.map(|(name, path)| {
            let picture = decode_rgb(path, most)?;
            Ok(Looked {
                name,
                shown: embedder.seen(&picture)?,
                path,
            })
        });
        let looked: Vec<Looked<'_>> = looked.collect::<Result<_>>()?;
        std::fs::create_dir_all(&self.out).map_err(Error::io(&self.out))?;
        let mut drawing = Drawing {
            out: self.out.clone(),
            max_pixels: most,
            page: Page::new(&format!("ibot: {}", self.model.model.display())),
            written: Written::default(),
        };
        if let (Some(run), Some(curves)) = (&self.run, curves) {
            drawing.page.run(run)?;
            drawing.curves(&curves)?;
        }
        drawing.maps(&embedder, &looked)?;
        drawing.correspondences(&embedder, &looked)?;
        let Drawing {
            mut page,
            mut written,
            ..
        } = drawing;
        if self.html {
            page.model(&self.model.model.display().to_string(), &embedder);
            if let Some(run) = &self.run {
                page.settings(run)?;
            }
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
    fn show(&mut self, name: &str, picture: &RgbImage) -> Result<()> {
        let file = self.out.join(format!("{name}.png"));
        write_drawing(&file, picture)?;
        self.page.picture(name, &file)?;
        self.written.files.push(file);
        Ok(())
    }

    fn curves(&mut self, curves: &[(String, RgbImage)]) -> Result<()> {
        self.page.heading("Curves");
        self.page.grid(None, true);
        curves
            .iter()
            .try_for_each(|(name, picture)| self.show(name, picture))
    }

    fn maps(&mut self, embedder: &Embedder, looked: &[Looked<'_>]) -> Result<()> {
        self.page.heading("Maps");
        for Looked { name, path, shown } in looked {
            self.page.grid(Some(&name.title), false);
            let picture = decode_rgb(path, self.max_pixels)?;
            for (what, map) in maps(embedder, &picture, shown, &name.title)? {
                self.show(&format!("{}-{what}", name.file), &map)?;
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
        self.page.grid(None, false);
        let left = patches(embedder, first.path, self.max_pixels)?;
        for other in others {
            let right = patches(embedder, other.path, self.max_pixels)?;
            let matches = mutual_matches(&left, &right, embedder.width());
            let matches = &matches[..matches.len().min(MAX_MATCHES)];
            let title = format!(
                "matching patches: {} and {}",
                first.name.title, other.name.title
            );
            let grid = embedder.grid();
            let picture = correspondence(&first.shown, &other.shown, matches, grid, &title);
            let (first, other) = (&first.name.file, &other.name.file);
            self.show(&format!("{first}-{other}-correspondence"), &picture)?;
        }
        Ok(())
    }
}

/// Features of the patches of an image.
fn patches(embedder: &Embedder, path: &Path, max_pixels: u64) -> Result<Vec<f32>> {
    let picture = decode_rgb(path, max_pixels)?;
    Ok(embedder.embed_with_patches(&[picture])?.patches)
}

/// Attention of each head, mean attention, and the main directions of the patch features.
fn maps(
    embedder: &Embedder,
    picture: &RgbImage,
    shown: &RgbImage,
    title: &str,
) -> Result<Vec<(String, RgbImage)>> {
    let attention = embedder.attention(std::slice::from_ref(picture))?;
    let patches = attention.grid[0] * attention.grid[1];
    let heads = attention.values.chunks(patches);
    let mean: Vec<f32> = (0..patches)
        .map(|at| heads.clone().map(|head| head[at]).sum::<f32>() / attention.heads as f32)
        .collect();
    let map = |values: &[f32], what: &str| {
        heat_map(shown, values, attention.grid, &format!("{title}: {what}"))
    };
    let mut maps = vec![(
        "attention".to_owned(),
        map(&mean, "attention, mean over heads"),
    )];
    for (head, values) in (1..).zip(heads) {
        let what = format!("attention, head {head} of {}", attention.heads);
        maps.push((format!("attention-head-{head}"), map(values, &what)));
    }
    let features = embedder.embed_with_patches(std::slice::from_ref(picture))?;
    if let Some(colors) = patch_pca_rgb(&features.patches, embedder.width()) {
        let title = format!("{title}: patch features by PCA; similar colors are similar features");
        maps.push((
            "patch-pca".to_owned(),
            patch_colors(shown, &colors, attention.grid, &title),
        ));
    }
    Ok(maps)
}
