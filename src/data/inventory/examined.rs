//! Every image of some folders, looked at once: files with the same bytes, and what decoding shows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use super::look::Look;
use crate::data::ImageSource as _;
use crate::data::folder::{ImageFolder, reason};
use crate::data::storage::opened::{length_and_time, read_whole};
use crate::data::storage::stored::check_server;
use crate::error::{Error, Result};

/// An image: the number of its folder, and its own in that.
pub type Place = (usize, usize);

/// What decoding an image shows.
#[derive(Debug)]
pub enum Seen {
    /// It cannot be decoded, and why.
    Damaged(String),
    /// It has nearly one color.
    Uniform,
    /// What it looks like; none where that is not asked for.
    Usable(Option<Box<Look>>),
}

/// Images whose files have the same bytes, in groups, in the order of the folders. Files of one length are compared by BLAKE3.
///
/// # Errors
/// [`Error::Stopped`] soon after `stop` is raised; [`Error::Data`] where a server no longer answers.
pub fn equal_files(folders: &[&ImageFolder], stop: &AtomicBool) -> Result<Vec<Vec<Place>>> {
    let mut of_length: BTreeMap<u64, Vec<Place>> = BTreeMap::new();
    for (number, folder) in folders.iter().enumerate() {
        for at in 0..folder.len() {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            // a file that is gone by now is no duplicate
            if let Some((length, _)) = length_and_time(&folder.name(at)) {
                let places = of_length.entry(length).or_default();
                places.push((number, at));
            }
        }
    }
    let alike: Vec<Place> = of_length
        .into_values()
        .filter(|group| group.len() > 1)
        .flatten()
        .collect();
    let hash = |(number, at): Place| {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        let name = folders[number].name(at);
        let Ok(bytes) = read_whole(&name) else {
            check_server(&name)?;
            return Ok(None);
        };
        Ok(Some((*blake3::hash(&bytes).as_bytes(), (number, at))))
    };
    let hashes = alike.into_par_iter().map(hash);
    let hashes: Vec<([u8; 32], Place)> = hashes
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    let mut of_hash: BTreeMap<[u8; 32], Vec<Place>> = BTreeMap::new();
    for (hash, place) in hashes {
        of_hash.entry(hash).or_default().push(place);
    }
    let mut groups: Vec<Vec<Place>> = of_hash.into_values().filter(|g| g.len() > 1).collect();
    groups.iter_mut().for_each(|group| group.sort_unstable());
    groups.sort_unstable();
    Ok(groups)
}

/// Decodes every image of a folder, on all cores; `keeps_looks` for the sake of near duplicates. `progress` gets the number of images
/// of all folders that are done, which `done` counts.
///
/// # Errors
/// [`Error::Stopped`] soon after `stop` is raised; [`Error::Data`] where a server no longer answers, as its images are not damaged.
pub fn decode_all(
    folder: &ImageFolder,
    keeps_looks: bool,
    stop: &AtomicBool,
    done: &AtomicUsize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Seen>> {
    let see = |at: usize| {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        let look = folder.decode(at).and_then(|image| Look::of(&image));
        progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(match look {
            Ok(Some(look)) => Seen::Usable(keeps_looks.then(|| Box::new(look))),
            Ok(None) => Seen::Uniform,
            Err(error) => {
                check_server(&folder.name(at))?;
                Seen::Damaged(reason(&error))
            }
        })
    };
    (0..folder.len()).into_par_iter().map(see).collect()
}
