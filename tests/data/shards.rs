//! Tar archives give what a folder of the same files gives, and never another image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use ibot::data::{FolderConfig, ImageFolder, ImageSource, Position};
use tar::{Builder, EntryType, Header};

use super::loading::{config, loader, values};
use super::{TempFolder, fixture, is_printable, texture};

pub(super) fn scan(sources: &[&Path]) -> ibot::Result<ImageFolder> {
    let sources: Vec<PathBuf> = sources.iter().map(|path| path.to_path_buf()).collect();
    ImageFolder::scan_all(&sources, &FolderConfig::default(), &AtomicBool::new(false))
}

pub(super) fn tar_of(folder: &TempFolder, name: &str, files: &[(&str, Vec<u8>)]) -> PathBuf {
    let path = folder.0.join(name);
    let mut archive = Builder::new(File::create(&path).unwrap());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.finish().unwrap();
    path
}

pub(super) fn png(shade: u8) -> Vec<u8> {
    let mut image = texture();
    image.pixels_mut().for_each(|pixel| pixel.0[0] = shade);
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Images of two classes, one without, one that is damaged and a text.
pub(super) fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("cat/b.png", png(1)),
        ("cat/a.png", png(2)),
        ("dog/deep/er/c.jpg", fs::read(fixture("gray.jpg")).unwrap()),
        ("dog/a.png", png(3)),
        ("e.png", png(4)),
        ("dog/broken.png", png(5)[..100].to_vec()),
        ("dog/.hidden.png", png(6)),
        ("readme.txt", b"nothing".to_vec()),
    ]
}

/// Names below the source, labels, sizes and pixels of all images that can be decoded.
pub(super) fn content(folder: &ImageFolder, root: &Path) -> Vec<(PathBuf, Option<usize>, Vec<u8>)> {
    let one = |at: usize| {
        let name = folder.name(at);
        let name = name.strip_prefix(root).unwrap_or(&name).to_path_buf();
        let pixels = folder.decode(at).map(image::ImageBuffer::into_raw);
        (name, folder.label(at), pixels.unwrap_or_default())
    };
    (0..folder.len()).map(one).collect()
}

pub(super) fn first_batches(folder: ImageFolder) -> Vec<Vec<f32>> {
    let mut loader = loader(Arc::new(folder), &config(3, 2), Position::default());
    let batches = (0..4).map(|_| loader.next_batch().unwrap());
    let views = batches.flat_map(|batch| {
        batch
            .views
            .iter()
            .map(|view| values(view, 16))
            .collect::<Vec<_>>()
    });
    views.collect()
}

/// Folders named as parts are no classes, and neither are words of shards' names; one part alone is not a set in parts.
#[test]
fn parts_in_archives_are_those_of_a_folder() {
    let [plain, packed] = [TempFolder::new(), TempFolder::new()];
    let names = ["train/cat/1.png", "train/dog/2.png", "val/dog/3.png"];
    let files: Vec<_> = names.iter().map(|name| (*name, png(7))).collect();
    for (name, bytes) in &files {
        plain.write(name, bytes.clone());
    }
    let whole = tar_of(&packed, "set.tar", &files);
    let [of_folder, of_archive] = [&plain.0, &whole].map(|path| scan(&[path]).unwrap());
    assert_eq!(of_folder.summary().parts, ["train", "val"]);
    assert_eq!(of_archive.summary().parts, ["train", "val"]);
    assert_eq!(of_archive.classes(), of_folder.classes());
    assert_eq!(of_archive.labels(), of_folder.labels());

    let named = |names: &[&str]| {
        let folder = TempFolder::new();
        for name in names {
            tar_of(&folder, name, &files[..1]);
        }
        scan(&[&folder.0]).unwrap().summary().parts.clone()
    };
    assert_eq!(named(&["train-0.tar", "train-1.tar"]), ["train"]);
    let of_both = named(&["test-0.tar", "train-0.tar"]);
    assert!(of_both.contains(&"test".to_owned()), "{of_both:?}");
}

#[test]
fn an_archive_is_the_folder_in_it() {
    let [plain, packed] = [TempFolder::new(), TempFolder::new()];
    for (name, bytes) in files() {
        plain.write(name, bytes);
    }
    let whole = tar_of(&packed, "set.tar", &files());
    let of_folder = scan(&[&plain.0]).unwrap();
    let of_archive = scan(&[&whole]).unwrap();
    assert_eq!(of_archive.classes(), of_folder.classes());
    assert_eq!(of_archive.fingerprint(), of_folder.fingerprint());
    assert_eq!(of_archive.summary().kinds, of_folder.summary().kinds);
    assert_eq!(content(&of_archive, &whole), content(&of_folder, &plain.0));
    assert_eq!(of_folder.len(), 7);
    // the same batches, bit for bit
    assert_eq!(first_batches(of_archive), first_batches(of_folder.clone()));
    // a path into it names an image as a path into a folder does
    let inside = whole.join("dog/a.png");
    let found = ibot::data::decode::decode_rgb(&inside, 1 << 20).unwrap();
    assert_eq!(found, of_folder.decode(3).unwrap());
}

