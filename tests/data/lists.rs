//! Lists and tables of files, as people and programs write them.

use std::fs;
use std::path::PathBuf;

use ibot::data::{ImageFolder, ImageSource};

use super::TempFolder;
use super::shards::{png, scan, tar_of};

/// A folder with an image in each of two folders.
fn cat_and_dog() -> TempFolder {
    let folder = TempFolder::new();
    folder.write("cat/0.png", png(1));
    folder.write("dog/0.png", png(2));
    folder
}

/// Names below the folder, each with its class.
fn named(folder: &TempFolder, found: &ImageFolder) -> Vec<(PathBuf, Option<String>)> {
    let one = |at: usize| {
        let name = found.name(at);
        let class = found.label(at).map(|label| found.classes()[label].clone());
        (name.strip_prefix(&folder.0).unwrap().to_path_buf(), class)
    };
    (0..found.len()).map(one).collect()
}

fn pair(name: &str, class: &str) -> (PathBuf, Option<String>) {
    let class = Some(class.to_owned()).filter(|class| !class.is_empty());
    (PathBuf::from(name), class)
}

#[test]
fn a_table_names_files_and_classes() {
    let folder = TempFolder::new();
    for name in ["a.png", "b, c.png", "d/e.png", "f.png"] {
        folder.write(name, png(1));
    }
    let text = "\u{feff}id,label,path\r\n1,cat,a.png\r\n2,,\"b, c.png\"\r\n3,\"say \"\"dog\"\"\",d/e.png\n4,cat,gone.png\n";
    let table = folder.write("set.csv", text);
    let found = scan(&[&table]).unwrap();
    assert_eq!(found.classes(), ["cat", "say \"dog\""]);
    assert_eq!(found.labels(), [Some(0), None, Some(1)]);
    assert_eq!(found.name(1), folder.0.join("b, c.png"));
    assert_eq!(found.summary().skipped.len(), 1);
    let refused = [
        ("file,label\na.png,x\n", "no column `path`"),
        ("path,label\n\na.png\n", "line 3 has 1 field"),
        ("path\n\"a.png\n", "line 2 has a quote without an end"),
        ("pa\u{1b}th\n\"a.png\n", "pa\\u{1b}th"),
        (
            "path,label\na.png,cat\nf.png,cat\n./a.png,dog\n",
            "line 4 has ./a.png in the class dog",
        ),
    ];
    for (text, reason) in refused {
        let table = folder.write("bad.csv", text);
        let error = scan(&[&table]).unwrap_err().to_string();
        assert!(
            error.contains("bad.csv") && error.contains(reason),
            "{error}"
        );
    }
}

