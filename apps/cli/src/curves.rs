//! The curves of runs, from the files in their folders.

use std::path::Path;

use ibot::{Error, Result};
use serde_json::Value;

use super::drawing::{LineChart, Series};

/// Maximum number of points in a line; more steps are averaged.
const POINTS: usize = 400;

/// Lines of one chart.
struct Curve {
    /// End of its file's name.
    name: &'static str,
    /// What it shows.
    title: &'static str,
    /// Quantity and unit.
    y_label: &'static str,
    log_y: bool,
    smooth: bool,
    /// The values are multiplied by this.
    scale: f64,
    /// JSON pointers, and names for the legend.
    keys: &'static [(&'static str, &'static str)],
}

impl Curve {
    const fn new(
        name: &'static str,
        title: &'static str,
        y_label: &'static str,
        keys: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            name,
            title,
            y_label,
            log_y: false,
            smooth: false,
            scale: 1.0,
            keys,
        }
    }

    const fn log(self) -> Self {
        Self {
            log_y: true,
            ..self
        }
    }

    const fn smooth(self) -> Self {
        Self {
            smooth: true,
            ..self
        }
    }

    const fn percent(self) -> Self {
        Self {
            scale: 100.0,
            ..self
        }
    }
}

/// Of `evaluations.jsonl`.
const EVALUATIONS: [Curve; 2] = [
    Curve::new(
        "knn",
        "k-NN accuracy",
        "% of test images, by the teacher's features",
        &[("/knn", "")],
    )
    .percent(),
    Curve::new(
        "rank-me",
        "Feature rank",
        "RankMe of the teacher: effective number of dimensions",
        &[("/rank_me", "")],
    ),
];

/// Of `metrics.jsonl`.
const METRICS: [Curve; 12] = [
    Curve::new(
        "accuracy",
        "Classifier accuracy",
        "% of images",
        &[("/train_accuracy", "training"), ("/top1", "test")],
    )
    .percent(),
    Curve::new(
        "losses",
        "Training loss",
        "cross-entropy in nats",
        &[
            ("/loss", "total"),
            ("/loss_cls", "class token"),
            ("/loss_patch", "masked patches"),
            ("/loss_visible", "visible patches"),
        ],
    )
    .smooth(),
    Curve::new(
        "agreement",
        "Student and teacher agree",
        "% of views with the same most likely prototype",
        &[("/health/agreement", "")],
    )
    .percent(),
    Curve::new(
        "feature-std",
        "Features differ between images",
        "scaled standard deviation: 0 for equal features, about 1 at most",
        &[("/health/feature_std", "")],
    ),
    Curve::new(
        "perplexity",
        "Prototypes in use",
        "perplexity of the mean target",
        &[
            ("/health/cls/perplexity", "class token"),
            ("/health/patch/perplexity", "patches"),
        ],
    )
    .log(),
    Curve::new(
        "koleo",
        "KoLeo regularizer",
        "-log of the distance to the nearest feature",
        &[("/loss_koleo", "")],
    )
    .smooth(),
    Curve::new(
        "gradient-norm",
        "Gradient norm",
        "L2 norm before clipping",
        &[("/gradient_norm", "")],
    )
    .log()
    .smooth(),
    Curve::new(
        "learning-rate",
        "Learning rate",
        "step size of the optimizer",
        &[("/learning_rate", "")],
    )
    .log(),
    Curve::new(
        "temperature",
        "Teacher temperature",
        "divisor of the logits",
        &[
            ("/temperature_teacher", "class token"),
            ("/temperature_teacher_patch", "patches"),
        ],
    ),
    Curve::new(
        "ema",
        "Teacher momentum",
        "share of the old teacher kept each step (EMA)",
        &[("/ema_decay", "")],
    ),
    Curve::new(
        "speed",
        "Speed",
        "images per second",
        &[("/images_per_s", "")],
    )
    .smooth(),
    Curve::new(
        "memory",
        "Memory",
        "MiB",
        &[("/resident_mib", "process"), ("/gpu_in_use_mib", "GPU")],
    ),
];

/// What a run wrote about itself.
#[derive(Debug)]
pub struct RunLog {
    /// Its name in a legend.
    pub name: String,
    /// Lines of `metrics.jsonl`.
    pub metrics: Vec<Value>,
    /// Lines of `evaluations.jsonl`; none without the file.
    pub evaluations: Vec<Value>,
}

impl RunLog {
    /// Reads the curves of a run folder.
    ///
    /// # Errors
    /// [`Error::Io`] without `metrics.jsonl`, [`Error::Data`] if a file is damaged.
    pub fn read(run: &Path, name: String) -> Result<Self> {
        let evaluations = run.join("evaluations.jsonl");
        Ok(Self {
            name,
            metrics: lines(&run.join("metrics.jsonl"))?,
            evaluations: if evaluations.exists() {
                lines(&evaluations)?
            } else {
                Vec::new()
            },
        })
    }
}

