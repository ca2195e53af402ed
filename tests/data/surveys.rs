//! What a survey says of a set with copies, and the list of what it keeps.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ibot::Error;
use ibot::data::{FolderConfig, ImageFolder, ImageSource as _, Survey, SurveyConfig};
use ibot::random::{Random, Stream};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, crop_imm, resize};
use image::{Rgb, RgbImage};

use super::TempFolder;

const SIZE: [u32; 2] = [180, 132];

/// An image of a few soft discs in colors, with noise: no two numbers give images that look alike.
fn image(number: u64) -> RgbImage {
    let mut random = Random::new(number, 0, 0, Stream::Demo);
    let discs: Vec<([f64; 3], [f64; 3])> = (0..9)
        .map(|_| {
            let place = [random.unit(), random.unit(), random.uniform(0.08, 0.35)];
            (place, [(); 3].map(|()| random.uniform(-70.0, 70.0)))
        })
        .collect();
    RgbImage::from_fn(SIZE[0], SIZE[1], |x, y| {
        let [x, y] = [f64::from(x) / 180.0, f64::from(y) / 132.0];
        let mut color = [128.0; 3];
        for ([cx, cy, radius], own) in &discs {
            let distance = ((x - cx).powi(2) + (y - cy).powi(2)).sqrt();
            let weight = 1.0 / (1.0 + ((distance - radius) * 60.0).exp());
            (0..3).for_each(|at| color[at] += weight * own[at]);
        }
        Rgb(color.map(|level| (level + random.uniform(-6.0, 6.0)) as u8))
    })
}

fn jpeg(image: &RgbImage, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    image.write_with_encoder(encoder).unwrap();
    bytes
}

fn scan(path: impl AsRef<Path>) -> ImageFolder {
    ImageFolder::scan(path, &FolderConfig::default()).unwrap()
}

fn survey(data: &ImageFolder, val: Option<&ImageFolder>) -> Survey {
    let never = AtomicBool::new(false);
    Survey::of(data, val, &SurveyConfig::default(), &never, &|_| {}).unwrap()
}

fn save(image: &RgbImage, folder: &TempFolder, name: &str) {
    let path = folder.0.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.save(path).unwrap();
}

/// File names of a group, in order.
fn file_names(group: &[String]) -> Vec<String> {
    let name = |path: &String| Path::new(path).file_name().unwrap().to_owned();
    group
        .iter()
        .map(|path| name(path).into_string().unwrap())
        .collect()
}

/// Copies that were made smaller, compressed, cropped and lit otherwise are found, each with its own image and no other.
#[test]
fn near_copies_are_found() {
    let folder = TempFolder::new();
    for number in 0..12 {
        let whole = image(number);
        let name = |what: &str| format!("{number:02}/{what}.png");
        let lit = |factor: f32| {
            let mut lit = whole.clone();
            let scaled = |level: u8| (f32::from(level) * factor).min(255.0) as u8;
            lit.pixels_mut().for_each(|p| p.0 = p.0.map(scaled));
            lit
        };
        let cropped = |share: f32| {
            let [left, top] = SIZE.map(|side| (side as f32 * share) as u32);
            crop_imm(&whole, left, top, SIZE[0] - 2 * left, SIZE[1] - 2 * top).to_image()
        };
        save(&whole, &folder, &name("0 whole"));
        let half = resize(&whole, SIZE[0] / 2, SIZE[1] / 2, FilterType::Triangle);
        save(&half, &folder, &name("half"));
        save(&lit(0.8), &folder, &name("darker"));
        save(&lit(1.15), &folder, &name("brighter"));
        save(&cropped(0.02), &folder, &name("cropped by 2 %"));
        save(&cropped(0.04), &folder, &name("cropped by 4 %"));
        let path = folder.0.join(format!("{number:02}/quality 40.jpg"));
        fs::write(path, jpeg(&whole, 40)).unwrap();
    }
    let found = survey(&scan(&folder.0), None);
    let groups = found.data.near_duplicates.unwrap();
    assert_eq!(groups.len(), 12, "{groups:#?}");
    for group in &groups {
        let names = file_names(group);
        assert_eq!(
            (names.len(), names[0].as_str()),
            (7, "0 whole.png"),
            "{names:?}"
        );
    }
    assert_eq!(found.data.near_duplicates_across_classes, 0);
    assert_eq!((found.kept, found.data.duplicates.len()), (12, 0));
}

