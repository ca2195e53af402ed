//! An index says what a scan says, tells what changed, and is never trusted where it is not whole.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use ibot::data::{FolderConfig, ImageFolder, ImageSource, Position};

use super::loading::{config as loader_config, loader};
use super::{TempFolder, fixture};

fn settings() -> FolderConfig {
    FolderConfig::default()
}

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

/// By a walk of its own, not by the index: a list that names the folder is read that way.
fn by_list(folder: &TempFolder) -> ImageFolder {
    let list = TempFolder::new();
    let file = list.write("list.txt", folder.0.to_str().unwrap());
    ImageFolder::scan_all(&[file], &settings(), &never()).unwrap()
}

fn by_index(file: &Path) -> ibot::Result<ImageFolder> {
    ImageFolder::scan_all(&[file.to_path_buf()], &settings(), &never())
}

fn index(folder: &TempFolder, file: &Path) -> (ImageFolder, usize) {
    let made = ImageFolder::scan_with_index(&folder.0, Some(file), &settings(), &never());
    let (images, work) = made.unwrap();
    assert_eq!(work.file.as_deref(), Some(file));
    (images, work.opened)
}

/// As if it had been written an hour ago: what is newer than two seconds may change again under the same time.
fn age(folder: &Path) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            age(&entry.path());
        } else {
            let file = File::options().write(true).open(entry.path()).unwrap();
            file.set_modified(old).unwrap();
        }
    }
    // Windows opens no folder: there, each start lists new ones again
    if cfg!(unix) {
        File::open(folder).unwrap().set_modified(old).unwrap();
    }
}

/// Classes, names that sort between a folder and its content, damaged files, folders of tools, 16 bits.
fn mixed() -> TempFolder {
    let folder = TempFolder::new();
    for name in ["b/2.png", "b/10.png", "a/x.png", "a/x/1.png", "a/x-1.png"] {
        folder.copy(name, "rgb.png");
    }
    folder.copy("loose.jpg", "rgb.jpg");
    folder.copy("a.jpg", "gray.jpg");
    folder.copy("deep/16.png", "rgb16.png");
    folder.copy("\u{e4}/gray.png", "rgb.png");
    folder.copy("@eaDir/thumbnail.png", "rgb.png");
    folder.copy("b/.hidden/1.png", "rgb.png");
    folder.write("b/notes.txt", "text");
    folder.write("b/._2.png", "fork");
    folder.write("b/text.png", "This is a text.");
    folder.write("empty.jpg", "");
    folder.write("none/notes.txt", "a folder without an image");
    age(&folder.0);
    folder
}

/// Everything that is known of the images.
fn all(images: &ImageFolder) -> impl PartialEq + std::fmt::Debug + use<> {
    let each = |at: usize| {
        let shown = images.decode(at).unwrap();
        let range = images.range_of(at);
        let (name, size) = (images.name(at), images.size(at));
        (name, images.label(at), size, range, shown)
    };
    (
        (0..images.len()).map(each).collect::<Vec<_>>(),
        images.classes().to_vec(),
        images.fingerprint(),
        images.summary().clone(),
        (images.range(), images.decoded_bytes()),
    )
}

#[test]
fn an_index_is_what_a_scan_finds() {
    let (folder, place) = (mixed(), TempFolder::new());
    let listed = by_list(&folder);
    assert_eq!(listed.len(), 9);
    assert_eq!(listed.summary().skipped.len(), 2);
    let scanned = ImageFolder::scan(&folder.0, &settings()).unwrap();
    assert_eq!(all(&scanned), all(&listed));
    let file = place.0.join("set.ibidx");
    let (made, opened) = index(&folder, &file);
    assert_eq!(opened, 13, "every file but the fork");
    assert_eq!(all(&made), all(&listed));
    assert_eq!(all(&by_index(&file).unwrap()), all(&listed));
    // parts, other labels, and parts of parts
    let places: Vec<usize> = (0..9).rev().step_by(2).collect();
    let classes: Vec<String> = ["x", "\u{e4}", "deep", "b", "a"].map(str::to_owned).into();
    let part = |of: &ImageFolder| {
        let part = of.part(&places).part(&[3, 0]);
        all(&part.with_classes(&classes).unwrap())
    };
    assert_eq!(part(&by_index(&file).unwrap()), part(&listed));
    assert_eq!(all(&made.sample(3)), all(&listed.sample(3)));
}

#[test]
fn batches_have_the_same_bits() {
    let (folder, place) = (mixed(), TempFolder::new());
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    let batches = |images: ImageFolder| {
        let start = Position { epoch: 1, batch: 1 };
        let mut loader = loader(Arc::new(images), &loader_config(4, 2), start);
        [0; 4].map(|_| loader.next_batch().unwrap())
    };
    assert_eq!(batches(by_index(&file).unwrap()), batches(by_list(&folder)));
}

