//! Small files that claim much: refused soon, for little memory, with the limit and what to do.

use std::fs;
use std::time::{Duration, Instant};

use ibot::data::decode::decode_rgb;
use ibot::data::header::read_header;
use ibot::data::{FolderConfig, ImageFolder, ImageSource};

use super::memory::peak_of;
use super::mutations::crc;
use super::{MAX_PIXELS, TempFolder, fixture};

/// To be told from the gigabytes that a bomb claims.
const LITTLE: u64 = 192 << 20;
/// To be told from the time that it would take to fill them, on a machine busy with other tests.
const SOON: Duration = Duration::from_secs(5);

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    let length = data.len() as u32;
    [
        &length.to_be_bytes()[..],
        &body,
        &crc(&body).to_be_bytes()[..],
    ]
    .concat()
}

fn png(width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    // 8-bit RGB
    header.extend([8, 2, 0, 0, 0]);
    [
        &[0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'][..],
        &chunk(b"IHDR", &header),
        &chunks.concat(),
        &chunk(b"IEND", &[]),
    ]
    .concat()
}

fn gif(width: u16, height: u16) -> Vec<u8> {
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    [
        &b"GIF89a"[..],
        &size,
        // two colors
        &[0x80, 0, 0, 0, 0, 0, 255, 255, 255],
        // one frame of the same size, four bytes of data, the end
        &[0x2c, 0, 0, 0, 0],
        &size,
        &[0, 2, 4, 0x84, 0x8f, 0xa9, 0xcb, 0, 0x3b],
    ]
    .concat()
}

fn bmp(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    for number in [58, 0, 54, 40, width, height] {
        bytes.extend(number.to_le_bytes());
    }
    // one plane, 24 bits, and six numbers that may be 0; a pixel
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24 + 4]);
    bytes
}

fn tiff(width: u32, height: u32) -> Vec<u8> {
    // size, bits, compression, photometric, strip offset, samples, rows per strip, strip bytes
    let entries: [(u16, u32); 9] = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, width.wrapping_mul(height)),
    ];
    let mut bytes = vec![b'I', b'I', 42, 0, 8, 0, 0, 0, entries.len() as u8, 0];
    for (tag, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend([4, 0, 1, 0, 0, 0]);
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

fn riff_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [kind, &(data.len() as u32).to_le_bytes()[..], data].concat()
}

/// A WebP file of the extended kind.
fn webp(flags: u8, width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut extended = vec![flags, 0, 0, 0];
    for size in [width, height] {
        extended.extend(&(size - 1).to_le_bytes()[..3]);
    }
    let body = [
        &b"WEBP"[..],
        &riff_chunk(b"VP8X", &extended),
        &chunks.concat(),
    ]
    .concat();
    riff_chunk(b"RIFF", &body)
}

/// As an animation, whose frames alone need not have the size of the canvas.
fn animated_webp(width: u32, height: u32) -> Vec<u8> {
    let frame = [
        &[0; 16][..],
        &riff_chunk(b"VP8L", &[0x2f, 0, 0, 0, 0, 0, 0, 0]),
    ]
    .concat();
    let chunks = [riff_chunk(b"ANIM", &[0; 6]), riff_chunk(b"ANMF", &frame)];
    webp(2, width, height, &chunks)
}

/// A zlib stream of `length` zeros, 13 bits for 258 of them (RFC 1951, fixed codes).
fn zlib_zeros(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x78, 0x01];
    let (mut waiting, mut held) = (0_u64, 0);
    let mut write = |bits: u64, count: u32| {
        waiting |= bits << held;
        held += count;
        while held >= 8 {
            bytes.push(waiting as u8);
            waiting >>= 8;
            held -= 8;
        }
    };
    // the last block, fixed codes; Huffman codes go from their highest bit on
    write(0b011, 3);
    write(u64::from(0x30_u8.reverse_bits()), 8);
    for _ in 0..length / 258 {
        // 258 bytes (285) from a distance of 1
        write(u64::from(0b1100_0101_u8.reverse_bits()), 8 + 5);
    }
    write(0, 7 + 8);
    let zeros = (length / 258 * 258 + 1) as u32;
    bytes.extend(((zeros % 65_521) << 16 | 1).to_be_bytes());
    bytes
}

