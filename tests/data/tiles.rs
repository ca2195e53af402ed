//! Tiles: what they show, in which order, and that an image is decoded once for its neighbors.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ibot::Error;
use ibot::data::{
    AugmentConfig, Batch, FolderConfig, ImageFolder, ImageSource, Loader, LoaderConfig, Position,
    TileGrid, Tiles, TrainViews,
};
use ibot::masking::MaskPolicy;
use image::imageops::crop_imm;
use image::{GrayImage, Rgb, RgbImage};

use super::{TempFolder, fixture};

fn image(width: u32, height: u32, shade: u8) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([shade, x as u8, y as u8]))
}

fn scan(folder: &TempFolder) -> Arc<ImageFolder> {
    Arc::new(ImageFolder::scan(&folder.0, &FolderConfig::default()).unwrap())
}

/// Images of 100 x 60, 40 x 130 and 30 x 20 pixels.
fn three(folder: &TempFolder) {
    for (name, width, height) in [
        ("a/1.png", 100, 60),
        ("b/2.png", 40, 130),
        ("b/3.png", 30, 20),
    ] {
        let path = folder.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image(width, height, width as u8).save(path).unwrap();
    }
}

#[test]
fn tiles_are_parts_of_the_upright_image() {
    let folder = TempFolder::new();
    three(&folder);
    let images = scan(&folder);
    let tiles = Tiles::new(images.clone(), TileGrid::new(40, 10));
    // 3 x 2, 1 x 4, 1
    assert_eq!(tiles.len(), 11);
    let places: Vec<_> = (0..11).map(|at| tiles.place(at)).collect();
    assert_eq!(places[5..8], [(0, 5), (1, 0), (1, 1)]);
    assert_eq!(places[10], (2, 0));
    for index in 0..tiles.len() {
        let (image, _) = tiles.place(index);
        let area = tiles.area(index).unwrap();
        let whole = images.decode(image).unwrap();
        let part = crop_imm(&whole, area.x, area.y, area.width, area.height).to_image();
        assert_eq!(tiles.decode(index).unwrap(), part);
        assert_eq!(tiles.name(index), images.name(image));
        assert_eq!(tiles.label(index), images.label(image));
    }
    let last = tiles.area(10).unwrap();
    assert_eq!((last.x, last.y, last.width, last.height), (0, 0, 30, 20));
    // 6 tiles of 40 x 40, 4 of 40 x 40, one of 30 x 20
    assert_eq!(tiles.decoded_bytes(), 3 * (10 * 1600 + 600));
    // a part of the images has their tiles alone
    let held_out = Tiles::new(Arc::new(images.part(&[1])), TileGrid::new(40, 10));
    assert_eq!((held_out.len(), held_out.label(3)), (4, Some(1)));
}

#[test]
fn an_orientation_turns_the_image_before_it_is_cut() {
    let folder = TempFolder::new();
    let turned = "orientation_6.jpg";
    folder.copy("turned.jpg", turned);
    let images = scan(&folder);
    let [width, height] = images.size(0);
    let upright = images.decode(0).unwrap();
    assert_eq!(upright.dimensions(), (width, height), "{turned} is turned");
    assert!(width > height, "it stands in the file");
    let side = width.min(height) - 1;
    let tiles = Tiles::new(images, TileGrid::new(side, 0));
    // what the scan found is enough
    fs::remove_file(folder.0.join("turned.jpg")).unwrap();
    let areas: Vec<_> = (0..tiles.len()).map(|at| tiles.area(at).unwrap()).collect();
    let right = areas.iter().map(|area| area.x + area.width).max();
    let bottom = areas.iter().map(|area| area.y + area.height).max();
    assert_eq!((right, bottom), (Some(width), Some(height)));
}

#[test]
fn an_image_is_reduced_before_it_is_cut() {
    let folder = TempFolder::new();
    three(&folder);
    let config = FolderConfig {
        shorter_side: Some(30),
        tile: Some(20),
        ..FolderConfig::default()
    };
    let images = Arc::new(ImageFolder::scan(&folder.0, &config).unwrap());
    let tiles = config.examples(images.clone());
    // 50 x 30, 30 x 98 and 30 x 20 pixels
    assert_eq!(tiles.len(), 3 * 2 + 2 * 5 + 2);
    for index in 0..tiles.len() {
        assert_eq!(tiles.decode(index).unwrap().dimensions(), (20, 20));
    }
    let whole = FolderConfig::default().examples(images);
    assert_eq!(whole.len(), 3);
}

#[test]
fn an_image_is_decoded_once_for_all_of_its_tiles() {
    let folder = TempFolder::new();
    three(&folder);
    let images = scan(&folder);
    let tiles = Tiles::new(images, TileGrid::new(40, 0));
    let first = tiles.decode(0).unwrap();
    fs::remove_file(folder.0.join("a/1.png")).unwrap();
    assert_eq!(tiles.decode(0).unwrap(), first);
    assert!(tiles.decode(1).is_ok());
    // one that is another image by now is named
    image(41, 130, 0).save(folder.0.join("b/2.png")).unwrap();
    let at = (0..tiles.len()).find(|at| tiles.place(*at).0 == 1).unwrap();
    let message = tiles.decode(at).unwrap_err().to_string();
    assert!(message.contains("2.png: has another size"), "{message}");
}

