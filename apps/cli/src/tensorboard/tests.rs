//! Event files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::RgbImage;
use serde_json::{Value, json};

use super::writer::EventWriter;
use crate::output::warn;

/// An empty folder, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ibot-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");

/// What Python finds in the files; none where no interpreter is named.
fn read_by_python(files: &[&Path]) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("IBOT_PYTHON") else {
        warn("IBOT_PYTHON is not set: events not read by Python");
        return None;
    };
    let script = Path::new(FIXTURES).join("read_outputs.py");
    let mut command = Command::new(python);
    let output = command
        .arg(script)
        .arg("events")
        .args(files)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Whether the file is whole records, by their lengths.
fn is_whole(mut bytes: &[u8]) -> bool {
    while let Some((length, _)) = bytes.split_first_chunk::<8>() {
        let size = u64::from_le_bytes(*length) as usize + 16;
        let Some(rest) = bytes.get(size..) else {
            return false;
        };
        bytes = rest;
    }
    bytes.is_empty()
}

#[test]
fn tensorboard_shows_what_a_resumed_run_wrote() {
    let folder = Folder::new("events");
    let image = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 200]));
    let mut first = EventWriter::create(&folder.0).unwrap();
    for step in 0..10 {
        first
            .scalar("loss/total", step, 10.0 - step as f32)
            .unwrap();
        first.scalar("rate", step, 0.1).unwrap();
    }
    first.image("masks", 3, &image).unwrap();
    first.image("masks", 8, &image).unwrap();
    let whole = fs::read(first.path()).unwrap();
    assert!(is_whole(&whole));
    // the process was killed while it wrote its last record
    first.scalar("loss/total", 10, 0.0).unwrap();
    let killed = fs::read(first.path()).unwrap();
    assert!(is_whole(&killed));
    fs::write(first.path(), &killed[..killed.len() - 3]).unwrap();
    assert!(!is_whole(&fs::read(first.path()).unwrap()));

    // and goes on from a checkpoint of six steps, 0 to 5
    let mut second = EventWriter::create(&folder.0).unwrap();
    assert!(second.path() > first.path());
    second.purge_from(6).unwrap();
    second.scalar("loss/total", 6, -6.0).unwrap();
    second.scalar("loss/total", 1 << 40, f32::NAN).unwrap();
    second.sync().unwrap();
    assert!(is_whole(&fs::read(second.path()).unwrap()));

    let fixture = Path::new(FIXTURES).join("events/events.out.tfevents.1700000000.ibot.1");
    assert!(is_whole(&fs::read(&fixture).unwrap()));
    let Some(found) = read_by_python(&[&folder.0, first.path(), &fixture]) else {
        return;
    };
    let point = |step: u64, value: f32| (step, value.to_bits());
    let loss = |steps: u64| (0..steps).map(move |step| point(step, 10.0 - step as f32));
    let resumed: Vec<_> = loss(6)
        .chain([point(6, -6.0), point(1 << 40, f32::NAN)])
        .collect();
    let rate: Vec<_> = (0..6).map(|step| point(step, 0.1)).collect();
    let image = |step: u64| json!([step, 3, 2, image.as_raw()]);
    assert_eq!(
        found[0],
        json!({"scalars": {"loss/total": resumed, "rate": rate}, "images": {"masks": [image(3)]}}),
    );
    // the first file by itself has all its whole records
    assert_eq!(
        found[1]["scalars"]["loss/total"],
        json!(loss(10).collect::<Vec<_>>())
    );
    assert_eq!(found[1]["images"]["masks"], json!([image(3), image(8)]));
    // the recorded file, whose bytes event.rs expects
    let kept = json!([point(0, 0.0), point(1, 9.75)]);
    let scalars = json!({"loss/total": kept, "Verlust/größe": [point(299, 0.1)]});
    assert_eq!(found[2]["scalars"], scalars);
}
