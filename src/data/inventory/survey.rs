//! A look at a set of images before training: what is in it, which images are double, and which of those to evaluate on are among
//! those to train on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::Serialize;

use crate::data::ImageSource as _;
use crate::data::folder::ImageFolder;
use crate::data::folder::list_line::{ListLine, list_line};
use crate::data::folder::list_table::table_line;
use crate::data::inventory::examined::{Place, Seen, decode_all, equal_files};
use crate::data::inventory::look::Look;
use crate::data::inventory::near::{NearIndex, groups};
use crate::data::inventory::{Found, Inventory};
use crate::error::{Error, Result};
use crate::path_text::{absolute, path_text};

/// What is looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct SurveyConfig {
    /// Whether images are decoded: only then is damage behind the headers found, and what looks alike.
    pub decodes: bool,
    /// Least similarity of near duplicates, at most 1: the correlation of thumbnails of 16 x 16 x 3 levels. None where they are not looked
    /// for.
    pub near: Option<f64>,
}

impl Default for SurveyConfig {
    fn default() -> Self {
        Self {
            decodes: true,
            near: Some(0.99),
        }
    }
}

impl SurveyConfig {
    /// Refuses a similarity that none or all images have.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        match self.near {
            Some(near) if !(0.5..=1.0).contains(&near) => {
                let remedy = "must be from 0.5 to 1, such as 0.99";
                Err(Error::config("near", near, remedy))
            }
            _ => Ok(()),
        }
    }
}

/// What is in a set of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Survey {
    /// The images to train on.
    #[serde(flatten)]
    pub data: Inventory,
    /// Those to evaluate on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<Inventory>,
    /// Images of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
    /// Least similarity of near duplicates; absent where they were not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<f64>,
    /// Number of images to train on without damaged ones, all but the first of each group of duplicates, and those that are also among
    /// the images to evaluate on.
    pub kept: usize,
    #[serde(skip)]
    kept_images: Vec<usize>,
}

/// Images to train on that are also among those to evaluate on: pairs of one to train on and one to evaluate on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Shared {
    /// With the same bytes.
    pub equal: Vec<[String; 2]>,
    /// That look alike; absent where they were not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<Vec<[String; 2]>>,
}

/// The images that a survey keeps, as files that every command takes as images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptFiles {
    /// A path a line (`.txt`), with the class where a folder of the path is named so.
    pub list: String,
    /// `path,label` (`.csv`), with every class.
    pub table: String,
    /// How many images no line of the list can hold.
    pub not_in_list: usize,
    /// How many are in the list without their class.
    pub without_class: usize,
    /// How many no line of the table can hold, or not with their class.
    pub not_in_table: usize,
}

/// What was found in one folder.
#[derive(Default)]
struct Part {
    seen: Option<Vec<Seen>>,
    equal: Vec<Vec<usize>>,
    near: Option<Vec<Vec<usize>>>,
    /// All but the first of each group of equal files.
    copies: HashSet<usize>,
}

impl Part {
    /// Images that can be compared, once for files with the same bytes.
    fn looks(&self) -> impl Iterator<Item = (usize, &Look)> {
        let seen = self.seen.iter().flatten().enumerate();
        seen.filter_map(|(at, seen)| match seen {
            Seen::Usable(Some(look)) if !self.copies.contains(&at) => Some((at, &**look)),
            _ => None,
        })
    }

    fn inventory(&self, folder: &ImageFolder) -> Inventory {
        let found = Found {
            seen: self.seen.as_deref(),
            equal: &self.equal,
            near: self.near.as_deref(),
        };
        Inventory::new(folder, &found)
    }
}

