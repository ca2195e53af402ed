//! Folders that are out to break a scan, or have more files than anyone looks at.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ibot::data::{FolderConfig, ImageFolder, ImageSource};

use super::memory::peak_of;
use super::{TempFolder, fixture};

pub fn scan(folder: &TempFolder) -> ImageFolder {
    ImageFolder::scan(&folder.0, &FolderConfig::default()).unwrap()
}

/// Paths relative to the folder, with `/`.
pub fn names(folder: &TempFolder, images: &ImageFolder) -> Vec<String> {
    let name = |index| relative(folder, &images.name(index));
    (0..images.len()).map(name).collect()
}

fn relative(folder: &TempFolder, path: &Path) -> String {
    let path = path.strip_prefix(&folder.0).unwrap();
    path.to_string_lossy().replace('\\', "/")
}

/// `path: reason` of everything that was skipped, sorted.
pub fn lines(folder: &TempFolder, skipped: &[(PathBuf, String)]) -> Vec<String> {
    let line = |(path, reason): &(PathBuf, String)| format!("{}: {reason}", relative(folder, path));
    let mut lines: Vec<String> = skipped.iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn content_decides_whatever_the_name_says() {
    let folder = TempFolder::new();
    folder.write("a/notes.txt", "# not an image\n");
    folder.write("a/text.png", "# not an image\n");
    folder.write("a/empty.png", "");
    folder.write("a/half_a_magic.png", [0x89, b'P', b'N']);
    folder.copy("a/png.jpg", "rgb.png");
    folder.copy("a/jpg.gif", "rgb.jpg");
    folder.copy("a/no_ending", "rgb.bmp");
    folder.copy("a/x.png/inside.webp", "rgb.webp");
    fs::create_dir_all(folder.0.join("a/nothing inside.png")).unwrap();
    let images = scan(&folder);
    let expected = [
        "a/jpg.gif",
        "a/no_ending",
        "a/png.jpg",
        "a/x.png/inside.webp",
    ];
    assert_eq!(names(&folder, &images), expected);
    for index in 0..images.len() {
        assert_eq!(images.decode(index).unwrap().dimensions(), (32, 16));
    }
    let summary = images.summary();
    assert_eq!((summary.not_images, summary.skipped.len()), (1, 3));
    let kinds: Vec<_> = summary
        .kinds
        .iter()
        .map(|(kind, count)| (kind.as_str(), *count))
        .collect();
    assert_eq!(kinds, [("bmp", 1), ("jpeg", 1), ("png", 1), ("webp", 1)]);
}

/// Scans `folders` folders of 1000 files each: 898 images, 100 empty files, a truncated one and a bomb.
fn scan_many(folders: usize) {
    let folder = TempFolder::new();
    let png = fs::read(fixture("rgb.png")).unwrap();
    let pieces: [(&str, &[u8], usize); 4] = [
        ("image.png", &png, 898),
        ("empty.txt", &[], 100),
        ("cut.png", &png[..20], 1),
        ("bomb.png", &fs::read(fixture("bomb.png")).unwrap(), 1),
    ];
    for class in 0..folders {
        for (name, bytes, count) in pieces {
            // Links are faster than files, and a file may have some thousands.
            let first = folder.write(&format!("class {class:03}/0 {name}"), bytes);
            for number in 1..count {
                fs::hard_link(&first, first.with_file_name(format!("{number} {name}"))).unwrap();
            }
        }
    }
    let start = Instant::now();
    let (images, peak) = peak_of(|| scan(&folder));
    let elapsed = start.elapsed();
    let summary = images.summary();
    assert_eq!(
        (summary.images, summary.classes.len()),
        (898 * folders, folders)
    );
    assert_eq!(
        (summary.not_images, summary.skipped.len()),
        (100 * folders, 2 * folders)
    );
    // 2 paths of some 25 bytes, a header and a reason: about 300 bytes measured.
    let most = (1000 * folders + 10_000) as u64 * 600;
    println!(
        "{folders} 000 files: {elapsed:?}, {} bytes a file",
        peak / (1000 * folders as u64)
    );
    assert!(peak < most, "{peak} bytes");
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    // Those left out for the same reason share a line.
    let text = summary.to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
    let shared = text.matches(&format!("\n  {folders} files: ")).count();
    assert_eq!(shared, 2, "{text}");
}

#[test]
fn ten_thousand_files_are_scanned() {
    scan_many(10);
}

#[test]
fn a_hundred_thousand_files_are_scanned() {
    scan_many(100);
}
