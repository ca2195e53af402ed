//! `ibot data`: what a set of images holds, before training on it.

mod sheet;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use ibot::data::{
    FolderConfig, ImageFolder, ImageSource, KeptFiles, Parts, Survey, SurveyConfig, parts_of,
};
use ibot::error::{counted, printable};
use ibot::unfinished::write_whole;
use ibot::{Error, Result};

use super::destination;
use super::folder_args::PixelArgs;
use super::images::Images;
use super::model::ModelArgs;
use super::output::{answer, warn};
use super::screen::is_quiet;
use super::signals::stop_on_signal;

/// Files of `--out`.
const FILES: [&str; 3] = ["report.json", "keep.csv", "keep.txt"];
const SHEET: &str = "sheet.png";

/// Flags of `ibot data`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DataArgs {
    #[command(flatten)]
    images: Images,
    /// Images to evaluate on: finds those that are among IMAGES too. By default `val` or `test` beside the folder `train`.
    #[arg(long, value_name = "IMAGES")]
    val: Option<PathBuf>,
    /// Write report.json, sheet.png (examples and problems to look at), keep.csv and keep.txt (IMAGES without damaged ones, duplicates
    /// and images of --val, with classes; every command takes them) to this folder. No image is changed or removed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Least similarity of near duplicates, up to 1; none for equal files alone. Images that all look alike, such as those of one
    /// camera, need a higher one.
    #[arg(long, value_name = "SIMILARITY", default_value = "0.99", value_parser = similarity)]
    near: Similarity,
    /// Do not decode the images: faster, but finds no damage behind the headers and no near duplicates.
    #[arg(long)]
    no_decode: bool,
    #[command(flatten)]
    pixels: PixelArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  ibot data PHOTOS                                 counts, damaged files, duplicates
  ibot data PHOTOS --out report                    also a sheet to look at, and a list without them
  ibot data TRAIN --val VAL                        which images of VAL are in TRAIN
  ibot train report/keep.csv --out runs/kept       train on the list";

/// Value of `--near`; none for `none`.
type Similarity = Option<f64>;

fn similarity(text: &str) -> std::result::Result<Similarity, String> {
    let near = match text {
        "none" => None,
        number => Some(
            number
                .parse()
                .map_err(|_| "give a number such as 0.99, or none")?,
        ),
    };
    let config = SurveyConfig {
        near,
        ..SurveyConfig::default()
    };
    match config.validate() {
        Ok(()) => Ok(near),
        Err(_) => Err("must be from 0.5 to 1, such as 0.99, or none".to_owned()),
    }
}

impl DataArgs {
    pub fn run(&self) -> Result<()> {
        let stop = stop_on_signal()?;
        let (data, val) = self.sources()?;
        if let Some(out) = &self.out {
            destination::folder("--out", out)?;
            for images in std::iter::once(&data).chain(&val) {
                destination::outside_with("--out", out, &FILES, images)?;
            }
            destination::drawings(out, |name| name == SHEET)?;
        }
        let folder_config = FolderConfig {
            max_pixels: self.pixels.max_pixels,
            range: self.pixels.range,
            ..FolderConfig::default()
        };
        let scan =
            |of: &PathBuf| ImageFolder::scan_all(std::slice::from_ref(of), &folder_config, &stop);
        let folder = scan(&data)?;
        let val_folder = val.as_ref().map(scan).transpose()?;
        let config = SurveyConfig {
            decodes: !self.no_decode,
            near: self.near,
        };
        let bar = ModelArgs::bar(folder.len() + val_folder.as_ref().map_or(0, ImageSource::len));
        let survey = Survey::of(&folder, val_folder.as_ref(), &config, &stop, &|done| {
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let survey = survey?;
        let json = serde_json::to_string_pretty(&survey).map_err(|error| {
            Error::Training(format!("the result cannot be written as JSON: {error}"))
        })?;
        let written = self.out.as_ref().map(|out| {
            let folders = (&folder, val_folder.as_ref());
            write(out, &json, &survey, folders, self.pixels.max_pixels)
        });
        let written = written.transpose()?.unwrap_or_default();
        if self.json {
            answer(json)?;
            if !is_quiet() && !written.is_empty() {
                warn(written);
            }
        } else {
            let text = text::of(&survey, &data, val.as_deref());
            answer(format!("{text}{written}").trim_end())?;
        }
        some_are_usable(&survey, &data)
    }

    /// The images to train on, and those to evaluate on: as given, or the parts of a data set.
    fn sources(&self) -> Result<(PathBuf, Option<PathBuf>)> {
        let data = self.images.path();
        Ok(match (&self.val, parts_of(data)?) {
            (None, Some(Parts { train, val, .. })) if val.is_some() => (train, val),
            (val, _) => (data.to_path_buf(), val.clone()),
        })
    }
}

/// Writes the files of `--out`; what they are, in lines.
fn write(
    out: &Path,
    json: &str,
    survey: &Survey,
    (data, val): (&ImageFolder, Option<&ImageFolder>),
    max_pixels: u64,
) -> Result<String> {
    fs::create_dir_all(out).map_err(Error::io(out))?;
    let write = |name: &str, text: &str| write_whole(&out.join(name), text.as_bytes());
    let [report, table, list] = FILES;
    write(report, json)?;
    let kept = survey.kept_files(data)?;
    write(table, &kept.table)?;
    write(list, &kept.list)?;
    sheet::write(&out.join(SHEET), survey, data, val, max_pixels)?;
    let files = format!("{report}, {SHEET}, {table}, {list}");
    let written = format!("written           {}: {files}\n", printable(out));
    Ok(written + &lost(&kept))
}

/// What the files of kept images cannot hold, in lines.
fn lost(kept: &KeptFiles) -> String {
    let lines = [
        (
            kept.without_class,
            "in keep.txt without the class, as no folder in the path is named so: take keep.csv",
        ),
        (
            kept.not_in_list,
            "not in keep.txt: a line break, a backslash before x, or space at an end of the name; see keep.csv",
        ),
        (
            kept.not_in_table,
            "not in keep.csv: a backslash before x in the name, or space at an end of the class",
        ),
    ];
    let lines = lines.into_iter().filter(|(count, _)| *count > 0);
    lines
        .map(|(count, what)| format!("  {} {what}\n", counted(count, "image")))
        .collect()
}

/// Refuses a set of which no image can be decoded, once that is reported.
fn some_are_usable(survey: &Survey, data: &Path) -> Result<()> {
    let damaged = survey.data.damaged.as_deref().unwrap_or_default();
    match damaged {
        [first, ..] if damaged.len() == survey.data.images => {
            let images = counted(damaged.len(), "image");
            let reason = format!(
                "none of its {images} can be decoded; the first: {}",
                first.reason
            );
            Err(Error::data(data, reason))
        }
        _ => Ok(()),
    }
}
