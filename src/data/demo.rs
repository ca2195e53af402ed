//! The demo data set: twelve classes of procedural shapes and textures, made on first use and kept in a cache folder.
//!
//! The class is the motif alone: tint, contrast, which of figure and ground is the brighter, light from one side,
//! noise, place, size and tilt are drawn without a look at it, see `image.rs`.

mod motif;

use std::fs;
use std::path::{Path, PathBuf};

use crate::data::storage::cache_folder::cache_folder;
use crate::error::{Error, Result};
use crate::unfinished::unique_digits;
use motif::{CLASSES, Split, image};

/// Written last: a set without it, or with another text in it, is not complete.
const MARKER: &str = "ibot-demo.txt";
/// Counts up whenever an image changes.
const VERSION: u32 = 1;

/// Where the demo's images are; both folders hold one folder per class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoSet {
    /// Images to train on, and the bank of k-NN.
    pub train: PathBuf,
    /// Images to test with, none of them in `train`.
    pub test: PathBuf,
    /// Number of classes.
    pub classes: usize,
}

/// Makes the demo's images in the folder `cache`, or finds them there: `<cache>/train/<class>/<nnnn>.png` and
/// `<cache>/test/...`, 40 x 40 pixels.
///
/// The same counts give the same images on every machine. A set that is half-written, or of other counts, is made
/// again; it appears under its name only when complete.
///
/// # Errors
/// `cache` cannot be written, or it holds something else than a demo set, which is left alone.
pub fn ensure_demo_set(
    cache: &Path,
    train_per_class: usize,
    test_per_class: usize,
) -> Result<DemoSet> {
    for (key, count) in [
        ("train_per_class", train_per_class),
        ("test_per_class", test_per_class),
    ] {
        if !(1..=9999).contains(&count) {
            return Err(Error::config(key, count, "give a number from 1 to 9999"));
        }
    }
    let counts = [
        (Split::Train, train_per_class),
        (Split::Test, test_per_class),
    ];
    let marker = marker_text(counts);
    if !is_complete(cache, counts, &marker) {
        make(cache, counts, &marker)?;
    }
    Ok(set_in(cache))
}

/// Number of classes of a demo set.
pub const DEMO_CLASSES: usize = CLASSES.len();

/// The set that [`ensure_demo_set`] would find in the folder `cache`; none if it would make it.
pub fn find_demo_set(
    cache: &Path,
    train_per_class: usize,
    test_per_class: usize,
) -> Option<DemoSet> {
    let counts = [
        (Split::Train, train_per_class),
        (Split::Test, test_per_class),
    ];
    is_complete(cache, counts, &marker_text(counts)).then(|| set_in(cache))
}

fn set_in(cache: &Path) -> DemoSet {
    DemoSet {
        train: cache.join(folder(Split::Train)),
        test: cache.join(folder(Split::Test)),
        classes: DEMO_CLASSES,
    }
}

/// Default place of the demo set: a folder `ibot/demo` in the user's cache folder; without one,
/// `ibot-NUMBER/demo` among the temporary files, with the user's number.
///
/// # Errors
/// The folder among the temporary files cannot be made, or others may write in it.
pub fn default_cache_dir() -> Result<PathBuf> {
    Ok(cache_folder()?.join("demo"))
}

type Counts = [(Split, usize); 2];

fn folder(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "test",
    }
}

fn marker_text([(_, train), (_, test)]: Counts) -> String {
    // part of the file format: another text would make every existing set again
    format!("ibot demo set, version {VERSION}: {train} train and {test} test pictures per class\n")
}

/// Whether `cache` holds the set that `marker` names, with no image lost since.
fn is_complete(cache: &Path, counts: Counts, marker: &str) -> bool {
    let images = |split, name| match fs::read_dir(cache.join(folder(split)).join(name)) {
        Ok(entries) => entries.count(),
        Err(_) => 0,
    };
    fs::read_to_string(cache.join(MARKER)).is_ok_and(|text| text == marker)
        && counts
            .into_iter()
            .all(|(split, count)| CLASSES.iter().all(|(name, _)| images(split, name) == count))
}

/// Writes the set next to `cache`, then renames it into place.
fn make(cache: &Path, counts: Counts, marker: &str) -> Result<()> {
    refuse_foreign(cache)?;
    let fresh = sibling(cache)?;
    let made = write(&fresh, counts, marker).and_then(|()| install(&fresh, cache));
    if made.is_err() {
        // this error matters more than a failure to clean up after it
        let _ = fs::remove_dir_all(&fresh);
        // Another process may have made the same set meanwhile.
        if is_complete(cache, counts, marker) {
            return Ok(());
        }
    }
    made
}

/// A new folder name next to `cache` that no other process takes.
fn sibling(cache: &Path) -> Result<PathBuf> {
    let Some(name) = cache.file_name() else {
        return Err(Error::data(
            cache,
            "is not a folder name; choose a folder for the demo set",
        ));
    };
    let mut name = name.to_os_string();
    let digits = unique_digits().map_err(Error::io(cache))?;
    name.push(format!(".partial-{digits}"));
    Ok(cache.with_file_name(name))
}

