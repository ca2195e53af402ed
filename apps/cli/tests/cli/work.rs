//! A run folder that holds work is not emptied, whatever is missing in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::resume::wait_for_a_step;
use crate::{Scratch, command, ibot, metrics, refused, stdout};

/// Every file below a folder but its lock, with its content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else if path.file_name().unwrap() != "lock" {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// The command is refused before it looks at an image, and nothing is touched.
#[track_caller]
fn refused_untouched(run: &Path, arguments: &[String], parts: &[&str]) {
    let before = content(run);
    refused(arguments, parts);
    assert!(content(run) == before, "{arguments:?} touched the run");
    assert!(!stdout(&ibot(arguments)).contains("data "));
}

#[test]
fn a_run_without_its_checkpoints_is_not_begun_again_by_itself() {
    let scratch = Scratch::new("no-checkpoints");
    let train = scratch.train(&["--steps", "3"]);
    let run = scratch.0.join("run");
    assert!(ibot(&train).status.success());
    let work = [
        "its checkpoints are gone",
        "3 lines of metrics.jsonl",
        "teacher.safetensors",
        "--out",
        "--override",
    ];
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    refused_untouched(&run, &train, &work);
    let resume = ["train", "--resume", &scratch.path("run")].map(String::from);
    refused_untouched(&run, &resume, &work);
    // emptied, and of a version whose records do not say whether there was one
    fs::create_dir(run.join("checkpoints")).unwrap();
    refused_untouched(&run, &train, &work);
    let record = fs::read_to_string(run.join("run.json")).unwrap();
    let of_before = record.replace(",\n  \"has_checkpoint\": true", "");
    assert!(of_before != record);
    fs::write(run.join("run.json"), of_before).unwrap();
    refused_untouched(&run, &train, &work);
    // the record alone holds no work
    for name in ["metrics.jsonl", "teacher.safetensors"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    refused_untouched(&run, &train, &["student.safetensors"]);

    let output = ibot(&[&train[..], &["--override".to_owned()]].concat());
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("starting over") && text.contains("replaces"),
        "{text}"
    );
    assert_eq!(metrics(&run).len(), 3);
    assert!(run.join("checkpoints/step-000000003").exists());
}

#[cfg(unix)]
#[test]
fn checkpoints_behind_a_link_that_leads_nowhere_are_named() {
    let scratch = Scratch::new("unmounted");
    let train = scratch.train(&["--steps", "2"]);
    let (run, disk) = (scratch.0.join("run"), scratch.0.join("disk"));
    assert!(ibot(&train).status.success());
    let undisturbed = content(&run);
    let checkpoints = run.join("checkpoints");
    fs::rename(&checkpoints, &disk).unwrap();
    std::os::unix::fs::symlink(&disk, &checkpoints).unwrap();
    assert!(stdout(&ibot(&train)).contains("the run is complete"));
    let unmounted = scratch.0.join("unmounted");
    fs::rename(&disk, &unmounted).unwrap();
    let parts = ["checkpoints", "is a link to", "disk", "mount"];
    refused(&train, &parts);
    refused(&[&train[..], &["--override".to_owned()]].concat(), &parts);
    fs::rename(&unmounted, &disk).unwrap();
    assert!(stdout(&ibot(&train)).contains("the run is complete"));
    assert!(content(&run).keys().eq(undisturbed.keys()));
}

