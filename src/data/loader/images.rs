//! The images of a source for the workers: reports each unusable one once, shows others in their place, and keeps a small set in
//! memory.
//!
//! Which image is shown in the place of another is a function of seed, epoch, sample, and which images are unusable. Each rank finds
//! those out by itself: damage is the same for all, so that any number of workers and ranks shows the same. What a disk or a server
//! fails to give is another matter: it is asked for again when its turn comes, and no function of anything.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use image::RgbImage;

use crate::data::ImageSource;
use crate::data::folder::reason;
use crate::data::storage::failure::{TRIES, may_pass, pause_after};
use crate::data::storage::stored::check_server;
use crate::error::{Error, Result, counted, printable};
use crate::lock::lock;
use crate::random::{Random, Stream};

/// Images that are drawn in the place of another before all are tried: with half of a set damaged, one in 2^64 samples needs more.
const DRAWS: usize = 64;
/// Reads that may fail for one sample though the images may be fine: with the pauses between them, about a minute where each fails at
/// once.
const PATIENCE: usize = 64;
/// How long they may take together: a share may take minutes to fail.
const MOST_WAIT: Duration = Duration::from_secs(60);
/// How often a pause looks whether the loader is dropped.
const LOOK: Duration = Duration::from_millis(50);

pub(in crate::data) struct Images {
    source: Arc<dyn ImageSource>,
    /// One place for every image; None where they are too many.
    cache: Option<Vec<OnceLock<Arc<RgbImage>>>>,
    /// Those that are damaged or gone: few of many.
    unusable: RwLock<HashSet<usize>>,
    log: Mutex<SkipLog>,
    /// The first tiles of files that could not be read, and in which epoch.
    put_off: Mutex<HashMap<usize, u64>>,
    is_stopped: AtomicBool,
}

#[derive(Default)]
struct SkipLog {
    names: HashSet<PathBuf>,
    /// The first failure, for the error if none is left; `fresh` may have been taken by then.
    first: Option<(PathBuf, String)>,
    fresh: Vec<(PathBuf, String)>,
    /// Files that could not be read once.
    unread: HashSet<PathBuf>,
    /// How many of them were told.
    told: usize,
    /// The first of these that was not told yet, and why.
    fresh_unread: Option<(PathBuf, String)>,
}

impl SkipLog {
    /// Once for all tiles of a file.
    fn skip(&mut self, name: PathBuf, why: String) {
        if self.names.insert(name.clone()) {
            self.first
                .get_or_insert_with(|| (name.clone(), why.clone()));
            self.fresh.push((name, why));
        }
    }

    fn put_off(&mut self, name: &Path, why: &str) {
        if !self.unread.insert(name.to_path_buf()) {
            return;
        }
        let first = || (name.to_path_buf(), why.to_owned());
        self.fresh_unread.get_or_insert_with(first);
    }

    /// What is new. Those that are read again have one line, when there are twice as many as in the one before: a share that is away, or
    /// fails now and then, would have thousands.
    fn take(&mut self) -> Vec<(PathBuf, String)> {
        let mut fresh = std::mem::take(&mut self.fresh);
        let count = self.unread.len();
        if let Some((name, why)) = (self.fresh_unread).take_if(|_| count >= 2 * self.told) {
            let which = match count - 1 {
                0 => "it is".to_owned(),
                others => format!("it and {} are", counted(others, "other file")),
            };
            self.told = count;
            fresh.push((name, format!("{why}; {which} read again in the next epoch")));
        }
        fresh
    }
}

/// What a look at an image gives.
enum Look {
    Image(Arc<RgbImage>),
    /// It is damaged or gone.
    Unusable,
    /// It could not be read this time: its name, and why.
    Unread(PathBuf, String),
}

impl Images {
    /// Keeps decoded images in memory if all of them take at most `cache_bytes`.
    pub fn new(source: Arc<dyn ImageSource>, cache_bytes: u64) -> Self {
        let count = source.len();
        let is_small = source.decoded_bytes() <= cache_bytes;
        Self {
            cache: is_small.then(|| (0..count).map(|_| OnceLock::new()).collect()),
            unusable: RwLock::default(),
            log: Mutex::default(),
            put_off: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            source,
        }
    }

    pub fn source(&self) -> &dyn ImageSource {
        &*self.source
    }

    /// Ends all waits for a disk or server.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Bytes of image `index` while it is decoded. None where images are kept, which have a bound of their own.
    pub fn decoding_bytes(&self, index: usize) -> usize {
        match self.cache {
            Some(_) => 0,
            None => usize::try_from(self.source.image_bytes(index)).unwrap_or(usize::MAX),
        }
    }

    /// Image `index`; None if it cannot be read, tried again for a moment where that may pass.
    ///
    /// # Errors
    /// The server of the images fails; [`Error::Stopped`].
    pub fn get(&self, index: usize) -> Result<Option<Arc<RgbImage>>> {
        for failed in 1..=TRIES {
            match self.look(index)? {
                Look::Image(image) => return Ok(Some(image)),
                Look::Unusable => break,
                Look::Unread(name, why) if failed == TRIES => lock(&self.log).skip(name, why),
                Look::Unread(..) => self.pause(failed)?,
            }
        }
        Ok(None)
    }