#[test]
fn images_to_evaluate_on_are_found_among_those_to_train_on() {
    let [data, val] = [TempFolder::new(), TempFolder::new()];
    for number in 0..6 {
        save(&image(number), &data, &format!("a/{number}.png"));
    }
    // one with an equal file to train on as well, one compressed, one of its own
    fs::copy(data.0.join("a/1.png"), data.0.join("a/1 again.png")).unwrap();
    fs::copy(data.0.join("a/1.png"), val.0.join("1.png")).unwrap();
    fs::write(val.0.join("4.jpg"), jpeg(&image(4), 60)).unwrap();
    save(&image(90), &val, "90.png");
    let folders = [scan(&data.0), scan(&val.0)];
    let found = survey(&folders[0], Some(&folders[1]));
    let shared = found.shared.clone().unwrap();
    let names = |pairs: &[[String; 2]]| -> Vec<Vec<String>> {
        pairs.iter().map(|pair| file_names(pair)).collect()
    };
    let equal = names(&shared.equal);
    assert_eq!(equal, [["1 again.png", "1.png"], ["1.png", "1.png"]]);
    assert_eq!(names(&shared.near.unwrap()), [["4.png", "4.jpg"]]);
    assert_eq!((found.kept, found.val.as_ref().unwrap().images), (4, 3));
    let files = found.kept_files(&folders[0]).unwrap();
    let lines: Vec<String> = files.list.lines().map(str::to_owned).collect();
    let kept = ["0.png", "2.png", "3.png", "5.png"];
    assert_eq!(
        (file_names(&lines), files.not_in_list),
        (kept.map(String::from).to_vec(), 0)
    );
}

/// The list is a source of the same images with the same classes, also below `train` and `val`.
#[test]
fn the_list_keeps_labels() {
    for part in ["", "train/"] {
        let folder = TempFolder::new();
        for number in 0..6 {
            let class = ["b", "a b", "train"][number as usize % 3];
            save(
                &image(number),
                &folder,
                &format!("{part}{class}/deep/{number}.png"),
            );
        }
        save(&image(8), &folder, &format!("{part}8.png"));
        if !part.is_empty() {
            save(&image(9), &folder, "val/b/9.png");
        } else {
            // beside other classes, train is one
            save(&image(7), &folder, "zebra/7.png");
        }
        fs::copy(
            folder.0.join(format!("{part}b/deep/0.png")),
            folder.0.join(format!("{part}b/deep/copy.png")),
        )
        .unwrap();
        let damaged = fs::read(folder.0.join(format!("{part}b/deep/3.png"))).unwrap();
        let damaged = &damaged[..damaged.len() / 2];
        fs::write(folder.0.join(format!("{part}b/deep/3.png")), damaged).unwrap();
        let whole = scan(&folder.0);
        let found = survey(&whole, None);
        let files = found.kept_files(&whole).unwrap();
        let lines = files.list.lines().count();
        assert_eq!(lines, whole.len() - 2, "{}", files.list);
        let lost = [files.not_in_list, files.not_in_table, files.without_class];
        assert_eq!(lost, [0; 3]);
        let to = TempFolder::new();
        let kept = [
            to.write("keep.txt", &files.list),
            to.write("keep.csv", &files.table),
        ];
        let named = |folder: &ImageFolder| -> Vec<_> {
            let all = (0..folder.len()).map(|at| (folder.name(at), folder.label(at)));
            all.collect()
        };
        let left_out = |(name, _): &(std::path::PathBuf, _)| {
            !name.ends_with("copy.png") && !name.ends_with("3.png")
        };
        let expected: Vec<_> = named(&whole).into_iter().filter(left_out).collect();
        for path in kept {
            let listed = scan_all(&path);
            assert_eq!(listed.classes(), whole.classes());
            assert_eq!(named(&listed), expected, "{}", path.display());
        }
    }
}

fn scan_all(source: &Path) -> ImageFolder {
    let (config, never) = (FolderConfig::default(), AtomicBool::new(false));
    ImageFolder::scan_all(&[source.to_path_buf()], &config, &never).unwrap()
}

