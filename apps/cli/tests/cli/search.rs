//! `ibot search` with an index of more images than its folder.

use std::fs;

use ibot::embedding::EmbeddingTable;
use serde_json::Value;

use crate::evaluation::trained_as;
use crate::refused;

#[test]
fn an_index_keeps_the_images_of_other_folders() {
    let trained = trained_as("index-of-more", &["--steps", "1"]);
    let (data, index) = (&trained.pictures, trained.out("index.safetensors"));
    let odd = trained.scratch.path("pictures/odd");
    let query = trained.scratch.path("pictures/odd/3.png");
    let search = |data: &str| {
        let flags = ["--query", &query, "--data", data, "--index", &index];
        let report = trained.run("search", &flags);
        report["hits"].as_array().map_or(0, Vec::len)
    };
    let stored = || {
        let table = EmbeddingTable::read(index.as_ref()).unwrap();
        let names = table.paths.iter().map(|path| {
            let name = path.strip_prefix(data.as_str()).unwrap();
            name.trim_start_matches('/').to_owned()
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert_eq!(search(data), 9);
    let all = stored();
    assert_eq!(all.len(), 10);

    // a part is searched: those of the other one stay, but for one that is gone, and a new one is added
    for gone in ["even/deep/er/2.png", "odd/5.png"] {
        fs::remove_file(trained.scratch.0.join("pictures").join(gone)).unwrap();
    }
    let new = trained.scratch.path("pictures/odd/new.png");
    fs::copy(trained.scratch.path("pictures/odd/1.png"), new).unwrap();
    assert_eq!(search(&odd), 4);
    let mut expected = all;
    expected.retain(|name| !["even/deep/er/2.png", "odd/5.png"].contains(&name.as_str()));
    expected.push("odd/new.png".to_owned());
    assert_eq!(stored(), expected);
    let made = fs::metadata(&index).unwrap().modified().unwrap();
    assert_eq!(search(&odd), 4);
    assert_eq!(fs::metadata(&index).unwrap().modified().unwrap(), made);

    // without a folder, all of them are searched
    let flags = ["--query", &query, "--index", &index];
    let Value::Array(hits) = &trained.run("search", &flags)["hits"] else {
        panic!("no hits");
    };
    assert_eq!(hits.len(), 8);
}

/// Rows of images that were prepared in another way cannot stand beside new ones.
#[test]
fn an_index_of_other_preparation_is_not_updated() {
    let trained = trained_as("index-of-others", &["--steps", "1"]);
    let (data, index) = (&trained.pictures, trained.out("index.safetensors"));
    let query = trained.scratch.path("pictures/odd/3.png");
    let flags = ["--query", &query, "--data", data, "--index", &index];
    trained.run("search", &flags);
    let before = fs::read(&index).unwrap();
    let search = ["search", "--model", &trained.model, "--backend", "flex"];
    let other = [&search[..], &flags, &["--precision", "bf16"]].concat();
    refused(&other, &["prepared in another way", "choose another file"]);
    let mut table = EmbeddingTable::read(index.as_ref()).unwrap();
    assert_eq!(fs::read(&index).unwrap(), before);

    table.stamps.clear();
    table.write(index.as_ref()).unwrap();
    let same = [&search[..], &flags].concat();
    refused(&same, &["sizes and times", "choose another file"]);
}
