//! The evaluation computes what scikit-learn, NumPy and SciPy compute (tests/fixtures/eval.py).

use ibot::eval::{
    FeatureSet, KMeansConfig, LogisticRegression, Pca, adjusted_rand_index, feature_std, k_means,
    knn_report, normalized_mutual_information, rank_me, wilson_interval,
};
use ibot::random::{Random, Stream};
use serde_json::Value;

fn record() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/eval.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(number).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn labels(value: &Value) -> Vec<usize> {
    numbers(value).iter().map(|&label| label as usize).collect()
}

fn feature_set(value: &Value) -> FeatureSet {
    let features = numbers(&value["features"]);
    FeatureSet {
        features: features.iter().map(|&feature| feature as f32).collect(),
        width: number(&value["width"]) as usize,
        labels: labels(&value["labels"]).into_iter().map(Some).collect(),
    }
}

/// Every entry is as near as `bar` times the largest expected one.
fn assert_near(name: &str, found: &[f64], expected: &[f64], bar: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    assert!(!expected.is_empty(), "{name}: nothing to compare");
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    assert!(largest > 0.0, "{name}: nothing but zeros");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs() / largest;
        assert!(error <= bar, "{name}: {found}, expected {expected}");
    }
}

#[test]
fn neighbors_vote_as_scikit_learns() {
    let record = record();
    let (bank, queries) = (feature_set(&record["train"]), feature_set(&record["test"]));
    let expected = list(&record["knn"]);
    let counts: Vec<usize> = expected
        .iter()
        .map(|score| number(&score["neighbors"]) as usize)
        .collect();
    assert_eq!(counts, [1, 5, 20]);
    let temperature = number(&record["temperature"]);
    let report = knn_report(&bank, &queries, &counts, temperature).unwrap();
    // one query at a time, so that errors do not cancel
    let single = |row: usize| {
        let query = FeatureSet {
            features: queries.features[row * queries.width..][..queries.width].to_vec(),
            width: queries.width,
            labels: vec![queries.labels[row]],
        };
        knn_report(&bank, &query, &counts, temperature).unwrap()
    };
    let singles: Vec<_> = (0..queries.len()).map(single).collect();
    for (index, (score, expected)) in report.iter().zip(expected).enumerate() {
        let name = format!("{} neighbors", score.neighbors);
        let [top1, top5] = ["top1", "top5"].map(|key| numbers(&expected[key]));
        let found: Vec<_> = singles.iter().map(|scores| scores[index].top1).collect();
        assert_eq!(found, top1, "{name}");
        let found: Vec<_> = singles.iter().map(|scores| scores[index].top5).collect();
        assert_eq!(found, top5, "{name}");
        let mean = |hits: &[f64]| hits.iter().sum::<f64>() / hits.len() as f64;
        assert_near(
            &name,
            &[score.top1, score.top5],
            &[mean(&top1), mean(&top5)],
            1e-12,
        );
    }
}

#[test]
fn logistic_regression_has_scikit_learns_coefficients() {
    let record = record();
    let (train, test) = (feature_set(&record["train"]), feature_set(&record["test"]));
    for expected in list(&record["logistic"]) {
        let strength = number(&expected["inverse_strength"]);
        let name = format!("C = {strength}");
        let model = LogisticRegression::fit(&train, strength, 1e-8, 10_000).unwrap();
        let rows = model.parameters.chunks_exact(train.width + 1);
        let (weights, intercepts): (Vec<_>, Vec<_>) =
            rows.map(|row| row.split_at(train.width)).unzip();
        let coefficients: Vec<f64> = list(&expected["coefficients"])
            .iter()
            .flat_map(numbers)
            .collect();
        assert_near(&name, &weights.concat(), &coefficients, 1e-4);
        assert_near(
            &name,
            &intercepts.concat(),
            &numbers(&expected["intercepts"]),
            1e-4,
        );
        let accuracy = model.accuracy(&test).unwrap();
        let expected = [number(&expected["top1"]), number(&expected["top5"])];
        assert_near(&name, &accuracy, &expected, 1e-12);
    }
}

#[test]
fn principal_components_are_scikit_learns() {
    for expected in list(&record()["pca"]) {
        let set = feature_set(expected);
        let pca = Pca::fit(&set.features, set.width, 3).unwrap();
        let name = format!("{} x {}", set.len(), set.width);
        let components: Vec<f64> = list(&expected["components"])
            .iter()
            .flat_map(numbers)
            .collect();
        assert_near(
            &name,
            &pca.variances,
            &numbers(&expected["variances"]),
            1e-10,
        );
        assert_near(&name, &pca.components.concat(), &components, 1e-9);
        assert_near(
            &name,
            &pca.project(&set.features),
            &numbers(&expected["projected"]),
            1e-9,
        );
    }
}

#[test]
fn rank_and_spread_are_numpys() {
    for expected in list(&record()["spectra"]) {
        let set = feature_set(expected);
        let name = format!("{} x {}", set.len(), set.width);
        assert_near(
            &name,
            &[rank_me(&set).unwrap()],
            &[number(&expected["rank_me"])],
            1e-6,
        );
        assert_near(
            &name,
            &[feature_std(&set).unwrap()],
            &[number(&expected["feature_std"])],
            1e-10,
        );
    }
}

#[test]
fn labelings_agree_as_scikit_learn_says() {
    for expected in list(&record()["agreements"]) {
        let (a, b) = (labels(&expected["a"]), labels(&expected["b"]));
        let found = [
            normalized_mutual_information(&a, &b),
            adjusted_rand_index(&a, &b),
        ];
        for (found, name) in found.into_iter().zip(["nmi", "ari"]) {
            assert_near(name, &[found], &[number(&expected[name])], 1e-9);
        }
    }
}

#[test]
fn wilson_intervals_are_scipys() {
    for expected in list(&record()["wilson"]) {
        let (right, queries) = (number(&expected["right"]), number(&expected["queries"]));
        let found = wilson_interval(right / queries, queries as usize);
        assert_near(
            &format!("{right} of {queries}"),
            &found,
            &numbers(&expected["interval"]),
            1e-9,
        );
    }
}

#[test]
fn k_means_is_as_tight_as_scikit_learns() {
    let record = record();
    let (train, expected) = (feature_set(&record["train"]), &record["kmeans"]);
    let config = KMeansConfig {
        restarts: 50,
        ..KMeansConfig::new(number(&expected["clusters"]) as usize)
    };
    let mut random = Random::new(0, 0, 0, Stream::Init);
    let found = k_means(&train.features, train.width, &config, &mut random).unwrap();
    // both are the best of 50 starts
    assert_near(
        "inertia",
        &[found.inertia],
        &[number(&expected["inertia"])],
        0.01,
    );
}