/// Classes that no folder of the path is named by: the table has them.
#[test]
fn what_is_kept_has_the_classes_of_tables() {
    let folder = TempFolder::new();
    for number in 0..4 {
        save(&image(number), &folder, &format!("cat/{number}.png"));
    }
    let table = "path,label\ncat/0.png,Katze\ncat/1.png,cat\ncat/2.png,\ncat/3.png,Hund\n";
    let whole = scan_all(&folder.write("set.csv", table));
    let files = survey(&whole, None).kept_files(&whole).unwrap();
    assert_eq!((files.without_class, files.not_in_table), (2, 0));
    assert_eq!(
        scan_all(&folder.write("keep.txt", &files.list)).classes(),
        ["cat"]
    );
    let kept = scan_all(&folder.write("keep.csv", &files.table));
    assert_eq!(
        (kept.classes(), kept.labels()),
        (whole.classes(), whole.labels())
    );
    // a table holds what no line of a list does
    #[cfg(unix)]
    {
        let odd = TempFolder::new();
        save(&image(5), &odd, "a\n/5.png");
        fs::rename(odd.0.join("a\n/5.png"), odd.0.join("a\n/ 5.png ")).unwrap();
        let whole = scan_all(&odd.0);
        let files = survey(&whole, None).kept_files(&whole).unwrap();
        assert_eq!((files.not_in_list, files.not_in_table), (1, 0));
        let kept = scan_all(&folder.write("odd.csv", &files.table));
        assert_eq!(
            (kept.name(0), kept.classes()),
            (whole.name(0), whole.classes())
        );
    }
}

#[test]
fn odd_images_are_told() {
    let folder = TempFolder::new();
    save(&image(0), &folder, "a.png");
    save(
        &RgbImage::from_pixel(90, 90, Rgb([7, 8, 9])),
        &folder,
        "blank.png",
    );
    save(
        &RgbImage::from_pixel(80, 90, Rgb([9; 3])),
        &folder,
        "blank too.png",
    );
    save(
        &resize(&image(1), 31, 40, FilterType::Triangle),
        &folder,
        "tiny.png",
    );
    save(
        &resize(&image(2), 200, 49, FilterType::Triangle),
        &folder,
        "narrow.png",
    );
    save(
        &resize(&image(3), 200, 50, FilterType::Triangle),
        &folder,
        "wide.png",
    );
    let found = survey(&scan(&folder.0), None).data;
    assert_eq!(file_names(&found.odd.narrow), ["narrow.png"]);
    assert_eq!(file_names(&found.odd.tiny), ["tiny.png"]);
    let uniform = found.odd.uniform.unwrap();
    assert_eq!(file_names(&uniform), ["blank too.png", "blank.png"]);
    // of one color there is nothing to compare
    assert_eq!(found.near_duplicates.unwrap().len(), 0);
    let sizes: Vec<_> = found
        .sizes
        .iter()
        .map(|size| (size.from, size.below, size.images))
        .collect();
    let expected = [
        (0, Some(32), 1),
        (32, Some(64), 2),
        (64, Some(128), 2),
        (128, Some(224), 1),
    ];
    assert_eq!(sizes, expected);
}

#[test]
fn a_survey_stops_and_refuses() {
    let folder = TempFolder::new();
    save(&image(0), &folder, "a.png");
    let folder = scan(&folder.0);
    let stopped = AtomicBool::new(true);
    let config = SurveyConfig::default();
    let result = Survey::of(&folder, None, &config, &stopped, &|_| {});
    assert!(matches!(result, Err(Error::Stopped)));
    let never = AtomicBool::new(false);
    for near in [0.4, 1.1, f64::NAN] {
        let config = SurveyConfig {
            near: Some(near),
            decodes: true,
        };
        let result = Survey::of(&folder, None, &config, &never, &|_| {});
        assert!(matches!(result, Err(Error::Config { .. })), "{near}");
    }
    let config = SurveyConfig {
        near: None,
        decodes: false,
    };
    let found = Survey::of(&folder, None, &config, &never, &|_| {}).unwrap();
    assert_eq!(
        (found.data.near_duplicates, found.data.damaged, found.kept),
        (None, None, 1)
    );
}