#[test]
fn work_without_a_record_is_not_overwritten() {
    let scratch = Scratch::new("no-record");
    let train = scratch.train(&["--steps", "2"]);
    let run = scratch.0.join("run");
    assert!(ibot(&train).status.success());
    fs::remove_file(run.join("run.json")).unwrap();
    refused_untouched(
        &run,
        &train,
        &["no run.json", "1 checkpoint,", "--override"],
    );
    let kept = scratch.0.join("kept");
    fs::rename(&run, &kept).unwrap();
    for name in ["metrics.jsonl", "student.safetensors"] {
        fs::create_dir(&run).unwrap();
        fs::copy(kept.join(name), run.join(name)).unwrap();
        refused_untouched(&run, &train, &[name, "--out", "--override"]);
        fs::remove_dir_all(&run).unwrap();
    }
    fs::rename(&kept, &run).unwrap();
    let mut anew = scratch.train(&["--steps", "1", "--override"]);
    let text = stdout(&ibot(&anew));
    assert!(text.contains("1 checkpoint,"), "{text}");
    assert!(!run.join("checkpoints/step-000000002").exists());
    assert_eq!(metrics(&run).len(), 1);
    anew.pop();
    assert!(stdout(&ibot(&anew)).contains("the run is complete"));
}

/// What began and has no checkpoint to lose goes on by itself, as after a power cut in its first minutes.
#[test]
fn a_run_that_was_killed_before_its_first_checkpoint_goes_on() {
    let scratch = Scratch::new("first-minutes");
    let train = scratch.train(&["--steps", "100000"]);
    let run = scratch.0.join("run");
    for _ in 0..2 {
        let mut command = command(&train);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        wait_for_a_step(&run, 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!run.join("checkpoints").exists());
    }
    let shorter = stdout(&ibot(&scratch.train(&["--steps", "2", "--override"])));
    assert!(shorter.contains("no checkpoint yet"), "{shorter}");
    assert_eq!(metrics(&run).len(), 2);
}

#[test]
fn a_damaged_line_of_metrics_costs_that_line() {
    let scratch = Scratch::new("damaged-line");
    let train = scratch.train(&["--steps", "9"]);
    let path = scratch.0.join("run/metrics.jsonl");
    assert!(ibot(&train).status.success());
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut damaged = lines.clone();
    damaged[3] = "\0\0\0";
    fs::write(&path, damaged.join("\n") + "\n").unwrap();
    let said = stdout(&ibot(&train));
    assert!(
        said.contains("metrics.jsonl: line 4 is damaged and left out"),
        "{said}"
    );
    damaged.remove(3);
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        damaged.join("\n") + "\n"
    );
    assert!(!stdout(&ibot(&train)).contains("is damaged"));
}

#[test]
fn images_that_moved_are_asked_for() {
    let scratch = Scratch::new("moved");
    let train = scratch.train(&["--steps", "2"]);
    assert!(ibot(&train).status.success());
    let run = scratch.path("run");
    let moved = scratch.path("elsewhere");
    fs::rename(scratch.path("images"), &moved).unwrap();
    refused(&["train", "--resume", &run], &["images", "moved", "--data"]);
    let output = ibot(&["train", "--resume", &run, "--data", &moved]);
    assert!(stdout(&output).contains("the run is complete"));
    let missing = scratch.path("missing");
    refused(
        &["train", "--resume", &missing],
        &["missing", "does not exist"],
    );
    let export = ["export", "--run", &missing, "--out", "x.safetensors"];
    refused(&export, &["missing", "is not a folder"]);
}

/// Runs that are given no folder, and begin in one second, get one each; a refused one leaves none.
#[test]
fn runs_without_a_folder_get_one_each() {
    let scratch = Scratch::new("no-out");
    let (images, config) = (scratch.images(), scratch.path("tiny.toml"));
    let train = |steps: &str| -> Command {
        let flags = ["--backend", "flex", "--config", &config, "--steps", steps];
        let mut command = command(&[&["train", "--data", &images][..], &flags].concat());
        command.current_dir(&scratch.0).stdout(Stdio::null());
        command
    };
    let runs = scratch.0.join("runs");
    let refused = train("2").args(["--batch-size", "99"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(!runs.exists());
    let begun = [(); 3].map(|()| train("2").spawn().unwrap());
    for mut child in begun {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(fs::read_dir(&runs).unwrap().count(), 3);
    for run in fs::read_dir(&runs).unwrap() {
        assert_eq!(metrics(&run.unwrap().path()).len(), 2);
    }
}
