//! Which images and classes a scan finds.

use std::fs;

use ibot::Error;
use ibot::data::{FolderConfig, ImageFolder, ImageSource, Parts};

use super::{TempFolder, fixture};

fn scan(folder: &TempFolder) -> Result<ImageFolder, Error> {
    ImageFolder::scan(&folder.0, &FolderConfig::default())
}

/// Paths relative to the folder, with `/`.
fn names(folder: &TempFolder, images: &ImageFolder) -> Vec<String> {
    (0..images.len())
        .map(|index| {
            let path = images.name(index);
            let path = path.strip_prefix(&folder.0).unwrap();
            path.to_str().unwrap().replace('\\', "/")
        })
        .collect()
}

#[test]
fn classes_are_the_first_folders() {
    let folder = TempFolder::new();
    folder.copy("b/deep/deeper/x.png", "rgb.png");
    folder.copy("b/A.JPG", "rgb.jpg");
    folder.copy("a b/1.webp", "rgb.webp");
    folder.copy("a/2.dat", "rgb.tif");
    folder.copy("a/10.png", "gray.png");
    folder.write("only text/notes.txt", "no image");
    let images = scan(&folder).unwrap();
    let expected = [
        "a/10.png",
        "a/2.dat",
        "a b/1.webp",
        "b/A.JPG",
        "b/deep/deeper/x.png",
    ];
    assert_eq!(names(&folder, &images), expected);
    assert_eq!(images.classes(), ["a", "a b", "b"]);
    assert_eq!(
        images.labels(),
        [Some(0), Some(0), Some(1), Some(2), Some(2)]
    );
    let summary = images.summary();
    assert_eq!(
        (summary.images, summary.classes.len(), summary.unlabeled),
        (5, 3, 0)
    );
    assert_eq!((summary.not_images, summary.skipped.len()), (1, 0));
    let text = summary.to_string();
    assert!(
        text.contains("5 images (1 jpeg, 2 png, 1 tiff, 1 webp) in 3 classes (a, a b, b)"),
        "{text}"
    );
    assert_eq!(images.decoded_bytes(), 5 * 3 * 32 * 16);
}

#[test]
fn a_flat_folder_is_one_unlabeled_set() {
    let folder = TempFolder::new();
    folder.copy("2.png", "rgb.png");
    folder.copy("1", "gray.jpg");
    let images = scan(&folder).unwrap();
    assert_eq!(names(&folder, &images), ["1", "2.png"]);
    assert_eq!(images.labels(), [None, None]);
    assert!(images.classes().is_empty());
    // Beside class folders, too.
    folder.copy("c/3.png", "rgb.png");
    assert_eq!(scan(&folder).unwrap().labels(), [None, None, Some(0)]);
    assert_eq!(scan(&folder).unwrap().summary().unlabeled, 2);
}

#[test]
fn what_is_no_usable_image_is_counted_and_named() {
    let folder = TempFolder::new();
    folder.copy("a/good.txt", "rgb.png");
    folder.write("a/notes.txt", "This is a text.");
    folder.write("a/text.png", "This is a text.");
    folder.write("a/empty.jpg", "");
    folder.copy("a/bomb.png", "bomb.png");
    let png = fs::read(fixture("rgb.png")).unwrap();
    folder.write("a/cut.png", &png[..20]);
    let jpeg = fs::read(fixture("rgb.jpg")).unwrap();
    folder.write("a/cut.jpg", &jpeg[..30]);
    folder.write("a/headless.jpg", [0xff, 0xd8, 0xff, 0xda, 0, 2, 0, 0]);
    let images = scan(&folder).unwrap();
    assert_eq!(names(&folder, &images), ["a/good.txt"]);
    let summary = images.summary();
    assert_eq!(summary.not_images, 1);
    let skipped: Vec<_> = summary
        .skipped
        .iter()
        .map(|(path, _)| path.file_name().unwrap())
        .collect();
    let expected = [
        "bomb.png",
        "cut.jpg",
        "cut.png",
        "empty.jpg",
        "headless.jpg",
        "text.png",
    ];
    assert_eq!(skipped, expected);
    let text = summary.to_string();
    for reason in [
        "more than max_pixels",
        "ends too early",
        "no frame before",
        "empty.jpg: empty",
        "text.png: a text or web page",
        "6 skipped",
    ] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
    let small = FolderConfig {
        max_pixels: 511,
        ..FolderConfig::default()
    };
    let message = ImageFolder::scan(&folder.0, &small)
        .unwrap_err()
        .to_string();
    assert!(message.contains("32 x 16"), "{message}");
}

