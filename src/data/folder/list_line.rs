//! Lines of a list of images: a path each, in which `/./` stands before the folder that is the class, as in rsync's `--relative`. Such a
//! path leads to the same file for every other program.

use std::path::{Path, PathBuf};

use crate::error::printable;
use crate::path_text::{path_of_text, path_text};

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::data) struct ListLine {
    /// What `path` is relative to, where the line says what the class is.
    pub root: Option<PathBuf>,
    pub path: PathBuf,
}

impl ListLine {
    /// The line `text`, without space around it.
    pub fn parse(text: &str) -> Self {
        let marks: &[&str] = if cfg!(windows) {
            &["/./", "\\.\\"]
        } else {
            &["/./"]
        };
        let mark = marks.iter().filter_map(|mark| text.rfind(mark)).max();
        match mark.filter(|at| text.len() > at + 3) {
            Some(at) => Self {
                root: Some(path_of_text(&text[..at.max(root_length(text))])),
                path: path_of_text(&text[at + 3..]),
            },
            None => Self {
                root: None,
                path: path_of_text(text),
            },
        }
    }
}

/// Bytes of the root of the file system, which keeps its slash: of `/`, or of `D:\` on Windows.
fn root_length(text: &str) -> usize {
    let has_drive = cfg!(windows) && text.as_bytes().get(1) == Some(&b':');
    if has_drive { 3 } else { 1 }
}

/// The line for an image of this class, or of none; None where no line leads back to it: one end of its name is space, it has
/// several lines, or a backslash in it reads as a byte.
pub(in crate::data) fn list_line(path: &Path, class: Option<&str>) -> Option<String> {
    let parts: Vec<_> = path.components().collect();
    let folders = &parts[..parts.len().saturating_sub(1)];
    let marked = class.and_then(|class| {
        // any folder of this name makes it the class
        let at = folders.iter().position(|part| printable(part) == class)?;
        let root: PathBuf = parts[..at].iter().collect();
        let rest: PathBuf = parts[at..].iter().collect();
        Some((root, rest))
    });
    let (line, expected) = match marked {
        Some((root, rest)) => {
            let line = path_text(&root.join(".").join(&rest));
            (line, (Some(root), rest))
        }
        None => (path_text(path), (None, path.to_path_buf())),
    };
    let read = ListLine::parse(line.trim());
    let is_one_line = !line.contains(['\n', '\r']);
    (is_one_line && (read.root, read.path) == expected).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lead_back_and_keep_classes() {
        let line = |path: &str, class| list_line(Path::new(path), class);
        let parsed = ListLine::parse("/photos/./cat/1.png");
        assert_eq!(parsed.root.as_deref(), Some(Path::new("/photos")));
        assert_eq!(parsed.path, Path::new("cat/1.png"));
        for plain in ["cat/1.png", "./cat/1.png", "../cat/1.png", "/photos/./"] {
            assert_eq!(ListLine::parse(plain).root, None, "{plain}");
        }
        assert_eq!(line("cat/1.png", None).as_deref(), Some("cat/1.png"));
        // a class that is no folder of the path
        assert_eq!(line("cat/1.png", Some("dog")).as_deref(), Some("cat/1.png"));
        for impossible in ["a/b\n.png", " a.png", "a.png "] {
            assert_eq!(line(impossible, None), None, "{impossible:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn lines_of_absolute_paths() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        let line = |path: &str, class| list_line(Path::new(path), class);
        for (path, marked) in [
            ("/photos/cat/1.png", "/photos/./cat/1.png"),
            ("/cat/1.png", "/./cat/1.png"),
            ("/cat/dog/cat/1.png", "/./cat/dog/cat/1.png"),
        ] {
            assert_eq!(line(path, Some("cat")).as_deref(), Some(marked));
        }
        let parsed = ListLine::parse("/./cat/1.png");
        assert_eq!(parsed.root.as_deref(), Some(Path::new("/")));
        let odd = Path::new(OsStr::from_bytes(b"/photos/\xff\xfe/1.png"));
        let text = list_line(odd, Some("\\xff\\xfe")).unwrap();
        let parsed = ListLine::parse(&text);
        assert_eq!(parsed.root.unwrap().join(parsed.path), odd);
    }
}
