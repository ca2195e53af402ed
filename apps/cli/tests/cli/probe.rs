//! Flags of `ibot probe` and `ibot knn` that would do nothing.

use std::fs;

use crate::evaluation::trained_as;
use crate::refused;

#[test]
fn flags_that_would_do_nothing_are_refused() {
    let trained = trained_as("probe-flags", &["--steps", "1"]);
    let model = ["--model", &trained.model, "--backend", "flex"];
    let probe = [&["probe", "--data", &trained.pictures][..], &model].concat();
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
                let from = format!("pictures/odd/{number}.png");
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
    assert_eq!(trained.run("knn", &knn)["val"], format!("{parts}/val"));
}