/// Large and empty images, of which four fill a group of 512 MiB.
fn large(folder: &TempFolder, count: usize) {
    let first = folder.0.join("0.png");
    GrayImage::new(8000, 6000).save(&first).unwrap();
    for number in 1..count {
        fs::hard_link(&first, folder.0.join(format!("{number}.png"))).unwrap();
    }
}

#[test]
fn an_epoch_has_every_tile_once_and_images_come_in_groups() {
    let folder = TempFolder::new();
    large(&folder, 12);
    let tiles = Tiles::new(scan(&folder), TileGrid::new(1000, 0));
    assert_eq!(tiles.len(), 12 * 48);
    let order = tiles.order(3, 5).unwrap();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..tiles.len()).collect::<Vec<_>>());
    let images_of = |part: &[usize]| -> BTreeSet<usize> {
        part.iter().map(|index| tiles.place(*index).0).collect()
    };
    for group in order.chunks(4 * 48) {
        assert_eq!(images_of(group).len(), 4);
        // shuffled in the group
        assert!(images_of(&group[..24]).len() > 1);
        assert!(
            group
                .windows(2)
                .filter(|pair| pair[1] == pair[0] + 1)
                .count()
                < 20
        );
    }
    assert_eq!(order, tiles.order(3, 5).unwrap());
    assert_ne!(order, tiles.order(3, 6).unwrap());
    assert_ne!(order, tiles.order(4, 5).unwrap());
}

fn loader(tiles: Tiles, workers: usize, batch: usize) -> Loader {
    let augment = AugmentConfig {
        image_size: 16,
        ..AugmentConfig::default()
    };
    let make = TrainViews {
        augment,
        masks: MaskPolicy::default(),
        grid: [2, 2],
    };
    let config = LoaderConfig {
        batch_size: 4,
        workers,
        seed: 7,
        cache_mib: 0,
        ..LoaderConfig::default()
    };
    let position = Position { epoch: 0, batch };
    Loader::new(Arc::new(tiles), make, &config, position).unwrap()
}

#[test]
fn batches_of_tiles_are_equal_for_any_workers_and_from_any_place() {
    let folder = TempFolder::new();
    three(&folder);
    let tiles = || Tiles::new(scan(&folder), TileGrid::new(40, 10));
    let mut one = loader(tiles(), 1, 0);
    assert_eq!(one.batches_per_epoch(), 2);
    let batches: Vec<Batch> = (0..5).map(|_| one.next_batch().unwrap()).collect();
    assert_ne!(batches[0].samples, batches[2].samples, "another epoch");
    for (workers, start) in [(4, 0), (2, 3)] {
        let mut other = loader(tiles(), workers, start);
        for expected in &batches[start..] {
            assert_eq!(&other.next_batch().unwrap(), expected);
        }
    }
}

#[test]
fn a_damaged_image_is_named_once_for_all_of_its_tiles() {
    let folder = TempFolder::new();
    three(&folder);
    let path = folder.0.join("a/1.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let mut loader = loader(Tiles::new(scan(&folder), TileGrid::new(40, 10)), 2, 0);
    for _ in 0..4 {
        loader.next_batch().unwrap();
    }
    let skipped = loader.take_skipped();
    let names: Vec<&Path> = skipped.iter().map(|(path, _)| path.as_path()).collect();
    assert_eq!(names, [path.as_path()]);
    assert_eq!(loader.skipped(), 1);
}

#[test]
fn settings_of_tiles_that_cannot_be_are_refused() {
    let folder = TempFolder::new();
    folder.write("1.png", fs::read(fixture("rgb.png")).unwrap());
    let refused = |config: FolderConfig| {
        let error = ImageFolder::scan(&folder.0, &config).unwrap_err();
        error.to_string()
    };
    let config = FolderConfig::default();
    for (tile, tile_overlap, said) in [
        (Some(8), 0, "folder.tile = 8"),
        (Some(100_000), 0, "folder.tile = 100000"),
        (Some(64), 64, "folder.tile_overlap = 64"),
        (None, 3, "folder.tile_overlap = 3: needs folder.tile"),
    ] {
        let config = FolderConfig {
            tile,
            tile_overlap,
            ..config.clone()
        };
        assert!(
            refused(config.clone()).contains(said),
            "{}",
            refused(config)
        );
    }
    let cached = FolderConfig {
        tile: Some(64),
        shorter_side: Some(16),
        cache: Some(folder.0.join("cache")),
        ..config
    };
    assert!(refused(cached).contains("cannot be combined with folder.tile"));
}

/// A link to itself is no file for the system, as a share that is away: it is read again, and a damaged one is not.
#[cfg(unix)]
#[test]
fn an_image_that_the_system_did_not_open_is_read_again() {
    let folder = TempFolder::new();
    three(&folder);
    let tiles = Tiles::new(scan(&folder), TileGrid::new(40, 10));
    let path = folder.0.join("a/1.png");
    let aside = folder.0.join("aside");
    fs::rename(&path, &aside).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    for index in [0, 1, 0] {
        assert!(matches!(tiles.decode(index), Err(Error::Io { .. })));
    }
    fs::remove_file(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    assert!(tiles.decode(0).is_ok());
    // what is damaged stays so for the tiles that follow
    let path = folder.0.join("b/2.png");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(tiles.decode(6), Err(Error::Data { .. })));
    fs::write(&path, &whole).unwrap();
    assert!(tiles.decode(7).is_err());
    assert_eq!(tiles.of_one_file(7), 6..10);
}
