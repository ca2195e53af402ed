//! `ibot outliers`: the images of a folder that look like no others, and with --patches where.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ibot::data::ImageFolder;
use ibot::data::decode::decode_rgb_in;
use ibot::data::drawing::write_drawing;
use ibot::embedding::{ColumnValues, Embedder, ImageColumns};
use ibot::error::{counted, printable};
use ibot::eval::NormalRows;
use ibot::path_text::path_text;
use ibot::{Error, Result};
use image::DynamicImage;
use serde::Serialize;

use super::destination;
use super::drawing::{Captioned, contact_sheet, heat_overlay};
use super::features::{Features, Source, features, no_images};
use super::image_names::image_names;
use super::images::OptionalImages;
use super::model::ModelArgs;
use super::outlier_patches::{Outlier, PatchMaps, PatchesArgs};
use super::same_images::counterparts;
use super::sheets::save_sheet;

/// Lines of text, and side of an image on a sheet with maps.
const LISTED: usize = 10;
const SIDE: u32 = 224;
/// Names of the table and the sheet.
const TABLE: &str = "outliers.csv";
const SHEET: &str = "outliers.png";
/// What the name of a heat map ends with.
const HEAT: &str = "-heat.png";

/// Flags of `ibot outliers`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |model| model.required(false)))]
pub struct OutliersArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    data: OptionalImages,
    /// Folder of normal images to compare with [default: the other images of --data].
    #[arg(long, value_name = "FOLDER")]
    pub reference: Option<PathBuf>,
    /// Number of nearest images; the distance of an image is its mean distance to them.
    #[arg(long, default_value_t = 5, conflicts_with = "patches")]
    k: usize,
    #[command(flatten)]
    pub patches: PatchesArgs,
    /// Folder to write: outliers.csv with all images, outliers.png with the first ones, and with --patches a heat map of each
    /// of these.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Number of images on the sheet, farthest first.
    #[arg(long, default_value_t = 24)]
    top: usize,
    /// Feature of an image: cls (the class token, or the model's pooled feature), patch (the mean of the patch tokens) or both.
    /// Or a file of features from `ibot embed`. With --model and --data, a .safetensors file is created, or updated with the
    /// features of new and changed images.
    #[arg(long, value_parser = features(), value_name = "KIND|FILE", default_value = "cls", conflicts_with = "patches")]
    features: Features,
}

#[derive(Debug, Serialize)]
struct Report {
    images: usize,
    /// Number of normal images.
    reference: usize,
    /// Median of the distances.
    median: f32,
    /// All images, farthest first.
    outliers: Vec<Outlier>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
}

impl OutliersArgs {
    pub fn run(&self) -> Result<()> {
        self.check()?;
        let (mut outliers, reference, embedder) = if self.patches.is_on() {
            let embedder = self.model.load()?;
            let (outliers, reference) = self.of_patches(&embedder)?;
            (outliers, reference, Some(embedder))
        } else {
            let (outliers, reference) = self.of_images()?;
            (outliers, reference, None)
        };
        outliers.sort_by(|a, b| b.distance.total_cmp(&a.distance));
        if outliers.is_empty() {
            let reason = "has no image with another one to compare it with; give --reference";
            return Err(Error::data(
                self.data.path().unwrap_or(Path::new("")),
                reason,
            ));
        }
        let median = outliers[outliers.len() / 2].distance;
        let mut report = Report {
            images: outliers.len(),
            reference,
            median,
            outliers,
            files: Vec::new(),
        };
        if let Some(out) = &self.out {
            report.files = self.write(out, &report, embedder.as_ref())?;
        }
        self.model.answer(&report, || report.text())
    }

