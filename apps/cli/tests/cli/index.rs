//! `ibot index`.

use std::fs;

use crate::{CACHE_VARIABLE, Scratch, command, ibot, refused, stdout, succeeds};

#[test]
fn an_index_is_made_and_taken_as_images() {
    let scratch = Scratch::new("index");
    let images = scratch.images();
    let file = scratch.path("set.ibidx");
    let made = succeeds(&["index", &images, "--out", &file]);
    assert!(made.contains("set.ibidx: "), "{made}");
    let of = |images: &str| stdout(&ibot(&["data", images, "--no-decode", "--json"]));
    assert_eq!(of(&file), of(&images));
    // by itself into the cache folder, where it is asked for
    let cache = scratch.path("cache");
    let mut index = command(&["index", &images]);
    let output = index.env(CACHE_VARIABLE, &cache).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let name = said.lines().last().unwrap();
    assert!(name.contains(".ibidx") && name.contains("cache"), "{said}");
}

/// An index stands for its folder: beside other images, in a list, and for a set in parts.
#[test]
fn an_index_is_its_folder_everywhere() {
    let scratch = Scratch::new("index-everywhere");
    let images = scratch.images();
    let [file, list, parts, of_parts, more] =
        ["set.IBIDX", "list.txt", "parts", "parts.ibidx", "more"].map(|name| scratch.path(name));
    succeeds(&["index", &images, "--out", &file]);
    fs::create_dir_all(&more).unwrap();
    fs::copy(
        scratch.0.join("images/odd/1.png"),
        scratch.0.join("more/1.png"),
    )
    .unwrap();
    fs::write(&list, "set.IBIDX\nmore/1.png\n").unwrap();
    let data = |images: &[&str]| {
        let json = succeeds(&[&["data"], images, &["--no-decode", "--json"]].concat());
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        report["images"].clone()
    };
    assert_eq!(data(&[&list]), 11);
    // the part to train on alone, as of the folder
    for part in ["train", "val"] {
        let part = scratch.0.join("parts").join(part);
        fs::create_dir_all(part.join("odd")).unwrap();
        fs::copy(scratch.0.join("more/1.png"), part.join("odd/1.png")).unwrap();
        fs::copy(scratch.0.join("more/1.png"), part.join("odd/2.png")).unwrap();
    }
    succeeds(&["index", &parts, "--out", &of_parts]);
    let plan = |images: &[&str]| {
        let config = scratch.path("tiny.toml");
        let flags = [
            "--config",
            &config,
            "--batch-size",
            "1",
            "--backend",
            "flex",
            "--plan",
        ];
        succeeds(&[&["train"], images, &flags].concat())
    };
    for (images, epoch) in [(&[&*of_parts][..], 2), (&[&*file, &*more], 11)] {
        let text = plan(images);
        assert!(text.contains(&format!("in epochs of {epoch}:")), "{text}");
    }
    // a name that no command knows, and a folder that is gone
    let other = scratch.path("set.index");
    refused(
        &["index", &images, "--out", &other],
        &["must end in .ibidx"],
    );
    fs::rename(&images, scratch.path("moved")).unwrap();
    refused(
        &["data", &file],
        &["set.IBIDX", "is the index of", "which is not there"],
    );
}

/// In a folder that this project was cloned into, too.
#[test]
fn a_folder_named_ibot_is_in_nobodys_way() {
    let scratch = Scratch::new("named-ibot");
    let images = scratch.images();
    fs::create_dir(scratch.0.join("ibot")).unwrap();
    succeeds(&["data", &images, "--out", &scratch.path("report")]);
}

#[test]
fn what_is_no_index_is_neither_read_nor_written_over() {
    let scratch = Scratch::new("index-refused");
    let images = scratch.images();
    let file = scratch.path("notes.ibidx");
    fs::write(
        &file,
        "some notes that are no index, and longer than the head of one".repeat(9),
    )
    .unwrap();
    refused(
        &["index", &images, "--out", &file],
        &["notes.ibidx", "is no index of ibot"],
    );
    let archive = scratch.path("set.tar");
    fs::write(&archive, [0; 1024]).unwrap();
    refused(&["index", &archive], &["set.tar", "a folder of images"]);
    refused(&["data", &file], &["notes.ibidx", "is no index of ibot"]);
    assert!(fs::read_to_string(&file).unwrap().starts_with("some notes"));
}