/// Each chart that one of the runs has data for, with the start of its file's name: of a single run with all lines of a kind, of
/// several one a kind with a line a run.
pub fn curves(runs: &[&RunLog]) -> Vec<(String, LineChart)> {
    let mut charts = Vec::new();
    let mut add = |curve: &Curve, name: String, title: String, series: Vec<Series>| {
        if !series.is_empty() {
            let chart = LineChart {
                title,
                y_label: curve.y_label.into(),
                log_y: curve.log_y,
                smooth: curve.smooth,
                series,
            };
            charts.push((format!("curve-{name}"), chart));
        }
    };
    let evaluations = EVALUATIONS.iter().map(|curve| (curve, true));
    let metrics = METRICS.iter().map(|curve| (curve, false));
    for (curve, is_evaluation) in evaluations.chain(metrics) {
        let of = |run: &RunLog, (key, _): &(&str, &str), name: &str| {
            let lines = if is_evaluation {
                &run.evaluations
            } else {
                &run.metrics
            };
            series(lines, key, name, curve.scale)
        };
        if let [run] = runs {
            let lines = curve.keys.iter().filter_map(|key| of(run, key, key.1));
            add(
                curve,
                curve.name.into(),
                curve.title.into(),
                lines.collect(),
            );
            continue;
        }
        for (number, key) in curve.keys.iter().enumerate() {
            let lines = runs.iter().filter_map(|run| of(run, key, &run.name));
            let (name, title) = match number {
                0 if key.1.is_empty() => (curve.name.to_owned(), curve.title.to_owned()),
                _ => (
                    format!("{}-{}", curve.name, key.1.replace(' ', "-")),
                    format!("{}: {}", curve.title, key.1),
                ),
            };
            add(curve, name, title, lines.collect());
        }
    }
    charts
}

/// The whole lines of a file of JSON lines.
///
/// # Errors
/// [`Error::Io`] without the file, [`Error::Data`] if it is damaged.
fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    // a run that was killed may have left half a line at the end
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let numbered = whole.lines().zip(1..);
    numbered
        .map(|(line, number)| {
            let damaged = |error| Error::data(path, format!("line {number} is damaged: {error}"));
            serde_json::from_str(line).map_err(damaged)
        })
        .collect()
}

/// The numbers at a JSON pointer against the steps; averaged over neighbors if there are many.
fn series(lines: &[Value], key: &str, name: &str, scale: f64) -> Option<Series> {
    let point = |line: &Value| {
        let value = line.pointer(key)?.as_f64()?;
        Some([line.get("step")?.as_f64()?, value * scale])
    };
    let points: Vec<[f64; 2]> = lines.iter().filter_map(point).collect();
    let together = points.len().div_ceil(POINTS).max(1);
    let mean = |group: &[[f64; 2]]| {
        [0, 1].map(|axis| group.iter().map(|point| point[axis]).sum::<f64>() / group.len() as f64)
    };
    (!points.is_empty()).then(|| Series {
        name: name.to_owned(),
        points: points.chunks(together).map(mean).collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn run(name: &str, steps: usize) -> RunLog {
        let line = |step: usize| {
            let text = format!(r#"{{"step":{step},"loss":2.0,"loss_cls":1.5,"ema_decay":0.9}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let evaluation = r#"{"step":0,"knn":0.25}"#;
        RunLog {
            name: name.into(),
            metrics: (1..=steps).map(line).collect(),
            evaluations: vec![serde_json::from_str(evaluation).unwrap()],
        }
    }

    fn shown(runs: &[RunLog]) -> Vec<String> {
        let of = |(name, chart): (String, LineChart)| {
            let series = chart.series.iter().map(|series| series.name.as_str());
            format!("{name} [{}]", series.collect::<Vec<_>>().join(", "))
        };
        curves(&runs.iter().collect::<Vec<_>>())
            .into_iter()
            .map(of)
            .collect()
    }

    #[test]
    fn one_run_has_its_lines_together_and_several_a_line_each() {
        let (one, two) = (run("a", 3), run("b", 5));
        assert_eq!(
            shown(&[one]),
            [
                "curve-knn []",
                "curve-losses [total, class token]",
                "curve-ema []"
            ]
        );
        assert_eq!(
            shown(&[run("a", 3), two]),
            [
                "curve-knn [a, b]",
                "curve-losses-total [a, b]",
                "curve-losses-class-token [a, b]",
                "curve-ema [a, b]"
            ]
        );
    }

    #[test]
    fn many_steps_are_averaged_and_shares_are_percent() {
        let charts = curves(&[&run("a", 1000)]);
        assert_eq!(charts[0].1.series[0].points, [[0.0, 25.0]]);
        let losses = &charts[1].1.series[0].points;
        assert_eq!(losses.len(), 334);
        assert_eq!(losses[0], [2.0, 2.0]);
    }
}
