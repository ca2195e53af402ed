//! Images of more than 8 bits: which of their values become black and white.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use ibot::Error;
use ibot::data::decode::{decode_rgb, decode_rgb_in, decode_rgba};
use ibot::data::header::read_header;
use ibot::data::{Depth, FolderConfig, ImageFolder, ImageSource, Unused, ValueRange};
use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage};
use tiff::encoder::TiffEncoder;
use tiff::encoder::colortype::{ColorType, Gray16, Gray32Float, RGB16};
use tiff::tags::Tag;

use super::{MAX_PIXELS, TempFolder, fixture};

const SIDE: u32 = 24;

/// An image of a camera of 12 bits: a ramp over all of them.
fn ramp() -> Vec<u16> {
    let last = SIDE * SIDE - 1;
    let value = |at: u32| ((at * 4095 + last / 2) / last) as u16;
    (0..=last).map(value).collect()
}

fn write_tiff<C: ColorType>(path: &Path, samples: &[C::Inner])
where
    [C::Inner]: tiff::encoder::TiffValue,
{
    let mut encoder = TiffEncoder::new(BufWriter::new(File::create(path).unwrap())).unwrap();
    encoder.write_image::<C>(SIDE, SIDE, samples).unwrap();
}

fn scan(folder: &TempFolder, range: ValueRange) -> ibot::Result<ImageFolder> {
    let config = FolderConfig {
        range,
        ..FolderConfig::default()
    };
    ImageFolder::scan(&folder.0, &config)
}

/// The gray levels of an image.
fn levels(image: &RgbImage) -> Vec<u8> {
    let gray = |pixel: &Rgb<u8>| {
        assert!(pixel.0.iter().all(|level| *level == pixel.0[0]));
        pixel.0[0]
    };
    image.pixels().map(gray).collect()
}

fn of_white(samples: &[u16], white: f64) -> Vec<u8> {
    let level = |value: &u16| (f64::from(*value) * 255.0 / white).round().min(255.0) as u8;
    samples.iter().map(level).collect()
}

/// Equal but for what rounding twice may do.
fn assert_close(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.abs_diff(*expected) <= 1, "{found} {expected}");
    }
}

#[test]
fn twelve_bits_are_not_black_and_one_range_holds_for_the_folder() {
    let folder = TempFolder::new();
    let bright = ramp();
    let dark: Vec<u16> = bright.iter().map(|value| value / 8).collect();
    write_tiff::<Gray16>(&folder.0.join("bright.tif"), &bright);
    write_tiff::<Gray16>(&folder.0.join("dark.tif"), &dark);
    folder.copy("photo.png", "gray.png");
    let images = scan(&folder, ValueRange::Auto).unwrap();
    let twelve = ValueRange::Between([0.0, 4095.0]);
    assert_eq!(images.range(), twelve);
    let text = images.summary().to_string();
    let said = "2 images with more than 8 bits: values 0 to 4095 become black to white (12 bits hold the values";
    assert!(text.contains(said), "{text}");
    assert_close(
        &levels(&images.decode(0).unwrap()),
        &of_white(&bright, 4095.0),
    );
    // not stretched to a range of its own: an eighth as bright as the other one
    assert_close(
        &levels(&images.decode(1).unwrap()),
        &of_white(&dark, 4095.0),
    );
    let photo = decode_rgb(&fixture("gray.png"), MAX_PIXELS).unwrap();
    assert_eq!(images.decode(2).unwrap(), photo);
    // a part and a sample keep it; another folder may be given it
    assert_eq!(images.part(&[1]).range(), twelve);
    assert_eq!(
        images.part(&[1]).decode(0).unwrap(),
        images.decode(1).unwrap()
    );
    // alone it is measured on its own
    let alone = decode_rgb_in(&images.name(1), MAX_PIXELS, ValueRange::Auto).unwrap();
    assert_close(&levels(&alone), &of_white(&dark, 511.0));
    // the whole range of 16 bits is what it was: black
    let full = scan(&folder, ValueRange::Full).unwrap().decode(0).unwrap();
    assert_eq!(levels(&full).iter().max(), Some(&16));
    assert_eq!(full, decode_rgb(&images.name(0), MAX_PIXELS).unwrap());
    // and a given one cuts off
    let given = scan(&folder, ValueRange::Between([1000.0, 2000.0])).unwrap();
    let given = levels(&given.decode(0).unwrap());
    let expected = bright.iter().map(|value| value.saturating_sub(1000));
    assert_close(&given, &of_white(&expected.collect::<Vec<_>>(), 1000.0));
}