#[test]
fn a_phone_s_images_are_counted_with_the_way_out() {
    let folder = TempFolder::new();
    folder.copy("a/good.png", "rgb.png");
    for number in 0..12 {
        folder.write(
            &format!("a/{number:02}.heic"),
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        );
    }
    for number in 0..3 {
        folder.write(&format!("a/{number}.nef"), b"II*\0\x08\0\0\0\0\0");
    }
    let text = scan(&folder).unwrap().summary().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("15 skipped"), "{text}");
    let start =
        "  12 files: HEIC is not supported; save it as JPEG or PNG, for example with `magick ";
    assert!(lines[1].starts_with(start), "{text}");
    assert!(
        lines[1].contains("00.heic") && !lines[1].contains("02.heic"),
        "{text}"
    );
    // a few are named one by one
    assert_eq!(lines.len(), 5, "{text}");
    assert!(
        lines[2].contains("0.nef: raw camera files are not supported"),
        "{text}"
    );
    fs::remove_file(folder.0.join("a/good.png")).unwrap();
    let message = scan(&folder).unwrap_err().to_string();
    assert!(
        message.contains("12 files: HEIC is not supported"),
        "{message}"
    );
}

#[test]
fn a_folder_without_images_says_what_it_holds() {
    let folder = TempFolder::new();
    let message = scan(&folder).unwrap_err().to_string();
    assert!(message.contains("no supported images found"), "{message}");
    folder.write("a/notes.txt", "text");
    folder.copy("a/bomb.png", "bomb.png");
    let message = scan(&folder).unwrap_err().to_string();
    assert!(message.contains("1 other file, 1 skipped"), "{message}");
    assert!(
        message.contains("bomb.png") && message.contains("max_pixels"),
        "{message}"
    );
}

#[test]
fn a_missing_folder_and_a_file_are_told_apart() {
    let folder = TempFolder::new();
    let missing = folder.0.join("nowhere");
    let error = ImageFolder::scan(&missing, &FolderConfig::default()).unwrap_err();
    assert!(
        matches!(&error, Error::Io { path, .. } if *path == missing),
        "{error}"
    );
    let file = folder.copy("x.png", "rgb.png");
    let message = ImageFolder::scan(&file, &FolderConfig::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("is a file"), "{message}");
}

