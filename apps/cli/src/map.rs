//! `ibot map`: the images of a folder on a two-dimensional map, as one HTML file.

use std::path::{Path, PathBuf};

use ibot::data::decode::decode_rgb_in;
use ibot::embedding::Embedded;
use ibot::error::{counted, printable};
use ibot::{Error, Result};
use image::imageops::thumbnail;
use rayon::iter::Either;
use rayon::prelude::*;
use serde::Serialize;

use super::destination;
use super::features::{Features, Source, features, no_images};
use super::images::OptionalImages;
use super::layout::Layout;
use super::model::ModelArgs;
use super::page::{self, Page};

/// Side of a thumbnail in pixels, and the quality of its JPEG.
const THUMBNAIL: (u32, u8) = (80, 82);
/// Neighbors that a click shows.
const NEIGHBORS: usize = 12;

/// Flags of `ibot map`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |model| model.required(false)))]
pub struct MapArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: OptionalImages,
    /// The page, an HTML file.
    #[arg(long, default_value = "map.html", value_name = "FILE")]
    out: PathBuf,
    /// Maximum number of images on the map; of more, evenly spaced ones are shown.
    #[arg(long, default_value_t = 2000, value_name = "COUNT")]
    most: usize,
    /// Feature of an image: cls (the class token, or the model's pooled feature), patch (the mean of the patch tokens) or both.
    /// Or a file of features from `ibot embed`. With --model and --data, a .safetensors file is created, or updated with the
    /// features of new and changed images.
    #[arg(long, value_parser = features(), value_name = "KIND|FILE", default_value = "cls")]
    features: Features,
}

#[derive(Debug, Serialize)]
struct Report {
    images: usize,
    #[serde(serialize_with = "ibot::path_text::serialize")]
    file: PathBuf,
}

/// What the page's script reads; one entry an image.
#[derive(Debug, Serialize)]
struct Data<'a> {
    places: Vec<[f32; 2]>,
    /// JPEG, base64.
    thumbnails: Vec<String>,
    names: Vec<String>,
    /// Number of the class; none without.
    labels: Vec<Option<usize>>,
    classes: &'a [String],
    /// The nearest images, and their similarities in thousandths.
    near: Vec<Vec<(usize, i32)>>,
}

impl MapArgs {
    pub fn run(&self) -> Result<()> {
        self.check()?;
        let mut source = Source::open(&self.model, &self.features, 1)?;
        let folder = self.data.path().map(|data| source.scan(data));
        let folder = folder.transpose()?;
        let embedded = source.of(folder.as_ref())?;
        let data = self.shown(&embedded, &source.name())?;
        let (shown, all) = (data.places.len(), embedded.set.len());
        let mut page = Page::new(&format!("Map of {}", counted(shown, "image")));
        page.text(&format!(
            "By the features of {}: near on the map (t-SNE) means similar to the model. Distances between far groups say little.",
            source.name(),
        ));
        if shown < all {
            page.text(&format!(
                "{shown} of {all} images, evenly spaced in the order of their paths."
            ));
        }
        page.html(html(&data)?);
        page.write(&self.out)?;
        let report = Report {
            images: shown,
            file: self.out.clone(),
        };
        self.model.answer(&report, || {
            format!(
                "map of {}: {}",
                counted(shown, "image"),
                printable(&self.out)
            )
        })
    }

    /// Refuses what cannot be done, before the work starts.
    fn check(&self) -> Result<()> {
        if self.most == 0 {
            return Err(Error::config("--most", 0, "must be at least 1"));
        }
        destination::html("--out", &self.out)?;
        match (self.data.path(), &self.features) {
            (Some(data), _) => destination::outside("--out", &self.out, data),
            (None, Features::Kind(_)) => Err(no_images()),
            (None, Features::File(_)) => Ok(()),
        }
    }

    fn shown<'a>(&self, embedded: &'a Embedded, source: &str) -> Result<Data<'a>> {
        let width = embedded.set.width;
        let rows = embedded.set.unit_rows();
        let count = embedded.set.len();
        let shown = count.min(self.most);
        let chosen = (0..shown).map(|at| at * count / shown);
        // an image that can no longer be read is left out
        let image = |at: usize| {
            let path = &embedded.paths[at];
            let small = self.small(path);
            let small = small.map_err(|error| (path.clone(), error.without_path()))?;
            Ok((at, small))
        };
        let chosen: Vec<usize> = chosen.collect();
        let (images, unreadable): (Vec<(usize, String)>, Vec<_>) = chosen
            .into_par_iter()
            .map(image)
            .partition_map(|image| match image {
                Ok(image) => Either::Left(image),
                Err(unreadable) => Either::Right(unreadable),
            });
        if images.is_empty() {
            let reason = "none of the images can be read";
            return Err(Error::data(source, reason));
        }
        self.model.note_skipped(&unreadable);
        let at = || images.iter().map(|(at, _)| *at);
        let rows: Vec<f32> = at()
            .flat_map(|at| rows[at * width..(at + 1) * width].iter().copied())
            .collect();
        let layout = Layout::new(&rows, width)?;
        let near = |near: &Vec<(usize, f32)>| {
            let near = near.iter().take(NEIGHBORS);
            near.map(|(row, similarity)| (*row, (similarity * 1000.0).round() as i32))
                .collect()
        };
        let root = shared_folder(embedded.paths.iter());
        Ok(Data {
            places: layout.places,
            names: at().map(|at| name(&embedded.paths[at], &root)).collect(),
            labels: at().map(|at| embedded.set.labels[at]).collect(),
            classes: &embedded.classes,
            near: layout.near.iter().map(near).collect(),
            thumbnails: images.into_iter().map(|(_, jpeg)| jpeg).collect(),
        })
    }

    /// Its thumbnail.
    fn small(&self, path: &Path) -> Result<String> {
        let (side, quality) = THUMBNAIL;
        let image = decode_rgb_in(path, self.model.pixels.max_pixels, self.model.range())?;
        let longer = image.width().max(image.height());
        let image = if longer > side {
            let [width, height] =
                [image.width(), image.height()].map(|of| (of * side / longer).max(1));
            thumbnail(&image, width, height)
        } else {
            image
        };
        page::jpeg(&image, quality)
    }
}

/// The innermost folder that all images are in.
fn shared_folder<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> PathBuf {
    let folders = paths.map(|path| path.parent().unwrap_or(path).to_path_buf());
    let shared = |one: PathBuf, other: PathBuf| {
        let both = one.components().zip(other.components());
        let equal = both.take_while(|(one, other)| one == other);
        equal.map(|(part, _)| part).collect()
    };
    folders.reduce(shared).unwrap_or_default()
}

/// The path within the folder, with `/` on every system.
fn name(path: &Path, root: &Path) -> String {
    let within = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<String> = within.iter().map(printable).collect();
    parts.join("/")
}

/// The map: its parts, data and script.
fn html(data: &Data<'_>) -> Result<String> {
    let json = serde_json::to_string(data);
    let json = json
        .map_err(|error| Error::Training(format!("the map cannot be written as JSON: {error}")))?;
    // a name must not end the script
    let json = json.replace('<', "\\u003c");
    let (body, style, script) = (
        include_str!("map.html"),
        include_str!("map.css"),
        include_str!("map.js"),
    );
    Ok(format!(
        "<style>{style}</style>\n{body}<script type=\"application/json\" id=\"data\">{json}</script>\n<script>{script}</script>"
    ))
}
