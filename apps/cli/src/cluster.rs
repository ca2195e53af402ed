//! `ibot cluster`: groups of images that look alike to a model.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ibot::data::ImageSource as _;
use ibot::embedding::{ColumnValues, Embedded, ImageColumns};
use ibot::error::{counted, printable};
use ibot::eval::{
    Clustering, KMeansConfig, adjusted_rand_index, k_means, normalized_mutual_information,
};
use ibot::path_text::{path_of_text, path_text};
use ibot::random::{Random, Stream};
use ibot::{Error, Result};
use serde::Serialize;

use super::destination;
use super::features::{Features, Source, features, no_images};
use super::images::OptionalImages;
use super::model::ModelArgs;
use super::sheets::save_sheet;

/// Clusters if neither a flag nor classes give a number.
const CLUSTERS: usize = 10;

/// Flags of `ibot cluster`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |model| model.required(false)))]
pub struct ClusterArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: OptionalImages,
    /// Number of clusters [default: the number of classes, or 10; at most the number of images].
    #[arg(long)]
    clusters: Option<usize>,
    /// Folder for a contact sheet of each cluster.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Table of the images, each with its cluster and its distance from the cluster's center: .csv or .parquet.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Images on a contact sheet, nearest to the center first.
    #[arg(long, default_value_t = 32)]
    sheet: usize,
    /// Seed of the first centers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Feature of an image: cls (the class token, or the model's pooled feature), patch (the mean of the patch tokens) or both.
    /// Or a file of features from `ibot embed`. With --model and --data, a .safetensors file is created, or updated with the
    /// features of new and changed images.
    #[arg(long, value_parser = features(), value_name = "KIND|FILE", default_value = "cls")]
    features: Features,
}

#[derive(Debug, Serialize)]
struct Report {
    images: usize,
    clusters: Vec<Cluster>,
    /// Agreement with the classes; none without classes.
    normalized_mutual_information: Option<f64>,
    adjusted_rand_index: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Cluster {
    images: usize,
    sheet: Option<String>,
    paths: Vec<String>,
}

impl ClusterArgs {
    pub fn run(&self) -> Result<()> {
        self.check()?;
        let mut source = Source::open(&self.model, &self.features, 1)?;
        let folder = self.data.path().map(|data| source.scan(data));
        let folder = folder.transpose()?;
        if let Some(folder) = &folder {
            self.clusters(folder.len(), folder.classes().len())?;
        }
        let embedded = source.of(folder.as_ref())?;
        let (count, width) = (embedded.set.len(), embedded.set.width);
        // images that could not be decoded are in no cluster
        let clusters = self.clusters(count, embedded.classes.len())?;
        let rows = embedded.set.unit_rows();
        let mut random = Random::new(self.seed, 0, 0, Stream::Cluster);
        let found =
            k_means(&rows, width, &KMeansConfig::new(clusters), &mut random).ok_or_else(|| {
                Error::data(
                    source.name(),
                    "the features of its images cannot be clustered",
                )
            })?;
        let distances = distances(&rows, width, &found);
        self.write_table(&embedded, &found.assignments, &distances)?;
        let labeled = embedded.set.labels.iter().zip(&found.assignments);
        let labeled = labeled.filter_map(|(label, cluster)| Some(((*label)?, *cluster)));
        let (truth, assigned): (Vec<_>, Vec<_>) = labeled.unzip();
        let has_classes = embedded.classes.len() > 1;
        let of = |cluster| self.cluster(cluster, &embedded, &found.assignments, &distances);
        let report = Report {
            images: count,
            clusters: (0..clusters).map(of).collect::<Result<_>>()?,
            normalized_mutual_information: has_classes
                .then(|| normalized_mutual_information(&truth, &assigned)),
            adjusted_rand_index: has_classes.then(|| adjusted_rand_index(&truth, &assigned)),
        };
        if let Some(out) = &self.out {
            let sheets = report.clusters.iter();
            let sheets = sheets.filter_map(|cluster| cluster.sheet.as_deref().map(path_of_text));
            let sheets: Vec<PathBuf> = sheets.collect();
            if sheets.is_empty() {
                let reason = format!(
                    "none of its {} can be read, so that no sheet is drawn",
                    counted(count, "image")
                );
                return Err(Error::data(source.name(), reason));
            }
            let note = |line: &str| self.model.note(line);
            destination::remove_earlier(out, &sheets, is_sheet, note);
        }
        self.model
            .answer(&report, || report.text(self.table.as_deref()))
    }