#[test]
fn labels_follow_the_classes_of_another_folder() {
    let folder = TempFolder::new();
    folder.copy("b/1.png", "rgb.png");
    folder.copy("c/1.png", "rgb.png");
    let classes = ["a", "b", "c"].map(String::from);
    let images = scan(&folder).unwrap().with_classes(&classes).unwrap();
    assert_eq!(images.labels(), [Some(1), Some(2)]);
    let message = scan(&folder)
        .unwrap()
        .with_classes(&classes[..2])
        .unwrap_err()
        .to_string();
    assert!(message.contains("\"c\""), "{message}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_named() {
    use std::os::unix::fs::symlink;
    let folder = TempFolder::new();
    folder.copy("a/1.png", "rgb.png");
    symlink(&folder.0, folder.0.join("a/loop")).unwrap();
    symlink(folder.0.join("gone"), folder.0.join("a/broken.png")).unwrap();
    let other = TempFolder::new();
    other.copy("2.png", "rgb.png");
    symlink(&other.0, folder.0.join("b")).unwrap();
    let images = scan(&folder).unwrap();
    assert_eq!(names(&folder, &images), ["a/1.png", "b/2.png"]);
    let reasons: Vec<&str> = images
        .summary()
        .skipped
        .iter()
        .map(|(_, why)| why.as_str())
        .collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(
        reasons[1].contains("a link to one of its parent folders"),
        "{reasons:?}"
    );
}

/// What systems and tools leave among images is no class, and what macOS leaves beside a file is no image.
#[test]
fn folders_of_tools_are_left_out_and_named() {
    let folder = TempFolder::new();
    folder.copy("cat/1.png", "rgb.png");
    folder.copy("dog/1.png", "rgb.png");
    let tools = [
        ".ipynb_checkpoints",
        "@eaDir",
        "#recycle",
        ".Trash-1000",
        "__MACOSX",
        "lost+found",
        "$RECYCLE.BIN",
        "cat/.thumbnails",
        "dog/@eadir/deep",
    ];
    for tool in tools {
        folder.copy(&format!("{tool}/x.png"), "rgb.png");
    }
    folder.copy("dog/._1.png", "rgb.png");
    let images = scan(&folder).unwrap();
    assert_eq!(names(&folder, &images), ["cat/1.png", "dog/1.png"]);
    assert_eq!(images.classes(), ["cat", "dog"]);
    assert_eq!(images.summary().of_tools.values().sum::<usize>(), 9);
    let text = images.summary().to_string();
    assert!(
        text.contains("in 2 classes (cat, dog); 1 other file, 0 skipped"),
        "{text}"
    );
    for tool in [
        ".ipynb_checkpoints",
        "@eaDir",
        "@eadir",
        ".Trash-1000",
        ".thumbnails",
    ] {
        assert!(text.contains(tool), "{tool}: {text}");
    }
    // what the user names is read whatever its name is
    let hidden = folder.0.join(".Trash-1000");
    let images = ImageFolder::scan(&hidden, &FolderConfig::default()).unwrap();
    assert_eq!(images.len(), 1);
}

#[test]
fn parts_of_a_data_set_are_no_classes() {
    let folder = TempFolder::new();
    for path in [
        "Train/cat/1.png",
        "Train/dog/1.png",
        "val/dog/1.png",
        "test/x.png",
    ] {
        folder.copy(path, "rgb.png");
    }
    folder.copy(".cache/x.png", "rgb.png");
    let images = scan(&folder).unwrap();
    assert_eq!(images.classes(), ["cat", "dog"]);
    assert_eq!(images.labels(), [Some(0), Some(1), None, Some(1)]);
    let text = images.summary().to_string();
    assert!(
        text.contains("(cat, dog), 1 unlabeled (split into Train, val, test)"),
        "{text}"
    );
    let parts = Parts::find(&folder.0).unwrap().unwrap();
    assert_eq!(parts.train, folder.0.join("Train"));
    assert_eq!(parts.val, Some(folder.0.join("val")));
    // whatever else lies beside them: the classes are not `train` and `val`
    folder.copy("more/1.png", "rgb.png");
    folder.copy("more/cat/2.png", "rgb.png");
    let parts = Parts::find(&folder.0).unwrap().unwrap();
    assert_eq!(parts.names, ["Train", "val", "test", "more"]);
    let images = scan(&folder).unwrap();
    assert_eq!(images.classes(), ["cat", "dog"]);
    let labels = [Some(0), Some(1), None, Some(0), None, Some(1)];
    assert_eq!(images.labels(), labels);
    // vehicles: a train among other classes is one of them
    for part in ["val", "test"] {
        fs::remove_dir_all(folder.0.join(part)).unwrap();
    }
    assert_eq!(Parts::find(&folder.0).unwrap(), None);
    assert_eq!(scan(&folder).unwrap().classes(), ["Train", "more"]);
}

/// "ä" as one character, and as "a" with dots above it, which is how macOS may write it.
#[test]
fn one_class_in_two_spellings_of_unicode() {
    let (one, other) = (TempFolder::new(), TempFolder::new());
    one.copy("K\u{e4}se/1.png", "rgb.png");
    other.copy("Ka\u{308}se/1.png", "rgb.png");
    let classes = scan(&one).unwrap().classes().to_vec();
    let images = scan(&other).unwrap().with_classes(&classes).unwrap();
    assert_eq!(images.labels(), [Some(0)]);
    assert_eq!(images.classes(), classes);
}

#[test]
fn a_scan_can_be_stopped() {
    use std::sync::atomic::AtomicBool;
    let folder = TempFolder::new();
    folder.copy("a.png", "rgb.png");
    let config = FolderConfig::default();
    let scan = |stop| ImageFolder::scan_until(&folder.0, &config, &AtomicBool::new(stop));
    assert!(matches!(scan(true), Err(Error::Stopped)));
    assert_eq!(scan(false).unwrap().len(), 1);
}
