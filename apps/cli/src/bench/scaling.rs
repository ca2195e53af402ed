//! Steps of many sizes: is each linear in its work?

use std::fmt;

use serde::Serialize;

use super::size::StepSize;
use super::step::StepReport;
use ibot::error::Result;

/// A step and what varies along its row.
#[derive(Debug, Clone, Serialize)]
pub struct SizedStep {
    /// What varies, such as the encoder's name.
    pub name: String,
    /// Work that time and memory may be linear in, in the row's unit.
    pub work: f64,
    /// What was measured.
    pub report: StepReport,
}

/// Steps that differ in one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What differs, with the unit of the work.
    pub varies: &'static str,
    /// The least work first.
    pub steps: Vec<SizedStep>,
}

/// All rows; each goes through the default step.
#[derive(Debug, Clone, Serialize)]
pub struct ScalingReport {
    /// The device.
    pub device: String,
    /// The default step, in words.
    pub base: String,
    /// Batch, image, prototypes of either head, encoder.
    pub rows: Vec<Row>,
}

const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];
const IMAGES: [usize; 4] = [64, 112, 160, 224];
const CLS_PROTOTYPES: [usize; 4] = [1024, 4096, 16_384, 65_536];
const PATCH_PROTOTYPES: [usize; 4] = [1024, 8192, 16_384, 65_536];
const ENCODERS: [&str; 3] = [
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
];

/// Names, work and sizes of a row.
type Sizes = Vec<(String, f64, StepSize)>;

/// What varies in each row, and how.
fn rows(base: &StepSize) -> Result<Vec<(&'static str, Sizes)>> {
    type Set = fn(&mut StepSize, usize);
    let numbers = |values: &[usize], set: Set| {
        let sized = values.iter().map(|&value| {
            let mut size = base.clone();
            set(&mut size, value);
            (value.to_string(), value as f64, size)
        });
        sized.collect::<Sizes>()
    };
    let mut images = numbers(&IMAGES, |size, side| size.image_size = side);
    for (_, work, size) in &mut images {
        let backbone = size.method()?.backbone()?;
        *work = (backbone.patches() + backbone.prefix_tokens()) as f64;
    }
    let mut encoders = Vec::new();
    for name in ENCODERS {
        let size = StepSize {
            encoder: name.to_owned(),
            ..base.clone()
        };
        let vit = size.method()?.backbone()?;
        // The blocks' matrices: 4 D^2 of attention, 2 D times the MLP's width.
        let block = 4 * vit.embed_dim * vit.embed_dim + 2 * vit.embed_dim * vit.mlp_width();
        encoders.push((name.to_owned(), (vit.depth * block) as f64 / 1e6, size));
    }
    Ok(vec![
        (
            "batch (images)",
            numbers(&BATCHES, |size, n| size.batch_size = n),
        ),
        ("image side (tokens of a view)", images),
        (
            "class-token prototypes",
            numbers(&CLS_PROTOTYPES, |size, n| size.n_cls_prototypes = n),
        ),
        (
            "patch prototypes",
            numbers(&PATCH_PROTOTYPES, |size, n| size.n_patch_prototypes = n),
        ),
        ("encoder (M weights of its blocks)", encoders),
    ])
}

/// Measures every size with `run`, each once, and calls `progress` before it.
///
/// # Errors
/// Those of `run`.
pub fn bench_scaling(
    base: &StepSize,
    run: &mut dyn FnMut(&StepSize) -> Result<StepReport>,
    progress: &mut dyn FnMut(&StepSize),
) -> Result<ScalingReport> {
    let mut known: Vec<(StepSize, StepReport)> = Vec::new();
    let mut measured = Vec::new();
    for (varies, sizes) in rows(base)? {
        let mut steps = Vec::new();
        for (name, work, size) in sizes {
            let found = known.iter().find(|(of, _)| *of == size);
            let report = match found {
                Some((_, report)) => report.clone(),
                None => {
                    progress(&size);
                    run(&size)?
                }
            };
            known.push((size, report.clone()));
            steps.push(SizedStep { name, work, report });
        }
        measured.push(Row { varies, steps });
    }
    let device = known.first().map(|(_, report)| report.device.clone());
    Ok(ScalingReport {
        device: device.unwrap_or_default(),
        base: base.to_string(),
        rows: measured,
    })
}

