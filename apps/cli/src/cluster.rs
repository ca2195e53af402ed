//! `ibot cluster`: groups of pictures that look alike to a model.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ibot::data::PictureSource as _;
use ibot::data::decode::decode_rgb;
use ibot::data::drawing::write_drawing;
use ibot::embedding::FeatureKind;
use ibot::error::{counted, printable};
use ibot::eval::{KMeansConfig, adjusted_rand_index, k_means, normalized_mutual_information};
use ibot::path_text::path_text;
use ibot::random::{Random, Stream};
use ibot::{Error, Result};
use image::DynamicImage;
use image::imageops::FilterType;
use serde::Serialize;

use super::choices::{FEATURES, one_of};
use super::destination;
use super::model::ModelArgs;
use super::picture::{Captioned, contact_sheet};

/// Clusters if neither a flag nor classes give a number.
const CLUSTERS: usize = 10;
/// Side of a thumbnail, and thumbnails in a row.
const THUMBNAIL: (u32, usize) = (96, 8);

/// Flags of `ibot cluster`.
#[derive(Debug, clap::Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Image folder.
    #[arg(long)]
    data: PathBuf,
    /// Number of clusters [default: the number of classes, or 10; at most the number of images].
    #[arg(long)]
    clusters: Option<usize>,
    /// Folder for a contact sheet of each cluster.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Images on a contact sheet, nearest to the center first.
    #[arg(long, default_value_t = 32)]
    sheet: usize,
    /// Seed of the first centers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Feature of an image.
    #[arg(long, value_parser = one_of(FEATURES), default_value = "cls")]
    features: FeatureKind,
}

#[derive(Debug, Serialize)]
struct Report {
    pictures: usize,
    clusters: Vec<Cluster>,
    /// Agreement with the classes; none without classes.
    normalized_mutual_information: Option<f64>,
    adjusted_rand_index: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Cluster {
    pictures: usize,
    sheet: Option<String>,
    paths: Vec<String>,
}

impl ClusterArgs {
    pub fn run(&self) -> Result<()> {
        if self.clusters == Some(0) {
            return Err(Error::config("--clusters", 0, "must be at least 1"));
        }
        if let Some(out) = &self.out {
            destination::folder("--out", out)?;
            destination::outside("--out", out, &self.data)?;
        }
        let embedder = self.model.load()?;
        let folder = self.model.scan(&self.data)?;
        self.clusters(folder.len(), folder.classes().len())?;
        let embedded = self.model.embed(&embedder, &folder, self.features, 1)?;
        let (count, width) = (embedded.set.len(), embedded.set.width);
        // images that could not be decoded are in no cluster
        let clusters = self.clusters(count, embedded.classes.len())?;
        let rows = embedded.set.unit_rows();
        let mut random = Random::new(self.seed, 0, 0, Stream::Cluster);
        let found =
            k_means(&rows, width, &KMeansConfig::new(clusters), &mut random).ok_or_else(|| {
                Error::data(&self.data, "the features of its images cannot be clustered")
            })?;
        let labeled = embedded.set.labels.iter().zip(&found.assignments);
        let labeled = labeled.filter_map(|(label, cluster)| Some(((*label)?, *cluster)));
        let (truth, assigned): (Vec<_>, Vec<_>) = labeled.unzip();
        let has_classes = embedded.classes.len() > 1;
        let classes = embedded.class_names();
        let report = Report {
            pictures: count,
            clusters: (0..clusters)
                .map(|cluster| {
                    let center = &found.centers[cluster * width..(cluster + 1) * width];
                    let distance = |at: usize| -> f32 {
                        let row = &rows[at * width..(at + 1) * width];
                        row.iter().zip(center).map(|(a, b)| (a - b) * (a - b)).sum()
                    };
                    let mut members: Vec<(f32, usize)> = (0..count)
                        .filter(|at| found.assignments[*at] == cluster)
                        .map(|at| (distance(at), at))
                        .collect();
                    members.sort_by(|a, b| a.0.total_cmp(&b.0));
                    let members = members.iter().map(|(_, at)| {
                        let class = classes[*at].clone().unwrap_or_default();
                        (embedded.paths[*at].clone(), class)
                    });
                    let members: Vec<(PathBuf, String)> = members.collect();
                    Ok(Cluster {
                        pictures: members.len(),
                        sheet: self
                            .sheet_of(cluster, &members)?
                            .map(|file| path_text(&file)),
                        paths: members.iter().map(|(path, _)| path_text(path)).collect(),
                    })
                })
                .collect::<Result<_>>()?,
            normalized_mutual_information: has_classes
                .then(|| normalized_mutual_information(&truth, &assigned)),
            adjusted_rand_index: has_classes.then(|| adjusted_rand_index(&truth, &assigned)),
        };
        self.model.answer(&report, || report.text())
    }

