//! Short unique names for drawings of images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// Bytes of a name at most: two of them, a number and what a drawing is called must fit the 255 of file systems.
const MOST_BYTES: usize = 100;

/// The names of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Start of its file names: `cat`, or `a-cat` if `b/cat.png` is there too.
    pub file: String,
    /// Title: `cat.png`, or `a/cat.png`.
    pub title: String,
}

/// A name for each path: its file name, with as many parent folders as make it unique. Names that stay equal (one path
/// twice, `a.png` and `a.jpg`, long ones that begin alike) are numbered in order. Upper and lower case count as equal, for file systems that do not
/// distinguish them.
pub fn image_names<P: AsRef<Path>>(paths: &[P]) -> Vec<ImageName> {
    let parts: Vec<Vec<String>> = paths.iter().map(|path| parts(path.as_ref())).collect();
    let mut depths = vec![1; paths.len()];
    let name =
        |at: usize, depth: usize| parts[at][parts[at].len().saturating_sub(depth)..].join("-");
    loop {
        let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, depth) in depths.iter().enumerate() {
            places
                .entry(name(at, *depth).to_lowercase())
                .or_default()
                .push(at);
        }
        let alike = places.into_values().filter(|places| places.len() > 1);
        let growing: Vec<usize> = alike
            .flatten()
            .filter(|at| depths[*at] < parts[*at].len())
            .collect();
        if growing.is_empty() {
            break;
        }
        growing.into_iter().for_each(|at| depths[at] += 1);
    }
    let mut taken = BTreeSet::new();
    let named = paths.iter().zip(&depths).enumerate();
    named
        .map(|(at, (path, depth))| {
            let plain = cut(name(at, *depth));
            let numbered = (2..).map(|number| format!("{plain}-{number}"));
            let mut choices = std::iter::once(plain.clone()).chain(numbered);
            let file = choices.find(|choice| taken.insert(choice.to_lowercase()));
            let folders = parts[at].len().saturating_sub(*depth)..parts[at].len().saturating_sub(1);
            let last = path
                .as_ref()
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            let title = parts[at][folders]
                .iter()
                .map(String::as_str)
                .chain([last.as_ref()]);
            ImageName {
                file: file.unwrap_or(plain),
                title: title.collect::<Vec<_>>().join("/"),
            }
        })
        .collect()
}

/// The beginning of a name that file systems may not take as a whole.
fn cut(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(MOST_BYTES));
    name
}

/// Folders and the file's name without extension; no root, no `..`.
fn parts(path: &Path) -> Vec<String> {
    let folders = path.parent().into_iter().flat_map(Path::components);
    let folders = folders.filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    folders.chain([stem.into_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[&str]) -> Vec<String> {
        let named = image_names(paths).into_iter();
        named
            .map(|name| format!("{} {}", name.file, name.title))
            .collect()
    }

    #[test]
    fn folders_set_apart_what_has_one_name() {
        assert_eq!(names(&["x/a/1.png", "x/b/2.png"]), ["1 1.png", "2 2.png"]);
        assert_eq!(
            names(&["x/a/1.png", "x/b/1.png", "x/b/2.png"]),
            ["a-1 a/1.png", "b-1 b/1.png", "2 2.png"]
        );
        assert_eq!(
            names(&["/x/a/1.png", "/y/a/1.png"]),
            ["x-a-1 x/a/1.png", "y-a-1 y/a/1.png"]
        );
        // a longer name may be that of another image
        assert_eq!(
            names(&["a/1.png", "b/1.png", "c/a-1.png"]),
            ["a-1 a/1.png", "b-1 b/1.png", "c-a-1 c/a-1.png"]
        );
    }

    #[test]
    fn what_folders_do_not_tell_apart_is_numbered() {
        assert_eq!(
            names(&["a/1.png", "a/1.jpg", "A/1.PNG", "1.png"]),
            ["a-1 a/1.png", "a-1-2 a/1.jpg", "A-1-3 A/1.PNG", "1 1.png"]
        );
        assert_eq!(names(&["../1.png", "1.png"]), ["1 1.png", "1-2 1.png"]);
        assert_eq!(
            names(&["1.png", "1.jpg", "1-2.png"]),
            ["1 1.png", "1-2 1.jpg", "1-2-2 1-2.png"]
        );
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = "\u{e4}".repeat(120);
        let paths = ["x", "y"].map(|end| format!("a/{long}{end}.png"));
        let named = image_names(&paths);
        assert_eq!(named[0].file, "\u{e4}".repeat(50));
        assert_eq!(named[1].file, format!("{}-2", named[0].file));
        assert_eq!(named[1].title, format!("{long}y.png"));
    }
}
