//! Which images a run trains on and holds out, and what one says that resumes with others.

use std::fs;
use std::sync::atomic::AtomicBool;

use ibot::data::{FolderConfig, ImageFolder};
use ibot::error::{Error, Result};
use ibot::eval::stratified_split;
use ibot::train::{NoObserver, Observer, RunRequest, run};
use serde_json::{Value, json};

use crate::tiny_model::Scratch;
use crate::training::request;

#[derive(Default)]
struct Heard {
    /// Held out and trained on.
    images: Option<[usize; 2]>,
    notes: String,
}

impl Observer for Heard {
    fn held_out(&mut self, held_out: usize, kept: usize) {
        self.images = Some([held_out, kept]);
    }

    fn note(&mut self, line: &str) {
        self.notes += line;
    }
}

fn train(request: &RunRequest, heard: &mut Heard) -> Result<()> {
    run(request, &AtomicBool::new(false), heard)
}

/// Twelve images, of which eight are in two classes.
fn partly_labeled(scratch: &Scratch) -> RunRequest {
    let mut request = request(scratch, 2);
    request.config.held_out = Some(0.5);
    let folder = scratch.path("images");
    for (number, class) in [1, 3, 5, 7, 8, 9, 10, 11].into_iter().zip(0..) {
        let class = folder.join(["a", "b"][class % 2]);
        fs::create_dir_all(&class).unwrap();
        let name = format!("{number}.png");
        fs::rename(folder.join(&name), class.join(name)).unwrap();
    }
    request
}

#[test]
fn images_without_a_class_are_trained_on() {
    let scratch = Scratch::new("partly-labeled");
    let request = partly_labeled(&scratch);
    let mut heard = Heard::default();
    train(&request, &mut heard).unwrap();
    assert_eq!(heard.images, Some([4, 8]));
    let lines = fs::read_to_string(request.out.join("evaluations.jsonl")).unwrap();
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&line["queries"], &line["sample"]), (&4.into(), &4.into()));

    // a run of an earlier version held out two of the four without a class
    let folder = ImageFolder::scan(&request.data[0], &FolderConfig::default()).unwrap();
    let split = stratified_split(&folder.labels(), 0.5, 0);
    assert_eq!(split.held_out.len(), 6);
    let path = request.out.join("run.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["images"] = 6.into();
    record["fingerprint"] = folder.part(&split.kept).fingerprint().into();
    let of_held_out = folder.part(&split.held_out).fingerprint();
    record["validation"] = json!({"images": 6, "fingerprint": of_held_out});
    fs::write(&path, record.to_string()).unwrap();
    let refused = train(&request, &mut Heard::default()).unwrap_err();
    assert!(matches!(refused, Error::Checkpoint { .. }));
    let refused = refused.to_string();
    let said = [
        "earlier versions held out images without a class too",
        "images to validate on: 6 held out -> 4 held out",
        "`allow_changes`",
    ];
    for said in said {
        assert!(refused.contains(said), "{refused}");
    }
    let mut heard = Heard::default();
    let allowed = RunRequest {
        allow_changes: true,
        ..request.clone()
    };
    train(&allowed, &mut heard).unwrap();
    assert!(heard.notes.contains(said[1]), "{}", heard.notes);
    train(&request, &mut Heard::default()).unwrap();
}

#[test]
fn sources_in_another_order_are_other_images() {
    let scratch = Scratch::new("order-of-sources");
    let mut request = request(&scratch, 2);
    let [one, two] = ["one", "two"].map(|name| scratch.path(name));
    let folder = request.data.remove(0);
    for (number, to) in (0..12).zip([&one, &two].into_iter().cycle()) {
        fs::create_dir_all(to).unwrap();
        // names are equal in both
        let name = format!("{}.png", number / 2);
        fs::rename(folder.join(format!("{number}.png")), to.join(name)).unwrap();
    }
    request.data = vec![one.clone(), two.clone()];
    let never = AtomicBool::new(false);
    run(&request, &never, &mut NoObserver).unwrap();
    run(&request, &never, &mut NoObserver).unwrap();
    request.data.reverse();
    let refused = run(&request, &never, &mut NoObserver).unwrap_err();
    let [one, two] = [one, two].map(|path| path.display().to_string());
    let said = format!("order of the sources: {one}, {two} -> {two}, {one}");
    assert!(refused.to_string().contains(&said), "{refused}");
    request.allow_changes = true;
    run(&request, &never, &mut NoObserver).unwrap();
}
