//! `ibot search` with an index that it must not write over.

use std::fs;

use ibot::embedding::EmbeddingTable;

use crate::evaluation::trained_as;
use crate::{refused, succeeds};

#[test]
fn an_index_of_more_images_than_the_folder_is_left_as_it_is() {
    let trained = trained_as("index-of-more", &["--steps", "1"]);
    let (data, index) = (&trained.images, trained.out("index.safetensors"));
    let part = trained.scratch.path("images/odd");
    let query = trained.scratch.path("images/odd/3.png");
    let search = ["search", "--model", &trained.model, "--backend", "flex"];
    let search = [&search[..], &["--query", &query, "--index", &index]].concat();
    let of = |data| [&search[..], &["--data", data]].concat();
    succeeds(&of(data));
    let before = fs::read(&index).unwrap();
    refused(
        &of(&part),
        &["index.safetensors", "not in", "choose another file"],
    );
    assert_eq!(fs::read(&index).unwrap(), before);

    // images of the folder that are gone are dropped
    let gone = trained.scratch.0.join("images/odd/5.png");
    fs::remove_file(&gone).unwrap();
    succeeds(&of(data));
    let table = EmbeddingTable::read(index.as_ref()).unwrap();
    assert_eq!(table.len(), 9);

    // of the part alone, where the others do not exist
    fs::remove_dir_all(trained.scratch.0.join("images/even")).unwrap();
    succeeds(&of(&part));
    let table = EmbeddingTable::read(index.as_ref()).unwrap();
    assert_eq!(table.len(), 4);
}

/// The same images by another path are no others.
#[cfg(unix)]
#[test]
fn a_link_to_the_folder_of_an_index_updates_it() {
    let trained = trained_as("index-by-link", &["--steps", "1"]);
    let (index, link) = (
        trained.out("index.safetensors"),
        trained.scratch.path("link"),
    );
    std::os::unix::fs::symlink(&trained.images, &link).unwrap();
    let query = trained.scratch.path("images/odd/3.png");
    for data in [&trained.images, &link] {
        let flags = ["--query", &query, "--data", data, "--index", &index];
        trained.run("search", &flags);
        let table = EmbeddingTable::read(index.as_ref()).unwrap();
        assert_eq!(table.len(), 10, "{data}");
    }
}

#[test]
fn an_index_of_tiles_is_not_replaced() {
    let trained = trained_as("index-damaged", &["--steps", "1"]);
    let (data, index) = (&trained.images, trained.out("tiles.safetensors"));
    let tiles = ["embed", "--data", data, "--tile", "16", "--out", &index];
    succeeds(
        &[
            &tiles[..],
            &["--model", &trained.model, "--backend", "flex"],
        ]
        .concat(),
    );
    let before = fs::read(&index).unwrap();
    let query = trained.scratch.path("images/odd/3.png");
    let search = ["search", "--model", &trained.model, "--backend", "flex"];
    let flags = ["--query", &query, "--data", data, "--index", &index];
    let search = [&search[..], &flags].concat();
    refused(&search, &["tiles.safetensors", "features of tiles"]);
    assert_eq!(fs::read(&index).unwrap(), before);
}

#[test]
fn a_damaged_index_is_not_replaced() {
    let trained = trained_as("index-cut", &["--steps", "1"]);
    let (data, index) = (&trained.images, trained.out("index.safetensors"));
    let query = trained.scratch.path("images/odd/3.png");
    let flags = ["--query", &query, "--data", data, "--index", &index];
    trained.run("search", &flags);
    let whole = fs::read(&index).unwrap();
    let cut = &whole[..whole.len() - 7];
    fs::write(&index, cut).unwrap();
    let search = ["search", "--model", &trained.model, "--backend", "flex"];
    refused(&[&search[..], &flags].concat(), &["index.safetensors"]);
    assert_eq!(fs::read(&index).unwrap(), cut);
}