    /// Refuses paths that cannot be written, and missing ones, before the work starts.
    fn check(&self) -> Result<()> {
        if self.k == 0 {
            return Err(Error::config("--k", 0, "must be at least 1"));
        }
        if let Some(out) = &self.out {
            destination::folder("--out", out)?;
            for folder in self
                .data
                .path()
                .into_iter()
                .chain(self.reference.as_deref())
            {
                destination::outside_with("--out", out, &[TABLE], folder)?;
            }
            if let Features::File(file) = &self.features {
                destination::other_than("--out", &out.join(TABLE), file)?;
            }
            let has_maps = self.patches.is_on();
            let is_own = |name: &str| name == SHEET || has_maps && name.ends_with(HEAT);
            destination::drawings(out, is_own)?;
        }
        match (self.data.path(), &self.features, self.patches.is_on()) {
            (None, Features::Kind(_), _) | (None, _, true) => Err(no_images()),
            _ => Ok(()),
        }
    }

    /// The distance of each image's feature, and the number of normal images.
    fn of_images(&self) -> Result<(Vec<Outlier>, usize)> {
        let mut source = Source::open(&self.model, &self.features, 1)?;
        let scan = |path: Option<&Path>| -> Result<Option<Arc<ImageFolder>>> {
            path.map(|path| source.scan(path)).transpose()
        };
        let (data, reference) = (scan(self.data.path())?, scan(self.reference.as_deref())?);
        let images = source.of(data.as_ref())?;
        let normal = match &reference {
            Some(folder) => source.of_folder(folder)?,
            None => images.clone(),
        };
        let owners = (0..normal.set.len()).collect();
        let unusable = || Error::data(source.name(), "its features cannot be compared");
        let rows = NormalRows::new(normal.set.features, normal.set.width, owners);
        let rows = rows.ok_or_else(unusable)?;
        if images.set.width != normal.set.width {
            return Err(unusable());
        }
        // an image that is among the normal ones is not its own neighbor
        let own: Vec<usize> = match reference {
            None => (0..images.set.len()).collect(),
            Some(reference) => {
                let same = match &data {
                    Some(data) => counterparts(data, &reference)?,
                    None => HashMap::new(), // features of images that need not be there
                };
                let places: HashMap<&PathBuf, usize> = normal.paths.iter().zip(0..).collect();
                let place = |path| places.get(same.get(path).unwrap_or(path)).copied();
                let places = images.paths.iter().map(place);
                places.map(|place| place.unwrap_or(usize::MAX)).collect()
            }
        };
        let distances = rows.distances(&images.set.features, Some(&own), self.k);
        let labels = images.class_names();
        let found = distances.iter().enumerate().filter_map(|(at, distance)| {
            let distance = (*distance)?;
            Some(Outlier {
                path: path_text(&images.paths[at]),
                label: labels[at].clone(),
                distance: distance.mean,
                nearest: path_text(&normal.paths[distance.nearest]),
                patch: None,
                map: None,
            })
        });
        Ok((found.collect(), rows.len()))
    }

    /// Writes the table, the sheet, and heat maps; gives the names of the files.
    fn write(
        &self,
        out: &Path,
        report: &Report,
        embedder: Option<&Embedder>,
    ) -> Result<Vec<String>> {
        std::fs::create_dir_all(out).map_err(Error::io(out))?;
        let table = out.join(TABLE);
        write_table(&table, &report.outliers)?;
        let sheet = out.join(SHEET);
        let shown = &report.outliers[..report.outliers.len().min(self.top)];
        let title = format!("farthest {} of {}", shown.len(), report.images);
        let mut files = vec![table, sheet.clone()];
        match embedder {
            None => {
                let captioned = shown.iter().map(|outlier| {
                    let path = ibot::path_text::path_of_text(&outlier.path);
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let caption = format!("{:.3} {name}", outlier.distance);
                    (path, caption)
                });
                let captioned: Vec<(PathBuf, String)> = captioned.collect();
                save_sheet(&self.model, &sheet, &title, &captioned)?;
            }
            Some(embedder) => {
                let high = report.outliers.first().map_or(0.0, |first| first.distance);
                let range = [report.median.min(high), high];
                files.extend(self.write_maps(out, &sheet, shown, range, embedder)?);
            }
        }
        let note = |line: &str| self.model.note(line);
        destination::remove_earlier(out, &files, |name| name.ends_with(HEAT), note);
        Ok(files.iter().map(|file| path_text(file)).collect())
    }