#[test]
fn parts_of_a_set_are_no_classes() {
    let (folder, place) = (TempFolder::new(), TempFolder::new());
    for name in ["train/cat/1.png", "train/dog/1.png", "val/cat/2.png"] {
        folder.copy(name, "rgb.png");
    }
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    let found = by_index(&file).unwrap();
    assert_eq!(found.classes(), ["cat", "dog"]);
    assert_eq!(all(&found), all(&by_list(&folder)));
}

#[cfg(unix)]
#[test]
fn folder_times_tell_what_changed() {
    let (folder, place) = (mixed(), TempFolder::new());
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    // unchanged folders are not listed, and their files not opened: an image in one is not seen to be damaged
    let damaged = folder.0.join("a/x.png");
    fs::write(&damaged, "This is no image, and not of the same length.").unwrap();
    assert_eq!(by_index(&file).unwrap().len(), 9);
    // when asked, each file's length and time are compared, and the changed one is opened; so are the four that are no images
    let (images, opened) = index(&folder, &file);
    assert_eq!((images.len(), opened), (8, 1 + 4));
    // one more, one less, one renamed, one in the place of another
    folder.copy("b/3.png", "rgb.png");
    fs::remove_file(folder.0.join("a/x/1.png")).unwrap();
    fs::rename(folder.0.join("loose.jpg"), folder.0.join("looser.jpg")).unwrap();
    fs::remove_dir_all(folder.0.join("deep")).unwrap();
    folder.copy("deep/other.png", "rgb.png");
    fs::write(&damaged, fs::read(fixture("rgb.png")).unwrap()).unwrap();
    assert_eq!(all(&by_index(&file).unwrap()), all(&by_list(&folder)));
    // and a folder that is another one under the same name and time
    age(&folder.0);
    index(&folder, &file);
    fs::rename(folder.0.join("b"), place.0.join("b")).unwrap();
    folder.copy("b/other.png", "rgb.png");
    age(&folder.0);
    assert_eq!(all(&by_index(&file).unwrap()), all(&by_list(&folder)));
}

#[cfg(unix)]
#[test]
fn what_was_left_out_is_looked_at_again() {
    let (folder, place) = (mixed(), TempFolder::new());
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    // the folder's time stays as it is
    fs::write(
        folder.0.join("b/text.png"),
        fs::read(fixture("rgb.png")).unwrap(),
    )
    .unwrap();
    let found = by_index(&file).unwrap();
    assert_eq!(found.summary().skipped.len(), 1);
    assert_eq!(all(&found), all(&by_list(&folder)));
}

#[test]
fn another_image_under_the_same_name_is_skipped() {
    let (folder, place) = (TempFolder::new(), TempFolder::new());
    for number in 0..4 {
        folder.copy(&format!("{number}.png"), "rgb.png");
    }
    age(&folder.0);
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    let images = by_index(&file).unwrap();
    // another size; another kind; the same image copied again
    folder.copy("0.png", "texture.png");
    folder.copy("1.png", "rgb.jpg");
    folder.copy("2.png", "rgb.png");
    for (at, is_shown) in [false, false, true, true].into_iter().enumerate() {
        match images.decode(at) {
            Ok(_) => assert!(is_shown, "{at}"),
            Err(error) => {
                let message = error.to_string();
                assert!(
                    !is_shown && message.contains("has another size or kind"),
                    "{message}"
                );
            }
        }
    }
}

/// Each write would change the time of the folder, by which a start tells whether an index is current.
#[test]
fn an_index_does_not_lie_in_its_own_folder() {
    let (folder, place) = (mixed(), TempFolder::new());
    let inside = folder.0.join("b/set.ibidx");
    let made = ImageFolder::scan_with_index(&folder.0, Some(&inside), &settings(), &never());
    let message = made.unwrap_err().to_string();
    assert!(message.contains("lies in its image folder"), "{message}");
    assert!(!inside.exists());
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    fs::copy(&file, &inside).unwrap();
    let message = by_index(&inside).unwrap_err().to_string();
    assert!(message.contains("lies in its image folder"), "{message}");
    // beside it, by a path through it
    fs::remove_file(&inside).unwrap();
    let name = format!("{}.ibidx", folder.0.file_name().unwrap().to_string_lossy());
    let beside = folder.0.join("..").join(name);
    ImageFolder::scan_with_index(&folder.0, Some(&beside), &settings(), &never()).unwrap();
    by_index(&beside).unwrap();
    fs::remove_file(&beside).unwrap();
}

