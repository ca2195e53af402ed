//! What a shard holds, kept in the user's cache folder from one start to the next: a start reads neither the headers of an archive nor
//! those of the images in it.
//!
//! A line with the checksum of the rest, and JSON. It is trusted while the shard has the length and the time, or the tag of its server,
//! that it had; one that is damaged, of another version or of another shard counts as missing.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::file::page_index::offset_index::PageLocation;
use serde::{Deserialize, Serialize};

use crate::data::storage::shards::members::{CachedKind, Member, Members, Span};
use crate::data::storage::shards::parquet;
use crate::data::storage::shards::shard::Shard;
use crate::data::storage::stamp::settled;
use crate::data::storage::stored::{Facts, Stored};
use crate::error::{Error, Result};
use crate::path_text::{absolute, path_of_text, path_text};
use crate::unfinished::unique_digits;

/// Of the format, and of what a scan finds. 2: orientations, and sizes of upright images. 3: ends of archives, classes of tables. 4: a
/// text column `image` is none of images.
const VERSION: u32 = 4;

/// Which shard it is, and what decides what is found in it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    version: u32,
    path: String,
    length: u64,
    /// As `Stamp::modified`.
    modified: i64,
    tag: Option<String>,
    max_pixels: u64,
}

#[derive(Serialize, Deserialize)]
struct Index {
    of: Of,
    classes: Vec<String>,
    members: Vec<Entry>,
    others: usize,
    /// Paths in the shard, and why they are left out.
    skipped: Vec<(String, String)>,
    /// Offset, length and first row of the pages of images in each group of rows, where the shard is a table.
    pages: Option<Vec<Vec<(i64, i32, i64)>>>,
}

/// A file of the shard.
#[derive(Serialize, Deserialize)]
struct Entry {
    path: String,
    /// Place in the classes.
    class: Option<usize>,
    span: (u64, u64),
    known: CachedKind,
}

impl Of {
    /// None of a shard by which no change would be seen.
    fn new(shard: &Path, facts: &Facts, max_pixels: u64) -> Option<Self> {
        let of = Self {
            version: VERSION,
            path: path_text(&absolute(shard).ok()?),
            length: facts.length,
            modified: facts.modified.map_or(0, settled),
            tag: facts.tag.as_deref().map(str::to_owned),
            max_pixels,
        };
        (of.modified != 0 || of.tag.is_some()).then_some(of)
    }

    fn file(&self, folder: &Path) -> PathBuf {
        let name = blake3::hash(format!("{}\n{}", self.path, self.max_pixels).as_bytes());
        folder.join(format!("{}.shard", &name.to_hex()[..32]))
    }
}

/// The shard at `path` and what it holds, if that is known.
pub(super) fn open(
    folder: &Path,
    path: &Path,
    facts: &Facts,
    max_pixels: u64,
) -> Option<(Shard, Members)> {
    let of = Of::new(path, facts, max_pixels)?;
    let index = read(folder, &of)?;
    let table = match &index.pages {
        None => None,
        Some(pages) => {
            let file = Arc::new(Stored::open(path).ok()?);
            let (pages, rows) = (pages.iter().map(|of| locations(of)), index.members.len());
            Some(parquet::known(path, file, facts.length, pages.collect(), rows).ok()?)
        }
    };
    let classes: Vec<Arc<str>> = index
        .classes
        .iter()
        .map(|name| name.as_str().into())
        .collect();
    let mut spans = HashMap::with_capacity(index.members.len());
    let mut members = Vec::with_capacity(index.members.len());
    for entry in index.members {
        let member = path_of_text(&entry.path);
        let (offset, length) = entry.span;
        // of a table, whose spans are numbers of rows
        if let (Some(table), CachedKind::Image(_, stamp)) = (&table, &entry.known) {
            table.keep_length(offset, stamp.length);
        }
        spans.insert(member.clone(), Span { offset, length });
        members.push(Member {
            path: member,
            class: entry.class.and_then(|at| classes.get(at).cloned()),
            known: Some(entry.known),
        });
    }
    let skipped = index.skipped.iter();
    let skipped = skipped.map(|(name, reason)| (path.join(path_of_text(name)), reason.clone()));
    let members = Members {
        members,
        others: index.others,
        skipped: skipped.collect(),
    };
    let shard = Shard {
        path: path.to_path_buf(),
        length: facts.length,
        modified: facts.modified,
        tag: facts.tag.clone(),
        spans,
        table,
        others: members.others,
        skipped: members.skipped.clone(),
    };
    Some((shard, members))
}

fn locations(pages: &[(i64, i32, i64)]) -> Vec<PageLocation> {
    let pages = pages.iter().copied();
    let location = |(offset, compressed_page_size, first_row_index)| PageLocation {
        offset,
        compressed_page_size,
        first_row_index,
    };
    pages.map(location).collect()
}

/// None where there is none, or one that is damaged or of something else.
fn read(folder: &Path, of: &Of) -> Option<Index> {
    let bytes = fs::read(of.file(folder)).ok()?;
    let (checksum, rest) = bytes.split_at_checked(65)?;
    if checksum.strip_suffix(b"\n")? != blake3::hash(rest).to_hex().as_bytes() {
        return None;
    }
    let index: Index = serde_json::from_slice(rest).ok()?;
    (index.of == *of).then_some(index)
}

