//! What a web server has is what a folder has, and a server that fails costs files or the command, never another image.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ibot::data::{
    FolderConfig, ImageFolder, ImageSource as _, LoaderConfig, Position, Survey, SurveyConfig,
    parts_of,
};

use super::TempFolder;
use super::loading::{config, loader};
use super::server::{Fault, Server};
use super::shards::{content, files, first_batches, png, tar_of};
use super::tables::{PLAIN, rows, table};

/// Images as files, as three archives, as a table, and lists of them.
fn set() -> TempFolder {
    let folder = TempFolder::new();
    let (mut lines, mut records) = (String::new(), String::from("path,label\n"));
    for (name, bytes) in files() {
        folder.write(name, bytes);
        lines += &format!("{name}\n");
        records += &format!("{name},{}\n", name.len());
    }
    folder.write("all.txt", lines);
    folder.write("all.csv", records);
    for (number, part) in files().chunks(3).enumerate() {
        tar_of(&folder, &format!("s-{number}.tar"), part);
    }
    table(&folder.0.join("set.parquet"), &rows(), PLAIN);
    folder
}

/// Without an index, which would lie in the cache folder of whoever runs the tests.
fn scan(sources: &[&Path]) -> ibot::Result<ImageFolder> {
    let sources: Vec<PathBuf> = sources.iter().map(|path| path.to_path_buf()).collect();
    let config = FolderConfig {
        index: false,
        ..FolderConfig::default()
    };
    ImageFolder::scan_all(&sources, &config, &AtomicBool::new(false))
}

#[test]
fn what_a_server_has_is_what_a_folder_has() {
    let set = set();
    let server = Server::start(&set.0);
    for name in "s-{0..2}.tar s-1.tar set.parquet all.txt all.csv".split(' ') {
        let [here, there] = [set.0.join(name), server.path(name)];
        let [of_files, of_server] = [scan(&[&here]).unwrap(), scan(&[&there]).unwrap()];
        assert!(!of_files.is_empty(), "{name}");
        assert_eq!(of_server.classes(), of_files.classes(), "{name}");
        assert_eq!(of_server.fingerprint(), of_files.fingerprint(), "{name}");
        let [of_names, of_root] = [&server.path(""), &set.0];
        assert_eq!(
            content(&of_server, of_names),
            content(&of_files, of_root),
            "{name}"
        );
        let [of_server, of_files] = [of_server, of_files].map(first_batches);
        assert_eq!(of_server, of_files, "{name}: batches");
    }
    // an image in an archive is one request once its archive is known
    let archive = scan(&[&server.path("s-0.tar")]).unwrap();
    server.requests();
    archive.decode(0).unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(
        requests[0].starts_with("GET /s-0.tar bytes="),
        "{requests:?}"
    );
    // a list on this machine may name what is on a server
    let list = set.write("there.txt", server.path("cat/a.png").to_str().unwrap());
    let found = scan(&[&list]).unwrap();
    assert_eq!(found.name(0), server.path("cat/a.png"));
    found.decode(0).unwrap();
}

/// What an address has encoded is not encoded again.
#[test]
fn addresses_may_be_encoded() {
    let set = set();
    fs::copy(set.0.join("s-0.tar"), set.0.join("a%20b.tar")).unwrap();
    let server = Server::start(&set.0);
    let [found, plain] = ["a%20b.tar", "s-0.tar"].map(|name| scan(&[&server.path(name)]).unwrap());
    assert_eq!(found.len(), plain.len());
    let requests = server.requests();
    let is_asked = |line: &String| line.contains("/a%20b.tar");
    assert!(requests.iter().any(is_asked), "{requests:?}");
}

/// Who may read a file may not be allowed to list others.
#[test]
fn no_server_is_asked_for_folders_of_an_archive() {
    // a client of Azure cannot be made without an account, so that asking would be an error
    if std::env::var_os("AZURE_STORAGE_ACCOUNT_NAME").is_some() {
        println!("SKIPPED: THERE IS AN ACCOUNT OF AZURE");
        return;
    }
    let parts = |file: &str| parts_of(Path::new(&format!("az://ibot/{file}")));
    assert!(parts("set").is_err());
    for file in ["set.tar", "set.parquet", "set.txt"] {
        assert!(parts(file).unwrap().is_none(), "{file}");
    }
}

/// Images in an archive that a list names are read by many threads, which must not each read the archive's headers.
#[test]
fn an_archive_that_a_list_names_images_of_is_listed_once() {
    let set = set();
    let server = Server::start(&set.0);
    tar_of(&set, "whole.tar", &files());
    let archive = server.path("whole.tar");
    let (mut lines, images) = (String::new(), files());
    for (name, _) in &images[..7] {
        lines += &format!("{}\n", archive.join(name).display());
    }
    let list = set.write("members.txt", lines);
    let found = scan(&[&list]).unwrap();
    assert_eq!(found.len(), 7);
    let requests = server.requests();
    let asked = requests
        .iter()
        .filter(|line| line.starts_with("HEAD /whole.tar"));
    assert_eq!(asked.count(), 1, "{requests:?}");
}

