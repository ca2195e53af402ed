//! Folders and the headers of their files, read in parallel, level by level.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::available_parallelism;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::data::folder::index::found::{FileKind, What, what};
use crate::data::folder::index::known::Known;
use crate::data::folder::index::name::name_of;
use crate::data::folder::index::record::ImageRecord;
use crate::data::folder::index::table::{LeftOut, Table};
use crate::data::storage::names::is_of_a_tool;
use crate::data::storage::names::is_shard;
use crate::data::storage::shards::may_have_images;
use crate::data::storage::stamp::Stamp;
use crate::error::{Error, Result, printable};
use crate::path_text::path_text;

/// Threads for each core: most of the time of a scan is a wait for a disk or a server.
const THREADS_PER_CORE: usize = 4;
/// Threads at least, and at most.
const THREADS: [usize; 2] = [8, 64];

/// Threads that wait for disks.
///
/// # Errors
/// The system gives none.
pub(in crate::data) fn pool() -> Result<ThreadPool> {
    let cores = available_parallelism().map_or(1, usize::from);
    let [least, most] = THREADS;
    pool_of((cores * THREADS_PER_CORE).clamp(least, most))
}

/// So many threads that wait for disks or servers.
///
/// # Errors
/// The system gives none.
pub(in crate::data) fn pool_of(threads: usize) -> Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| Error::Loader(format!("cannot start threads to read folders: {error}")))
}

/// A folder and the images in it, in the order of their names.
#[derive(Debug, Default)]
pub(in crate::data) struct Node {
    pub parent: Option<usize>,
    /// Of a root, its path.
    pub name: OsString,
    /// Of a root, which folder of a relative path names the class of an image.
    pub class_depth: Option<usize>,
    pub modified: i64,
    pub identity: u64,
    /// Names of the images, one after the other.
    pub names: Vec<u8>,
    pub images: Vec<ImageRecord>,
    /// Folders in it: before which image they come, and their node.
    pub children: Vec<(usize, usize)>,
    pub others: u32,
    pub tools: Vec<String>,
    pub left_out: Vec<LeftOut>,
    /// Whether it holds an archive or a table of images.
    pub holds_shards: bool,
}

impl Node {
    fn push(&mut self, name: &[u8], image: ImageRecord) {
        self.names.extend_from_slice(name);
        let name_end = self.names.len() as u64;
        self.images.push(ImageRecord { name_end, ..image });
    }

    fn leave_out(&mut self, name: &OsStr, reason: String, stamp: Option<Stamp>) {
        self.left_out.push(LeftOut {
            folder: 0,
            name: path_text(Path::new(name)),
            reason,
            stamp,
        });
    }

    pub fn name_of(&self, image: usize) -> &[u8] {
        self.names_of(image..image + 1)
    }

    /// The names of some images, one after the other.
    pub fn names_of(&self, images: Range<usize>) -> &[u8] {
        let end = |count: usize| match count {
            0 => 0,
            count => self.images[count - 1].name_end as usize,
        };
        &self.names[end(images.start)..end(images.end)]
    }
}

/// A folder to read.
struct Task {
    path: PathBuf,
    name: OsString,
    parent: Option<usize>,
    /// Which folder of the older index it is.
    known: Option<u32>,
}

/// What is found, folder by folder.
pub(in crate::data) struct Walk<'a> {
    pub nodes: Vec<Node>,
    max_pixels: u64,
    stop: &'a AtomicBool,
    pool: ThreadPool,
    known: Option<Known<'a>>,
    /// Whether files in unchanged folders are asked for changes, too.
    asks_each: bool,
    headers: AtomicUsize,
}

