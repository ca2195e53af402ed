//! Images of more than 8 bits: a run keeps the range of their values, and everything after it uses that one.

use std::fs;

use image::{ImageBuffer, Luma};

use super::{Scratch, TINY, ibot};

/// A folder of PNGs of 16 bits with values up to `most`.
fn images(scratch: &Scratch, name: &str, most: u32) -> String {
    let folder = scratch.0.join(name);
    for at in 0..8_u32 {
        let class = folder.join(if at % 2 == 0 { "even" } else { "odd" });
        fs::create_dir_all(&class).unwrap();
        let value = |x: u32, y: u32| Luma([((x * 7 + y * (5 + at)) % 160 * most / 159) as u16]);
        let image = ImageBuffer::from_fn(24, 20, value);
        image.save(class.join(format!("{at}.png"))).unwrap();
    }
    scratch.path(name)
}

fn said(arguments: &[&str]) -> String {
    let output = ibot(arguments);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[test]
fn a_run_keeps_the_range_that_it_measured() {
    let scratch = Scratch::new("ranges");
    let bright = images(&scratch, "bright", 4095);
    let dark = images(&scratch, "dark", 900);
    fs::write(scratch.0.join("tiny.toml"), TINY).unwrap();
    let (run, config) = (scratch.path("run"), scratch.path("tiny.toml"));
    let train = |more: &[&str]| {
        let flags = [
            "train",
            "--backend",
            "flex",
            "--data",
            &bright,
            "--out",
            &run,
        ];
        let flags = [
            &flags[..],
            &["--config", &config, "--held-out", "0.25"],
            more,
        ]
        .concat();
        said(&flags)
    };
    let text = train(&["--steps", "2"]);
    let line =
        "8 images with more than 8 bits: values 0 to 4095 become black to white (12 bits hold";
    assert!(text.contains(line), "{text}");
    let teacher = scratch.path("run/teacher.safetensors");
    let text = said(&["inspect", &teacher]);
    assert!(text.contains("range [0, 4095]"), "{text}");
    // with other values in the files, the run goes on with the range that it began with
    images(&scratch, "bright", 60_000);
    let text = train(&["--steps", "4", "--override"]);
    let line = "values 0 to 4095 become black to white (of the settings or the model)";
    assert!(text.contains(line), "{text}");
    // the model's range, not that of the folder, whose values are 10 bits
    let flags = ["--backend", "flex", "--model", &teacher, "--data", &dark];
    let embed = |more: &[&str]| {
        let out = scratch.path("features.csv");
        let text = said(&[&["embed", "--out", &out], &flags[..], more].concat());
        (text, fs::read_to_string(out).unwrap())
    };
    let (text, by_model) = embed(&[]);
    assert!(text.contains(line), "{text}");
    let (_, given) = embed(&["--range", "0,4095"]);
    assert_eq!(by_model, given);
    let (text, other) = embed(&["--range", "0,1023"]);
    assert!(text.contains("values 0 to 1023"), "{text}");
    assert_ne!(by_model, other);
    // found by itself: search and embed see the same image
    let query = scratch.path("query.png");
    let mut bytes = fs::read(format!("{dark}/even/0.png")).unwrap();
    bytes.push(0); // the same image in another file
    fs::write(&query, bytes).unwrap();
    let text = said(&[&["search", "--query", &query], &flags[..]].concat());
    assert!(text.contains("1.0000  "), "{text}");
}

#[test]
fn a_range_that_is_none_is_refused() {
    for wrong in ["12", "5,1", "a,b"] {
        let output = ibot(&[
            "embed", "--model", "m", "--data", "d", "--out", "o.csv", "--range", wrong,
        ]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && text.contains("such as 0,4095"),
            "{text}"
        );
    }
    let scratch = Scratch::new("range-config");
    let images = images(&scratch, "images", 4095);
    let config = scratch.path("wrong.toml");
    fs::write(&config, "[folder]\nrange = [9, 3]\n").unwrap();
    let output = ibot(&[
        "train",
        "--data",
        &images,
        "--config",
        &config,
        "--print-config",
    ]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("folder.range = [9, 3]"), "{text}");
}
