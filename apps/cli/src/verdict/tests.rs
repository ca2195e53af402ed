use super::*;

fn log(metrics: &[&str], evaluations: &[&str]) -> RunLog {
    let parsed = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    RunLog {
        name: "a".into(),
        metrics: parsed(metrics),
        evaluations: parsed(evaluations),
    }
}

const FINE: [&str; 2] = [
    r#"{"step":1,"loss":5.0,"step_s":0.5,"health":{}}"#,
    r#"{"step":2,"loss":4.0,"step_s":0.5,"health":{}}"#,
];

fn of(metrics: &[&str], evaluations: &[&str]) -> Verdict {
    Verdict::new("runs/none".as_ref(), None, &log(metrics, evaluations))
}

#[test]
fn a_gain_that_is_larger_than_chance_is_healthy() {
    let before = r#"{"step":0,"knn":0.41,"queries":600,"rank_me":36.5}"#;
    let after = |knn: f64| format!(r#"{{"step":2,"knn":{knn},"queries":600,"rank_me":36.5}}"#);
    let better = of(&FINE, &[before, &after(0.593)]);
    assert_eq!(better.state, State::Good);
    assert_eq!(
        better.headline,
        "Healthy: k-NN accuracy rose from 41.0 % to 59.3 %"
    );
    assert_eq!(
        (better.steps, better.seconds, better.loss),
        (2, 1.0, Some([5.0, 4.0]))
    );
    let equal = of(&FINE, &[before, &after(0.43)]);
    assert_eq!(equal.state, State::Attention);
    assert!(
        equal.headline.contains("did not change measurably"),
        "{}",
        equal.headline
    );
    assert!(
        of(&FINE, &[before, &after(0.2)])
            .headline
            .contains("fell from 41.0 %")
    );
}

#[test]
fn problems_come_before_accuracy() {
    let sick = r#"{"step":3,"loss":4.0,"health":{},"anomalies":["flat-features"]}"#;
    let evaluations = [
        r#"{"step":0,"knn":0.4,"queries":600}"#,
        r#"{"step":3,"knn":0.9,"queries":600}"#,
    ];
    let failed = of(&[FINE[0], sick], &evaluations);
    assert_eq!(failed.state, State::Bad);
    assert_eq!(failed.headline, "Training failed: flat features");
    // as the first versions wrote it
    let old = sick.replace("anomalies", "sick");
    assert_eq!(of(&[FINE[0], &old], &evaluations).headline, failed.headline);
    assert!(
        failed.findings[0].starts_with("Step 3: flat features: "),
        "{:?}",
        failed.findings
    );
    let recovered = of(
        &[FINE[0], sick, r#"{"step":4,"loss":4.0,"health":{}}"#],
        &evaluations,
    );
    assert_eq!(recovered.state, State::Attention);
    assert!(
        recovered.headline.contains("recovered"),
        "{}",
        recovered.headline
    );
    let flat = of(&FINE, &[r#"{"step":2,"rank_me":1.0}"#]);
    assert!(flat.state == State::Attention && flat.headline.contains("nearly equal"));
}

#[test]
fn runs_without_labels_go_by_their_loss() {
    assert_eq!(
        of(&FINE, &[]).headline,
        "Healthy: the loss fell from 5.00 to 4.00"
    );
    let unchecked = of(&[r#"{"step":4,"loss":5.0,"step_s":0.5}"#], &[]);
    assert_eq!(unchecked.state, State::Unknown);
    assert!(unchecked.headline.starts_with("Too early to say"));
    let before = r#"{"step":0,"knn":0.41,"queries":600}"#;
    assert_eq!(of(&FINE, &[before]).knn, None);
    let broken = of(&[FINE[0], r#"{"step":2,"loss":null}"#], &[]);
    assert_eq!(broken.state, State::Bad);
    assert!(of(&[], &[]).headline.contains("no step was recorded"));
}

#[test]
fn a_fine_tuned_classifier_goes_by_its_accuracy() {
    let line = r#"{"epoch":1,"step":9,"loss":0.4,"top1":0.925,"tested":80}"#;
    let verdict = of(&[line], &[]);
    assert_eq!(
        verdict.headline,
        "Healthy: the classifier is right on 92.5 % of 80 test images"
    );
    assert_eq!(verdict.findings.len(), 2, "{:?}", verdict.findings);
    let with_guessing = |top1: f64| {
        let line = format!(
            r#"{{"step":9,"loss":0.4,"top1":{top1},"tested":80,"most_frequent_class":0.5}}"#
        );
        of(&[&line], &[])
    };
    assert_eq!(with_guessing(0.75).state, State::Good);
    let no_better = with_guessing(0.55);
    assert_eq!(no_better.state, State::Attention);
    assert_eq!(
        no_better.headline,
        "Needs attention: the classifier is right on 55.0 % of 80 test images, not measurably more than the 50.0 % of always \
         guessing the most frequent class"
    );
}