impl<'a> Walk<'a> {
    /// A walk that leaves out images of more pixels than these, and ends where `stop` is set.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(max_pixels: u64, stop: &'a AtomicBool) -> Result<Self> {
        Ok(Self {
            nodes: Vec::new(),
            max_pixels,
            stop,
            pool: pool()?,
            known: None,
            asks_each: false,
            headers: AtomicUsize::new(0),
        })
    }

    /// Takes from an older index what did not change: files of the same length and time in folders that changed, and all of
    /// folders that did not; with `asks_each`, their files are asked too.
    pub fn with(mut self, older: &'a Table, asks_each: bool) -> Self {
        self.known = Some(Known::new(older));
        self.asks_each = asks_each;
        self
    }

    /// How many files were opened.
    pub fn headers(&self) -> usize {
        self.headers.load(Ordering::Relaxed)
    }

    /// Reads a folder and all below it.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder itself cannot be listed; [`Error::Stopped`] soon after the flag is raised.
    pub fn add_folder(&mut self, root: &Path, class_depth: Option<usize>) -> Result<()> {
        let mut level = vec![Task {
            path: root.to_path_buf(),
            name: root.as_os_str().to_owned(),
            parent: None,
            known: self.known.as_ref().map(|_| 0),
        }];
        while !level.is_empty() {
            let read = || level.par_iter().map(|task| self.read(root, task)).collect();
            let read: Vec<Result<(Node, Vec<Task>)>> = self.pool.install(read);
            let mut next = Vec::new();
            for (task, read) in level.iter().zip(read) {
                let (mut node, mut inner) = read?;
                let number = self.nodes.len();
                node.class_depth = class_depth.filter(|_| task.parent.is_none());
                self.link(task, number);
                inner.iter_mut().for_each(|task| task.parent = Some(number));
                next.extend(inner);
                self.nodes.push(node);
            }
            level = next;
        }
        Ok(())
    }

    /// Puts a folder among the images of its parent, by name.
    fn link(&mut self, task: &Task, number: usize) {
        let Some(parent) = task.parent.and_then(|parent| self.nodes.get_mut(parent)) else {
            return;
        };
        let (mut low, mut high) = (0, parent.images.len());
        while low < high {
            let middle = low.midpoint(high);
            if parent.name_of(middle) < task.name.as_encoded_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        parent.children.push((low, number));
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }

    /// A folder, and those in it.
    fn read(&self, root: &Path, task: &Task) -> Result<(Node, Vec<Task>)> {
        self.check_stop()?;
        let mut node = Node {
            parent: task.parent,
            name: task.name.clone(),
            ..Node::default()
        };
        // before its entries: one that changes meanwhile counts as changed
        let metadata = match fs::metadata(&task.path) {
            Ok(metadata) => metadata,
            Err(source) => return unlisted(node, task, source),
        };
        node.modified = Stamp::of_metadata(&metadata).modified;
        node.identity = identity(&metadata);
        if let (Some(known), Some(number), false) = (&self.known, task.known, self.asks_each)
            && is_as_before(&node, known, number, &task.path)
        {
            return Ok(copied(node, known, number, &task.path));
        }
        let entries = match fs::read_dir(&task.path) {
            Ok(entries) => entries,
            Err(source) => return unlisted(node, task, source),
        };
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(source) => return unlisted(node, task, source),
            };
            match what(&entry, root, &task.path) {
                Ok(What::Folder) if is_of_a_tool(&entry.file_name()) => {
                    node.tools.push(printable(entry.file_name()));
                }
                Ok(What::Folder) => folders.push(entry.file_name()),
                Ok(What::File) => files.push(entry.file_name()),
                Ok(What::Other) => node.others += 1,
                Err(reason) => {
                    let stamp = Stamp::of(&entry.path());
                    node.leave_out(&entry.file_name(), reason, stamp);
                }
            }
        }
        let bytes = |name: &OsString| name.as_encoded_bytes().to_vec();
        files.par_sort_unstable_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
        folders.sort_by_cached_key(bytes);
        self.read_files(&task.path, files, task.known, &mut node)?;
        let folder_in = |name: &OsString| {
            let (known, number) = (self.known.as_ref()?, task.known?);
            known.folder_in(number, name.as_encoded_bytes())
        };
        let inner = folders.into_iter().map(|name| Task {
            path: task.path.join(&name),
            known: folder_in(&name),
            name,
            parent: None,
        });
        Ok((node, inner.collect()))
    }

    /// What the files of a folder are.
    fn read_files(
        &self,
        folder: &Path,
        names: Vec<OsString>,
        known: Option<u32>,
        node: &mut Node,
    ) -> Result<()> {
        let found = names.par_iter().map(|name| {
            self.check_stop()?;
            let path = folder.join(name);
            let before = self.known.as_ref().zip(known);
            let before =
                before.and_then(|(before, number)| before.image(number, name.as_encoded_bytes()));
            if let Some(before) = before
                && Stamp::of(&path).is_some_and(|now| now.is_that_of(before.stamp))
            {
                return Ok((FileKind::Image(before.header, before.stamp), None));
            }
            self.headers.fetch_add(1, Ordering::Relaxed);
            let found = FileKind::read(&path, self.max_pixels);
            let is_skipped = matches!(found, FileKind::Skipped(_));
            let stamp = is_skipped.then(|| Stamp::of(&path)).flatten();
            Ok((found, stamp))
        });
        let found: Result<Vec<(FileKind, Option<Stamp>)>> = found.collect();
        for (name, (found, stamp_of_skipped)) in names.iter().zip(found?) {
            match found {
                FileKind::Image(header, stamp) => {
                    let image = ImageRecord {
                        name_end: 0,
                        stamp,
                        folder: 0,
                        header,
                    };
                    node.push(name.as_encoded_bytes(), image);
                }
                FileKind::Other => {
                    node.others += 1;
                    // a table of text beside the images, as Hugging Face's `metadata.parquet`, is another file
                    node.holds_shards = node.holds_shards
                        || is_shard(Path::new(name)) && may_have_images(&folder.join(name));
                }
                FileKind::Skipped(reason) => node.leave_out(name, reason, stamp_of_skipped),
            }
        }
        Ok(())
    }
}

