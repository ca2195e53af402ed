//! Training on tiles of images.

use std::fs;

use crate::resume::assert_same;
use crate::{Scratch, ibot, on_model, refused, stdout};

#[test]
fn a_plan_counts_tiles() {
    let scratch = Scratch::new("tile-plan");
    // 10 images of 24 x 20 pixels, one of them cut off: 2 x 2 tiles each
    let flags = ["--plan", "--plan-steps", "0", "--epochs", "3"];
    let tiles = ["--tile", "16", "--tile-overlap", "4"];
    let output = ibot(&scratch.train(&[&flags[..], &tiles].concat()));
    let text = stdout(&output);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("run              30 steps of 4 images, in epochs of 10"),
        "{text}{errors}"
    );
    assert!(errors.contains("40 tiles of 10 images"), "{errors}");
}

#[test]
fn a_run_on_tiles_resumes_bit_for_bit() {
    let scratch = Scratch::new("tiles");
    let flags = [
        "--steps",
        "13",
        "--checkpoint-every",
        "4",
        "--keep",
        "9",
        "--tile",
        "16",
        "--tile-overlap",
        "4",
        "--held-out",
        "0.2",
    ];
    let train = || {
        let output = ibot(&scratch.train(&flags));
        let text = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        text
    };
    // of the images that are trained on, not of those held out
    let text = train();
    assert!(
        text.contains("32 tiles of 16 x 16 pixels from 8 images"),
        "{text}"
    );
    let (run, undisturbed) = (scratch.0.join("run"), scratch.0.join("undisturbed"));
    fs::create_dir(&undisturbed).unwrap();
    for file in [
        "metrics.jsonl",
        "teacher.safetensors",
        "student.safetensors",
    ] {
        fs::copy(run.join(file), undisturbed.join(file)).unwrap();
    }
    let last = "checkpoints/step-000000013";
    fs::create_dir(undisturbed.join("checkpoints")).unwrap();
    fs::rename(run.join(last), undisturbed.join(last)).unwrap();
    for step in ["000000008", "000000012"] {
        fs::remove_dir_all(run.join("checkpoints/step-".to_owned() + step)).unwrap();
    }
    let text = train();
    assert!(text.contains("resuming from step 4"), "{text}");
    assert_same(&run, &undisturbed, 13);
}

#[test]
fn tiles_that_cannot_be_are_refused_by_their_flags() {
    let scratch = Scratch::new("tile-flags");
    for (flags, said) in [
        (&["--tile", "3"][..], "--tile = 3: give 16 to 65536 pixels"),
        (
            &["--tile-overlap", "4"][..],
            "--tile-overlap = 4: needs folder.tile",
        ),
        (
            &["--tile", "16", "--cache", "kept"][..],
            "cannot be combined with folder.tile",
        ),
    ] {
        refused(&scratch.train(flags), &[said]);
    }
}

#[test]
fn a_table_has_a_row_for_each_tile_with_its_place() {
    let scratch = Scratch::new("tile-embed");
    let output = ibot(&scratch.train(&["--steps", "1"]));
    assert!(output.status.success(), "{output:?}");
    let (images, model) = (
        scratch.path("images"),
        scratch.path("run/teacher.safetensors"),
    );
    let embed = |out: &str, more: &[&str]| {
        let out = scratch.path(out);
        let flags = on_model("embed", &model, &images);
        let output = ibot(&[&flags[..], &["--out", &out], more].concat());
        (
            stdout(&output),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (text, errors) = embed("tiles.csv", &["--tile", "16", "--tile-overlap", "4"]);
    assert!(text.contains("40 x 16 features of tiles"), "{text}{errors}");
    let table = fs::read_to_string(scratch.path("tiles.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 41);
    assert!(
        lines[0].starts_with("path,label,x,y,width,height,f0,"),
        "{}",
        lines[0]
    );
    // 24 x 20 pixels: tiles begin at 0 and 8, and at 0 and 4
    let places: Vec<&str> = lines[1..5]
        .iter()
        .map(|line| line.split_once("0.png,even,").unwrap().1)
        .map(|rest| rest.split_once(",16,16,").unwrap().0)
        .collect();
    assert_eq!(places, ["0,0", "8,0", "0,4", "8,4"]);
    // a tile that is the whole image has the image's features
    let whole = embed("whole.csv", &["--tile", "64"]);
    assert!(whole.0.contains("10 x 16 features of tiles"), "{whole:?}");
    embed("images.csv", &[]);
    let features = |name: &str, at: usize| {
        let table = fs::read_to_string(scratch.path(name)).unwrap();
        let rows = table.lines().skip(1);
        let rows = rows.map(|row| row.split(',').skip(at).map(str::to_owned).collect());
        rows.collect::<Vec<Vec<String>>>()
    };
    assert_eq!(features("whole.csv", 6), features("images.csv", 2));
    let flags = [
        "embed", "--model", &model, "--data", &images, "--out", "t.csv",
    ];
    for (more, said) in [
        (
            &["--tile", "16", "--features", "patches"][..],
            "--features = patches",
        ),
        (&["--tile", "4"][..], "--tile = 4"),
    ] {
        refused(&[&flags[..], more].concat(), &[said]);
    }
}