    fn look(&self, index: usize) -> Result<Look> {
        let place = self.cache.as_ref().map(|cache| &cache[index]);
        if let Some(image) = place.and_then(OnceLock::get) {
            return Ok(Look::Image(image.clone()));
        }
        let unusable = self.unusable.read().unwrap_or_else(PoisonError::into_inner);
        if unusable.contains(&index) {
            return Ok(Look::Unusable);
        }
        drop(unusable);
        let decoded = self.source.decode(index).and_then(|image| {
            if image.is_empty() {
                return Err(Error::data(self.source.name(index), "it has no pixels"));
            }
            Ok(Arc::new(image))
        });
        match decoded {
            Ok(image) => {
                if let Some(place) = place {
                    // another worker may have stored the same image first
                    let _ = place.set(image.clone());
                }
                Ok(Look::Image(image))
            }
            Err(error) => {
                let (name, why) = (self.source.name(index), reason(&error));
                check_server(&name)?;
                if may_pass(&error) {
                    return Ok(Look::Unread(name, why));
                }
                let unusable = self.unusable.write();
                if unusable
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(index)
                {
                    lock(&self.log).skip(name, why);
                }
                Ok(Look::Unusable)
            }
        }
    }

    /// Image `sample` or, if it cannot be read, one that is drawn in its place in this epoch; and its index.
    ///
    /// # Errors
    /// The server of the images fails; a minute of reads that fail; no image is usable; [`Error::Stopped`].
    pub fn get_or_another(
        &self,
        sample: usize,
        seed: u64,
        epoch: u64,
    ) -> Result<(usize, Arc<RgbImage>)> {
        let (mut failed, mut since) = (0, None);
        let stand_ins = std::iter::once_with(|| self.stand_ins(sample, seed, epoch)).flatten();
        for index in self.own(sample, epoch).into_iter().chain(stand_ins) {
            match self.look(index)? {
                Look::Image(image) => return Ok((index, image)),
                Look::Unusable => {}
                Look::Unread(name, why) => {
                    lock(&self.log).put_off(&name, &why);
                    self.put_off_file(index, epoch);
                    failed += 1;
                    let since = *since.get_or_insert_with(Instant::now);
                    // the time of one read alone says nothing of the others
                    if failed == PATIENCE || failed > 2 && since.elapsed() >= MOST_WAIT {
                        let name = printable(name);
                        return Err(Error::Loader(format!(
                            "{failed} images in a row could not be read, the last one: {name}: {why}"
                        )));
                    }
                    self.pause(failed)?;
                }
            }
        }
        Err(self.none_usable())
    }

    /// `sample`, unless it is a tile of a file that could not be read in this epoch: each of its tiles would wait for it again.
    fn own(&self, sample: usize, epoch: u64) -> Option<usize> {
        let file = self.source.of_one_file(sample);
        let has_failed = file.len() > 1 && lock(&self.put_off).get(&file.start) == Some(&epoch);
        (!has_failed).then_some(sample)
    }

    fn put_off_file(&self, index: usize, epoch: u64) {
        let file = self.source.of_one_file(index);
        if file.len() > 1 {
            lock(&self.put_off).insert(file.start, epoch);
        }
    }

    /// Images to try in the place of `sample`: some that are drawn, so that no neighbor gets the weight of a folder of damaged
    /// ones, then all.
    fn stand_ins(&self, sample: usize, seed: u64, epoch: u64) -> impl Iterator<Item = usize> + '_ {
        let count = self.source.len();
        let own = self.source.of_one_file(sample);
        let mut random = Random::new(seed, epoch, own.start as u64, Stream::StandIn);
        let first = random.below(count);
        // the tiles of a file get theirs of the same file, which is decoded once for all of them
        let drawn = (0..DRAWS).map(move |_| {
            let file = self.source.of_one_file(random.below(count));
            file.start + (sample - own.start) % file.len().max(1)
        });
        drawn.chain(first..count).chain(0..first)
    }

    /// Waits after so many reads that failed.
    fn pause(&self, failed: usize) -> Result<()> {
        let Some(pause) = pause_after(failed) else {
            return Ok(());
        };
        let started = Instant::now();
        while started.elapsed() < pause {
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            std::thread::sleep(LOOK.min(pause));
        }
        Ok(())
    }

    pub fn none_usable(&self) -> Error {
        let log = lock(&self.log);
        none_usable(self.source.len(), log.first.as_ref())
    }

    /// How many files are damaged or gone, so far; of a loader that looks at each image once, also those that could not be read.
    pub fn skipped(&self) -> usize {
        lock(&self.log).names.len()
    }

    /// The images that are damaged or gone, and why, since the last call; and in one entry those that are read again later.
    pub fn take_skipped(&self) -> Vec<(PathBuf, String)> {
        lock(&self.log).take()
    }
}

/// The error of images of which none could be decoded; `first` is one, and why.
pub(crate) fn none_usable(images: usize, first: Option<&(PathBuf, String)>) -> Error {
    let first = first.map(|(path, reason)| format!("; the first: {}: {reason}", printable(path)));
    Error::Loader(format!(
        "none of the {images} images could be decoded{}",
        first.unwrap_or_default()
    ))
}
