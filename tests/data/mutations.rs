//! Damaged files by the thousand, each a pure function of its seed: no panic, bounded memory, an error that names the
//! file.
//!
//! `IBOT_FUZZ_SECONDS=600` goes on for so long, `IBOT_FUZZ_SEED=123` repeats one.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use ibot::data::decode::decode_rgb;
use ibot::data::header::read_header;
use ibot::random::{Random, Stream};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, RgbImage};

use super::memory::peak_of;
use super::{MAX_PIXELS, TempFolder, fixture, is_printable, texture};

/// What a decoder may take (see `decode.rs`): 16 bytes a pixel and 64 MiB; then the image as RGBA and as RGB. A list in
/// the directory of a TIFF file may claim 256 MiB, a bound that `image` gives no access to and that is never touched.
const MAX_BYTES: u64 = MAX_PIXELS * (16 + 4 + 3) + (64 << 20) + (256 << 20);
/// No damaged file of 1 kB is worth more than this, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without `IBOT_FUZZ_SECONDS`; and at least so many files, however slow the machine.
const SECONDS: u64 = 3;
const AT_LEAST: u64 = 500;

/// Small sound files: what `image` encodes, and fixtures of the kinds it does not.
fn sound_files() -> Vec<(String, Vec<u8>)> {
    let image =
        DynamicImage::ImageRgb8(RgbImage::from_fn(20, 13, |x, y| *texture().get_pixel(x, y)));
    let kinds = [
        ("rgb", image.clone()),
        ("rgba", image.to_rgba8().into()),
        ("gray", image.to_luma8().into()),
        ("rgb16", image.to_rgb16().into()),
        ("float", image.to_rgb32f().into()),
    ];
    let mut files = Vec::new();
    for format in [
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Gif,
        ImageFormat::Tiff,
    ] {
        for (kind, image) in &kinds {
            let mut bytes = Cursor::new(Vec::new());
            // Not every format has every kind.
            if image.write_to(&mut bytes, format).is_ok() {
                files.push((format!("{kind} {format:?}"), bytes.into_inner()));
            }
        }
    }
    let mut bytes = Vec::new();
    image
        .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90))
        .unwrap();
    files.push(("Jpeg".to_owned(), bytes));
    for name in [
        "palette_alpha.png",
        "rgb.webp",
        "rgba.webp",
        "animated.gif",
        "progressive.jpg",
        "cmyk.jpg",
        "orientation_6.jpg",
        "../odd/scans_422_restart.jpg",
        "../odd/arithmetic.jpg",
        "../odd/trailer_for_end.jpg",
        "../odd/cmyk_scans.jpg",
        "../odd/raw_profile_exif_6.png",
        "../odd/frame_larger_than_screen.gif",
        "../odd/big.tif",
        "../odd/palette_4_bits.tif",
        "../odd/cmyk_planes.tif",
        "../odd/lzw_tiles.tif",
        "../odd/ycbcr_jpeg.tif",
    ] {
        files.push((name.to_owned(), fs::read(fixture(name)).unwrap()));
    }
    files
}

