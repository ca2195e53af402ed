//! Files without usable weights: what they are, recognized by their first bytes, and what to do.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use crate::error::{Error, Result, printable};
use crate::files::header::weights_error;

/// Number of bytes that are read.
const START: u64 = 4096;
/// Files of weights by which a folder is known, the one that is wanted first: of `ibot finetune` and of a run that keeps its
/// best teacher, of `ibot train`, of others.
const IN_A_FOLDER: [&str; 4] = [
    "best.safetensors",
    "teacher.safetensors",
    "model.safetensors",
    "pytorch_model.bin",
];
/// Endings of files of weights.
const ENDINGS: [&str; 5] = ["safetensors", "pth", "pt", "bin", "ckpt"];
/// What to do with a file that torch reads and this crate does not.
pub(super) const RESAVE: &str = "with torch: torch.save(torch.load(FILE, map_location=\"cpu\"), NEW_FILE), \
    or convert it to safetensors";
/// What a file of torch before 1.6 begins with: a pickle of 0x1950a86a20f9469cfc6c.
const OLD_TORCH: [u8; 13] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50";

/// That `path` is a folder, an image, a web page or something else that is known to hold no weights.
///
/// # Errors
/// [`Error::Weights`] that names what it is and the remedy; [`Error::Io`] if it cannot be read.
pub(crate) fn refuse_other_files(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(weights_error(path, folder(path)));
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(START).read_to_end(&mut start))
        .map_err(Error::io(path))?;
    match fault(&start) {
        Some(reason) => Err(weights_error(path, reason)),
        None => Ok(()),
    }
}

/// What to give in place of a folder.
fn folder(path: &Path) -> String {
    let path_of = |name: &str| printable(path.join(name));
    if let Some(name) = IN_A_FOLDER.iter().find(|name| path.join(name).is_file()) {
        return format!("is a folder; give the file in it, {}", path_of(name));
    }
    if path.join("checkpoint.json").is_file() {
        return "is a checkpoint folder; `Export::from_checkpoint` makes a model file from it"
            .into();
    }
    if path.join("run.json").is_file() || path.join("checkpoints").is_dir() {
        return "is a run folder without teacher.safetensors, which is written at the end; `Export` makes one from its newest \
                checkpoint"
            .into();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| ENDINGS.contains(&ending))
        })
        .collect();
    files.sort();
    match files.first() {
        Some(file) => format!(
            "is a folder; give a file in it, such as {}",
            printable(file)
        ),
        None => "is a folder without weights; give a file, such as RUN/teacher.safetensors".into(),
    }
}

/// What is wrong with a file that begins so; none where it may hold weights.
pub(super) fn fault(start: &[u8]) -> Option<String> {
    if start.is_empty() {
        return Some("is empty; download or save it again".into());
    }
    // the header's length, below 2^32, and its first letter: whatever the length's first byte looks like
    if start.len() > 8 && start[4..8] == [0; 4] && start[8] == b'{' {
        return None;
    }
    if let Some(packed) = packed(start) {
        return Some(format!(
            "is compressed ({packed}); unpack it and give the weight file in it"
        ));
    }
    if start[0] == PICKLE {
        return Some(pickle(start));
    }
    if let Some(other) = other_format(start) {
        return Some(format!(
            "is {other}; use the same model as safetensors or from torch.save"
        ));
    }
    if is_image(start) {
        return Some(
            "is an image or video; give a weight file, such as RUN/teacher.safetensors".into(),
        );
    }
    text(start)
}

/// First byte of a pickle of protocol 2 or later.
const PICKLE: u8 = 0x80;

fn packed(start: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "gzip"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!\x1a\x07", "rar"),
    ];
    let kind = kinds.iter().find(|(magic, _)| start.starts_with(magic));
    let is_tar = start.get(257..262) == Some(b"ustar");
    kind.map(|(_, name)| *name).or(is_tar.then_some("tar"))
}

fn other_format(start: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 3] = [
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
        (b"\x93NUMPY", "an array of NumPy (.npy)"),
        (b"GGUF", "a GGUF file, as llama.cpp reads"),
    ];
    let kind = kinds.iter().find(|(magic, _)| start.starts_with(magic));
    // the version of its format, and who wrote it
    let is_onnx = start[0] == 0x08 && start.get(2) == Some(&0x12);
    kind.map(|(_, name)| *name)
        .or(is_onnx.then_some("an ONNX model"))
}

/// What is wrong with a bare pickle: torch's files have been archives since 1.6.
pub(super) fn pickle(start: &[u8]) -> String {
    let has = |word: &[u8]| start.windows(word.len()).any(|part| part == word);
    if start.starts_with(&OLD_TORCH) {
        return format!("has torch's format before 1.6; save it again {RESAVE}");
    }
    if has(b"numpy") {
        return "is a pickle of NumPy arrays, not of torch; save them in Python: from safetensors.numpy import save_file; \
                save_file({name: numpy.ascontiguousarray(value) for name, value in pickle.load(open(FILE, \"rb\")).items()}, \
                NEW_FILE)"
            .into();
    }
    "is a pickle of Python objects, not a file of torch.save; load it in Python and save only the weights: \
     torch.save(model.state_dict(), NEW_FILE)"
        .into()
}

fn is_image(start: &[u8]) -> bool {
    let magics: [&[u8]; 7] = [
        b"\x89PNG\r\n",
        b"\xff\xd8\xff",
        b"GIF8",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"\0\0\x01\0\x01",
    ];
    magics.iter().any(|magic| start.starts_with(magic))
        || start.get(8..12) == Some(b"WEBP")
        || start.get(4..8) == Some(b"ftyp") // HEIC, AVIF, films
}

/// What is wrong with a text.
fn text(start: &[u8]) -> Option<String> {
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        // cut within a letter
        Err(error) if error.valid_up_to() + 4 > start.len() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if valid.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let text = valid
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_lowercase();
    let is_page = ["<!doctype", "<html", "<head", "<?xml", "<!--"];
    Some(if text.starts_with("version https://git-lfs") {
        "is a pointer of Git LFS, not the weights: run `git lfs pull` in its repository, or download the file itself".into()
    } else if is_page.iter().any(|tag| text.starts_with(tag)) {
        "is a web page, not the weights: the download gave an error or a login; download the file itself again".into()
    } else if text.starts_with('{') && text.contains("\"weight_map\"") {
        return None; // the index of a model in several files
    } else if text.starts_with('{') {
        "is JSON, a description and not the weights; give the .safetensors or .pth file next to it, or the folder"
            .into()
    } else {
        "is a text file, neither safetensors nor torch.save; give a weight file".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_may_begin_like_anything() {
        // the first byte of a header's length is that of an image, an archive, a text or a pickle
        for first in [b'B', b'{', b'<', 0x80, 0x1f, 0x08, 0xff] {
            let mut start = vec![first, 0x4d, 0, 0, 0, 0, 0, 0];
            start.extend(b"{\"blocks.0.attn.qkv.weight\":");
            assert_eq!(fault(&start), None, "{first}");
        }
        assert_eq!(fault(b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl"), None);
    }

    #[test]
    fn a_letter_may_be_cut() {
        let start = "<html>é".as_bytes();
        let reason = fault(&start[..start.len() - 1]).unwrap();
        assert!(reason.contains("web page"), "{reason}");
    }
}
