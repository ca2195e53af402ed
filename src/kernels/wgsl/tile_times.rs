//! The file with the fastest tile of each class of products, one for an adapter and its driver.
//!
//! `$HF_HOME/ibot/tiles-ADAPTER-API-DRIVER.json`, beside the models of the Hugging Face hub; without `HF_HOME` it is
//! `~/.cache/huggingface/ibot`. A file that cannot be read, of another driver or of other kernels is made anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::device::AdapterSummary;
use crate::error::{Error, Result, printable};
use crate::unfinished::unique_digits;

/// Bytes of a file, at most: a class takes some hundred, and a model has some dozen.
const MAX_BYTES: u64 = 1 << 20;

/// What the times depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    ibot: String,
    /// Of the kernels' text.
    kernels: String,
    adapter: String,
    /// Vendor and model number.
    id: String,
    api: String,
    driver: String,
    driver_version: String,
}

impl Origin {
    pub fn new(adapter: &AdapterSummary, kernels: String) -> Self {
        Self {
            ibot: env!("CARGO_PKG_VERSION").to_owned(),
            kernels,
            adapter: adapter.name.clone(),
            id: adapter.id.clone(),
            api: adapter.api.to_string(),
            driver: adapter.driver.clone(),
            driver_version: adapter.driver_info.clone(),
        }
    }

    fn file_name(&self) -> String {
        let word = |text: &str| -> String {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            text.chars().take(60).map(plain).collect()
        };
        let words = [&self.adapter, &self.api, &self.driver].map(|text| word(text));
        format!("tiles-{}.json", words.join("-"))
    }
}

/// What was found for a class of products.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Timed {
    /// The tile to take.
    pub tile: String,
    /// Of one product with each tile; empty where there was no time to find out.
    pub milliseconds: BTreeMap<String, f64>,
    /// Processes that tried.
    pub tries: u32,
}

impl Timed {
    /// Whether no process is to try again: where the kernels take too long to compile, the driver may keep them for the second
    /// one, but not all do.
    pub fn is_final(&self) -> bool {
        !self.milliseconds.is_empty() || self.tries >= 2
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    made_for: Origin,
    products: BTreeMap<String, Timed>,
}

/// The times of one adapter, those in its file among them.
#[derive(Debug)]
pub(super) struct TileTimes {
    origin: Origin,
    /// None where there is no folder for it.
    path: Option<PathBuf>,
    products: BTreeMap<String, Timed>,
}

impl TileTimes {
    /// With what the file holds; a file that is no good is warned of.
    pub fn open(folder: Option<&Path>, origin: Origin) -> Self {
        let path = folder.map(|folder| folder.join(origin.file_name()));
        let products = path.as_deref().map(|path| read(path, &origin));
        let products = products.unwrap_or_else(|| Ok(BTreeMap::new()));
        let products = products.unwrap_or_else(|reason| {
            let path = path.as_deref().map(printable);
            log::warn!(
                "{} {reason}: products are timed again, and it is made anew",
                path.unwrap_or_default()
            );
            BTreeMap::new()
        });
        Self {
            origin,
            path,
            products,
        }
    }

    pub fn get(&self, class: &str) -> Option<&Timed> {
        self.products.get(class)
    }

    /// Keeps what was found, in the file too. Another process's entries stay, but for those of this class.
    ///
    /// # Errors
    /// [`Error::Io`]; the entry is kept in memory.
    pub fn keep(&mut self, class: String, timed: Timed) -> Result<()> {
        self.products.insert(class, timed);
        let Some(path) = &self.path else {
            return Ok(());
        };
        // what is no good has been warned of
        for (class, timed) in read(path, &self.origin).unwrap_or_default() {
            self.products.entry(class).or_insert(timed);
        }
        let content = Content {
            made_for: self.origin.clone(),
            products: self.products.clone(),
        };
        write(path, &content)
    }
}

/// The folder of the times of products, one file for each GPU; none where the system names no home.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let of_hub = std::env::var_os("HF_HOME").map(PathBuf::from);
    let of_user = || Some(std::env::home_dir()?.join(".cache").join("huggingface"));
    Some(of_hub.or_else(of_user)?.join("ibot"))
}