/// The mark that Windows writes first is no part of a name, and UTF-16 is told from damage.
#[test]
fn lists_are_read_as_editors_write_them() {
    let folder = cat_and_dog();
    let list = folder.write("bom.txt", "\u{feff}cat/0.png\r\n\r\ndog/0.png\r\n");
    let found = scan(&[&list]).unwrap();
    assert_eq!((found.len(), found.summary().skipped.len()), (2, 0));
    let utf_16 = |text: &str| -> Vec<u8> {
        let text = format!("\u{feff}{text}");
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    for (name, bytes, reason) in [
        ("list.txt", utf_16("cat/0.png\r\n"), "save it as UTF-8"),
        ("table.csv", utf_16("path,label\r\n"), "save it as UTF-8"),
        (
            "latin.txt",
            b"cat/0.png\nK\xe4se.png\n".to_vec(),
            "line 2 is no UTF-8",
        ),
    ] {
        let path = folder.write(name, bytes);
        let error = scan(&[&path]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{error}");
    }
}

#[test]
fn blank_lines_space_and_capitals_are_nothing_to_a_table() {
    let folder = cat_and_dog();
    let expected = [pair("cat/0.png", "a cat"), pair("dog/0.png", "Dog")];
    for text in [
        "path,label\ncat/0.png,a cat\ndog/0.png,Dog\n\n\r\n",
        "\npath, Label\n\ncat/0.png, a cat\ndog/0.png,\"Dog \"",
        "PATH,LABEL\r\ncat/0.png,a cat \r\n,\r\ndog/0.png,Dog\r\n",
    ] {
        let table = folder.write("set.csv", text);
        let found = scan(&[&table]).unwrap();
        assert_eq!(named(&folder, &found), expected, "{text:?}");
        // a record of nothing is said
        let lines: Vec<_> = found.summary().skipped.iter().collect();
        let is_said = matches!(&lines[..], [(path, reason)] if *path == table && reason == "line 3 has no path");
        assert_eq!(is_said, text.contains("\n,"), "{lines:?}");
    }
}

/// Whatever names it: one list, one table, or a source by way of another name.
#[test]
fn a_file_that_is_named_twice_is_read_once() {
    let folder = cat_and_dog();
    let twice = format!(
        "cat/0.png\n./cat/0.png\n{}\ndog/0.png\n",
        folder.0.join("cat/0.png").display()
    );
    let list = folder.write("twice.txt", twice);
    let found = scan(&[&list]).unwrap();
    assert_eq!(
        named(&folder, &found),
        [pair("cat/0.png", ""), pair("dog/0.png", "")]
    );
    let table = folder.write(
        "twice.csv",
        "path,label\ncat/0.png,\ndog/0.png,dog\ncat/0.png,cat\n./dog/0.png,dog\n",
    );
    let found = scan(&[&table]).unwrap();
    // a label that only one line has is the file's
    assert_eq!(
        named(&folder, &found),
        [pair("cat/0.png", "cat"), pair("dog/0.png", "dog")]
    );
    let other_name = folder.0.join("cat/../cat");
    let found = scan(&[&folder.0.join("cat"), &other_name]).unwrap();
    assert_eq!(found.len(), 1);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("cat", folder.0.join("link")).unwrap();
        let link = folder.0.join("link");
        let found = scan(&[&folder.0.join("cat"), &link]).unwrap();
        assert_eq!(found.len(), 1);
    }
}

/// What holds images and is not read is named with what to do: in a folder, in an archive, and in a list or table.
#[test]
fn sets_that_are_not_read_are_named() {
    let folder = cat_and_dog();
    let names = |found: &ImageFolder| -> Vec<String> {
        let skipped = found.summary().skipped.iter();
        let line = |(path, reason): &(PathBuf, String)| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!reason.contains("no such"), "{name}: {reason}");
            format!("{name}: {reason}")
        };
        skipped.map(line).collect()
    };
    let is_named = |found: &ImageFolder, expected: &[(&str, &str)]| {
        let skipped = names(found);
        assert_eq!(skipped.len(), expected.len(), "{skipped:?}");
        for ((name, remedy), line) in expected.iter().zip(&skipped) {
            let is = line.starts_with(name) && line.contains(remedy);
            assert!(is, "{name}, {remedy}: {line}");
        }
        assert_eq!(found.summary().not_images, 0);
    };
    for name in ["a.tar.gz", "b.ZIP"] {
        folder.write(&format!("cat/{name}"), b"PK\x03\x04 and more");
    }
    let expected = [("a.tar.gz", "plain .tar"), ("b.ZIP", "unpack it")];
    is_named(&scan(&[&folder.0]).unwrap(), &expected);
    // as one of several sources, too
    let other = cat_and_dog();
    is_named(&scan(&[&other.0, &folder.0]).unwrap(), &expected);
    let only = TempFolder::new();
    only.write("a.tar.gz", b"\x1f\x8b");
    let error = scan(&[&only.0]).unwrap_err().to_string();
    assert!(error.contains("a.tar.gz: a compressed archive"), "{error}");

    let inner = fs::read(tar_of(&other, "inner.tar", &[("e.png", png(3))])).unwrap();
    let outer = [
        ("d.png", png(4)),
        ("x.tar", inner),
        ("y.tgz", b"z".to_vec()),
    ];
    let outer = tar_of(&other, "outer.tar", &outer);
    let expected = [
        ("x.tar", "in an archive is not read"),
        ("y.tgz", "plain .tar"),
    ];
    is_named(&scan(&[&outer]).unwrap(), &expected);

    other.write("l.txt", "cat/0.png\n");
    other.write("m.ibidx", "index");
    let lines = "cat/0.png\nl.txt\nm.ibidx\n";
    let list = other.write("list.txt", lines.replace("m.ibidx\n", "t.csv\n"));
    let table = other.write("t.csv", format!("path\n{lines}inner.tar\n"));
    let expected = [
        ("inner.tar", "name it in a list"),
        ("l.txt", "give it to the command"),
        ("m.ibidx", "give it to the command"),
    ];
    is_named(&scan(&[&table]).unwrap(), &expected);
    let expected = [("l.txt", "a list or index"), ("t.csv", "a list or index")];
    is_named(&scan(&[&list]).unwrap(), &expected);
}

/// Reading it would wait for ever.
#[cfg(unix)]
#[test]
fn a_list_that_is_a_pipe_is_refused() {
    let folder = cat_and_dog();
    for name in ["pipe.txt", "pipe.csv"] {
        let pipe = folder.0.join(name);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let error = scan(&[&pipe]).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("is no file"),
            "{error}"
        );
    }
}
