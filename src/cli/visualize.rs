//! `ibot visualize`: attention, patches and curves as pictures, and all of a run as one page.

use std::path::PathBuf;

use ibot::data::FolderConfig;
use ibot::data::decode::decode_rgb;
use ibot::embedding::Embedder;
use ibot::eval::{mutual_matches, patch_pca_rgb};
use ibot::picture::{correspondence, heat_map, patch_colours};
use ibot::{Error, Result};
use image::RgbImage;
use serde::Serialize;

use super::cluster::save_png;
use super::curves::curves;
use super::model::ModelArgs;
use super::picture_names::picture_names;
use super::report::Page;

/// Lines between two pictures, at most.
const MOST_MATCHES: usize = 24;

/// Flags of `ibot visualize`.
#[derive(Debug, clap::Args)]
pub struct VisualizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Picture to look at; give several to compare the first with each other one.
    #[arg(long, required = true, num_args = 1..)]
    image: Vec<PathBuf>,
    /// Folder for the pictures.
    #[arg(long)]
    out: PathBuf,
    /// Run folder whose curves are drawn too.
    #[arg(long)]
    run: Option<PathBuf>,
    /// Writes report.html too: one page that needs no other file.
    #[arg(long)]
    html: bool,
}

#[derive(Debug, Default, Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

impl VisualizeArgs {
    pub fn run(&self) -> Result<()> {
        let most = FolderConfig::default().max_pixels;
        let pictures = self.image.iter().map(|path| decode_rgb(path, most));
        let pictures: Vec<RgbImage> = pictures.collect::<Result<_>>()?;
        let curves = self.run.as_deref().map(curves).transpose()?;
        let embedder = self.model.load()?;
        std::fs::create_dir_all(&self.out).map_err(Error::io(&self.out))?;
        let mut page = Page::new(&format!("ibot: {}", self.model.model.display()));
        let mut written = Written::default();
        let mut show = |name: String, picture: &RgbImage, page: &mut Page| -> Result<()> {
            let file = self.out.join(format!("{name}.png"));
            save_png(&file, picture)?;
            page.picture(&name, &file)?;
            written.files.push(file);
            Ok(())
        };
        if let Some(run) = &self.run {
            page.run(run)?;
        }
        for (name, picture) in curves.into_iter().flatten() {
            show(name, &picture, &mut page)?;
        }
        let shown = pictures.iter().map(|picture| embedder.seen(picture));
        let shown: Vec<RgbImage> = shown.collect::<Result<_>>()?;
        let names = picture_names(&self.image);
        for ((name, picture), shown) in names.iter().zip(&pictures).zip(&shown) {
            for (what, map) in maps(&embedder, picture, shown, &name.title)? {
                show(format!("{}-{what}", name.file), &map, &mut page)?;
            }
        }
        for other in 1..pictures.len() {
            let pair = [&pictures[0], &pictures[other]].map(Clone::clone);
            let patches = embedder.embed_with_patches(&pair)?.patches;
            let (left, right) = patches.split_at(patches.len() / 2);
            let matches = mutual_matches(left, right, embedder.width());
            let matches = &matches[..matches.len().min(MOST_MATCHES)];
            let title = format!(
                "patches nearest to each other: {} and {}",
                names[0].title, names[other].title
            );
            let picture =
                correspondence(&shown[0], &shown[other], matches, embedder.grid(), &title);
            let name = format!("{}-{}-correspondence", names[0].file, names[other].file);
            show(name, &picture, &mut page)?;
        }
        page.card(&embedder)?;
        if self.html {
            let file = self.out.join("report.html");
            page.write(&file)?;
            written.files.push(file);
        }
        self.model.answer(&written, || {
            let names: Vec<String> = written
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            names.join("\n")
        })
    }
}

/// Attention of each head, of all of them, and the patches' main directions.
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
        map(&mean, "attention, mean of all heads"),
    )];
    for (head, values) in (1..).zip(heads) {
        let what = format!("attention, head {head} of {}", attention.heads);
        maps.push((format!("attention-head-{head}"), map(values, &what)));
    }
    let features = embedder.embed_with_patches(std::slice::from_ref(picture))?;
    if let Some(colours) = patch_pca_rgb(&features.patches, embedder.width()) {
        let title = format!("{title}: patches by their three main directions");
        maps.push((
            "patch-pca".to_owned(),
            patch_colours(shown, &colours, attention.grid, &title),
        ));
    }
    Ok(maps)
}
