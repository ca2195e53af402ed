//! The curves of a run, from the files in its folder.

use std::path::Path;

use ibot::{Error, Result};
use image::RgbImage;
use serde_json::Value;

use super::picture::{ChartConfig, Series, line_chart};

/// Maximum number of points in a line; more steps are averaged.
const POINTS: usize = 400;

/// Name, title, axis, whether the axis is logarithmic, and the keys of each chart.
type Chart = (
    &'static str,
    &'static str,
    &'static str,
    bool,
    &'static [&'static str],
);

const CHARTS: [Chart; 5] = [
    (
        "losses",
        "Losses",
        "nats",
        false,
        &[
            "/loss",
            "/loss_cls",
            "/loss_patch",
            "/loss_visible",
            "/loss_koleo",
        ],
    ),
    (
        "learning-rate",
        "Learning rate",
        "",
        true,
        &["/learning_rate"],
    ),
    (
        "gradient-norm",
        "Gradient norm",
        "",
        true,
        &["/gradient_norm"],
    ),
    (
        "teacher",
        "Temperature and EMA coefficient of the teacher",
        "",
        false,
        &[
            "/temperature_teacher",
            "/temperature_teacher_patch",
            "/ema_decay",
        ],
    ),
    (
        "health",
        "Health",
        "",
        false,
        &["/health/agreement", "/health/feature_std"],
    ),
];

/// The same for `evaluations.jsonl`, one key each.
const EVALUATIONS: [(&str, &str, &str, &str); 2] = [
    ("knn", "k-NN accuracy of the teacher", "share", "/knn"),
    (
        "rank-me",
        "RankMe of the teacher's features",
        "RankMe",
        "/rank_me",
    ),
];

/// Each chart that the run has data for, with its name.
///
/// # Errors
/// [`Error::Io`] without `metrics.jsonl`, [`Error::Data`] if it is damaged.
pub fn curves(run: &Path) -> Result<Vec<(String, RgbImage)>> {
    let metrics = lines(&run.join("metrics.jsonl"))?;
    let mut charts = Vec::new();
    for (name, title, unit, log_y, keys) in CHARTS {
        let series = keys.iter().filter_map(|key| series(&metrics, key));
        charts.extend(chart(name, title, unit, log_y, series.collect()));
    }
    let perplexity = ["/health/cls/perplexity", "/health/patch/perplexity"];
    let series_of = perplexity.iter().filter_map(|key| series(&metrics, key));
    charts.extend(chart(
        "perplexity",
        "Prototypes in use",
        "perplexity",
        true,
        series_of.collect(),
    ));
    let evaluations = run.join("evaluations.jsonl");
    if evaluations.exists() {
        let lines = lines(&evaluations)?;
        for (name, title, unit, key) in EVALUATIONS {
            let series = series(&lines, key).into_iter().collect();
            charts.extend(chart(name, title, unit, false, series));
        }
    }
    Ok(charts)
}

fn chart(
    name: &str,
    title: &str,
    unit: &str,
    log_y: bool,
    series: Vec<Series>,
) -> Option<(String, RgbImage)> {
    let config = ChartConfig {
        title: title.into(),
        x_label: "step".into(),
        y_label: unit.into(),
        log_y,
    };
    (!series.is_empty()).then(|| (format!("curve-{name}"), line_chart(&config, &series)))
}

/// The whole lines of a file of JSON lines.
///
/// # Errors
/// [`Error::Io`] without the file, [`Error::Data`] if it is damaged.
pub fn lines(path: &Path) -> Result<Vec<Value>> {
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
fn series(lines: &[Value], key: &str) -> Option<Series> {
    let points: Vec<[f64; 2]> = lines
        .iter()
        .filter_map(|line| Some([line.get("step")?.as_f64()?, line.pointer(key)?.as_f64()?]))
        .collect();
    let together = points.len().div_ceil(POINTS).max(1);
    let mean = |group: &[[f64; 2]]| {
        [0, 1].map(|axis| group.iter().map(|point| point[axis]).sum::<f64>() / group.len() as f64)
    };
    let name = key.trim_start_matches("/health");
    let name = name.trim_start_matches('/').replace(['/', '_'], " ");
    (!points.is_empty()).then(|| Series {
        name,
        points: points.chunks(together).map(mean).collect(),
    })
}