/// Sizes in an index are those of the upright images, which take no look at the files.
#[test]
fn an_index_has_the_sizes_of_upright_images() {
    let (folder, place) = (TempFolder::new(), TempFolder::new());
    for orientation in 1..=8 {
        let name = format!("orientation_{orientation}.jpg");
        folder.copy(&name, &name);
    }
    age(&folder.0);
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    let images = by_index(&file).unwrap();
    let shown = (0..8).map(|at| images.decode(at).unwrap().dimensions());
    let shown: Vec<[u32; 2]> = shown.map(<[u32; 2]>::from).collect();
    let [width, height] = shown[0];
    assert_ne!(width, height);
    let sizes = |of: &ImageFolder| (0..8).map(|at| of.size(at)).collect::<Vec<_>>();
    assert_eq!(sizes(&images), shown);
    assert_eq!(sizes(&by_list(&folder)), shown);
    // one that is turned on its side has another size, one that is turned about has not
    for (at, orientation) in [(0, 6), (1, 3)] {
        let path = images.name(at);
        let mut bytes = fs::read(&path).unwrap();
        let entry = bytes.windows(4).position(|four| four == [1, 0x12, 0, 3]);
        bytes[entry.unwrap() + 9] = orientation;
        fs::write(&path, bytes).unwrap();
    }
    let message = images.decode(0).unwrap_err().to_string();
    assert!(message.contains("has another size or kind"), "{message}");
    assert!(images.decode(1).is_ok());
}

/// An index of before orientations were in it, with checksums that fit.
#[test]
fn an_index_of_an_older_version_is_made_anew() {
    let (folder, place) = (mixed(), TempFolder::new());
    let file = place.0.join("set.ibidx");
    let (_, opened) = index(&folder, &file);
    let whole = fs::read(&file).unwrap();
    assert_eq!(whole[7], 2);
    let mut older = whole.clone();
    older[7] = 1;
    let hash = blake3::hash(&older[..96]);
    older[96..128].copy_from_slice(hash.as_bytes());
    fs::write(&file, &older).unwrap();
    let message = by_index(&file).unwrap_err().to_string();
    let reason = "is an index of another version of ibot (format 1; this one reads 2)";
    assert!(message.contains(reason), "{message}");
    assert!(message.contains("ibot index"), "{message}");
    let (made, opened_again) = index(&folder, &file);
    assert_eq!(opened_again, opened, "nothing is taken from it");
    assert_eq!(all(&made), all(&by_list(&folder)));
    assert_eq!(fs::read(&file).unwrap(), whole);
}

#[test]
fn a_damaged_index_is_refused_and_made_anew() {
    let (folder, place) = (mixed(), TempFolder::new());
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    let whole = fs::read(&file).unwrap();
    let expected = all(&by_list(&folder));
    let refused = |bytes: &[u8], reason: &str| {
        fs::write(&file, bytes).unwrap();
        let message = by_index(&file).unwrap_err().to_string();
        assert!(message.contains(reason), "{reason}: {message}");
        assert!(message.contains("ibot index"), "{message}");
    };
    for at in [8, 20, 70, 100, 130, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        refused(&bytes, "is damaged");
        let (made, _) = index(&folder, &file);
        assert_eq!(all(&made), expected, "byte {at}");
        assert_eq!(all(&by_index(&file).unwrap()), expected, "byte {at}");
    }
    refused(&whole[..whole.len() - 7], "cut off");
    refused(&[&whole[..], b"more"].concat(), "cut off");
    refused(&whole[..50], "too short");
    refused(b"", "too short");
    let mut later = whole.clone();
    later[7] += 1;
    refused(&later, "another version");
    refused(&[0; 4096], "is no index");
    // what is no index is not written over
    let made = ImageFolder::scan_with_index(&folder.0, Some(&file), &settings(), &never());
    let message = made.unwrap_err().to_string();
    assert!(message.contains("give a new name"), "{message}");
    assert_eq!(fs::read(&file).unwrap(), [0; 4096]);
    let gone = by_index(&place.0.join("gone.ibidx")).unwrap_err();
    assert!(gone.to_string().contains("o such file"), "{gone}");
}

/// Whatever bytes are changed, nothing panics and no other images come out.
#[test]
fn no_byte_of_an_index_can_do_harm() {
    let (folder, place) = (mixed(), TempFolder::new());
    let file = place.0.join("set.ibidx");
    index(&folder, &file);
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] = !bytes[at];
        fs::write(&file, &bytes).unwrap();
        assert!(by_index(&file).is_err(), "byte {at}");
    }
}
