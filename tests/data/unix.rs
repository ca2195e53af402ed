//! What only some systems have in a folder: links in circles, files that may not be read, names of any bytes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use ibot::data::decode::decode_rgb;
use ibot::data::{FolderConfig, ImageFolder, ImageSource, eval_batches};

use super::hostile::{lines, names, scan};
use super::loading::train_views;
use super::{MAX_PIXELS, TempFolder, fixture, is_printable};

/// Past the test harness, which hides what a passing test prints.
fn skip(why: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "SKIPPED: {why}").unwrap();
}

#[test]
fn links_in_circles_end_and_links_to_files_count() {
    let folder = TempFolder::new();
    let elsewhere = TempFolder::new();
    let file = elsewhere.copy("file.png", "rgb.png");
    folder.copy("a/1.png", "rgb.png");
    folder.copy("b/2.png", "rgb.png");
    let link = |to: &str, name: &str| symlink(to, folder.0.join(name)).unwrap();
    link("../b", "a/to_b");
    link("../a", "b/to_a");
    link("itself.png", "a/itself.png");
    link(".", "b/here");
    link(file.to_str().unwrap(), "b/linked.png");
    link("nowhere", "b/broken.png");
    symlink("/dev/zero", folder.0.join("b/endless.png")).unwrap();
    let images = scan(&folder);
    let expected = [
        "a/1.png",
        "a/to_b/2.png",
        "a/to_b/linked.png",
        "b/2.png",
        "b/linked.png",
        "b/to_a/1.png",
    ];
    assert_eq!(names(&folder, &images), expected);
    let circle = "a link to one of its parent folders";
    let lines = lines(&folder, &images.summary().skipped);
    for expected in [
        format!("a/to_b/here: {circle}"),
        format!("a/to_b/to_a: {circle}"),
        format!("b/here: {circle}"),
        format!("b/to_a/to_b: {circle}"),
    ] {
        assert!(lines.contains(&expected), "{expected}: {lines:#?}");
    }
    // The link to itself and the broken one, each by both ways.
    assert_eq!(lines.len(), 4 + 4, "{lines:#?}");
    // A device is no image, and is not read.
    assert_eq!(images.summary().not_images, 2);
}

#[test]
fn what_may_not_be_read_is_skipped() {
    let folder = TempFolder::new();
    folder.copy("a/1.png", "rgb.png");
    let file = folder.copy("a/2.png", "rgb.png");
    folder.copy("b/3.png", "rgb.png");
    let closed = folder.0.join("b");
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(&file, 0);
    if fs::File::open(&file).is_ok() {
        skip("unreadable files: this user may read everything");
        return;
    }
    allow(&closed, 0);
    let images = scan(&folder);
    let root = ImageFolder::scan(&closed, &FolderConfig::default());
    // Or the folder could not be removed.
    allow(&closed, 0o755);
    assert_eq!(names(&folder, &images), ["a/1.png"]);
    let lines = lines(&folder, &images.summary().skipped);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, name) in lines.iter().zip(["a/2.png: ", "b: "]) {
        assert!(
            line.starts_with(name) && line.contains("ermission denied"),
            "{line}"
        );
    }
    let message = root.unwrap_err().to_string();
    assert!(message.contains("ermission denied"), "{message}");
    assert!(message.starts_with(closed.to_str().unwrap()), "{message}");
}

#[test]
fn names_cannot_spoil_the_screen() {
    let folder = TempFolder::new();
    let odd = "new\nline\u{1b}[2J\u{202e}gnp\u{7f}\r.png";
    folder.copy(&format!("\u{9b}class\n/{odd}"), "rgb.png");
    folder.copy(&format!("bombs\t/{odd}"), "bomb.png");
    let images = scan(&folder);
    assert_eq!(images.decode(0).unwrap().dimensions(), (32, 16));
    let printed = "new\\nline\\u{1b}[2J\\u{202e}gnp\\u{7f}\\r.png";
    assert_eq!(images.classes(), ["\\u{9b}class\\n"]);
    let summary = images.summary().to_string();
    let lines: Vec<_> = summary.lines().collect();
    assert_eq!(lines.len(), 2, "{summary:?}");
    assert!(
        lines[1].contains(&format!("bombs\\t/{printed}: ")),
        "{summary}"
    );
    // Both kinds of error that name a file, that of a folder without images, and that of a loader without any.
    let path = images.name(0);
    fs::write(&path, "text").unwrap();
    let damaged = images.decode(0).unwrap_err().to_string();
    let mut batches = eval_batches(Arc::new(images), &train_views().augment, 1, 1).unwrap();
    let none_decoded = batches.next().unwrap().unwrap_err().to_string();
    fs::remove_file(&path).unwrap();
    let gone = decode_rgb(&path, MAX_PIXELS).unwrap_err().to_string();
    let none_found = ImageFolder::scan(&folder.0, &FolderConfig::default())
        .unwrap_err()
        .to_string();
    for message in [summary, damaged, gone, none_decoded, none_found] {
        assert!(message.contains(printed), "{message:?}");
        assert!(message.lines().all(is_printable), "{message:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn names_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = TempFolder::new();
    for name in [
        &b"caf\xe9/\xff\xfe.png"[..],
        b"caf\xe8/1.png",
        b"caf\xc3\xa9/1.png",
    ] {
        let path = folder.0.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(fixture("rgb.png"), path).unwrap();
    }
    let images = scan(&folder);
    // Names that lose their bytes would be one class of two.
    assert_eq!(images.classes(), ["café", "caf\\xe8", "caf\\xe9"]);
    assert_eq!(images.labels(), [Some(0), Some(1), Some(2)]);
    let classes = images.classes().to_vec();
    let again = scan(&folder).with_classes(&classes).unwrap();
    assert_eq!(again.labels(), images.labels());
    for index in 0..3 {
        assert_eq!(images.decode(index).unwrap().dimensions(), (32, 16));
    }
    fs::remove_file(images.name(2)).unwrap();
    let message = images.decode(2).unwrap_err().to_string();
    assert!(message.contains("caf\\xe9/\\xff\\xfe.png: "), "{message}");
}