/// One to three changes of `bytes`; `other` lends its bytes to splices.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        // Headers are short and matter most.
        let reach = if random.chance(0.5) { 64 } else { bytes.len() };
        let at = random.below(reach.min(bytes.len()));
        let until = at + random.below(bytes.len() - at) + 1;
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => overwrite_number(&mut bytes[at..], random),
            4 => {
                let from = random.below(other.len());
                let to = (from + random.below(64) + 1).min(other.len());
                bytes.splice(at..until.min(at + 64), other[from..to].iter().copied());
            }
            _ => {
                let piece = bytes[at..until].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// A number of 1, 2 or 4 bytes as lengths, counts and sizes are: small, extreme, or slightly off.
fn overwrite_number(bytes: &mut [u8], random: &mut Random) {
    let width = [1, 2, 4][random.below(3)].min(bytes.len());
    let field = &mut bytes[..width];
    let old = field
        .iter()
        .fold(0_u32, |old, &byte| old << 8 | u32::from(byte));
    let numbers = [
        0,
        1,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
        60_000,
        old.wrapping_add(1),
        old.wrapping_sub(1),
        old.wrapping_mul(2),
    ];
    let new = numbers[random.below(numbers.len())].to_be_bytes();
    field.copy_from_slice(&new[4 - width..]);
    if random.chance(0.3) {
        field.reverse();
    }
}

/// Puts right the check sums of a PNG file, or the decoder would stop at each of them.
fn repair_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let end = at + 8 + length;
        if bytes.len() < end + 4 {
            return;
        }
        let sum = crc(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}

/// CRC-32 of a PNG chunk's type and data.
pub fn crc(bytes: &[u8]) -> u32 {
    let step = |sum: u32, &byte: &u8| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

fn mutant(files: &[(String, Vec<u8>)], seed: u64) -> (&str, Vec<u8>) {
    let mut random = Random::new(seed, 0, 0, Stream::Demo);
    let (name, bytes) = &files[random.below(files.len())];
    let (_, other) = &files[random.below(files.len())];
    let mut bytes = bytes.clone();
    mutate(&mut bytes, other, &mut random);
    if random.chance(0.7) && bytes.starts_with(&[0x89, b'P', b'N', b'G']) {
        repair_png(&mut bytes);
    }
    (name, bytes)
}

/// Whether it decoded; what is wrong with how it did or did not.
fn check(path: &Path) -> Result<bool, String> {
    let start = Instant::now();
    let work = || {
        let work = || (read_header(path, MAX_PIXELS), decode_rgb(path, MAX_PIXELS));
        catch_unwind(AssertUnwindSafe(work))
    };
    let (outcome, peak) = peak_of(work);
    let (header, image) = outcome.map_err(|_| "a panic".to_owned())?;
    if peak > MAX_BYTES {
        return Err(format!("{peak} bytes"));
    }
    if start.elapsed() > PATIENCE {
        return Err(format!("{:?}", start.elapsed()));
    }
    for error in [header.as_ref().err(), image.as_ref().err()] {
        let message = error.map(ToString::to_string).unwrap_or_default();
        if error.is_some() && !message.contains("mutant") {
            return Err(format!("the file is not named: {message}"));
        }
        if !is_printable(&message) {
            return Err(format!("the message is not printable: {message:?}"));
        }
    }
    match (header, image) {
        (Ok(Some(_)) | Err(_), Ok(image)) => {
            let pixels = u64::from(image.width()) * u64::from(image.height());
            let is_allowed = (1..=MAX_PIXELS).contains(&pixels);
            is_allowed
                .then_some(true)
                .ok_or_else(|| format!("{pixels} pixels"))
        }
        (Ok(None), Ok(_)) => Err("it decodes, but a scan says that it is no image".to_owned()),
        (_, Err(_)) => Ok(false),
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap())
}

#[test]
fn damaged_files_cost_themselves_only() {
    let files = sound_files();
    let folder = TempFolder::new();
    for (name, bytes) in &files {
        let path = folder.write("mutant", bytes);
        assert_eq!(check(&path), Ok(true), "{name}");
    }
    let only = number("IBOT_FUZZ_SEED");
    let seconds = Duration::from_secs(number("IBOT_FUZZ_SECONDS").unwrap_or(SECONDS));
    let start = Instant::now();
    let mut outcomes = [0_u64; 2];
    let mut wrong = Vec::new();
    for seed in only.map_or(0..u64::MAX, |seed| seed..seed + 1) {
        if seed >= AT_LEAST && only.is_none() && start.elapsed() > seconds {
            break;
        }
        let (name, bytes) = mutant(&files, seed);
        let path = folder.write("mutant", &bytes);
        let checked = check(&path);
        // A file written over, not anew, is flushed to the disk first.
        fs::remove_file(&path).unwrap();
        match checked {
            Ok(is_decoded) => outcomes[usize::from(is_decoded)] += 1,
            Err(why) => wrong.push(format!("IBOT_FUZZ_SEED={seed} ({name}): {why}")),
        }
    }
    println!("[damaged, decoded]: {outcomes:?}");
    assert!(
        wrong.is_empty(),
        "{} of {outcomes:?}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // Both happen: a flipped color is no damage, a flipped length is.
    assert!(
        only.is_some() || outcomes.iter().all(|&count| count > 50),
        "{outcomes:?}"
    );
}
