//! Flags of `ibot probe` and `ibot knn`.

use std::fs;
use std::path::Path;

use ibot::path_text::path_text;

use crate::evaluation::trained_as;
use crate::{refused, succeeds};

#[test]
fn flags_that_would_do_nothing_are_refused() {
    let trained = trained_as("probe-flags", &["--steps", "1"]);
    let model = ["--model", &trained.model, "--backend", "flex"];
    let probe = [&["probe", "--data", &trained.images][..], &model].concat();
    let rates = [&probe[..], &["--learning-rates", "0.1,0.01"]].concat();
    refused(
        &rates,
        &["--learning-rates = 0.1,0.01", "is for --optimizer sgd"],
    );
    let strengths = ["--optimizer", "sgd", "--strengths", "1"];
    let strengths = [&probe[..], &strengths].concat();
    refused(&strengths, &["--strengths = 1", "is for --optimizer lbfgs"]);

    // a data set in two parts is not split at random
    let parts = trained.scratch.0.join("parts");
    fs::create_dir(&parts).unwrap();
    for part in ["train", "val"] {
        let part = parts.join(part);
        for class in ["even", "odd"] {
            fs::create_dir_all(part.join(class)).unwrap();
            for (at, number) in [1, 5, 9].into_iter().enumerate() {
                let from = format!("images/odd/{number}.png");
                fs::copy(
                    trained.scratch.0.join(from),
                    part.join(format!("{class}/{at}.png")),
                )
                .unwrap();
            }
        }
    }
    let parts = trained.scratch.path("parts");
    let knn = [&["knn", "--data", &parts, "--splits", "3"][..], &model].concat();
    refused(&knn, &["--splits = 3", "leave it out", "--held-out"]);
    let knn = ["--data", &parts, "--k", "1"];
    let val = Path::new(&parts).join("val");
    assert_eq!(trained.run("knn", &knn)["val"], path_text(&val));
}

/// One split has no deviation, but a figure of few images is uncertain all the same.
#[test]
fn one_split_has_a_confidence_interval() {
    let trained = trained_as("one-split", &["--steps", "1"]);
    let flags = ["--data", &trained.images, "--k", "1", "--splits"];
    let report = trained.run("knn", &[&flags[..], &["1"]].concat());
    assert_eq!(report["splits"], 1);
    let row = &report["rows"][0];
    let [low, high] = [0, 1].map(|at| row["top1_interval"][at].as_f64().unwrap());
    let top1 = row["top1"].as_f64().unwrap();
    assert!(low <= top1 && top1 <= high && high - low > 0.2, "{report}");
    let knn = ["knn", "--model", &trained.model, "--backend", "flex"];
    let text = |splits| succeeds(&[&knn[..], &flags, &[splits]].concat());
    assert!(text("1").contains("2 images held out; 95 % interval"));
    let several = "mean and one standard deviation over 3 held-out splits";
    assert!(text("3").contains(several));
}
