//! What a file is, by its first bytes and, where they are those of no image that is read here, by its ending.

use std::ffi::OsStr;
use std::path::Path;

use image::ImageFormat;

use crate::data::storage::shards::compressed::{COMPRESSED, is_compressed};

/// Bytes that tell every kind apart.
pub(super) const MAGIC_BYTES: u64 = 16;

/// Endings of the images that are read here.
const IMAGES: &[&str] = &[
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff",
];
/// Endings of cameras' own files.
const RAW_PHOTOS: &[&str] = &[
    "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos", "mrw",
    "nef", "nrw", "orf", "pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
];
/// Endings of other kinds of images, none of which is read here, and their names.
const OTHERS: &[(&str, &str)] = &[
    ("heic", "HEIC"),
    ("heif", "HEIF"),
    ("hif", "HEIF"),
    ("avif", "AVIF"),
    ("jxl", "JPEG XL"),
    ("jp2", "JPEG 2000"),
    ("j2k", "JPEG 2000"),
    ("jpf", "JPEG 2000"),
    ("jpx", "JPEG 2000"),
    ("jxr", "JPEG XR"),
    ("psd", "Photoshop"),
    ("psb", "Photoshop"),
    ("exr", "OpenEXR"),
    ("hdr", "Radiance"),
    ("tga", "Targa"),
    ("pbm", "PBM"),
    ("pgm", "PGM"),
    ("ppm", "PPM"),
    ("pnm", "PNM"),
    ("dcm", "DICOM"),
];

/// The kind of image that `magic`, the first 16 bytes of a file, belongs to; None if to none that is read here.
pub fn sniff(magic: &[u8]) -> Option<ImageFormat> {
    match magic {
        [0xff, 0xd8, 0xff, ..] => Some(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(ImageFormat::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageFormat::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, rest @ ..] if rest.starts_with(b"WEBP") => {
            Some(ImageFormat::WebP)
        }
        // 43 is BigTIFF.
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(ImageFormat::Tiff),
        // A text may start with "BM", but has no zeros: the header's size at 14 is one of these.
        [b'B', b'M', ..] => {
            let size = magic.get(14..16)?;
            matches!(size, [12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0]).then_some(ImageFormat::Bmp)
        }
        _ => None,
    }
}

/// The kind of the image at `path`, which starts with `magic`; None where nothing says that it should be one.
///
/// # Errors
/// Why it is left out by name: an image by its content or its ending, and none that is read here.
pub(in crate::data) fn kind(path: &Path, magic: &[u8]) -> Result<Option<ImageFormat>, String> {
    let ending = path
        .extension()
        .and_then(OsStr::to_str)
        .map(str::to_lowercase);
    let ending = ending.as_deref().unwrap_or_default();
    match sniff(magic) {
        // Its first page may be a small copy.
        Some(ImageFormat::Tiff) if RAW_PHOTOS.contains(&ending) => Err(raw_photo()),
        Some(format) => Ok(Some(format)),
        None => match why_not(path, ending, magic) {
            Some(reason) => Err(reason),
            None => Ok(None),
        },
    }
}

fn why_not(path: &Path, ending: &str, magic: &[u8]) -> Option<String> {
    // A program's own, as macOS's "._photo.jpg".
    let name = path.file_name()?.as_encoded_bytes();
    if name.starts_with(b".") {
        return None;
    }
    if let Some(name) = unread(magic) {
        return Some(match name {
            RAW => raw_photo(),
            name => not_read(name),
        });
    }
    if RAW_PHOTOS.contains(&ending) {
        return Some(raw_photo());
    }
    // there may be images in it
    if is_compressed(path) {
        return Some(COMPRESSED.to_owned());
    }
    if let Some((_, name)) = OTHERS.iter().find(|(other, _)| *other == ending) {
        return Some(not_read(name));
    }
    IMAGES.contains(&ending).then(|| match magic {
        [] => "empty: it has no bytes".to_owned(),
        _ if is_text(magic) => {
            format!("a text or web page despite its extension .{ending}")
        }
        _ => format!("not a known image format despite its extension .{ending}"),
    })
}

const RAW: &str = "raw";
/// Of Olympus (three), Panasonic, Fujifilm, Sigma and Minolta.
const RAW_MAGICS: [&[u8]; 7] = [
    b"IIRO",
    b"IIRS",
    b"MMOR",
    b"IIU\0",
    b"FUJIFILMCCD",
    b"FOVb",
    b"\0MRM",
];

/// The kind of a file that other programs show.
fn unread(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4)? {
            b"avif" | b"avis" => Some("AVIF"),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                Some("HEIC")
            }
            b"crx " => Some(RAW),
            _ => None,
        },
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some("JPEG XL"),
        [0xff, 0x4f, 0xff, 0x51, ..] | [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => {
            Some("JPEG 2000")
        }
        [b'8', b'B', b'P', b'S', 0, ..] => Some("Photoshop"),
        _ if RAW_MAGICS.iter().any(|raw| magic.starts_with(raw)) => Some(RAW),
        _ => None,
    }
}