    /// Heat maps of some images, each as a file, and beside the images on a sheet.
    fn write_maps(
        &self,
        out: &Path,
        sheet: &Path,
        shown: &[Outlier],
        range: [f32; 2],
        embedder: &Embedder,
    ) -> Result<Vec<PathBuf>> {
        let grid = embedder.grid();
        let paths = shown
            .iter()
            .map(|outlier| ibot::path_text::path_of_text(&outlier.path));
        let paths: Vec<PathBuf> = paths.collect();
        let (mut files, mut images) = (Vec::new(), Vec::<(DynamicImage, String)>::new());
        for ((outlier, path), name) in shown.iter().zip(&paths).zip(image_names(&paths)) {
            let Some(map) = &outlier.map else { continue };
            let seen = embedder.seen(&decode_rgb_in(
                path,
                self.model.pixels.max_pixels,
                self.model.range(),
            )?)?;
            let heat = heat_overlay(&seen, map, grid, range);
            let file = out.join(format!("{}{HEAT}", name.file));
            write_drawing(&file, &heat)?;
            files.push(file);
            images.push((seen.into(), printable(&name.title)));
            images.push((heat.into(), format!("{:.3}", outlier.distance)));
        }
        let captioned: Vec<Captioned<'_>> = images
            .iter()
            .map(|(image, caption)| Captioned { image, caption })
            .collect();
        let [low, high] = range;
        let title = format!("distance of patches, clear {low:.2} to red {high:.2}");
        write_drawing(sheet, &contact_sheet(&title, &captioned, 4, SIDE))?;
        Ok(files)
    }

    fn of_patches(&self, embedder: &Embedder) -> Result<(Vec<Outlier>, usize)> {
        let data = self.data.path().ok_or_else(no_images)?;
        let data = self.model.scan(data)?;
        let reference = self.reference.as_deref().map(|path| self.model.scan(path));
        let maps = PatchMaps {
            model: &self.model,
            embedder,
            data,
            reference: reference.transpose()?,
        };
        self.patches.outliers(&maps)
    }
}

/// A row an image, in the order of the list.
fn write_table(file: &Path, outliers: &[Outlier]) -> Result<()> {
    let paths = outliers
        .iter()
        .map(|outlier| ibot::path_text::path_of_text(&outlier.path));
    let paths: Vec<PathBuf> = paths.collect();
    let labels: Vec<Option<String>> = outliers.iter().map(|of| of.label.clone()).collect();
    let distances = outliers.iter().map(|outlier| outlier.distance).collect();
    let nearest = outliers
        .iter()
        .map(|outlier| outlier.nearest.clone())
        .collect();
    let mut columns = vec![
        ("distance", ColumnValues::Float(distances)),
        ("nearest", ColumnValues::Text(nearest)),
    ];
    if outliers.iter().any(|outlier| outlier.patch.is_some()) {
        for (at, name) in ["row", "column"].into_iter().enumerate() {
            let places = outliers.iter();
            let places = places.map(|of| of.patch.map_or(-1, |patch| patch[at] as i32));
            columns.push((name, ColumnValues::Int(places.collect())));
        }
    }
    ImageColumns {
        paths: &paths,
        labels: &labels,
        columns,
    }
    .write(file)
}

impl Report {
    fn text(&self) -> String {
        let (images, normal) = (
            counted(self.images, "image"),
            counted(self.reference, "image"),
        );
        let mut text = format!(
            "{images} compared with {normal}; median distance {:.3}; farthest first:\n",
            self.median
        );
        for outlier in self.outliers.iter().take(LISTED) {
            let patch = outlier.patch.map_or_else(String::new, |[row, column]| {
                format!("  patch in row {row}, column {column}")
            });
            let path = printable(&outlier.path);
            let _ = writeln!(text, "{:.4}  {path}{patch}", outlier.distance);
        }
        for file in self.files.iter().take(2) {
            let _ = writeln!(text, "{}", printable(file));
        }
        text
    }
}