/// Slow links give no request of any length in time: not that of a long list, nor of a long page of a table.
#[test]
fn no_request_is_longer_than_8_mib() {
    let set = TempFolder::new();
    set.write("a.png", png(1));
    set.write("all.txt", format!("{}a.png\n", "\n".repeat(9 << 20)));
    // what cannot be packed
    let mut long = vec![0; 9 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut long);
    let long = [png(2), long].concat();
    table(
        &set.0.join("set.parquet"),
        &[(Some(long), None, None)],
        PLAIN,
    );
    let server = Server::start(&set.0);
    for name in ["all.txt", "set.parquet"] {
        let found = scan(&[&server.path(name)]).unwrap();
        found.decode(0).unwrap();
    }
    let requests = server.requests();
    let length = |line: &String| {
        let (_, range) = line.split_once("bytes=")?;
        let (from, to) = range.split_once('-')?;
        Some(to.parse::<u64>().ok()? + 1 - from.parse::<u64>().ok()?)
    };
    assert_eq!(requests.iter().filter_map(length).max(), Some(8 << 20));
    let without = requests.iter().filter(|line| length(line).is_none());
    assert!(
        without.clone().all(|line| line.starts_with("HEAD")),
        "{without:?}"
    );
}

#[test]
fn a_request_that_fails_is_made_again() {
    let set = set();
    let server = Server::start(&set.0);
    let expected = scan(&[&set.0.join("s-{0..2}.tar")]).unwrap();
    let expected = content(&expected, &set.0);
    for (name, fault) in [
        ("s-0.tar", Fault::Status(503)),
        ("s-1.tar", Fault::Cut),
        ("s-2.tar", Fault::Status(500)),
    ] {
        server.fail(name, 2, fault);
    }
    let found = scan(&[&server.path("s-{0..2}.tar")]).unwrap();
    assert_eq!(content(&found, &server.path("")), expected);
}

#[test]
fn a_server_that_does_not_answer_is_asked_again() {
    let set = set();
    let server = Server::start(&set.0);
    server.fail("cat/a.png", 1, Fault::Stall);
    let path = server.path("cat/a.png");
    let found = ibot::data::decode::decode_rgb(&path, 1 << 20).unwrap();
    let expected = ibot::data::decode::decode_rgb(&set.0.join("cat/a.png"), 1 << 20);
    assert_eq!(found, expected.unwrap());
}

#[test]
fn files_that_a_server_does_not_give_are_skipped_with_the_reason() {
    let set = set();
    let server = Server::start(&set.0);
    let cases = [
        ("cat/a.png", Fault::Status(500), "500"),
        ("cat/b.png", Fault::Cut, ""),
        ("dog/a.png", Fault::Status(403), "the server refuses"),
        ("e.png", Fault::NoRanges, "no parts of its files"),
    ];
    for (name, fault, _) in cases {
        server.fail(name, usize::MAX, fault);
    }
    let found = scan(&[&server.path("all.txt")]).unwrap();
    let names: Vec<PathBuf> = (0..found.len()).map(|at| found.name(at)).collect();
    let left = ["dog/.hidden.png", "dog/broken.png", "dog/deep/er/c.jpg"];
    assert_eq!(names.len(), left.len(), "{names:?}");
    for (name, _, reason) in cases {
        let skipped = &found.summary().skipped;
        let skipped = skipped.iter().find(|(path, _)| *path == server.path(name));
        let skipped = &skipped.unwrap().1;
        assert!(skipped.contains(reason), "{name}: {skipped}");
        assert!(!skipped.contains('\n'), "{skipped}");
    }
}