#[test]
fn a_set_in_pieces_is_one_set() {
    let [plain, packed] = [TempFolder::new(), TempFolder::new()];
    for (name, bytes) in files() {
        plain.write(name, bytes);
    }
    // in another order than that of the names
    for (number, part) in files().chunks(2).rev().enumerate() {
        tar_of(&packed, &format!("s-{number:03}.tar"), part);
    }
    let of_folder = scan(&[&plain.0]).unwrap();
    let pattern = packed.0.join("s-{000..003}.tar");
    for source in [&pattern, &packed.0] {
        let pieces = scan(&[source]).unwrap();
        assert_eq!(pieces.fingerprint(), of_folder.fingerprint());
        assert_eq!(pieces.labels(), of_folder.labels());
        assert_eq!(first_batches(pieces), first_batches(of_folder.clone()));
    }
    let missing = packed.0.join("s-{000..005}.tar");
    let error = scan(&[&missing]).unwrap_err().to_string();
    assert!(error.contains("s-004.tar"), "{error}");
    fs::remove_file(packed.0.join("s-001.tar")).unwrap();
    let error = scan(&[&pattern]).unwrap_err().to_string();
    assert!(error.contains("s-001.tar"), "{error}");
}

#[test]
fn classes_are_said_beside_the_images() {
    let folder = TempFolder::new();
    let shard = tar_of(
        &folder,
        "wds.tar",
        &[
            ("000.png", png(1)),
            ("000.cls", b"7\n".to_vec()),
            ("000.json", br#"{"label": 3}"#.to_vec()),
            ("001.json", br#"{"caption": "x", "label": "cat"}"#.to_vec()),
            ("001.png", png(2)),
            ("001.seg.png", png(9)),
            ("002.png", png(3)),
            ("002.cls", b"-1".to_vec()),
            ("003.png", png(4)),
            ("003.cls", vec![b'x'; 70_000]),
            ("004.png", png(5)),
            ("004.json", b"{".to_vec()),
            ("005.PNG", png(6)),
            ("005.CLS", b"7".to_vec()),
            ("006.png", png(7)),
            (
                "006.Json",
                br#"{"label": null, "cls": ["x"], "class": true}"#.to_vec(),
            ),
        ],
    );
    let found = scan(&[&shard]).unwrap();
    assert_eq!(found.classes(), ["7", "cat", "true"]);
    let expected = [Some(0), Some(1), None, None, None, Some(0), Some(2)];
    assert_eq!(found.labels(), expected);
    let skipped: Vec<String> = (found.summary().skipped.iter())
        .map(|(path, reason)| format!("{}: {reason}", path.strip_prefix(&shard).unwrap().display()))
        .collect();
    assert_eq!(skipped.len(), 3, "{skipped:?}");
    for start in [
        "001.seg.png: belongs to",
        "003.cls: is too long",
        "004.json: is no JSON",
    ] {
        assert!(
            skipped.iter().any(|line| line.starts_with(start)),
            "{skipped:?}"
        );
    }
}

#[test]
fn what_is_cut_off_is_named_and_the_rest_is_used() {
    let folder = TempFolder::new();
    let shard = tar_of(
        &folder,
        "cut.tar",
        &[("a.png", png(1)), ("b.png", png(2)), ("c.png", png(3))],
    );
    let bytes = fs::read(&shard).unwrap();
    let expected = content(&scan(&[&shard]).unwrap(), &shard);
    assert_eq!(expected.len(), 3);
    let shades = [1, 2, 3].into_iter();
    let whole: usize = shades
        .map(|shade| 512 + png(shade).len().next_multiple_of(512))
        .sum();
    // no length leads to a panic, a hang or another image
    let between = (0..bytes.len()).step_by(512);
    for length in (0..bytes.len()).step_by(173).chain(between) {
        let cut = folder.write(&format!("cut-{length}.tar"), &bytes[..length]);
        let Ok(found) = scan(&[&cut]) else { continue };
        let content = content(&found, &cut);
        assert!(content.len() <= 3);
        for (found, expected) in content.iter().zip(&expected) {
            assert_eq!(found, expected, "{length}");
        }
        // one block of zeros is an end mark too
        let has_mark = length >= whole + 512;
        assert_eq!(found.summary().skipped.is_empty(), has_mark, "{length}");
        fs::remove_file(cut).unwrap();
    }
}

/// A download that failed leaves no file, or its first blocks; `cat` joins what no program reads as one.
#[test]
fn an_archive_without_its_end_or_with_more_behind_it_is_named() {
    let folder = TempFolder::new();
    let [a, b] = [("a.png", 1), ("b.png", 2)]
        .map(|(name, shade)| fs::read(tar_of(&folder, "one.tar", &[(name, png(shade))])).unwrap());
    let padded = |bytes: &[u8], length: usize| {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(length), 0);
        padded
    };
    // as GNU's tar writes it
    let record = padded(&a, 10_240);
    let cases = [
        (a[..a.len() - 1024].to_vec(), Some("has no end mark")),
        (a[..a.len() - 512].to_vec(), None),
        (Vec::new(), Some("empty")),
        (vec![0; 512], None),
        (record.clone(), None),
        (padded(&a, 1 << 20), None),
        (
            [a.clone(), b.clone()].concat(),
            Some("more behind its end mark"),
        ),
        ([record, b].concat(), Some("more behind its end mark")),
    ];
    for (number, (bytes, reason)) in cases.into_iter().enumerate() {
        let set = TempFolder::new();
        tar_of(&set, "good.tar", &[("good.png", png(3))]);
        let odd = set.write("odd.tar", bytes);
        let found = scan(&[&set.0]).unwrap();
        let skipped = &found.summary().skipped;
        let is_named = |reason: &str| matches!(&skipped[..], [(path, said)] if *path == odd && said.contains(reason));
        assert!(
            reason.map_or(skipped.is_empty(), is_named),
            "{number}: {skipped:?}"
        );
    }
}

#[test]
fn what_is_no_plain_archive_is_refused_with_a_remedy() {
    let folder = TempFolder::new();
    let cases: [(&str, Vec<u8>, &str); 5] = [
        (
            "packed.tar.gz",
            vec![0x1f, 0x8b, 8, 0],
            "make it a plain .tar",
        ),
        (
            "packed.tar",
            vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0],
            "make it a plain .tar",
        ),
        ("noise.tar", vec![0xa5; 4096], "no tar archive"),
        ("empty.tar", Vec::new(), "no supported images"),
        ("renamed.tar", png(1), "no tar archive"),
    ];
    for (name, bytes, reason) in cases {
        let path = folder.write(name, bytes);
        let error = scan(&[&path]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{error}");
        assert!(error.lines().all(is_printable), "{error}");
    }
}

#[test]
fn a_hostile_archive_costs_nothing() {
    let folder = TempFolder::new();
    let path = folder.0.join("hostile.tar");
    let mut archive = Builder::new(File::create(&path).unwrap());
    let mut add = |name: &str, kind: EntryType, size: u64, bytes: &[u8]| {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
    };
    let image = png(1);
    let length = image.len() as u64;
    add("../../up.png", EntryType::Regular, length, &image);
    add("/root.png", EntryType::Regular, length, &image);
    add("link.png", EntryType::Symlink, 0, b"");
    add("twice.png", EntryType::Regular, length, &image);
    add(
        "twice.png",
        EntryType::Regular,
        length,
        &png(2)[..image.len().min(png(2).len())],
    );
    // a name of a terabyte, and an image of an exabyte
    add("././@LongLink", EntryType::GNULongName, 1 << 40, b"");
    add("huge.png", EntryType::Regular, 1 << 60, b"");
    drop(archive);
    let found = scan(&[&path]).unwrap();
    let names: Vec<PathBuf> = content(&found, &path)
        .into_iter()
        .map(|one| one.0)
        .collect();
    // nothing leads out of the archive
    assert_eq!(
        names,
        ["root.png", "twice.png", "up.png"].map(PathBuf::from)
    );
    assert!(found.summary().skipped.len() >= 2);
}

#[test]
fn an_archive_that_changes_under_a_run_gives_no_other_image() {
    let folder = TempFolder::new();
    let shard = tar_of(&folder, "run.tar", &[("a.png", png(1)), ("b.png", png(2))]);
    let found = scan(&[&shard]).unwrap();
    let before = found.decode(1).unwrap();
    let other = tar_of(
        &folder,
        "other.tar",
        &[("b.png", png(7)), ("a.png", png(8))],
    );
    fs::rename(other, &shard).unwrap();
    // while it is open it is the one that was listed; opened anew it is refused
    if let Ok(image) = found.decode(1) {
        assert_eq!(image, before);
    }
    let file = File::options().write(true).open(&shard).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(9))
        .unwrap();
    // written over in place: the open file is another one
    let again = scan(&[&shard]).unwrap();
    fs::write(
        &shard,
        fs::read(tar_of(&folder, "third.tar", &[("a.png", png(9))])).unwrap(),
    )
    .unwrap();
    let error = again.decode(0).unwrap_err().to_string();
    assert!(error.contains("has changed since it was listed"), "{error}");
    fs::remove_file(&shard).unwrap();
    assert!(again.decode(0).is_err());
}

#[cfg(not(feature = "cloud"))]
#[test]
fn an_address_says_which_program_reads_it() {
    for source in [
        "s3://bucket/{0..1}.tar",
        "https://host/all.txt",
        "gs://bucket/",
    ] {
        let error = scan(&[Path::new(source)]).unwrap_err().to_string();
        assert!(error.contains("feature `cloud`"), "{error}");
    }
}