    /// Number of clusters for this many images in this many classes.
    fn clusters(&self, pictures: usize, classes: usize) -> Result<usize> {
        match self.clusters {
            Some(asked) if asked > pictures => {
                let remedy = format!("must be at most the number of images, {pictures}");
                Err(Error::config("--clusters", asked, remedy))
            }
            Some(asked) => Ok(asked),
            None if classes > 1 => Ok(classes.min(pictures)),
            None => Ok(CLUSTERS.min(pictures)),
        }
    }

    /// Writes the contact sheet of a cluster, its images each with its class.
    fn sheet_of(&self, cluster: usize, members: &[(PathBuf, String)]) -> Result<Option<PathBuf>> {
        let Some(out) = &self.out else {
            return Ok(None);
        };
        std::fs::create_dir_all(out).map_err(Error::io(out))?;
        let file = out.join(format!("cluster-{cluster:03}.png"));
        let shown = &members[..members.len().min(self.sheet)];
        let title = match members.len() - shown.len() {
            0 => format!("cluster {cluster}: {}", counted(members.len(), "image")),
            _ => format!(
                "cluster {cluster}: the {} most central of {} images",
                shown.len(),
                members.len()
            ),
        };
        let captioned = shown.iter().map(|(path, class)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            (path.clone(), format!("{class} {name}").trim().to_owned())
        });
        let captioned: Vec<(PathBuf, String)> = captioned.collect();
        save_sheet(&file, &title, &captioned, self.model.max_pixels)?;
        Ok(Some(file))
    }
}

/// Writes a contact sheet of the images that can still be read, with captions; returns the number of the others. Only one
/// of them at a time is in memory at its full size.
pub fn save_sheet(
    file: &Path,
    title: &str,
    paths: &[(PathBuf, String)],
    max_pixels: u64,
) -> Result<usize> {
    let (side, columns) = THUMBNAIL;
    let pictures: Vec<(DynamicImage, &str)> = paths
        .iter()
        .filter_map(|(path, caption)| {
            let picture = DynamicImage::from(decode_rgb(path, max_pixels).ok()?);
            let picture = match picture.width().max(picture.height()) > side {
                true => picture.resize(side, side, FilterType::Triangle),
                false => picture,
            };
            Some((picture, caption.as_str()))
        })
        .collect();
    let captioned: Vec<Captioned<'_>> = pictures
        .iter()
        .map(|(picture, caption)| Captioned { picture, caption })
        .collect();
    write_drawing(file, &contact_sheet(title, &captioned, columns, side))?;
    Ok(paths.len() - captioned.len())
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for (at, cluster) in self.clusters.iter().enumerate() {
            let sheet = cluster
                .sheet
                .as_ref()
                .map(|sheet| format!("  {}", printable(sheet)));
            let images = counted(cluster.pictures, "image");
            let _ = writeln!(text, "cluster {at}: {images}{}", sheet.unwrap_or_default());
        }
        let agreement = self
            .normalized_mutual_information
            .zip(self.adjusted_rand_index);
        if let Some((information, rand)) = agreement {
            let _ = writeln!(
                text,
                "agreement with the classes: NMI {information:.3}, ARI {rand:.3}"
            );
        }
        text
    }
}