#[test]
fn huge_sizes_are_refused_with_the_limit_and_a_remedy() {
    let folder = TempFolder::new();
    let side = 60_000;
    let bombs = [
        ("a.png", png(side, side, &[chunk(b"IDAT", &[0x78, 1])])),
        ("b.gif", gif(60_000, 60_000)),
        ("c.bmp", bmp(side, side)),
        ("d.tif", tiff(side, side)),
        ("e.webp", animated_webp(side, side)),
    ];
    let config = FolderConfig::default();
    let start = Instant::now();
    let mut wrong = Vec::new();
    let mut judge = |name: &str, reason: &str, peak: u64| {
        let parts = [
            "60000 x 60000",
            "max_pixels = 100000000",
            "raise `max_pixels`",
        ];
        if parts.iter().any(|part| !reason.contains(part)) || peak > 1 << 20 {
            wrong.push(format!("{name}: {peak} bytes, {reason}"));
        }
    };
    for (name, bytes) in &bombs {
        let path = folder.write(name, bytes);
        let (outcome, peak) = peak_of(|| decode_rgb(&path, config.max_pixels));
        judge(name, &outcome.unwrap_err().to_string(), peak);
    }
    folder.copy("f.png", "rgb.png");
    let images = ImageFolder::scan(&folder.0, &config).unwrap();
    assert_eq!(images.len(), 1);
    let skipped = &images.summary().skipped;
    assert_eq!(skipped.len(), bombs.len());
    for (path, reason) in skipped {
        judge(&path.to_string_lossy(), reason, 0);
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The headers above are sound: at a size of every day it is the data that is missing.
#[test]
fn the_same_headers_are_accepted_at_small_sizes() {
    let folder = TempFolder::new();
    for (name, bytes) in [
        ("a.png", png(20, 10, &[chunk(b"IDAT", &[0x78, 1])])),
        ("b.gif", gif(20, 10)),
        ("c.bmp", bmp(20, 10)),
        ("d.tif", tiff(20, 10)),
        ("e.webp", animated_webp(20, 10)),
    ] {
        let path = folder.write(name, bytes);
        let header = read_header(&path, MAX_PIXELS).unwrap().unwrap();
        assert_eq!((header.width, header.height), (20, 10), "{name}");
    }
}

#[test]
fn compressed_zeros_are_not_inflated() {
    let folder = TempFolder::new();
    let zeros = zlib_zeros(1 << 30);
    assert!(zeros.len() < 7 << 20);
    let profile = [b"profile\0\0".as_slice(), &zeros].concat();
    let text = [b"Comment\0\0".as_slice(), &zeros].concat();
    // 32 rows of a filter and 3 * 32 bytes are 3104, a little less than 13 times 258.
    let sound = chunk(b"IDAT", &zlib_zeros(258 * 13));
    for (name, chunks) in [
        ("profile.png", [chunk(b"iCCP", &profile), sound.clone()]),
        ("text.png", [chunk(b"zTXt", &text), sound.clone()]),
        ("pixels.png", [chunk(b"IDAT", &zeros), Vec::new()]),
    ] {
        let path = folder.write(name, png(32, 32, &chunks));
        let start = Instant::now();
        let most = FolderConfig::default().max_pixels;
        let work = || (read_header(&path, most), decode_rgb(&path, most));
        let ((header, image), peak) = peak_of(work);
        // Neither surplus pixels nor damaged metadata are a reason to drop an image.
        assert_eq!(header.unwrap().unwrap().pixels(), 32 * 32, "{name}");
        assert_eq!(image.unwrap().dimensions(), (32, 32), "{name}");
        assert!(peak < LITTLE, "{name}: {peak} bytes");
        assert!(start.elapsed() < SOON, "{name}: {:?}", start.elapsed());
    }
}

#[test]
fn a_claimed_exif_chunk_is_not_allocated() {
    let folder = TempFolder::new();
    let plain = fs::read(fixture("rgb.webp")).unwrap();
    let mut exif = riff_chunk(b"EXIF", b"Exif");
    exif[4..8].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let path = folder.write("claim.webp", webp(8, 32, 16, &[plain[12..].to_vec(), exif]));
    let (image, peak) = peak_of(|| decode_rgb(&path, MAX_PIXELS));
    assert!(peak < LITTLE, "{peak} bytes");
    // Damaged metadata is no reason to drop an image.
    assert_eq!(
        image.unwrap(),
        decode_rgb(&fixture("rgb.webp"), MAX_PIXELS).unwrap()
    );
}

/// Files with holes claim any length at no cost; not every file system has them.
#[cfg(unix)]
#[test]
fn endless_files_are_not_read() {
    let folder = TempFolder::new();
    let stretch = |name: &str, bytes: &[u8], length: u64| {
        let path = folder.write(name, bytes);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length).unwrap();
        path
    };
    let start = Instant::now();
    // Images that are followed by nothing, and a lot of it.
    for name in ["rgb.png", "rgb.jpg", "rgb.tif", "rgb.webp"] {
        let path = stretch(name, &fs::read(fixture(name)).unwrap(), 1 << 30);
        let (image, peak) = peak_of(|| decode_rgb(&path, MAX_PIXELS));
        let message = image.unwrap_err().to_string();
        let header = read_header(&path, MAX_PIXELS).unwrap_err().to_string();
        assert_eq!(message, header);
        assert!(
            message.contains("1073741824 bytes") && message.contains("raise `max_pixels`"),
            "{message}"
        );
        assert!(peak < 1 << 20, "{name}: {peak} bytes");
    }
    // A JPEG file without a frame is not searched for one to its end.
    let path = stretch("frameless.jpg", &[0xff, 0xd8, 0xff, 0xe0, 0, 2], 1 << 34);
    let message = read_header(&path, u64::MAX).unwrap_err().to_string();
    assert!(
        message.contains("frameless.jpg") && message.contains("no frame in the first 64 MiB"),
        "{message}"
    );
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    // What is no image may have any length.
    let path = stretch("film.mkv", &[0x1a, 0x45, 0xdf, 0xa3], 1 << 40);
    assert_eq!(read_header(&path, MAX_PIXELS).unwrap(), None);
}
