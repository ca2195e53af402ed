//! What a tar archive holds, by its headers: images, and classes by the naming of WebDataset.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tar::{Archive, EntryType};

use crate::data::storage::names::{is_of_a_tool, is_resource_fork, is_shard};
use crate::data::storage::shards::compressed::refuse_compressed_bytes;
use crate::data::storage::shards::members::{Member, Members, Span, plain};
use crate::data::storage::shards::window::Window;
use crate::data::storage::stored::Stored;
use crate::error::{Error, Result, counted, printable};

/// Most bytes of the headers of one member: names and attributes. More is no header.
const HEADERS: u64 = 1 << 20;
/// Most bytes of a label.
const LABEL: u64 = 64 << 10;
/// Longest name of a class.
const CLASS: usize = 256;
/// Bytes behind the end mark that are looked at: `tar` fills a record of 10 240 bytes with zeros, with `-b 128` one of 64 KiB.
const BEHIND: u64 = 64 << 10;
/// Keys of a class in `.json`.
const KEYS: [&str; 3] = ["label", "cls", "class"];
/// Reads headers: what lies between them is passed over, and a header without an end is an error.
struct Headers<'a> {
    file: Window,
    state: &'a State,
}

#[derive(Default)]
struct State {
    /// Bytes read since the last place that was sought, or since the last member.
    read: Cell<u64>,
    /// Whether the file could not be read, which says nothing of its content.
    has_failed: Cell<bool>,
    /// Whether the last read found the end of the file.
    is_at_end: Cell<bool>,
}

impl Read for Headers<'_> {
    fn read(&mut self, into: &mut [u8]) -> IoResult<usize> {
        if self.state.read.get() > HEADERS {
            return Err(IoError::new(
                ErrorKind::InvalidData,
                "a header without an end",
            ));
        }
        let count = self.file.read(into);
        self.state.has_failed.set(count.is_err());
        let count = count?;
        self.state.is_at_end.set(count == 0);
        self.state.read.set(self.state.read.get() + count as u64);
        Ok(count)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        self.state.read.set(0);
        self.file.seek(to)
    }
}

/// Where the files lie in the archive at `path`, and those that may be images.
///
/// # Errors
/// It cannot be read, or is no tar archive from the start; [`Error::Stopped`]. One that is damaged later keeps the members before, and
/// says so.
pub(super) fn read(
    path: &Path,
    file: Arc<Stored>,
    length: u64,
    stop: &AtomicBool,
) -> Result<(HashMap<PathBuf, Span>, Members)> {
    let mut file = Window::new(file, 0, length);
    refuse_compressed_bytes(path, &mut file)?;
    let state = State::default();
    let mut archive = Archive::new(Headers {
        file,
        state: &state,
    });
    let entries = archive.entries_with_seek().map_err(Error::io(path))?;
    let mut found = TarContents::new(path, length);
    for entry in entries {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        match entry {
            Ok(mut entry) => {
                let name = match entry.path() {
                    Ok(name) => name.into_owned(),
                    // on Windows, one that is not UTF-8
                    Err(error) => {
                        let reason = format!("has a file that is left out: {error}");
                        found.skip(Path::new(""), reason);
                        state.read.set(0);
                        continue;
                    }
                };
                let span = Span {
                    offset: entry.raw_file_position(),
                    length: entry.size(),
                };
                let kind = entry.header().entry_type();
                let target = entry.link_name().ok().flatten().map(Cow::into_owned);
                let mut label = None;
                if is_label(&name) && span.length <= LABEL {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).map_err(Error::io(path))?;
                    label = Some(bytes);
                }
                drop(entry);
                state.read.set(0);
                match target.filter(|_| kind.is_hard_link()) {
                    Some(target) => found.add_link(&name, &target),
                    None => found.add(&name, kind, span, label),
                }
            }
            Err(error) if state.has_failed.get() => return Err(Error::io(path)(error)),
            Err(error) => {
                found.end_with(&error)?;
                return Ok(found.into_members());
            }
        }
    }
    let has_mark = !state.is_at_end.get();
    found.check_end(has_mark, archive.into_inner().file)?;
    Ok(found.into_members())
}

