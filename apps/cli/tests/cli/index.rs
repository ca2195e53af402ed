//! `ibot index`.

use std::fs;

use crate::{Scratch, command, ibot, refused, stdout, succeeds};

#[test]
fn an_index_is_made_and_taken_as_images() {
    let scratch = Scratch::new("index");
    let pictures = scratch.pictures();
    let file = scratch.path("set.ibidx");
    let made = succeeds(&["index", &pictures, "--out", &file]);
    assert!(made.contains("set.ibidx: "), "{made}");
    let of = |images: &str| stdout(&ibot(&["data", images, "--no-decode", "--json"]));
    assert_eq!(of(&file), of(&pictures));
    // by itself into the cache folder, where it is asked for
    let variable = match () {
        () if cfg!(windows) => "LOCALAPPDATA",
        () if cfg!(target_os = "macos") => "HOME",
        () => "XDG_CACHE_HOME",
    };
    let cache = scratch.path("cache");
    let mut index = command(&["index", &pictures]);
    let output = index.env(variable, &cache).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let name = said.lines().last().unwrap();
    assert!(name.contains(".ibidx") && name.contains("cache"), "{said}");
}

#[test]
fn what_is_no_index_is_neither_read_nor_written_over() {
    let scratch = Scratch::new("index-refused");
    let pictures = scratch.pictures();
    let file = scratch.path("notes.ibidx");
    fs::write(
        &file,
        "some notes that are no index, and longer than the head of one".repeat(9),
    )
    .unwrap();
    refused(
        &["index", &pictures, "--out", &file],
        &["notes.ibidx", "is no index of ibot"],
    );
    let archive = scratch.path("set.tar");
    fs::write(&archive, [0; 1024]).unwrap();
    refused(&["index", &archive], &["set.tar", "a folder of images"]);
    refused(&["data", &file], &["notes.ibidx", "is no index of ibot"]);
    assert!(fs::read_to_string(&file).unwrap().starts_with("some notes"));
}
