//! The sheet of `ibot data`: examples of each class, and the problems that were found.

use std::path::{Path, PathBuf};

use ibot::Result;
use ibot::data::decode::decode_rgb_in;
use ibot::data::drawing::write_drawing;
use ibot::data::{ImageFolder, ImageSource as _, Survey, ValueRange};
use ibot::error::{counted, printable};
use ibot::path_text::path_of_text;
use image::imageops::{FilterType, overlay};
use image::{DynamicImage, Rgb, RgbImage};
use rayon::prelude::*;

use crate::drawing::{Captioned, contact_sheet};

/// Side of a thumbnail, and thumbnails in a row.
const THUMBNAIL: (u32, usize) = (128, 6);
/// Classes, groups and pairs that are shown.
const SHOWN: usize = 12;
/// What is behind.
const PAPER: Rgb<u8> = Rgb([255; 3]);

/// A row or more of images below a title.
struct Section {
    title: String,
    /// Where an image is, and what is written below it.
    images: Vec<(PathBuf, String)>,
}

/// Writes the sheet.
pub fn write(
    out: &Path,
    survey: &Survey,
    data: &ImageFolder,
    val: Option<&ImageFolder>,
    max_pixels: u64,
) -> Result<()> {
    let range = |path: &Path| {
        let of_val = val.filter(|val| path.starts_with(val.root()));
        of_val.unwrap_or(data).range().or(ValueRange::Full)
    };
    let decode = |path: &Path| decode_rgb_in(path, max_pixels, range(path)).unwrap_or_default();
    let sections = sections(survey, data);
    let drawn: Vec<RgbImage> = sections
        .into_par_iter()
        .map(|section| section.draw(decode))
        .collect();
    let width = drawn.iter().map(RgbImage::width).max().unwrap_or(1);
    let height: u32 = drawn.iter().map(RgbImage::height).sum();
    let mut sheet = RgbImage::from_pixel(width, height.max(1), PAPER);
    let mut top = 0;
    for section in drawn {
        overlay(&mut sheet, &section, 0, top);
        top += i64::from(section.height());
    }
    write_drawing(out, &sheet)
}

fn sections(survey: &Survey, data: &ImageFolder) -> Vec<Section> {
    let mut all = examples(data);
    let found = &survey.data;
    let groups = |what: &str, groups: &[Vec<String>]| -> Vec<Section> {
        let section = |group: &Vec<String>| {
            let title = format!("{what}: {}", counted(group.len(), "image"));
            Section::named(title, group, THUMBNAIL.1)
        };
        groups.iter().take(SHOWN).map(section).collect()
    };
    all.extend(groups("equal", &found.duplicates));
    let near = found.near_duplicates.as_deref().unwrap_or_default();
    all.extend(groups("alike", near));
    if let Some(shared) = &survey.shared {
        let near = shared.near.as_deref().unwrap_or_default();
        for (what, pairs) in [("equal", &shared.equal[..]), ("alike", near)] {
            let shown = pairs.iter().take(SHOWN);
            let paths: Vec<String> = shown.flatten().cloned().collect();
            let count = counted(pairs.len(), "pair");
            let title = format!("{what} in data and val: {count}");
            all.push(Section::named(title, &paths, paths.len()));
        }
    }
    let uniform = found.odd.uniform.as_deref().unwrap_or_default();
    for (what, paths) in [
        ("narrow", &found.odd.narrow[..]),
        ("tiny", &found.odd.tiny[..]),
        ("one color", uniform),
    ] {
        let title = format!("{what}: {}", counted(paths.len(), "image"));
        all.push(Section::named(title, paths, THUMBNAIL.1));
    }
    all.retain(|section| !section.images.is_empty());
    all
}

/// Images of each class, from all over it; those of a folder without classes are of one.
fn examples(data: &ImageFolder) -> Vec<Section> {
    let labels = data.labels();
    let named = data.classes().iter().enumerate();
    let named = named.map(|(label, name)| (Some(label), name.as_str()));
    let unlabeled = [(None, "no class")];
    let classes: Vec<_> = named.chain(unlabeled).collect();
    let of_class = |(label, name): &(Option<usize>, &str)| {
        let all: Vec<usize> = (0..data.len()).filter(|at| labels[*at] == *label).collect();
        let shown = all.len().min(THUMBNAIL.1);
        let images = (0..shown).map(|place| data.name(all[place * all.len() / shown]));
        let title = format!("{name}: {}", counted(all.len(), "image"));
        Section {
            title,
            images: images.map(captioned).collect(),
        }
    };
    // classes from all over the set, where they are many
    let shown = classes.len().min(SHOWN);
    let places = (0..shown).map(|place| place * classes.len() / shown);
    places.map(|place| of_class(&classes[place])).collect()
}

/// An image with its file name.
fn captioned(path: PathBuf) -> (PathBuf, String) {
    let name = printable(path.file_name().unwrap_or(path.as_os_str()));
    (path, name)
}

impl Section {
    fn named(title: String, paths: &[String], most: usize) -> Self {
        let paths = paths.iter().take(most).map(|path| path_of_text(path));
        Self {
            title,
            images: paths.map(captioned).collect(),
        }
    }

    /// Images that cannot be read are empty places.
    fn draw(&self, decode: impl Fn(&Path) -> RgbImage) -> RgbImage {
        let (side, columns) = THUMBNAIL;
        let thumbnail = |(path, caption): &(PathBuf, String)| {
            let image = DynamicImage::from(decode(path));
            let is_large = image.width().max(image.height()) > side;
            let small = if is_large {
                image.resize(side, side, FilterType::Triangle)
            } else {
                image
            };
            (small, caption.clone())
        };
        let images: Vec<(DynamicImage, String)> = self.images.iter().map(thumbnail).collect();
        let captioned: Vec<Captioned<'_>> = images
            .iter()
            .map(|(image, caption)| Captioned { image, caption })
            .collect();
        contact_sheet(&self.title, &captioned, columns, side)
    }
}