struct TarContents<'a> {
    shard: &'a Path,
    length: u64,
    /// By their paths.
    files: BTreeMap<PathBuf, Span>,
    /// By the key: the path up to the first dot of the name.
    classes: HashMap<PathBuf, Arc<str>>,
    /// Every name once.
    names: HashMap<String, Arc<str>>,
    others: usize,
    skipped: Vec<(PathBuf, String)>,
    /// Whether the archive ends within a file.
    is_cut: bool,
}

impl<'a> TarContents<'a> {
    fn new(shard: &'a Path, length: u64) -> Self {
        Self {
            shard,
            length,
            files: BTreeMap::new(),
            classes: HashMap::new(),
            names: HashMap::new(),
            others: 0,
            skipped: Vec::new(),
            is_cut: false,
        }
    }

    fn skip(&mut self, path: &Path, reason: impl Into<String>) {
        // of the archive itself, its name without a slash behind it
        let path = if path.as_os_str().is_empty() {
            self.shard.to_path_buf()
        } else {
            self.shard.join(path)
        };
        self.skipped.push((path, reason.into()));
    }

    /// Says that files may be missing: blocks of zeros end an archive, one of them at least, and nothing but zeros follows them.
    fn check_end(&mut self, has_mark: bool, behind: Window) -> Result<()> {
        let reason = if has_mark {
            let mut bytes = Vec::new();
            let read = behind.take(BEHIND).read_to_end(&mut bytes);
            read.map_err(Error::io(self.shard))?;
            if bytes.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            "has more behind its end mark, which is not read, as where archives were joined by `cat`: give each as a file"
        } else if self.length == 0 {
            "empty: it has no bytes"
        } else if self.is_cut {
            return Ok(()); // said already
        } else {
            "has no end mark, as if it were cut off: what may have followed is lost; copy or make it again"
        };
        self.skip(Path::new(""), reason);
        Ok(())
    }

    /// A header that makes no sense ends the archive; what was found before is used.
    fn end_with(&mut self, error: &IoError) -> Result<()> {
        // it may have bytes of the file in it
        let error = printable(error.to_string());
        let before = self.files.len() + self.others;
        if before == 0 {
            let reason = format!("is no tar archive, or damaged: {error}");
            return Err(Error::data(self.shard, reason));
        }
        let before = counted(before, "file");
        let reason = format!("truncated or damaged after {before} ({error}): what follows is lost");
        self.skip(Path::new(""), reason);
        Ok(())
    }

