//! An index as a file, which is mapped: processes that use it share its memory.
//!
//! 128 bytes of head (what it is, lengths of its parts, checksum of the rest, checksum of the head), then records of images
//! and of folders, names of images and of folders, and what is known of all together as JSON. Numbers are little-endian.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use memmap2::Mmap;

use crate::data::folder::index::build::Build;
use crate::data::folder::index::check::{Checksum, is_sound};
use crate::data::folder::index::name::is_text;
use crate::data::folder::index::table::{Bytes, Facts, Lengths, Table};
use crate::error::{Error, Result};
use crate::unfinished::unique_digits;

/// Start of an index.
const MAGIC: &[u8; 7] = b"ibotidx";
/// Version of its format, and of what a scan finds: an index of another version is made anew. 2: orientations, and sizes of upright images.
const VERSION: u8 = 2;
/// Bytes of the head.
const HEAD: usize = 128;
/// Where the checksum of the head is.
const CHECKSUM: usize = HEAD - 32;

/// The index in a file; none where there is no file.
///
/// # Errors
/// Why it is not used: it cannot be read, or is no index, cut off, damaged or of another version.
pub(super) fn open(path: &Path) -> std::result::Result<Option<Table>, String> {
    let words = |error: std::io::Error| format!("cannot be read ({error})");
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(words(error)),
    };
    let length = file.metadata().map_err(words)?.len();
    if length < HEAD as u64 {
        return Err("is no index of ibot: it is too short".to_owned());
    }
    // SAFETY: an index is written under another name and never changed under its own, so that what is mapped stays as it is.
    let map = unsafe { Mmap::map(&file) }.map_err(words)?;
    let (lengths, facts_length) = read_head(&map)?;
    let body = lengths.bytes().and_then(|bytes| bytes.checked_add(HEAD));
    let whole = body.and_then(|body| body.checked_add(facts_length));
    let (Some(body), Some(whole)) = (body, whole) else {
        return Err("is damaged: its lengths are out of range".to_owned());
    };
    if map.len() != whole {
        let found = map.len();
        return Err(format!(
            "is cut off or damaged: {found} bytes instead of {whole}"
        ));
    }
    if Checksum::of(&map[HEAD..])[..] != map[CHECKSUM - 32..CHECKSUM] {
        return Err("is damaged: its checksum differs".to_owned());
    }
    let facts: Facts = serde_json::from_slice(&map[body..])
        .map_err(|error| format!("is damaged: what it says of the set cannot be read ({error})"))?;
    let table = Table::new(Bytes::Mapped(map, HEAD), lengths, facts);
    if is_sound(&table) {
        Ok(Some(table))
    } else {
        Err("is damaged: it points outside of itself".to_owned())
    }
}

/// Whether a file begins as an index does, damaged or not.
pub(super) fn is_index(path: &Path) -> bool {
    use std::io::Read as _;
    let mut start = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *MAGIC
}

/// Lengths of the parts, and of the JSON.
fn read_head(map: &[u8]) -> std::result::Result<(Lengths, usize), String> {
    if !map.starts_with(MAGIC) {
        return Err("is no index of ibot".to_owned());
    }
    let version = map[MAGIC.len()];
    if version != VERSION {
        return Err(format!(
            "is an index of another version of ibot (format {version}; this one reads {VERSION})"
        ));
    }
    if blake3::hash(&map[..CHECKSUM]).as_bytes()[..] != map[CHECKSUM..HEAD] {
        return Err("is damaged: the checksum of its head differs".to_owned());
    }
    let mut numbers = map[8..48].chunks_exact(8).map(|bytes| {
        let long = bytes.first_chunk().map(|long| u64::from_le_bytes(*long));
        usize::try_from(long.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
    });
    let mut next = || numbers.next().unwrap_or(usize::MAX);
    let lengths = Lengths {
        images: next(),
        folders: next(),
        names: next(),
        folder_names: next(),
    };
    Ok((lengths, next()))
}

/// Writes an index whole or not at all, under a name of its own first: another process may write the same one.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write(path: &Path, build: &Build) -> Result<()> {
    let digits = unique_digits().map_err(Error::io(path))?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{digits}.tmp"));
    let temporary = path.with_file_name(name);
    let written = write_to(&temporary, build).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(Error::io(path))
}

fn write_to(path: &Path, build: &Build) -> std::io::Result<()> {
    use std::io::{Seek as _, SeekFrom};
    let facts = serde_json::to_vec(&build.facts)?;
    let mut file = Summed {
        file: BufWriter::with_capacity(1 << 20, File::create_new(path)?),
        checksum: Checksum::default(),
    };
    file.file.write_all(&[0; HEAD])?;
    build.write(&mut file)?;
    file.write_all(&facts)?;
    let Lengths {
        images,
        folders,
        names,
        folder_names,
    } = build.lengths();
    let mut head = [0; HEAD];
    head[..7].copy_from_slice(MAGIC);
    head[7] = VERSION;
    let numbers = [images, folders, names, folder_names, facts.len()];
    for (bytes, number) in head[8..48].chunks_exact_mut(8).zip(numbers) {
        bytes.copy_from_slice(&(number as u64).to_le_bytes());
    }
    head[CHECKSUM - 32..CHECKSUM].copy_from_slice(&file.checksum.finish());
    let of_head = blake3::hash(&head[..CHECKSUM]);
    head[CHECKSUM..].copy_from_slice(of_head.as_bytes());
    let mut file = file.file;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)?;
    file.flush()?;
    file.get_ref().sync_all()
}

