//! Large images reduced, and kept from one epoch to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ibot::data::{FolderConfig, ImageFolder, ImageSource as _};
use image::{Rgb, RgbImage};

use crate::TempFolder;

/// What an image is filled with, but for a gradient that reducing has something to do with.
fn write(path: &Path, [width, height]: [u32; 2], fill: u8) {
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([fill, x as u8, y as u8]));
    image.save(path).unwrap();
}

/// Two large images and a small one.
fn images() -> TempFolder {
    let folder = TempFolder::new();
    write(&folder.0.join("a.png"), [120, 90], 10);
    write(&folder.0.join("b.png"), [60, 200], 200);
    write(&folder.0.join("c.png"), [30, 40], 90);
    folder
}

fn config(cache: Option<&TempFolder>) -> FolderConfig {
    FolderConfig {
        shorter_side: Some(30),
        cache: cache.map(|folder| folder.0.clone()),
        ..FolderConfig::default()
    }
}

fn decoded(folder: &TempFolder, config: &FolderConfig) -> Vec<RgbImage> {
    let folder = ImageFolder::scan(&folder.0, config).unwrap();
    (0..folder.len())
        .map(|at| folder.decode(at).unwrap())
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn large_images_are_reduced_and_small_ones_stay() {
    let folder = images();
    let found = decoded(&folder, &config(None));
    let sizes: Vec<_> = found.iter().map(RgbImage::dimensions).collect();
    assert_eq!(sizes, [(40, 30), (30, 100), (30, 40)]);
    assert_eq!(found[2], decoded(&folder, &FolderConfig::default())[2]);
    assert_eq!(found[1].get_pixel(15, 50).0[0], 200);
    let scanned = ImageFolder::scan(&folder.0, &config(None)).unwrap();
    assert_eq!(scanned.decoded_bytes(), 3 * (40 * 30 + 30 * 100 + 30 * 40));
}

#[test]
fn the_cache_gives_the_same_bits_without_decoding() {
    let (folder, cache) = (images(), TempFolder::new());
    let without = decoded(&folder, &config(None));
    assert_eq!(decoded(&folder, &config(Some(&cache))), without, "cold");
    let entries = files(&cache.0);
    assert_eq!(entries.len(), 2, "the small image needs none: {entries:?}");
    // The same length and time, and no image any more: only the cache can give it.
    let path = folder.0.join("a.png");
    let metadata = fs::metadata(&path).unwrap();
    let scanned = ImageFolder::scan(&folder.0, &config(Some(&cache))).unwrap();
    fs::write(&path, vec![0; metadata.len() as usize]).unwrap();
    set_modified(&path, metadata.modified().unwrap());
    assert_eq!(scanned.decode(0).unwrap(), without[0], "warm");
    assert_eq!(files(&cache.0), entries);
}

fn set_modified(path: &Path, time: SystemTime) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn another_version_of_a_file_takes_the_place_of_the_old_one() {
    let (folder, cache) = (images(), TempFolder::new());
    decoded(&folder, &config(Some(&cache)));
    let path = folder.0.join("a.png");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    write(&path, [120, 90], 77);
    set_modified(&path, modified + Duration::from_secs(5));
    let found = decoded(&folder, &config(Some(&cache)));
    assert_eq!(found, decoded(&folder, &config(None)));
    assert_eq!(found[0].get_pixel(20, 15).0[0], 77);
    assert_eq!(files(&cache.0).len(), 2, "one entry an image");
}

#[test]
fn a_damaged_entry_is_made_anew() {
    let (folder, cache) = (images(), TempFolder::new());
    let sound = decoded(&folder, &config(Some(&cache)));
    let entries = files(&cache.0);
    let contents: Vec<_> = entries
        .iter()
        .map(|entry| fs::read(entry).unwrap())
        .collect();
    let damages: [fn(&mut Vec<u8>); 6] = [
        |bytes| bytes[100] ^= 1,
        |bytes| bytes[9] ^= 1,
        |bytes| bytes[39] = 255, // its height, in thousands of millions
        |bytes| bytes.truncate(80),
        |bytes| bytes.truncate(5),
        |bytes| bytes.push(0),
    ];
    for (number, damage) in damages.iter().enumerate() {
        for (entry, bytes) in entries.iter().zip(&contents) {
            let mut bytes = bytes.clone();
            damage(&mut bytes);
            fs::write(entry, bytes).unwrap();
        }
        assert_eq!(decoded(&folder, &config(Some(&cache))), sound, "{number}");
        for (entry, bytes) in entries.iter().zip(&contents) {
            assert_eq!(&fs::read(entry).unwrap(), bytes, "{number}");
        }
    }
}

/// BMPs of one size and time, as an archive gives them: nothing but their path tells their entries apart.
fn alike(fills: std::ops::Range<u8>) -> TempFolder {
    let folder = TempFolder::new();
    for fill in fills {
        let path = folder.0.join(format!("{fill:03}.bmp"));
        write(&path, [100, 80], fill);
        set_modified(&path, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30));
    }
    folder
}