/// Least squares: where the line starts, its slope, and how far the worst point is from it as a share of the point.
fn line(points: &[[f64; 2]]) -> [f64; 3] {
    let count = points.len() as f64;
    let mean = |of: fn(&[f64; 2]) -> f64| points.iter().map(of).sum::<f64>() / count;
    let [x_mean, y_mean] = [mean(|point| point[0]), mean(|point| point[1])];
    let sum = |of: &dyn Fn(&[f64; 2]) -> f64| points.iter().map(of).sum::<f64>();
    let slope = sum(&|[x, y]| (x - x_mean) * (y - y_mean)) / sum(&|[x, _]| (x - x_mean).powi(2));
    let start = y_mean - slope * x_mean;
    let off = |[x, y]: &[f64; 2]| ((start + slope * x) / y - 1.0).abs();
    [start, slope, points.iter().map(off).fold(0.0, f64::max)]
}

impl SizedStep {
    /// Peak memory: of tensors on a GPU, else of the process.
    fn memory_mib(&self) -> Option<f64> {
        match &self.report.gpu {
            Some(gpu) => Some(gpu.peak_in_use_mib),
            None => self.report.peak_rss_mib,
        }
    }
}

impl fmt::Display for ScalingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.device)?;
        write!(f, "each row varies one thing of {}", self.base)?;
        for row in &self.rows {
            write!(
                f,
                "\n\n{:<24} {:>8} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9}",
                row.varies.split(" (").next().unwrap_or_default(),
                "work",
                "forward",
                "backward",
                "optimizer",
                "EMA",
                "step ms",
                "MiB"
            )?;
            for step in &row.steps {
                let times = &step.report.median;
                write!(f, "\n{:<24} {:>8.1}", step.name, step.work)?;
                for (seconds, width) in [
                    (times.forward_s, 9),
                    (times.backward_s, 9),
                    (times.optimizer_s, 9),
                    (times.ema_s, 8),
                    (times.total_s, 9),
                ] {
                    write!(f, " {:>width$.1}", seconds * 1e3)?;
                }
                match step.memory_mib() {
                    Some(mib) => write!(f, " {mib:>9.0}")?,
                    None => write!(f, " {:>9}", "-")?,
                }
            }
            let points = |of: &dyn Fn(&SizedStep) -> Option<f64>| -> Option<Vec<[f64; 2]>> {
                let pairs = row.steps.iter().map(|step| Some([step.work, of(step)?]));
                pairs.collect()
            };
            let lines = [
                (
                    "time",
                    "ms",
                    points(&|step| Some(step.report.median.total_s * 1e3)),
                ),
                ("memory", "MiB", points(&SizedStep::memory_mib)),
            ];
            write!(f, "\nwork: {}", row.varies)?;
            for (what, unit, points) in lines {
                if let Some([start, slope, off]) = points.as_deref().map(line) {
                    write!(
                        f,
                        "\n{what}: {start:.0} {unit} + {slope:.4} {unit} x work, at most {:.0} % off that line",
                        off * 100.0
                    )?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_through_points_on_one() {
        let [start, slope, off] = line(&[[1.0, 5.0], [2.0, 7.0], [4.0, 11.0]]);
        assert!((start - 3.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9 && off < 1e-9);
        let [.., off] = line(&[[0.0, 1.0], [1.0, 1.0], [2.0, 4.0]]);
        assert!(off > 0.4, "{off}");
    }

    #[test]
    fn each_row_goes_through_the_base_and_each_size_is_measured_once() {
        let base = StepSize::default();
        let mut asked = Vec::new();
        let of_rows = rows(&base).unwrap();
        for (varies, sizes) in &of_rows {
            assert!(sizes.iter().any(|(_, _, size)| *size == base), "{varies}");
            assert!(sizes.windows(2).all(|pair| pair[0].1 < pair[1].1));
        }
        let failed = bench_scaling(
            &base,
            &mut |size| {
                asked.push(size.clone());
                let times = super::super::step::StepTimes {
                    forward_s: 0.1,
                    backward_s: 0.1,
                    optimizer_s: 0.1,
                    ema_s: 0.1,
                    total_s: size.batch_size as f64,
                    loss: 1.0,
                };
                Ok(StepReport {
                    device: "a device".into(),
                    size: size.to_string(),
                    parameters: 1,
                    median: times,
                    peak_rss_mib: Some(10.0),
                    gpu: None,
                    steps: vec![times],
                })
            },
            &mut |_| (),
        );
        let report = failed.unwrap();
        assert_eq!(asked.iter().filter(|size| **size == base).count(), 1);
        assert_eq!(asked.len(), 5 + 3 + 3 + 3 + 2);
        let text = report.to_string();
        assert!(
            text.contains("1000.0000 ms x work, at most 0 % off"),
            "{text}"
        );
    }
}
