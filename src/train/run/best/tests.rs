//! Which teacher is the best, and what is said of it.

use std::collections::BTreeMap;

use super::*;
use crate::backbone::VitConfig;
use crate::data::AugmentConfig;
use crate::files::model::{CARD_FORMAT, ModelCard, Preprocessing, write_model};

#[test]
fn the_first_of_equal_ones_is_the_best() {
    let line = |step, knn| Evaluation {
        step,
        knn,
        rank_me: Some(f64::from(step as u32)),
        ..Evaluation::default()
    };
    let lines = [(0, 0.4), (1, 0.5), (3, 0.5), (4, 0.3)].map(|(at, knn)| line(at, Some(knn)));
    let lines = [&lines[..2], &[line(2, None)], &lines[2..]].concat();
    assert_eq!(Measure::Knn.best(&lines).map(|line| line.step), Some(1));
    assert_eq!(Measure::RankMe.best(&lines).map(|line| line.step), Some(4));
    assert_eq!(Measure::Knn.best(&[line(2, None)]), None);
}

const KNN: Comparison = Comparison {
    measure: Measure::Knn,
    is_trained_at_start: true,
};

/// The folder of a run, with its evaluations and its best teacher.
struct Run(PathBuf);

impl Run {
    fn new(name: &str) -> Self {
        let name = format!("ibot-best-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn keep(&self, step: usize) {
        let card = ModelCard {
            format: CARD_FORMAT,
            ibot: "0".into(),
            encoder: "custom".into(),
            network: "teacher".into(),
            architecture: VitConfig::default(),
            preprocessing: Preprocessing::from_augment(&AugmentConfig::default()),
            parameters: 0,
            step,
            data: None,
            license: None,
            classes: None,
            fingerprint: Vec::new(),
        };
        write_model(&self.0.join(BEST), &card, &BTreeMap::new()).unwrap();
    }

    fn kept(&self) -> Option<usize> {
        kept_step(&self.0).unwrap()
    }

    fn write(&self, lines: &[Evaluation]) {
        let lines = lines
            .iter()
            .map(|line| serde_json::to_string(line).unwrap());
        let lines: String = lines.map(|line| line + "\n").collect();
        std::fs::write(self.0.join(EVALUATIONS), lines).unwrap();
    }

    /// What a run does after an evaluation.
    fn evaluated(&self, comparison: Comparison, line: Evaluation) -> Standing {
        let standing = comparison.standing(&self.0, &line).unwrap();
        if standing != Standing::NotBest {
            self.keep(line.step);
        }
        let mut lines = read_lines::<Evaluation>(&self.0.join(EVALUATIONS)).unwrap();
        lines.push(line);
        self.write(&lines);
        standing
    }

    /// What a rollback does to a best teacher that is later than `to`.
    fn rolled_back(&self, to: usize) {
        remove_best(&self.0).unwrap();
        let mut lines = read_lines::<Evaluation>(&self.0.join(EVALUATIONS)).unwrap();
        lines.retain(|line| line.step <= to);
        self.write(&lines);
        if KNN.has_measured(&self.0, to, "").unwrap() {
            self.keep(to);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn line(step: usize, knn: f64) -> Evaluation {
    Evaluation {
        step,
        knn: Some(knn),
        ..Evaluation::default()
    }
}

/// An untrained network is no teacher to keep, even where it is above all others.
#[test]
fn an_untrained_network_is_not_the_best() {
    let untrained = Comparison {
        is_trained_at_start: false,
        ..KNN
    };
    let [of_trained, of_untrained] = ["trained", "untrained"].map(Run::new);
    for (step, knn, trained_standing, untrained_standing) in [
        (0, 0.6, Standing::Best, Standing::NotBest),
        (3, 0.4, Standing::NotBest, Standing::Best),
        (6, 0.5, Standing::NotBest, Standing::Best),
        (9, 0.45, Standing::NotBest, Standing::NotBest),
    ] {
        let line = line(step, knn);
        assert_eq!(of_trained.evaluated(KNN, line.clone()), trained_standing);
        assert_eq!(of_untrained.evaluated(untrained, line), untrained_standing);
    }
    assert!(!untrained.has_measured(&of_untrained.0, 0, "").unwrap());
}

/// After a rollback, teachers are compared with the one that it went back to: the weights of better ones are gone.
#[test]
fn a_run_that_went_back_ends_with_a_best_teacher() {
    let run = Run::new("back");
    for (step, knn) in [(100, 0.46), (200, 0.45), (300, 0.47)] {
        run.evaluated(KNN, line(step, knn));
    }
    run.rolled_back(200);
    assert_eq!(run.kept(), Some(200));
    let said = KNN.gain(&run.0).unwrap().unwrap();
    let parts = "step 100, which is not kept; the best that is kept is that of step 200";
    assert!(said.contains(parts), "{said}");
    for (step, knn, kept) in [(300, 0.44, 200), (400, 0.455, 400), (500, 0.45, 400)] {
        run.evaluated(KNN, line(step, knn));
        assert_eq!(run.kept(), Some(kept), "{step}");
    }
    // the evaluation of the last step is made again when a complete run is started again
    assert_eq!(
        KNN.standing(&run.0, &line(500, 0.45)).unwrap(),
        Standing::NotBest
    );

    // nothing was measured where it went back to: the next one is the first
    let run = Run::new("unmeasured");
    for (step, knn) in [(100, 0.46), (300, 0.47)] {
        run.evaluated(KNN, line(step, knn));
    }
    run.rolled_back(200);
    assert_eq!(run.kept(), None);
    run.evaluated(KNN, line(300, 0.4));
    assert_eq!(run.kept(), Some(300));
}

/// A teacher was measured only by what later ones are measured by: the same images, and k-NN where these are labeled.
#[test]
fn other_images_measure_nothing() {
    let run = Run::new("measured");
    let of = |step, fingerprint: &str, knn| Evaluation {
        fingerprint: fingerprint.into(),
        knn,
        ..line(step, 0.0)
    };
    let lines = [
        of(1, "a", Some(0.4)),
        of(2, "b", Some(0.5)),
        of(3, "a", None),
    ];
    run.write(&lines);
    for (step, is_measured) in [(1, true), (2, false), (3, false), (4, false)] {
        assert_eq!(
            KNN.has_measured(&run.0, step, "a").unwrap(),
            is_measured,
            "{step}"
        );
    }
}

/// 4 of 17, among others, was read one bit smaller than it was written.
#[test]
fn an_equal_one_in_a_file_is_not_better() {
    let run = Run::new("equal");
    run.keep(0);
    for of in 2..60_u32 {
        for right in 1..of {
            let knn = f64::from(right) / f64::from(of);
            run.write(&[line(0, knn)]);
            let standing = KNN.standing(&run.0, &line(1, knn)).unwrap();
            assert_eq!(standing, Standing::NotBest, "{right} of {of}");
        }
    }
}

#[test]
fn a_gain_is_not_claimed_beyond_chance() {
    let said = |before, now, queries| knn_gain(before, now, queries, Some(7), "best");
    assert!(said(0.4, 0.5, 1000).contains("gained 10.0 points"));
    // 1.96 sqrt((0.4 0.6 + 0.5 0.5) / 1000) = 0.0434
    assert!(said(0.4, 0.5, 1000).contains("more than the 4.3 points"));
    assert!(said(0.4, 0.5, 100).contains("may be chance: up to 13.7 points"));
    assert!(knn_gain(0.4, 0.4, 100, None, "best").starts_with("nothing was gained"));
    assert!(said(0.4, 0.3, 100).contains("nothing was gained"));
    assert!(rank_gain(9.0, 5.0, 256, Some(7), "best").contains("of the untrained network"));
    assert!(rank_gain(5.0, 9.0, 256, Some(7), "best").contains("no proof"));
    assert!(rank_gain(5.0, 5.01, 256, Some(7), "best").contains("stayed at 5.0"));
    assert!(rank_gain(5.0, 5.0, 256, None, "best").starts_with("no gain was seen"));
}
