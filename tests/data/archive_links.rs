//! Links in archives: a hard link is another name of its file, a symbolic one is named and left out.

use std::fs::File;

use ibot::data::ImageSource as _;
use tar::{Builder, EntryType, Header};

use super::TempFolder;
use super::shards::{png, scan};

#[test]
fn a_hard_link_is_another_name_of_its_file() {
    let folder = TempFolder::new();
    let path = folder.0.join("linked.tar");
    let mut archive = Builder::new(File::create(&path).unwrap());
    let header = |kind: EntryType, bytes: u64| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes);
        header.set_mode(0o644);
        header
    };
    let bytes = png(7);
    let mut regular = header(EntryType::Regular, bytes.len() as u64);
    archive
        .append_data(&mut regular, "./a/1.png", &bytes[..])
        .unwrap();
    for (kind, name, target) in [
        (EntryType::Link, "./b/1.png", "./a/1.png"),
        (EntryType::Link, "./b/2.png", "./b/1.png"),
        (EntryType::Link, "./b/3.png", "./elsewhere.png"),
        (EntryType::Symlink, "./b/4.png", "../a/1.png"),
    ] {
        let mut header = header(kind, 0);
        archive.append_link(&mut header, name, target).unwrap();
    }
    archive.finish().unwrap();
    let found = scan(&[&path]).unwrap();
    assert_eq!(found.classes(), ["a", "b"]);
    assert_eq!(found.labels(), [Some(0), Some(1), Some(1)]);
    let first = found.decode(0).unwrap();
    assert!((1..3).all(|at| found.decode(at).unwrap() == first));
    let reasons: Vec<_> = found.summary().skipped.iter().collect();
    let [(hard, is_gone), (soft, is_soft)] = &reasons[..] else {
        panic!("{reasons:?}");
    };
    assert!(hard.ends_with("b/3.png") && is_gone.contains("elsewhere.png"));
    assert!(soft.ends_with("b/4.png") && is_soft.contains("--dereference"));
}