/// Keeps what is known of a shard: its files, and what each is.
///
/// # Errors
/// It cannot be written.
pub(super) fn write<'a>(
    folder: &Path,
    shard: &Shard,
    members: impl Iterator<Item = (&'a Path, Option<&'a Arc<str>>, CachedKind)>,
    max_pixels: u64,
) -> Result<()> {
    let facts = Facts {
        length: shard.length,
        modified: shard.modified,
        tag: shard.tag.clone(),
        is_file: true,
    };
    let Some(of) = Of::new(&shard.path, &facts, max_pixels) else {
        return Ok(());
    };
    let file = of.file(folder);
    let (mut classes, mut places) = (Vec::new(), HashMap::new());
    let members = members.filter_map(|(path, class, known)| {
        let span = shard.spans.get(path)?;
        let class = class.map(|class| {
            *places.entry(class.clone()).or_insert_with(|| {
                classes.push(class.to_string());
                classes.len() - 1
            })
        });
        Some(Entry {
            path: path_text(path),
            class,
            span: (span.offset, span.length),
            known,
        })
    });
    let members: Vec<Entry> = members.collect();
    // of a file that another source has too, nothing is known here
    if members.len() != shard.spans.len() {
        return Ok(());
    }
    let name = |path: &Path| path_text(path.strip_prefix(&shard.path).unwrap_or(path));
    let skipped = shard.skipped.iter();
    let pages = shard.table.as_ref().map(|table| {
        let of_group = |pages: &Vec<PageLocation>| {
            let numbers = |page: &PageLocation| {
                (page.offset, page.compressed_page_size, page.first_row_index)
            };
            pages.iter().map(numbers).collect()
        };
        table.pages().iter().map(of_group).collect()
    });
    let index = Index {
        of,
        classes,
        members,
        others: shard.others,
        skipped: skipped
            .map(|(path, reason)| (name(path), reason.clone()))
            .collect(),
        pages,
    };
    let text = serde_json::to_vec(&index).map_err(|error| Error::data(&file, error.to_string()))?;
    store(&file, &text)
}

/// Writes it whole or not at all, under a name of its own first: another process may write the same one.
fn store(file: &Path, text: &[u8]) -> Result<()> {
    let digits = unique_digits().map_err(Error::io(file))?;
    let temporary = file.with_extension(format!("{digits}.tmp"));
    let checksum = format!("{}\n", blake3::hash(text).to_hex());
    let written = fs::File::create(&temporary).and_then(|mut written| {
        written.write_all(checksum.as_bytes())?;
        written.write_all(text)
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, file));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed.map_err(Error::io(file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, SystemTime};

    use image::{ImageFormat, RgbImage};

    use super::*;
    use crate::data::folder::index::found::FileKind;
    use crate::data::storage::shards::{list, listed};

    /// An archive with two images of a class, a text and an image that is cut off; an hour old.
    fn archive(path: &Path) {
        let mut png = std::io::Cursor::new(Vec::new());
        let image = RgbImage::new(3, 2);
        image.write_to(&mut png, ImageFormat::Png).unwrap();
        let png = png.into_inner();
        let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
        let files: [(&str, &[u8]); 5] = [
            ("a.png", &png),
            ("a.cls", b"cat"),
            ("b.png", &png),
            ("cut.png", &png[..20]),
            ("read.me", b"text"),
        ];
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        }
        builder.finish().unwrap();
        age(path, 3600);
    }

    fn age(path: &Path, seconds: u64) {
        let file = fs::File::options().append(true).open(path).unwrap();
        let time = SystemTime::now() - Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    }

    fn keep(folder: &Path, path: &Path, max_pixels: u64) -> Members {
        let members = list(path, None, &AtomicBool::new(false)).unwrap().unwrap();
        let shard = listed().get(path).cloned().unwrap();
        let known = |member: &Member| FileKind::read(&path.join(&member.path), max_pixels).known();
        let all = members.members.iter();
        let all = all.map(|member| (&*member.path, member.class.as_ref(), known(member)));
        write(folder, &shard, all, max_pixels).unwrap();
        members
    }

    #[test]
    fn what_is_kept_is_what_was_found_until_the_shard_changes() {
        let name = format!("ibot-shard-index-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("set.tar");
        archive(&path);
        let members = keep(&folder, &path, 100);
        let facts = || Facts::now(&path).unwrap();
        let (shard, kept) = open(&folder, &path, &facts(), 100).unwrap();
        let before = listed().get(&path).cloned().unwrap();
        assert_eq!(shard.spans, before.spans);
        assert_eq!(
            (kept.others, &kept.skipped),
            (members.others, &members.skipped)
        );
        let classes = |of: &Members| -> Vec<_> {
            let all = of.members.iter();
            all.map(|one| (one.path.clone(), one.class.clone()))
                .collect()
        };
        assert_eq!(classes(&kept), classes(&members));
        // what could not be read is read again
        let known = kept.members.iter().map(|one| match one.known.unwrap() {
            CachedKind::Image([width, ..], stamp) => (width, stamp.length > 20),
            CachedKind::Other => (0, false),
            CachedKind::Unread => (1, false),
        });
        let known: Vec<_> = known.collect();
        assert_eq!(known, [(3, true), (3, true), (1, false), (0, false)]);
        assert!(
            open(&folder, &path, &facts(), 99).is_none(),
            "another bound"
        );
        age(&path, 60);
        assert!(
            open(&folder, &path, &facts(), 100).is_none(),
            "another time"
        );
        // one that was written just now may change under the same time
        age(&path, 0);
        keep(&folder, &path, 98);
        assert!(open(&folder, &path, &facts(), 98).is_none());
        age(&path, 60);
        keep(&folder, &path, 100);
        let file = Of::new(&path, &facts(), 100).unwrap().file(&folder);
        let whole = fs::read(&file).unwrap();
        for length in (0..whole.len()).step_by(37) {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(open(&folder, &path, &facts(), 100).is_none(), "{length}");
            let mut damaged = whole.clone();
            damaged[length] ^= 1;
            fs::write(&file, damaged).unwrap();
            assert!(open(&folder, &path, &facts(), 100).is_none(), "{length}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