    /// `label` holds the bytes of a `.cls` or `.json` that is short enough for one.
    fn add(&mut self, name: &Path, kind: EntryType, span: Span, label: Option<Vec<u8>>) {
        let path = plain(name);
        match kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => return,
            EntryType::GNUSparse => {
                let reason = "is stored in pieces (`tar -S`): make the archive without that";
                return self.skip(&path, reason);
            }
            EntryType::Symlink if !is_left_out(&path) => {
                let reason = "is a symbolic link: make the archive with `tar --dereference`";
                return self.skip(&path, reason);
            }
            _ => {
                self.others += 1;
                return;
            }
        }
        if is_left_out(&path) {
            self.others += 1;
        } else if span
            .offset
            .checked_add(span.length)
            .is_none_or(|end| end > self.length)
        {
            self.is_cut = true;
            self.skip(&path, "truncated: its archive ends before it does");
        } else if is_label(&path) {
            self.others += 1;
            match class_in(&path, span, label) {
                Ok(Some(class)) => self.add_class(&path, class),
                Ok(None) => {}
                Err(reason) => self.skip(&path, reason),
            }
        } else if is_shard(&path) {
            self.skip(
                &path,
                "an archive or table in an archive is not read: unpack it",
            );
        } else if self.files.insert(path.clone(), span).is_some() {
            let reason = "is there twice; the last one counts, as when the archive is unpacked";
            self.skip(&path, reason);
        }
    }

    /// A hard link is another name of a file before it: `tar` stores a file with two names so.
    fn add_link(&mut self, name: &Path, target: &Path) {
        let path = plain(name);
        match self.files.get(&plain(target)).copied() {
            Some(span) => self.add(name, EntryType::Regular, span, None),
            None if is_left_out(&path) => self.others += 1,
            None => {
                let target = printable(target);
                let reason = format!(
                    "is a link to {target}, which is no file before it: make the archive with `--hard-dereference`"
                );
                self.skip(&path, reason);
            }
        }
    }

    fn add_class(&mut self, path: &Path, class: String) {
        let name: Arc<str> = class.as_str().into();
        let name = self.names.entry(class).or_insert(name).clone();
        // `.cls` says nothing else, and counts more than one entry of many
        match ending(path) {
            "cls" => _ = self.classes.insert(key(path), name),
            _ => _ = self.classes.entry(key(path)).or_insert(name),
        }
    }

    fn into_members(mut self) -> (HashMap<PathBuf, Span>, Members) {
        let beside: Vec<PathBuf> = (self.files.keys())
            .filter(|path| self.is_beside(path))
            .cloned()
            .collect();
        for path in &beside {
            let reason = "belongs to the image of the same key, as a mask does; rename it to use it as an image";
            self.files.remove(path);
            self.skip(path, reason);
        }
        let member = |path: &PathBuf| Member {
            path: path.clone(),
            class: self.classes.get(&key(path)).cloned(),
            known: None,
        };
        let members = Members {
            members: self.files.keys().map(member).collect(),
            others: self.others,
            skipped: self.skipped,
        };
        (self.files.into_iter().collect(), members)
    }

    /// Whether a file is one of several of a key: `12.seg.png` beside `12.jpg`.
    fn is_beside(&self, path: &Path) -> bool {
        if !ending(path).contains('.') {
            return false;
        }
        let key = key(path);
        ["jpg", "jpeg", "png", "webp"].iter().any(|plain| {
            let mut whole = key.clone().into_os_string();
            whole.push(".");
            whole.push(plain);
            self.files.contains_key(Path::new(&whole))
        })
    }
}

/// Whether a file is left out of a folder too.
fn is_left_out(path: &Path) -> bool {
    let folders = path.parent().map(Path::iter);
    folders.is_some_and(|mut folders| folders.any(is_of_a_tool))
        || path.file_name().is_none_or(is_resource_fork)
}

/// The name behind its first dot; empty without one.
fn ending(path: &Path) -> &str {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.split_once('.').map_or("", |(_, ending)| ending)
}

/// The path up to the first dot of its name, which WebDataset calls the key.
fn key(path: &Path) -> PathBuf {
    match path
        .file_name()
        .and_then(OsStr::to_str)
        .and_then(|name| name.split_once('.'))
    {
        Some((stem, _)) => path.with_file_name(stem),
        None => path.to_path_buf(),
    }
}

fn is_label(path: &Path) -> bool {
    has_ending(path, "cls") || has_ending(path, "json")
}

/// Whether this stands behind the first dot of the name, in any case.
fn has_ending(path: &Path, wanted: &str) -> bool {
    ending(path).eq_ignore_ascii_case(wanted)
}

/// The class in a `.cls` or `.json`; none where a `.json` says nothing of it.
///
/// # Errors
/// Why it is no label.
fn class_in(
    path: &Path,
    span: Span,
    label: Option<Vec<u8>>,
) -> std::result::Result<Option<String>, String> {
    let too_long = || format!("is too long for a label: {} bytes", span.length);
    let bytes = label.ok_or_else(too_long)?;
    let text = String::from_utf8(bytes).map_err(|_| "is no text".to_owned())?;
    let class = if has_ending(path, "cls") {
        Some(text.trim().to_owned())
    } else {
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format!("is no JSON: {error}"))?;
        // a key may be there without a value
        KEYS.iter().find_map(|key| match value.get(key)? {
            Value::String(name) => Some(name.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            _ => None,
        })
    };
    match class {
        // as in tables
        Some(class) if class == "-1" => Ok(None),
        Some(class) if class.is_empty() || class.len() > CLASS => Err(format!(
            "its class has {} bytes, which must be 1 to {CLASS}",
            class.len()
        )),
        class => Ok(class),
    }
}