/// A folder that cannot be listed is left out and, as its time is 0, looked at again the next time.
fn unlisted(mut node: Node, task: &Task, source: std::io::Error) -> Result<(Node, Vec<Task>)> {
    if task.parent.is_none() {
        return Err(Error::io(&task.path)(source));
    }
    node.leave_out(OsStr::new(""), source.to_string(), None);
    node.modified = 0;
    Ok((node, Vec::new()))
}

/// Whether a folder has the entries that the older index says, and what was left out of it did not change.
fn is_as_before(now: &Node, known: &Known, number: u32, path: &Path) -> bool {
    let Some(before) = known.folder(number) else {
        return false;
    };
    let is_same =
        now.modified != 0 && now.modified == before.modified && now.identity == before.identity;
    is_same && known.left_out(number).all(|one| is_left_as(one, path))
}

/// Whether a file that was left out of a folder is as it was.
pub(super) fn is_left_as(one: &LeftOut, folder: &Path) -> bool {
    if one.name.is_empty() {
        return false;
    }
    let now = Stamp::of(&folder.join(crate::path_text::path_of_text(&one.name)));
    match (now, one.stamp) {
        (Some(now), Some(before)) => now.is_that_of(before),
        (now, before) => now.is_none() && before.is_none(),
    }
}

/// A folder as the older index has it, and those in it.
fn copied(mut node: Node, known: &Known, number: u32, path: &Path) -> (Node, Vec<Task>) {
    for (name, image) in known.images(number) {
        node.push(name, image);
    }
    node.others = known.folder(number).map_or(0, |folder| folder.others);
    node.tools = known.tools(number).cloned().collect();
    node.left_out = known.left_out(number).cloned().collect();
    let inner = known.folders(number).map(|(name, inner)| Task {
        path: path.join(name_of(name)),
        name: name_of(name).to_owned(),
        parent: None,
        known: Some(inner),
    });
    let inner = inner.collect();
    (node, inner)
}

/// Number of a folder in its file system: another folder in its place has another one.
#[cfg(unix)]
pub(super) fn identity(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
pub(super) fn identity(_: &Metadata) -> u64 {
    0
}