fn not_read(name: &str) -> String {
    let with = match name {
        "HEIC" | "HEIF" | "AVIF" => {
            ", for example with `magick FILE FILE.jpg` (ImageMagick), or Preview on macOS"
        }
        "JPEG XL" | "JPEG 2000" | "Photoshop" => {
            ", for example with `magick FILE FILE.png` (ImageMagick)"
        }
        _ => "",
    };
    format!("{name} is not supported; save it as JPEG or PNG{with}")
}

/// Why a camera's own file is left out.
pub(super) fn raw_photo() -> String {
    "raw camera files are not supported; export it as JPEG or TIFF, for example with `darktable-cli FILE FILE.jpg`"
        .to_owned()
}

fn is_text(magic: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    magic.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_image() {
        assert_eq!(sniff(b"BMW and Audi are cars"), None);
        assert_eq!(sniff(b"BM, one, two (or"), None);
        assert_eq!(sniff(b"II. Chapter"), None);
        assert_eq!(sniff(b""), None);
        assert_eq!(sniff(b"GIF89a with more"), Some(ImageFormat::Gif));
    }

    #[test]
    fn what_is_not_read_is_named_with_a_remedy() {
        let why = |path: &str, magic: &[u8]| kind(Path::new(path), magic).err();
        let heic = b"\0\0\0\x18ftypheic\0\0\0\0";
        for (path, magic, parts) in [
            ("a.jpg", heic.as_slice(), ["HEIC", "JPEG or PNG"]),
            ("a", b"\0\0\0\x18ftypavif\0\0\0\0", ["AVIF", "JPEG or PNG"]),
            (
                "a.CR3",
                b"\0\0\0\x18ftypcrx \0\0\0\0",
                ["raw", "JPEG or TIFF"],
            ),
            ("a.Nef", b"", ["raw", "JPEG or TIFF"]),
            ("a.nef", b"II*\0", ["raw", "JPEG or TIFF"]),
            ("a", b"FUJIFILMCCD-RAW ", ["raw", "JPEG or TIFF"]),
            ("a.jxl", b"\xff\x0a", ["JPEG XL", "JPEG or PNG"]),
            (
                "a.jp2",
                b"\0\0\0\x0cjP  \r\n\x87\n",
                ["JPEG 2000", "JPEG or PNG"],
            ),
            ("a.tar.gz", b"\x1f\x8b", ["compressed", "plain .tar"]),
            ("a.ZIP", b"PK\x03\x04", ["compressed", "unpack it"]),
            ("a.PNG", b"", ["empty", "no bytes"]),
            ("a.png", b"<!DOCTYPE html>\n", ["web page", ".png"]),
            ("a.png", b"\0\x01\x02", ["not a known image", ".png"]),
        ] {
            let reason = why(path, magic).unwrap_or_default();
            assert!(
                parts.iter().all(|part| reason.contains(part)),
                "{path}: {reason}"
            );
        }
        assert_eq!(why("notes.txt", b"words"), None);
        assert_eq!(why("film.mp4", b"\0\0\0\x18ftypisom\0\0\0\0"), None);
        assert_eq!(why("._photo.jpg", b"\0\x05\x16\x07"), None);
    }
}