    /// Refuses paths that cannot be written, and missing ones, before the work starts.
    fn check(&self) -> Result<()> {
        if self.clusters == Some(0) {
            return Err(Error::config("--clusters", 0, "must be at least 1"));
        }
        if let Some(out) = &self.out {
            destination::folder("--out", out)?;
            destination::drawings(out, is_sheet)?;
        }
        if let (Some(out), Some(data)) = (&self.out, self.data.path()) {
            destination::outside("--out", out, data)?;
        }
        if let Some(table) = &self.table {
            ImageColumns::check_path("--table", table)?;
            if let Some(data) = self.data.path() {
                destination::outside("--table", table, data)?;
            }
            if let Features::File(file) = &self.features {
                destination::other_than("--table", table, file)?;
            }
        }
        match (self.data.path(), &self.features) {
            (None, Features::Kind(_)) => Err(no_images()),
            _ => Ok(()),
        }
    }

    fn write_table(
        &self,
        embedded: &Embedded,
        assignments: &[usize],
        distances: &[f32],
    ) -> Result<()> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        let clusters = assignments.iter().map(|cluster| *cluster as i32);
        let columns = ImageColumns {
            paths: &embedded.paths,
            labels: &embedded.class_names(),
            columns: vec![
                ("cluster", ColumnValues::Int(clusters.collect())),
                ("distance", ColumnValues::Float(distances.to_vec())),
            ],
        };
        columns.write(table)
    }

    /// The images of a cluster, nearest to its center first, and their sheet.
    fn cluster(
        &self,
        cluster: usize,
        embedded: &Embedded,
        assignments: &[usize],
        distances: &[f32],
    ) -> Result<Cluster> {
        let mut members: Vec<usize> = (0..assignments.len())
            .filter(|at| assignments[*at] == cluster)
            .collect();
        members.sort_by(|a, b| distances[*a].total_cmp(&distances[*b]));
        let classes = embedded.class_names();
        let members = members.iter().map(|at| {
            let class = classes[*at].clone().unwrap_or_default();
            (embedded.paths[*at].clone(), class)
        });
        let members: Vec<(PathBuf, String)> = members.collect();
        let sheet = self.sheet_of(cluster, &members)?;
        Ok(Cluster {
            images: members.len(),
            sheet: sheet.map(|file| path_text(&file)),
            paths: members.iter().map(|(path, _)| path_text(path)).collect(),
        })
    }

    /// Number of clusters for this many images in this many classes.
    fn clusters(&self, images: usize, classes: usize) -> Result<usize> {
        match self.clusters {
            Some(asked) if asked > images => {
                let remedy = format!("must be at most the number of images, {images}");
                Err(Error::config("--clusters", asked, remedy))
            }
            Some(asked) => Ok(asked),
            None if classes > 1 => Ok(classes.min(images)),
            None => Ok(CLUSTERS.min(images)),
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
        match save_sheet(&self.model, &file, &title, &captioned) {
            // the other clusters may have images that can be read
            Err(error @ Error::Data { .. }) => {
                self.model.note(&error.to_string());
                Ok(None)
            }
            drawn => drawn.map(|()| Some(file)),
        }
    }
}

/// Whether a sheet of a cluster is called so.
fn is_sheet(name: &str) -> bool {
    let number = name.strip_prefix("cluster-");
    let number = number.and_then(|rest| rest.strip_suffix(".png"));
    number.is_some_and(|number| {
        number.len() >= 3 && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Distance of each row `[B, D]` from the center of its cluster, `[B]`.
fn distances(rows: &[f32], width: usize, found: &Clustering) -> Vec<f32> {
    let pairs = rows.chunks_exact(width).zip(&found.assignments);
    let distance = |(row, cluster): (&[f32], &usize)| {
        let center = &found.centers[cluster * width..(cluster + 1) * width];
        let squares = row.iter().zip(center).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>().sqrt()
    };
    pairs.map(distance).collect()
}

impl Report {
    fn text(&self, table: Option<&Path>) -> String {
        let mut text = String::new();
        for (at, cluster) in self.clusters.iter().enumerate() {
            let sheet = cluster
                .sheet
                .as_ref()
                .map(|sheet| format!("  {}", printable(sheet)));
            let images = counted(cluster.images, "image");
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
        if let Some(table) = table {
            let images = counted(self.images, "image");
            let _ = writeln!(text, "{}: {images}", printable(table));
        }
        text
    }
}
