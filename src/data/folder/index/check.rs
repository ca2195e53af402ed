//! Whether the bytes of a file can be an index: a checksum tells damage, and every number must be in its range, as a checksum
//! can be made for any bytes.

use rayon::prelude::*;

use crate::data::folder::index::name::is_name;
use crate::data::folder::index::record::{NONE, RECORD};
use crate::data::folder::index::table::Table;

/// Bytes that one thread hashes at a time; part of the format.
const BLOCK: usize = 1 << 20;
/// Records that one thread looks at.
const RECORDS: usize = 1 << 14;

/// A hash of hashes of blocks, so that all cores share the work.
#[derive(Default)]
pub(super) struct Checksum {
    hashes: blake3::Hasher,
    waiting: Vec<u8>,
}

impl Checksum {
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            bytes = rest;
            if self.waiting.len() == BLOCK {
                self.hashes.update(blake3::hash(&self.waiting).as_bytes());
                self.waiting.clear();
            }
        }
    }

    pub fn finish(mut self) -> [u8; 32] {
        if !self.waiting.is_empty() {
            self.hashes.update(blake3::hash(&self.waiting).as_bytes());
        }
        *self.hashes.finalize().as_bytes()
    }

    /// That of bytes which are in memory.
    pub fn of(bytes: &[u8]) -> [u8; 32] {
        let hashes: Vec<[u8; 32]> = bytes
            .par_chunks(BLOCK)
            .map(|block| *blake3::hash(block).as_bytes())
            .collect();
        *blake3::hash(hashes.as_flattened()).as_bytes()
    }
}

/// Whether every number of a table is in its range, and every name is one.
pub(super) fn is_sound(table: &Table) -> bool {
    let labels = table.facts().classes.len();
    let folders = table.folders();
    let is_folder = |number: usize| {
        let Some(folder) = table.folder(number as u32) else {
            return false;
        };
        let is_inside = folder.parent == NONE || (folder.parent as usize) < number;
        let is_label = folder.label == NONE || (folder.label as usize) < labels;
        let name = table.folder_name(number as u32);
        let is_named = folder.parent == NONE || is_name(name);
        let end_before = number.checked_sub(1).map_or(Some(0), |before| {
            table.folder(before as u32).map(|folder| folder.name_end)
        });
        let is_rising = end_before.is_some_and(|end| end + name.len() as u64 == folder.name_end);
        is_inside && is_label && is_named && is_rising
    };
    let runs = table.len().div_ceil(RECORDS);
    let is_run = |run: usize| {
        let images = run * RECORDS..((run + 1) * RECORDS).min(table.len());
        let before = images.start.checked_sub(1);
        let mut end = before.map_or(Some(0), |before| Some(table.image(before)?.name_end));
        images.into_iter().all(|index| {
            let (Some(image), Some(start)) = (table.image(index), end) else {
                return false;
            };
            end = Some(image.name_end);
            let names = table.part(2);
            let name = usize::try_from(start)
                .ok()
                .zip(usize::try_from(image.name_end).ok())
                .and_then(|(start, end)| names.get(start..end));
            (image.folder as usize) < folders && name.is_some_and(is_name)
        })
    };
    folders <= NONE as usize
        && table.part(1).len() == folders * RECORD
        && table.facts().deep <= table.len()
        && (table.facts().left_out.iter()).all(|one| (one.folder as usize) < folders)
        && (0..folders).into_par_iter().all(is_folder)
        && (0..runs).into_par_iter().all(is_run)
}