fn write(fresh: &Path, counts: Counts, marker: &str) -> Result<()> {
    for (split, count) in counts {
        for (class, (name, motif)) in CLASSES.into_iter().enumerate() {
            let place = fresh.join(folder(split)).join(name);
            fs::create_dir_all(&place).map_err(Error::io(&place))?;
            for number in 0..count {
                let path = place.join(format!("{number:04}.png"));
                image(motif, class, split, number)
                    .save(&path)
                    .map_err(|error| match error {
                        image::ImageError::IoError(source) => Error::io(&path)(source),
                        other => Error::data(&path, other.to_string()),
                    })?;
            }
        }
    }
    let path = fresh.join(MARKER);
    fs::write(&path, marker).map_err(Error::io(&path))
}

/// Puts the finished set in the place of whatever `refuse_foreign` let pass.
fn install(fresh: &Path, cache: &Path) -> Result<()> {
    if cache.exists() {
        fs::remove_dir_all(cache).map_err(Error::io(cache))?;
    }
    fs::rename(fresh, cache).map_err(Error::io(cache))
}

/// An error if `cache` holds anything that is not a demo set's, so that making the set never deletes other files.
fn refuse_foreign(cache: &Path) -> Result<()> {
    if !cache.exists() {
        return Ok(());
    }
    let foreign = |path: &Path| {
        Error::data(
            path,
            "is not part of a demo set; choose an empty or new folder for the demo set",
        )
    };
    let is_class = |name: &str| CLASSES.iter().any(|(class, _)| *class == name);
    for (name, entry) in entries(cache)? {
        match name.as_str() {
            MARKER => {}
            "train" | "test" => {
                for (class, path) in entries(&entry)? {
                    if !is_class(&class) {
                        return Err(foreign(&path));
                    }
                }
            }
            _ => return Err(foreign(&entry)),
        }
    }
    Ok(())
}

/// Names and paths of what a folder holds.
fn entries(place: &Path) -> Result<Vec<(String, PathBuf)>> {
    fs::read_dir(place)
        .map_err(Error::io(place))?
        .map(|entry| {
            let entry = entry.map_err(Error::io(place))?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("ibot-demo-test-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn set(&self) -> PathBuf {
            self.0.join("set")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_class_is_made_twice_the_same() {
        let [one, two] = ["one", "two"].map(Scratch::new);
        let set = ensure_demo_set(&one.set(), 2, 1).unwrap();
        ensure_demo_set(&two.set(), 2, 1).unwrap();
        assert_eq!(set.classes, CLASSES.len());
        for (split, count) in [("train", 2), ("test", 1)] {
            assert_eq!(
                fs::read_dir(one.set().join(split)).unwrap().count(),
                set.classes
            );
            for (name, _) in CLASSES {
                for number in 0..count {
                    let path = Path::new(split).join(name).join(format!("{number:04}.png"));
                    let bytes = [&one, &two].map(|made| fs::read(made.set().join(&path)).unwrap());
                    assert_eq!(bytes[0], bytes[1], "{}", path.display());
                }
            }
        }
        assert_eq!(
            fs::read_dir(&one.0).unwrap().count(),
            1,
            "nothing is left beside the set"
        );
    }

    #[test]
    fn a_complete_set_is_kept_and_a_broken_one_made_again() {
        let scratch = Scratch::new("again");
        let set = ensure_demo_set(&scratch.set(), 2, 1).unwrap();
        let first = set.train.join("disc").join("0000.png");
        let good = fs::read(&first).unwrap();
        fs::write(&first, "touched").unwrap();
        ensure_demo_set(&scratch.set(), 2, 1).unwrap();
        assert_eq!(
            fs::read(&first).unwrap(),
            b"touched",
            "a complete set is left alone"
        );

        fs::remove_file(scratch.set().join(MARKER)).unwrap();
        ensure_demo_set(&scratch.set(), 2, 1).unwrap();
        assert_eq!(
            fs::read(&first).unwrap(),
            good,
            "without its marker it is made again"
        );

        let lost = set.test.join("rings").join("0000.png");
        fs::remove_file(&lost).unwrap();
        ensure_demo_set(&scratch.set(), 2, 1).unwrap();
        assert!(lost.exists(), "a lost image comes back");

        ensure_demo_set(&scratch.set(), 1, 2).unwrap();
        assert_eq!(
            fs::read_dir(set.test.join("rings")).unwrap().count(),
            2,
            "other counts"
        );
    }

    #[test]
    fn other_files_are_never_deleted() {
        let scratch = Scratch::new("foreign");
        let class = scratch.set().join("train").join("cats");
        fs::create_dir_all(&class).unwrap();
        assert!(matches!(
            ensure_demo_set(&scratch.set(), 1, 1),
            Err(Error::Data { .. })
        ));
        assert!(class.exists());
        assert!(ensure_demo_set(&scratch.set(), 0, 1).is_err());
    }
}