/// The entries; none where there is no file. What is wrong with it otherwise, as the end of a sentence.
fn read(path: &Path, origin: &Origin) -> std::result::Result<BTreeMap<String, Timed>, String> {
    let mut text = String::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("cannot be read ({error})")),
    };
    let read = file.take(MAX_BYTES).read_to_string(&mut text);
    read.map_err(|error| format!("cannot be read ({error})"))?;
    let content: Content = serde_json::from_str(&text)
        .map_err(|error| format!("is no file of ibot's times ({error})"))?;
    if content.made_for != *origin {
        return Err("is of another driver or version".to_owned());
    }
    Ok(content.products)
}

/// Under a name that no other process takes, then under its own: readers find a whole file. It is not synced; what a
/// crash leaves of it is made anew.
fn write(path: &Path, content: &Content) -> Result<()> {
    let failed = Error::io(path);
    let text = serde_json::to_string_pretty(content);
    let text = text.map_err(std::io::Error::other);
    let written = text.and_then(|text| {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let temporary = path.with_extension(format!("{}.tmp", unique_digits()?));
        let written = fs::write(&temporary, text + "\n");
        let written = written.and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    });
    written.map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn origin(driver_version: &str) -> Origin {
        let word = |text: &str| text.to_owned();
        Origin {
            ibot: word("0.1.0"),
            kernels: word("of a test"),
            adapter: word("A/B (C)"),
            id: word("10de:0000"),
            api: word("Vulkan"),
            driver: word("D"),
            driver_version: driver_version.to_owned(),
        }
    }

    fn timed(tile: &str) -> Timed {
        Timed {
            tile: tile.to_owned(),
            milliseconds: BTreeMap::from([(tile.to_owned(), 1.5)]),
            tries: 1,
        }
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("ibot-times-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn open(&self, driver_version: &str) -> TileTimes {
            TileTimes::open(Some(&self.0.join("made")), origin(driver_version))
        }

        fn file(&self) -> PathBuf {
            self.0.join("made").join("tiles-A_B__C_-Vulkan-D.json")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_one_process_keeps_the_next_one_finds() {
        let folder = Folder::new("kept");
        let [mut first, mut second] = [folder.open("1"), folder.open("1")];
        first.keep("a".into(), timed("64x64")).unwrap();
        second.keep("b".into(), timed("128x64")).unwrap();
        second.keep("a".into(), timed("128x128")).unwrap();
        let third = folder.open("1");
        assert_eq!(third.get("a"), Some(&timed("128x128")));
        assert_eq!(third.get("b"), Some(&timed("128x64")));
        assert_eq!(third.get("c"), None);
        // nothing is left beside it
        let left = fs::read_dir(folder.file().parent().unwrap()).unwrap();
        assert_eq!(left.count(), 1);
    }

    #[test]
    fn what_is_no_good_is_made_anew() {
        let folder = Folder::new("anew");
        let keep = |driver| folder.open(driver).keep("a".into(), timed("64x64"));
        keep("1").unwrap();
        assert_eq!(folder.open("2").get("a"), None);
        for broken in [&b"{\"made_for\": "[..], b"", b"[]", b"\xff\xfe", b"{}"] {
            fs::write(folder.file(), broken).unwrap();
            assert_eq!(folder.open("2").get("a"), None);
            keep("2").unwrap();
            assert_eq!(folder.open("2").get("a"), Some(&timed("64x64")));
        }
        fs::write(folder.file(), vec![b' '; 2 << 20]).unwrap();
        assert_eq!(folder.open("2").get("a"), None);
    }

    #[test]
    fn without_a_place_to_write_it_is_kept_in_memory() {
        let folder = Folder::new("nowhere");
        let mut times = TileTimes::open(None, origin("1"));
        times.keep("a".into(), timed("64x64")).unwrap();
        assert_eq!(times.get("a"), Some(&timed("64x64")));
        fs::create_dir_all(&folder.0).unwrap();
        fs::write(folder.0.join("made"), "no folder").unwrap();
        let mut times = folder.open("1");
        assert!(times.keep("a".into(), timed("64x64")).is_err());
        assert_eq!(times.get("a"), Some(&timed("64x64")));
    }

    #[test]
    fn processes_that_write_at_once_leave_a_whole_file() {
        let folder = Folder::new("at-once");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let folder = &folder;
                scope.spawn(move || {
                    for round in 0..20 {
                        let mut times = folder.open("1");
                        times
                            .keep(format!("{writer} {round}"), timed("64x64"))
                            .unwrap();
                        assert!(folder.open("1").get("no such class").is_none());
                        assert!(read(&folder.file(), &origin("1")).is_ok());
                    }
                });
            }
        });
        assert!(!folder.open("1").products.is_empty());
    }
}
