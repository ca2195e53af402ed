//! What an older index says of folders that are read again.

use std::collections::HashMap;

use crate::data::folder::index::record::{Folder, ImageRecord, NONE};
use crate::data::folder::index::table::{LeftOut, Table};

/// An older index, by folder.
pub(super) struct Known<'a> {
    table: &'a Table,
    images: Groups,
    folders: Groups,
    left_out: HashMap<u32, Vec<&'a LeftOut>>,
    tools: HashMap<u32, Vec<&'a String>>,
}

/// Numbers by the folder that they are in, those of each folder rising.
struct Groups {
    starts: Vec<usize>,
    numbers: Vec<usize>,
}

impl Groups {
    fn new(folders: usize, of: impl Iterator<Item = u32> + Clone) -> Self {
        let mut starts = vec![0; folders + 1];
        let inside = |folder: &u32| (*folder as usize) < folders;
        for folder in of.clone().filter(inside) {
            starts[folder as usize + 1] += 1;
        }
        for at in 0..folders {
            starts[at + 1] += starts[at];
        }
        let mut next = starts.clone();
        let mut numbers = vec![0; starts[folders]];
        for (number, folder) in of.enumerate().filter(|(_, folder)| inside(folder)) {
            let place = &mut next[folder as usize];
            numbers[*place] = number;
            *place += 1;
        }
        Self { starts, numbers }
    }

    fn of(&self, folder: u32) -> &[usize] {
        let folder = folder as usize;
        &self.numbers[self.starts[folder]..self.starts[folder + 1]]
    }
}

impl<'a> Known<'a> {
    pub fn new(table: &'a Table) -> Self {
        let folder = |index| table.image(index).map_or(NONE, |image| image.folder);
        let parent = |number| table.folder(number).map_or(NONE, |folder| folder.parent);
        let mut known = Self {
            table,
            images: Groups::new(table.folders(), (0..table.len()).map(folder)),
            folders: Groups::new(table.folders(), (0..table.folders() as u32).map(parent)),
            left_out: HashMap::new(),
            tools: HashMap::new(),
        };
        for one in &table.facts().left_out {
            known.left_out.entry(one.folder).or_default().push(one);
        }
        for (folder, name) in &table.facts().tools {
            known.tools.entry(*folder).or_default().push(name);
        }
        known
    }

    pub fn folder(&self, number: u32) -> Option<Folder> {
        self.table.folder(number)
    }

    /// Images of a folder and their names, in the order of these.
    pub fn images(&self, folder: u32) -> impl Iterator<Item = (&'a [u8], ImageRecord)> + '_ {
        let images = self.images.of(folder).iter();
        images.filter_map(|index| Some((self.table.name(*index), self.table.image(*index)?)))
    }

    pub fn image(&self, folder: u32, name: &[u8]) -> Option<ImageRecord> {
        let images = self.images.of(folder);
        let place = images.binary_search_by(|index| self.table.name(*index).cmp(name));
        self.table.image(images[place.ok()?])
    }

    /// Folders in a folder and their names, in the order of these.
    pub fn folders(&self, folder: u32) -> impl Iterator<Item = (&'a [u8], u32)> + '_ {
        let folders = self.folders.of(folder).iter();
        folders.map(|number| (self.table.folder_name(*number as u32), *number as u32))
    }

    pub fn folder_in(&self, folder: u32, name: &[u8]) -> Option<u32> {
        let folders = self.folders.of(folder);
        let folder_name = |number: &usize| self.table.folder_name(*number as u32);
        let place = folders.binary_search_by(|number| folder_name(number).cmp(name));
        Some(folders[place.ok()?] as u32)
    }

    pub fn left_out(&self, folder: u32) -> impl Iterator<Item = &'a LeftOut> + '_ {
        self.left_out.get(&folder).into_iter().flatten().copied()
    }

    pub fn tools(&self, folder: u32) -> impl Iterator<Item = &'a String> + '_ {
        self.tools.get(&folder).into_iter().flatten().copied()
    }
}