#[test]
fn what_is_not_there_ends_the_command_with_its_name() {
    let set = set();
    let server = Server::start(&set.0);
    let cases = [
        ("s-{0..3}.tar", "s-3.tar: no such object"),
        ("", "does not list its files"),
        ("photos/", "does not list its files"),
        ("all.txt?token=1", "has a query"),
    ];
    for (name, reason) in cases {
        let error = scan(&[&server.path(name)]).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    let nobody = Path::new("http://127.0.0.1:1/a.tar");
    let error = scan(&[nobody]).unwrap_err().to_string();
    assert!(error.starts_with("http://127.0.0.1:1/a.tar: "), "{error}");
}

#[test]
fn an_object_that_changes_under_a_run_gives_no_other_image() {
    let set = set();
    let server = Server::start(&set.0);
    let found = scan(&[&server.path("s-0.tar"), &server.path("e.png")]).unwrap();
    fs::copy(set.0.join("s-1.tar"), set.0.join("s-0.tar")).unwrap();
    fs::copy(set.0.join("cat/a.png"), set.0.join("e.png")).unwrap();
    for at in 0..found.len() {
        let error = found.decode(at).unwrap_err().to_string();
        assert!(error.contains("has changed since it was listed"), "{error}");
    }
}

/// A server that says nothing of versions is found out by the length of the file.
#[test]
fn an_object_without_a_tag_is_not_read_as_another_one() {
    let (set, _server, found) = archive_with(Fault::NoTags);
    let mut longer = fs::read(set.0.join("s-1.tar")).unwrap();
    longer.extend([0; 8192]);
    fs::write(set.0.join("s-0.tar"), longer).unwrap();
    let error = found.decode(0).unwrap_err().to_string();
    assert!(error.contains("has changed since it was listed"), "{error}");
}

/// The server compares them as RFC 9110 says, by which a weak tag never fits `If-Match`.
#[test]
fn a_weak_tag_is_not_asked_for() {
    archive_with(Fault::WeakTags);
}

/// An archive on a server with a fault by which its images can be read all the same.
fn archive_with(fault: Fault) -> (TempFolder, Server, ImageFolder) {
    let set = set();
    let server = Server::start(&set.0);
    server.fail("s-0.tar", usize::MAX, fault);
    let found = scan(&[&server.path("s-0.tar")]).unwrap();
    found.decode(0).unwrap();
    (set, server, found)
}

/// Images that only a server in good health gives are not lost for the rest of a run: it ends, and can go on later.
#[test]
fn a_server_that_fails_for_good_ends_the_run() {
    ends_the_run(500);
}

/// As when credentials expire.
#[test]
fn a_server_that_refuses_from_now_on_ends_the_run() {
    ends_the_run(403);
}

/// The range of values of 16-bit images is not that of the images which a failing server happened to give.
#[test]
fn no_range_is_measured_while_a_server_fails() {
    let set = TempFolder::new();
    // of 12 bits, and too long for the request that reads its header
    let mut noise = vec![0; 2 * 256 * 256];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let values = noise
        .chunks_exact(2)
        .map(|two| u16::from_le_bytes([two[0], two[1] & 15]));
    let values: Vec<u16> = values.collect();
    let image = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(256, 256, values).unwrap();
    for name in ["a.png", "b.png"] {
        image.save(set.0.join(name)).unwrap();
    }
    set.write("all.txt", "a.png\nb.png\n");
    let server = Server::start(&set.0);
    let found = scan(&[&server.path("all.txt")]).unwrap();
    assert_eq!(found.range().to_string(), "[0, 4095]");
    server.fail("b.png", usize::MAX, Fault::Long);
    let error = scan(&[&server.path("all.txt")]).unwrap_err().to_string();
    assert!(error.contains("b.png") && error.contains("500"), "{error}");
    // a file that is gone is one image less
    server.fail("b.png", usize::MAX, Fault::Status(404));
    assert_eq!(
        scan(&[&server.path("all.txt")]).unwrap().range(),
        found.range()
    );
}

fn ends_the_run(status: u16) {
    let set = TempFolder::new();
    let names: Vec<String> = (0..60).map(|number| format!("{number}.png")).collect();
    for name in &names {
        set.write(name, png(7));
    }
    set.write("all.txt", names.join("\n"));
    let server = Server::start(&set.0);
    let found = Arc::new(scan(&[&server.path("all.txt")]).unwrap());
    let of_survey = scan(&[&server.path("all.txt")]).unwrap();
    let config = LoaderConfig {
        cache_mib: 0,
        ..config(3, 2)
    };
    let mut loader = loader(found, &config, Position::default());
    loader.next_batch().unwrap();
    // all at once: an answer between the first and the last failure would be one of a server in good health
    server.fail_all(&names, Fault::Status(status));
    let ends = (0..100).find_map(|_| loader.next_batch().err());
    let error = ends.unwrap().to_string();
    assert!(error.contains("requests in a row failed"), "{error}");
    assert!(loader.skipped() < 20, "{}", loader.skipped());
    // images of a server that is gone are not damaged
    let never = AtomicBool::new(false);
    let surveyed = Survey::of(&of_survey, None, &SurveyConfig::default(), &never, &|_| {});
    let error = surveyed.err().unwrap().to_string();
    assert!(error.contains("requests in a row failed"), "{error}");
    // a scan does not ask for every file
    let error = scan(&[&server.path("all.txt")]).unwrap_err().to_string();
    assert!(error.contains("requests in a row failed"), "{error}");
}