/// Whether all names can be written.
pub(super) fn can_write(build: &Build) -> bool {
    build.names().all(is_text)
}

/// A file and the checksum of what is written.
struct Summed {
    file: BufWriter<File>,
    checksum: Checksum,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.checksum.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use image::ImageFormat;
    use image::metadata::Orientation;

    use super::*;
    use crate::data::decode::depth::Depth;
    use crate::data::decode::header::Header;
    use crate::data::folder::index::record::{ImageRecord, RECORD};
    use crate::data::folder::index::walk::Node;
    use crate::data::storage::stamp::Stamp;

    /// A root and some folders in it with so many images each, none of which is on a disk.
    fn simulated(folders: usize, images: usize) -> Vec<Node> {
        let mut root = Node {
            name: "/simulated".into(),
            class_depth: Some(0),
            ..Node::default()
        };
        root.children = (1..=folders).map(|number| (0, number)).collect();
        let header = Header {
            format: ImageFormat::Jpeg,
            width: 500,
            height: 375,
            orientation: Orientation::NoTransforms,
            depth: Depth::Bits8,
            unused: None,
        };
        let folder = |number: usize| {
            let mut node = Node {
                parent: Some(0),
                name: format!("n{number:08}").into(),
                ..Node::default()
            };
            for at in 0..images {
                node.names
                    .extend(format!("n{number:08}_{at:06}.JPEG").bytes());
                node.images.push(ImageRecord {
                    name_end: node.names.len() as u64,
                    stamp: Stamp {
                        length: 100_000,
                        modified: 1,
                    },
                    folder: 0,
                    header,
                });
            }
            node
        };
        std::iter::once(root)
            .chain((1..=folders).map(folder))
            .collect()
    }

    fn place(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("ibot-index-{name}-{}.ibidx", std::process::id()))
    }

    /// Bytes with the checksums that fit them.
    fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
        let body = Checksum::of(&bytes[HEAD..]);
        bytes[CHECKSUM - 32..CHECKSUM].copy_from_slice(&body);
        let head = blake3::hash(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..HEAD].copy_from_slice(head.as_bytes());
        bytes
    }

    /// Whoever writes a checksum that fits still gets no byte outside of the file, and no file outside of the folder.
    #[test]
    fn numbers_out_of_range_are_refused() {
        let nodes = simulated(2, 3);
        let path = place("hostile");
        write(&path, &Build::new(&nodes, Facts::default())).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(with_checksums(whole.clone()), whole);
        let names = HEAD + 9 * RECORD;
        let images = [
            (0, "the first name ends behind the second"),
            (7, "a name ends behind all"),
            (24, "a folder that is not there"),
            (36, "a kind that is not there"),
        ];
        let folders = HEAD + 6 * RECORD;
        let mut changes: Vec<(usize, u8, &str)> =
            images.map(|(at, what)| (HEAD + at, 200, what)).into();
        changes.extend([
            (folders + RECORD + 24, 1, "its own parent"),
            (folders + RECORD + 28, 9, "a class that is not there"),
            (names, b'/', "a path for a name"),
            (names + 1, 0, "a zero in a name"),
            (8, 99, "more images"),
            (30, 99, "more names"),
        ]);
        for (at, byte, what) in changes {
            let mut bytes = whole.clone();
            assert_ne!(bytes[at], byte, "{what}");
            bytes[at] = byte;
            fs::write(&path, with_checksums(bytes)).unwrap();
            let refused = open(&path).map(|table| table.is_some());
            let reason = refused.unwrap_err();
            assert!(reason.contains("damaged"), "{what}: {reason}");
        }
        fs::remove_file(&path).unwrap();
    }

    /// Memory of this process that is no file, in MiB.
    #[cfg(target_os = "linux")]
    fn anonymous() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap() >> 10
    }

    /// docs/performance.md has what it prints; `IBOT_SIMULATED=file` makes the file, a second run opens it.
    #[cfg(target_os = "linux")]
    #[allow(clippy::print_stdout, reason = "says what it measured")]
    #[test]
    #[ignore = "writes 700 MB"]
    fn ten_million_images_open_at_once() {
        let path = std::env::var_os("IBOT_SIMULATED").unwrap();
        let path = Path::new(&path);
        if !path.exists() {
            let nodes = simulated(10_000, 1_000);
            write(path, &Build::new(&nodes, Facts::default())).unwrap();
            println!("written, {} MB", fs::metadata(path).unwrap().len() >> 20);
            return;
        }
        let before = anonymous();
        let start = std::time::Instant::now();
        let table = open(path).unwrap().unwrap();
        println!("{} images open in {:?}", table.len(), start.elapsed());
        let summary = table.summary();
        println!("and summed up in {:?}", start.elapsed());
        assert_eq!((table.len(), summary.classes.len()), (10_000_000, 10_000));
        println!("{} MiB more, beside the mapping", anonymous() - before);
        let start = std::time::Instant::now();
        let some = (0..1_000_000).map(|at| table.path(at * 7 % table.len()).as_os_str().len());
        println!(
            "{} bytes of a million paths in {:?}",
            some.sum::<usize>(),
            start.elapsed()
        );
    }
}