#[test]
fn all_of_16_bits_stays_as_it_was() {
    let folder = TempFolder::new();
    let samples: Vec<u16> = ramp().iter().map(|value| value * 16).collect();
    write_tiff::<Gray16>(&folder.0.join("a.tif"), &samples);
    let images = scan(&folder, ValueRange::Auto).unwrap();
    assert_eq!(images.range(), ValueRange::Full);
    let before = decode_rgb(&images.name(0), MAX_PIXELS).unwrap();
    assert_eq!(images.decode(0).unwrap(), before);
    assert_close(&levels(&before), &of_white(&samples, 65535.0));
}

#[test]
fn png_of_16_bits_keeps_its_transparency() {
    let folder = TempFolder::new();
    let ten: Vec<u16> = ramp().iter().map(|value| value / 4).collect();
    let gray = ImageBuffer::<Luma<u16>, _>::from_raw(SIDE, SIDE, ten.clone()).unwrap();
    gray.save(folder.0.join("gray.png")).unwrap();
    let half: Vec<u16> = ten.iter().flat_map(|value| [*value, 32768]).collect();
    let with_alpha = ImageBuffer::<LumaA<u16>, _>::from_raw(SIDE, SIDE, half).unwrap();
    let path = folder.0.join("half.png");
    DynamicImage::ImageLumaA16(with_alpha).save(&path).unwrap();
    let images = scan(&folder, ValueRange::Auto).unwrap();
    let range = ValueRange::Between([0.0, 1023.0]);
    assert_eq!(images.range(), range);
    assert_close(&levels(&images.decode(0).unwrap()), &of_white(&ten, 1023.0));
    let rgba = decode_rgba(&path, MAX_PIXELS, range).unwrap();
    assert!(rgba.pixels().all(|pixel| pixel.0[3] == 128));
    let color: Vec<u8> = rgba.pixels().map(|pixel| pixel.0[0]).collect();
    assert_close(&color, &of_white(&ten, 1023.0));
    let on_white = levels(&images.decode(1).unwrap());
    assert_eq!((on_white[0], *on_white.last().unwrap()), (127, 255));
}

#[test]
fn floats_are_scaled_or_named_with_the_remedy() {
    let folder = TempFolder::new();
    let path = folder.0.join("a.tif");
    let ramp = ramp();
    let with = |scale: f32, shift: f32| {
        let samples: Vec<f32> = ramp.iter().map(|v| f32::from(*v) * scale + shift).collect();
        write_tiff::<Gray32Float>(&path, &samples);
        scan(&folder, ValueRange::Auto).unwrap()
    };
    for (scale, range) in [
        (1.0 / 4095.0, ValueRange::Full),
        (1.0, ValueRange::Between([0.0, 4095.0])),
        (254.0 / 4095.0, ValueRange::Between([0.0, 255.0])),
    ] {
        let images = with(scale, 0.0);
        assert_eq!(images.range(), range);
        assert_close(
            &levels(&images.decode(0).unwrap()),
            &of_white(&ramp, 4095.0),
        );
    }
    let images = with(1.0, -1024.0);
    let message = images.decode(0).unwrap_err().to_string();
    for said in ["a.tif", "-1024 to 3071", "`range`"] {
        assert!(message.contains(said), "{message}");
    }
    let text = images.summary().to_string();
    assert!(
        text.contains("from -1024 to 3071: give black and white"),
        "{text}"
    );
    let given = scan(&folder, ValueRange::Between([-1024.0, 3071.0])).unwrap();
    assert_close(&levels(&given.decode(0).unwrap()), &of_white(&ramp, 4095.0));
    let mut samples = vec![0.5; ramp.len()];
    samples[7] = f32::NAN;
    write_tiff::<Gray32Float>(&path, &samples);
    for range in [ValueRange::Auto, ValueRange::Between([0.0, 1.0])] {
        let message = scan(&folder, range).unwrap().decode(0).unwrap_err();
        assert!(message.to_string().contains("NaN or infinite"), "{message}");
    }
}