impl Survey {
    /// That of the images of `data`, and of `val` if there is one. Images are decoded on all cores; `progress` gets the number of
    /// those that are done, from any thread. With near duplicates, an image takes 3.4 KB of memory.
    ///
    /// # Errors
    /// A setting out of its range; [`Error::Stopped`] soon after `stop` is raised.
    pub fn of(
        data: &ImageFolder,
        val: Option<&ImageFolder>,
        config: &SurveyConfig,
        stop: &AtomicBool,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Self> {
        config.validate()?;
        let folders: Vec<&ImageFolder> = std::iter::once(data).chain(val).collect();
        let near = config.near.filter(|_| config.decodes);
        let equal = equal_files(&folders, stop)?;
        let done = AtomicUsize::new(0);
        let mut parts = Vec::new();
        for (number, folder) in folders.iter().enumerate() {
            let mut part = Part {
                equal: equal_in(&equal, number),
                ..Part::default()
            };
            let copies = part.equal.iter().flat_map(|group| &group[1..]);
            part.copies = copies.copied().collect();
            if config.decodes {
                let seen = decode_all(folder, near.is_some(), stop, &done, progress)?;
                part.seen = Some(seen);
            }
            if let Some(least) = near {
                let goes_on = || !stop.load(Ordering::Relaxed);
                part.near = Some(groups(part.looks(), least, goes_on));
            }
            parts.push(part);
        }
        let twins = match &parts[..] {
            [data, val] => Some(Twins::of(data, val, &equal, near, stop)),
            _ => None,
        };
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        let kept_images = kept(data.len(), &parts[0], twins.as_ref());
        Ok(Self {
            data: parts[0].inventory(data),
            val: val.map(|val| parts[1].inventory(val)),
            shared: val.zip(twins).map(|(val, twins)| twins.named(data, val)),
            near,
            kept: kept_images.len(),
            kept_images,
        })
    }

    /// The images that are kept, as files that are sources of images themselves.
    ///
    /// # Errors
    /// There is no working folder, which relative paths are of.
    pub fn kept_files(&self, data: &ImageFolder) -> Result<KeptFiles> {
        let mut files = KeptFiles {
            table: "path,label\n".to_owned(),
            ..KeptFiles::default()
        };
        for at in self.kept_images.iter().copied() {
            let path = absolute(data.name(at))?;
            let class = data.label(at).map(|label| data.classes()[label].as_str());
            match list_line(&path, class) {
                Some(line) => {
                    let has_class = ListLine::parse(&line).root.is_some();
                    files.without_class += usize::from(class.is_some() && !has_class);
                    files.list += &line;
                    files.list.push('\n');
                }
                None => files.not_in_list += 1,
            }
            match table_line(&path, class) {
                Some(line) => files.table += &line,
                None => files.not_in_table += 1,
            }
        }
        Ok(files)
    }
}

/// The groups of equal files within one folder.
fn equal_in(groups: &[Vec<Place>], number: usize) -> Vec<Vec<usize>> {
    let of_folder = groups.iter().map(|group| {
        let places = group.iter().filter(|(folder, _)| *folder == number);
        places.map(|(_, at)| *at).collect::<Vec<_>>()
    });
    of_folder.filter(|group| group.len() > 1).collect()
}

/// The images of `data` that training keeps.
fn kept(count: usize, data: &Part, twins: Option<&Twins>) -> Vec<usize> {
    let damaged = data.seen.iter().flatten().enumerate();
    let damaged = damaged.filter(|(_, seen)| matches!(seen, Seen::Damaged(_)));
    let mut left_out: HashSet<usize> = damaged.map(|(at, _)| at).collect();
    left_out.extend(&data.copies);
    let alike = data.near.iter().flatten().flat_map(|group| &group[1..]);
    left_out.extend(alike);
    if let Some(twins) = twins {
        let pairs = twins.equal.iter().chain(twins.near.iter().flatten());
        left_out.extend(pairs.map(|[data, _]| data));
    }
    (0..count).filter(|at| !left_out.contains(at)).collect()
}

/// Pairs of an image to train on and one to evaluate on, by their numbers.
struct Twins {
    equal: Vec<[usize; 2]>,
    near: Option<Vec<[usize; 2]>>,
}

impl Twins {
    fn of(
        data: &Part,
        val: &Part,
        groups: &[Vec<Place>],
        near: Option<f64>,
        stop: &AtomicBool,
    ) -> Self {
        let mut equal = Vec::new();
        for group in groups {
            let first = group.iter().find(|(folder, _)| *folder == 1);
            let of_data = group.iter().filter(|(folder, _)| *folder == 0);
            equal.extend(of_data.filter_map(|(_, at)| Some([*at, first?.1])));
        }
        let known: HashSet<usize> = equal.iter().map(|[at, _]| *at).collect();
        let near = near.map(|least| {
            let mut index = NearIndex::new(least);
            val.looks().for_each(|(at, look)| index.insert(at, look));
            let asked = data.looks().take_while(|_| !stop.load(Ordering::Relaxed));
            let asked = asked.filter(|(at, _)| !known.contains(at));
            let found = asked.filter_map(|(at, look)| Some([at, index.find(look)?]));
            found.collect()
        });
        Self { equal, near }
    }

    fn named(self, data: &ImageFolder, val: &ImageFolder) -> Shared {
        let names = |pairs: Vec<[usize; 2]>| -> Vec<[String; 2]> {
            let name = |[at, of]: [usize; 2]| [data.name(at), val.name(of)].map(|p| path_text(&p));
            pairs.into_iter().map(name).collect()
        };
        Shared {
            equal: names(self.equal),
            near: self.near.map(names),
        }
    }
}