fn fills(images: &[RgbImage]) -> Vec<u8> {
    images.iter().map(|p| p.get_pixel(5, 5).0[0]).collect()
}

#[test]
fn an_entry_is_of_one_path() {
    let (folder, cache) = (alike(0..2), TempFolder::new());
    let config = config(Some(&cache));
    let sound = decoded(&folder, &config);
    assert_eq!(fills(&sound), [0, 1]);
    let entries = files(&cache.0);
    let read = || entries.iter().map(|entry| fs::read(entry).unwrap());
    let contents: Vec<Vec<u8>> = read().collect();
    for (entry, bytes) in entries.iter().zip(contents.iter().rev()) {
        fs::write(entry, bytes).unwrap();
    }
    assert_eq!(decoded(&folder, &config), sound);
    assert!(read().eq(contents), "each is made anew");
}

/// Two writers with one process number, as in two containers: each image stays its own.
#[test]
fn writers_of_one_process_number_do_not_meet() {
    let cache = TempFolder::new();
    let config = config(Some(&cache));
    let folders = [alike(0..60), alike(100..160)];
    for _ in 0..5 {
        files(&cache.0)
            .iter()
            .for_each(|entry| fs::remove_file(entry).unwrap());
        std::thread::scope(|scope| {
            for folder in &folders {
                scope.spawn(|| decoded(folder, &config));
            }
        });
        assert_eq!(files(&cache.0).len(), 120, "an entry an image, no other");
        // no image any more: only the cache can give them
        for (folder, first) in folders.iter().zip([0, 100]) {
            let expected: Vec<u8> = (first..first + 60).collect();
            assert_eq!(fills(&from_cache_alone(folder, &config)), expected);
        }
    }
}

/// What the cache holds of images whose files are unreadable for that long.
fn from_cache_alone(folder: &TempFolder, config: &FolderConfig) -> Vec<RgbImage> {
    let scanned = ImageFolder::scan(&folder.0, config).unwrap();
    let paths: Vec<PathBuf> = (0..scanned.len()).map(|at| scanned.name(at)).collect();
    let contents: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let rewrite = |path: &PathBuf, bytes: &[u8]| {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        fs::write(path, bytes).unwrap();
        set_modified(path, modified);
    };
    for (path, bytes) in paths.iter().zip(&contents) {
        rewrite(path, &vec![0; bytes.len()]);
    }
    let found = (0..paths.len()).map(|at| scanned.decode(at).unwrap());
    let found = found.collect();
    for (path, bytes) in paths.iter().zip(&contents) {
        rewrite(path, bytes);
    }
    found
}

/// Images of which two fit a MiB of the cache: reduced, they have 3 x 350 x 438 bytes.
fn two_a_mib(images: u8, cache_mib: u64) -> (TempFolder, TempFolder, FolderConfig) {
    let (folder, cache) = (TempFolder::new(), TempFolder::new());
    for at in 0..images {
        write(&folder.0.join(format!("{at}.png")), [500, 400], at);
    }
    let config = FolderConfig {
        shorter_side: Some(350),
        cache_mib,
        ..config(Some(&cache))
    };
    (folder, cache, config)
}

#[test]
fn a_full_cache_takes_no_more_and_changes_nothing() {
    let (folder, cache, config) = two_a_mib(4, 1);
    let without = FolderConfig {
        cache: None,
        ..config.clone()
    };
    for _ in 0..2 {
        assert_eq!(decoded(&folder, &config), decoded(&folder, &without));
        assert_eq!(files(&cache.0).len(), 2);
    }
}

/// None of several processes sees what the others write: each takes its part of what is free, so that all keep the bound.
#[test]
fn ranks_share_the_bound_of_a_cache() {
    let (folder, cache, config) = two_a_mib(8, 2);
    let scan = || {
        let found = ImageFolder::scan(&folder.0, &config).unwrap();
        found.with_cache_shared_by(2)
    };
    let ranks = [scan(), scan()];
    for at in 0..8 {
        ranks[at % 2].decode(at).unwrap();
    }
    assert_eq!(files(&cache.0).len(), 4);
}

#[test]
fn a_cache_that_cannot_work_is_refused_by_name() {
    let folder = images();
    let refused = |config: FolderConfig| {
        let failed = ImageFolder::scan(&folder.0, &config).unwrap_err();
        failed.to_string()
    };
    let inside = refused(FolderConfig {
        cache: Some(folder.0.join("cache")),
        ..config(None)
    });
    assert!(
        inside.contains("folder.cache") && inside.contains("is inside the image folder"),
        "{inside}"
    );
    let alone = refused(FolderConfig {
        cache: Some(std::env::temp_dir()),
        ..FolderConfig::default()
    });
    assert!(alone.contains("needs folder.shorter_side"), "{alone}");
    let none = refused(FolderConfig {
        shorter_side: Some(0),
        ..FolderConfig::default()
    });
    assert!(none.contains("folder.shorter_side = 0"), "{none}");
    let elsewhere = TempFolder::new();
    let file = refused(FolderConfig {
        cache: Some(elsewhere.write("file", "no folder")),
        ..config(None)
    });
    assert!(file.contains("file"), "{file}");
}