#[test]
fn whole_numbers_and_floats_need_a_range_that_is_given() {
    let folder = TempFolder::new();
    let ramp = ramp();
    write_tiff::<Gray16>(&folder.0.join("a.tif"), &ramp);
    let unit: Vec<f32> = ramp
        .iter()
        .map(|value| f32::from(*value) / 4095.0)
        .collect();
    write_tiff::<Gray32Float>(&folder.0.join("b.tif"), &unit);
    let error = scan(&folder, ValueRange::Auto).unwrap_err();
    assert!(matches!(&error, Error::Data { path, .. } if *path == folder.0));
    let message = error.to_string();
    assert!(
        message.contains("`range`") && message.contains("two folders"),
        "{message}"
    );
    assert!(scan(&folder, ValueRange::Full).is_ok());
    let error = scan(&folder, ValueRange::Between([2.0, 1.0])).unwrap_err();
    assert!(
        error.to_string().contains("folder.range = [2, 1]"),
        "{error}"
    );
}

#[test]
fn a_cache_of_one_range_serves_no_other() {
    let (folder, cache) = (TempFolder::new(), TempFolder::new());
    write_tiff::<Gray16>(&folder.0.join("a.tif"), &ramp());
    let decode = |range| {
        let config = FolderConfig {
            range,
            shorter_side: Some(8),
            cache: Some(cache.0.clone()),
            ..FolderConfig::default()
        };
        let images = ImageFolder::scan(&folder.0, &config).unwrap();
        levels(&images.decode(0).unwrap())
    };
    let brightest = |range| *decode(range).iter().max().unwrap();
    for _ in 0..2 {
        assert!(brightest(ValueRange::Full) < 20);
        assert!(brightest(ValueRange::Auto) > 230);
        assert_eq!(brightest(ValueRange::Between([0.0, 100.0])), 255);
    }
}

#[test]
fn a_header_says_what_is_deep_and_what_is_not_used() {
    let folder = TempFolder::new();
    let header = |path: &Path| read_header(path, MAX_PIXELS).unwrap().unwrap();
    let ramp = ramp();
    let path = folder.0.join("a.tif");
    write_tiff::<Gray16>(&path, &ramp);
    assert_eq!(
        (header(&path).depth, header(&path).unused),
        (Depth::Bits16, None)
    );
    let three: Vec<u16> = ramp.iter().flat_map(|value| [*value; 3]).collect();
    write_tiff::<RGB16>(&path, &three);
    assert_eq!(header(&path).depth, Depth::Bits16);
    for (name, depth) in [
        ("gray.png", Depth::Bits8),
        ("rgb.jpg", Depth::Bits8),
        ("rgb.tif", Depth::Bits8),
    ] {
        assert_eq!(header(&fixture(name)).depth, depth, "{name}");
        assert_eq!(header(&fixture(name)).unused, None, "{name}");
    }
    // two pages
    let mut encoder = TiffEncoder::new(BufWriter::new(File::create(&path).unwrap())).unwrap();
    for _ in 0..2 {
        encoder.write_image::<Gray16>(SIDE, SIDE, &ramp).unwrap();
    }
    drop(encoder);
    assert_eq!(header(&path).unused, Some(Unused::Pages));
    // red, green, blue and infrared, of no meaning that the file would name
    let mut encoder = TiffEncoder::new(BufWriter::new(File::create(&path).unwrap())).unwrap();
    let four: Vec<u16> = ramp.iter().flat_map(|value| [*value; 4]).collect();
    let mut image = encoder
        .new_image::<tiff::encoder::colortype::RGBA16>(SIDE, SIDE)
        .unwrap();
    image
        .encoder()
        .write_tag(Tag::ExtraSamples, &[0_u16][..])
        .unwrap();
    image.write_data(&four).unwrap();
    drop(encoder);
    assert_eq!(header(&path).unused, Some(Unused::Channels));
    let images = scan(&folder, ValueRange::Auto).unwrap();
    assert_close(
        &levels(&images.decode(0).unwrap()),
        &of_white(&ramp, 4095.0),
    );
    let text = images.summary().to_string();
    assert!(
        text.contains("1 image with more than three channels"),
        "{text}"
    );
}
