//! Paths in text files: each text must lead back to its file; and in messages.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serializer;

use crate::error::{Error, Result as OfCrate};

/// Schemes of addresses; longer than one letter, which is a drive on Windows.
const SCHEMES: [&str; 5] = ["s3:", "gs:", "az:", "http:", "https:"];

/// Whether a path is the address of an object on a server: `s3://bucket/set/0001.tar`.
pub fn is_remote(path: &Path) -> bool {
    let first = path.components().next();
    first.is_some_and(|first| {
        let first = first.as_os_str();
        SCHEMES
            .iter()
            .any(|scheme| first.eq_ignore_ascii_case(scheme))
    })
}

/// A path that means the same from every folder; an address does.
///
/// # Errors
/// [`Error::Io`]: it is empty, or the current folder is gone.
pub fn absolute(path: impl AsRef<Path>) -> OfCrate<PathBuf> {
    let path = path.as_ref();
    if is_remote(path) {
        Ok(path.to_path_buf())
    } else {
        std::path::absolute(path).map_err(Error::io(path))
    }
}

/// Whether a path, which need not exist, lies in a folder, or is it: behind links and `..`, which [`absolute`] keeps.
pub fn is_inside(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.ancestors().find_map(|part| part.canonicalize().ok());
    let path = std::path::absolute(path).ok().and_then(|path| real(&path));
    let folder = folder.canonicalize().ok();
    path.zip(folder)
        .is_some_and(|(path, folder)| path.starts_with(folder))
}

/// The error about a path, without the system's number where nothing is there.
pub(crate) fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "there is no such file or folder"),
        _ => error,
    }
}

/// A path as text: Unicode as it is; bytes that are not UTF-8, which Linux allows, as `\xff`.
pub fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text += chunk.valid();
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

/// The path that [`path_text`] wrote.
pub fn path_of_text(text: &str) -> PathBuf {
    #[cfg(unix)]
    if text.contains("\\x") {
        use std::os::unix::ffi::OsStringExt as _;
        return std::ffi::OsString::from_vec(bytes_of_text(text.as_bytes())).into();
    }
    PathBuf::from(text)
}

/// Replaces each `\x80` to `\xff` by its byte; lower escapes stay as text.
#[cfg(unix)]
fn bytes_of_text(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let [first, after @ ..] = text {
        let escaped = text.strip_prefix(b"\\x").and_then(|hex| hex.get(..2));
        let escaped = escaped.and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped.filter(|byte| !byte.is_ascii()) {
            Some(byte) => {
                bytes.push(byte);
                text = &text[4..];
            }
            None => {
                bytes.push(*first);
                text = after;
            }
        }
    }
    bytes
}

/// For `serialize_with` of serde, which itself refuses a path that is not Unicode.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path_text(path))
}

/// The same for a list of paths.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_all<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path_text(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unicode_stays_as_it_is() {
        for path in ["a/K\u{e4}se.png", r"C:\xyz\x1.png", "line\nbreak", ""] {
            assert_eq!(path_text(Path::new(path)), path);
            assert_eq!(path_of_text(path), Path::new(path));
        }
    }

    #[test]
    fn addresses_are_absolute() {
        for path in ["s3://bucket/a.tar/b.png", "HTTPS://host/a.tar", "gs:/b"] {
            assert!(is_remote(Path::new(path)), "{path}");
            assert_eq!(absolute(path).unwrap(), Path::new(path));
        }
        for path in ["s3/a", "a/s3:/b", r"C:\a", "./s3://a", "file:a"] {
            assert!(!is_remote(Path::new(path)), "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_is_inside_a_folder_by_where_it_leads() {
        let name = format!("ibot-inside-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let photos = root.join("photos");
        std::fs::create_dir_all(&photos).unwrap();
        std::os::unix::fs::symlink(&photos, root.join("link")).unwrap();
        for (path, inside) in [
            ("photos/new/a.ibidx", true),
            ("photos/../a.ibidx", false),
            ("link/a.ibidx", true),
            ("photos2/a.ibidx", false),
        ] {
            assert_eq!(is_inside(&root.join(path), &photos), inside, "{path}");
            assert_eq!(
                is_inside(&root.join(path), &root.join("link")),
                inside,
                "{path}"
            );
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn other_bytes_come_back() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        let path = Path::new(OsStr::from_bytes(b"caf\xe9/\xff\xfe.png"));
        assert_eq!(path_text(path), r"caf\xe9/\xff\xfe.png");
        assert_eq!(path_of_text(&path_text(path)), path);
    }
}
