//! The pages that `report` and `map` write.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::evaluation::trained;
use crate::{Scratch, ibot, refused, succeeds};

/// A page that opens without any other file and without a network.
fn page(path: &str) -> String {
    let page = fs::read_to_string(path).unwrap();
    assert!(page.starts_with("<!doctype html>"), "{path}");
    for outside in ["src=\"http", "href=", "@import", "url(", "fetch("] {
        assert!(!page.contains(outside), "{path} has {outside}");
    }
    page
}

#[test]
fn reports_on_a_run_and_compares_several() {
    let trained = trained("report");
    let (run, other) = (trained.out("run"), trained.out("other & b"));
    let text = succeeds(&["report", &run]);
    assert!(
        ["Healthy", "Too early to say", "Needs attention"]
            .iter()
            .any(|word| text.contains(word)),
        "{text}"
    );
    let alone = page(&format!("{run}/report/report.html"));
    for part in [
        "class=\"verdict",
        "What to do next",
        "ibot map ",
        "<svg role=\"img\"",
        "All settings",
    ] {
        assert!(alone.contains(part), "{part}");
    }
    assert!(Path::new(&format!("{run}/report/curve-losses.png")).exists());
    fs::create_dir(&other).unwrap();
    for name in ["metrics.jsonl", "run.json"] {
        let text = fs::read_to_string(format!("{run}/{name}")).unwrap();
        fs::write(
            format!("{other}/{name}"),
            text.replace("seed = 0", "seed = 7"),
        )
        .unwrap();
    }
    let made = format!("{other}/metrics.jsonl");
    let lines = fs::read_to_string(&made).unwrap();
    let half: String = lines.split_inclusive('\n').take(30).collect();
    fs::write(made, half).unwrap();
    let out = trained.out("both");
    let none = trained.out("none");
    let output = ibot(&["report", &run, &other, &none, "--out", &out, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["runs"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(report["skipped"][0]["path"].as_str(), Some(none.as_str()));
    assert_eq!(report["runs"][0]["steps"], 60);
    let half = &report["runs"][1];
    let headline = half["headline"].as_str().unwrap();
    assert!(headline.contains(" after 30 of 60 steps: "), "{headline}");
    let command = half["next"][0][1].as_str().unwrap();
    assert!(command.starts_with("ibot train --resume "), "{command}");
    let both = page(&format!("{out}/report.html"));
    for part in [
        "Comparison of 2 runs",
        "class=\"verdict",
        "seed: 0 -&gt; 7",
        "other &amp; b",
        "Training loss: total",
    ] {
        assert!(both.contains(part), "{part}");
    }
    assert!(Path::new(&format!("{out}/curve-losses-total.png")).exists());
}

#[test]
fn what_is_no_run_has_no_report() {
    let scratch = Scratch::new("no-report");
    let empty = scratch.path("");
    refused(
        &["report", &empty],
        &["is not a run folder", "metrics.jsonl"],
    );
    refused(
        &["report", &scratch.path("none")],
        &["none", "does not exist"],
    );
    fs::write(scratch.path("metrics.jsonl"), "{\"step\": 1}\n{oops\n").unwrap();
    refused(&["report", &empty], &["metrics.jsonl", "line 2 is damaged"]);
    fs::write(scratch.path("file"), "").unwrap();
    refused(
        &["report", &empty, "--out", &scratch.path("file")],
        &["--out", "is a file"],
    );
}

#[test]
fn maps_the_images_of_a_folder() {
    let trained = trained("map");
    let (data, out) = (&trained.images, trained.out("map.html"));
    let report = trained.run("map", &["--data", data, "--out", &out]);
    assert_eq!(report["images"], 10);
    let html = page(&out);
    let start = html.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let json = &html[start..start + html[start..].find("</script>").unwrap()];
    let shown: Value = serde_json::from_str(json).unwrap();
    assert_eq!(shown["classes"], serde_json::json!(["even", "odd"]));
    let (names, near) = (
        shown["names"].as_array().unwrap(),
        shown["near"].as_array().unwrap(),
    );
    assert!(names.contains(&"odd/1.png".into()), "{names:?}");
    assert_eq!(near.len(), 10);
    for (at, near) in near.iter().enumerate() {
        let near = near.as_array().unwrap();
        assert!(
            near.len() == 9 && near.iter().all(|other| other[0] != at),
            "{near:?}"
        );
    }
    let places = shown["places"].as_array().unwrap().iter();
    let inside =
        |place: &Value| (0..2).all(|axis| (0.0..=1.0).contains(&place[axis].as_f64().unwrap()));
    assert!(places.clone().count() == 10 && places.clone().all(inside));
    let features = trained.out("all.safetensors");
    trained.run("embed", &["--data", data, "--out", &features]);
    succeeds(&["map", "--features", &features, "--out", &out]);
    assert!(page(&out).contains("odd/1.png"));
    let fewer = trained.run("map", &["--data", data, "--out", &out, "--most", "4"]);
    assert_eq!(fewer["images"], 4);
    assert!(page(&out).contains("4 of 10 images"));
    let model = &trained.model;
    let inside = format!("{data}/map.html");
    for (flags, parts) in [
        (["--out", "map.png"], ["--out", "must end in .html"]),
        (["--out", &inside], ["--out", "inside the image folder"]),
        (["--most", "0"], ["--most", "at least 1"]),
    ] {
        let map = ["map", "--model", model, "--data", data];
        refused(&[&map[..], &flags].concat(), &parts);
    }
}
