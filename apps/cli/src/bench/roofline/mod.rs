//! The roofline of a step: how long each part takes at least on a device of so many operations and bytes a second.
//!
//! - `sizes`: the lengths of a step; `parts`: what is done with them; `work`: operations and bytes of a part
//! - `cards`: how fast devices can be by their vendors; `probe`: how fast this one is

mod cards;
mod parts;
mod probe;
mod sizes;
mod work;

use std::fmt;

use ibot::device::{DeviceGuard, Selected};
use ibot::error::{Error, Result};
use serde::Serialize;

use super::size::StepSize;
use super::step::{BenchRequest, StepReport, StepTimes, bench_steps};
use cards::Ceiling;
use sizes::{Kind, Sizes};
use work::{Part, Phase};

/// What a part is predicted for.
pub(super) enum Against {
    /// So many TFLOP/s and GB/s, published numbers of which parts are expected to reach some share.
    Numbers([f64; 2]),
    /// Cards by the numbers of their vendors.
    Cards,
    /// The device of this request, measured, and its steps beside the prediction.
    Measured(Box<BenchRequest>),
}

/// A part and what is predicted of it.
#[derive(Debug, Clone, Serialize)]
struct Predicted {
    phase: Phase,
    part: String,
    gflop: f64,
    mb: f64,
    /// Operations a byte.
    intensity: f64,
    /// Of each device.
    milliseconds: Vec<f64>,
    /// Whether memory bounds it, on each device.
    by_memory: Vec<bool>,
}

/// The parts of a step on some devices.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Roofline {
    size: String,
    devices: Vec<Ceiling>,
    parts: Vec<Predicted>,
    /// Steps of the one device that was measured, with a wait after each phase.
    measured: Option<StepReport>,
}

/// Predicts the times of a step on a device, and compares them with measured ones if asked.
///
/// # Errors
/// An encoder that is not known, a device that failed, or numbers that cannot be.
pub(super) fn roofline(
    size: &StepSize,
    against: Against,
    report: &mut dyn FnMut(&StepTimes),
) -> Result<Roofline> {
    let (kind, devices, measured) = match against {
        Against::Numbers([tflops, gb_s]) => {
            for (flag, value) in [("--tflops", tflops), ("--gbps", gb_s)] {
                if !(value > 0.0 && value.is_finite()) {
                    return Err(Error::config(flag, value, "must be above 0"));
                }
            }
            let device = Ceiling::published("this device", tflops, gb_s);
            (Kind::Gpu, vec![device], None)
        }
        Against::Cards => (Kind::Gpu, cards::known(), None),
        Against::Measured(request) => {
            let guard = DeviceGuard::install(&request.selected)?;
            let device = guard.catch(|| probe::measure(&request.selected, &guard))??;
            let kind = match request.selected {
                Selected::Wgpu { .. } => Kind::Gpu,
                _ => Kind::Cpu,
            };
            (kind, vec![device], Some(bench_steps(&request, report)?))
        }
    };
    let parts = Sizes::of(size, kind)?.parts();
    Ok(Roofline {
        size: size.to_string(),
        parts: parts.iter().map(|part| predicted(part, &devices)).collect(),
        devices,
        measured,
    })
}

fn predicted(part: &Part, devices: &[Ceiling]) -> Predicted {
    let (flops, bytes) = (part.work.flops(), part.work.bytes());
    let both: Vec<[f64; 2]> = devices
        .iter()
        .map(|device| device.milliseconds(flops, bytes))
        .collect();
    Predicted {
        phase: part.phase,
        part: part.name.clone(),
        gflop: 1e-9 * flops,
        mb: 1e-6 * bytes,
        intensity: flops / bytes,
        milliseconds: both.iter().map(|[a, b]| a.max(*b)).collect(),
        by_memory: both.iter().map(|[a, b]| b > a).collect(),
    }
}

impl Roofline {
    /// Milliseconds of a phase, or of all, on each device.
    fn sums(&self, phase: Option<Phase>) -> Vec<f64> {
        let parts = || {
            self.parts
                .iter()
                .filter(|part| phase.is_none_or(|of| part.phase == of))
        };
        let of_device = |at: usize| parts().map(|part| part.milliseconds[at]).sum();
        (0..self.devices.len()).map(of_device).collect()
    }

    fn sum_row(&self, name: &str, phase: Option<Phase>) -> Vec<String> {
        let parts = || {
            self.parts
                .iter()
                .filter(|part| phase.is_none_or(|of| part.phase == of))
        };
        let gflop: f64 = parts().map(|part| part.gflop).sum();
        let mb: f64 = parts().map(|part| part.mb).sum();
        let mut row = vec![
            format!("**{name}**"),
            format!("{gflop:.1}"),
            format!("{mb:.0}"),
            format!("{:.1}", 1e3 * gflop / mb),
        ];
        row.extend(
            self.sums(phase)
                .iter()
                .map(|ms| format!("**{}**", milliseconds(*ms))),
        );
        row
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut head = vec![
            "part".into(),
            "GFLOP".into(),
            "MB".into(),
            "FLOP/byte".into(),
        ];
        head.extend(self.devices.iter().map(|device| match self.devices.len() {
            1 => "ms".to_owned(),
            _ => format!("{}, ms", device.name),
        }));
        let mut rows = vec![head];
        for phase in Phase::ALL {
            for part in self.parts.iter().filter(|part| part.phase == phase) {
                let mut row = vec![
                    part.part.clone(),
                    format!("{:.1}", part.gflop),
                    format!("{:.0}", part.mb),
                    format!("{:.1}", part.intensity),
                ];
                let times = part.milliseconds.iter().zip(&part.by_memory);
                row.extend(times.map(|(ms, by_memory)| {
                    let bound = if *by_memory { " m" } else { "" };
                    format!("{}{bound}", milliseconds(*ms))
                }));
                rows.push(row);
            }
            rows.push(self.sum_row(phase.name(), Some(phase)));
        }
        rows.push(self.sum_row("step", None));
        rows
    }

    fn compared(&self, measured: &StepReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = &measured.median;
        let mut rows: Vec<(&str, f64, Option<Phase>)> = [
            median.forward_s,
            median.backward_s,
            median.optimizer_s,
            median.ema_s,
        ]
        .into_iter()
        .zip(Phase::ALL)
        .map(|(seconds, phase)| (phase.name(), seconds, Some(phase)))
        .collect();
        rows.push(("step", median.total_s, None));
        writeln!(
            f,
            "\n\n| phase | measured, ms | predicted, ms | predicted / measured |"
        )?;
        write!(f, "| --- | --- | --- | --- |")?;
        for (name, seconds, phase) in rows {
            let (ms, predicted) = (seconds * 1e3, self.sums(phase)[0]);
            write!(
                f,
                "\n| {name} | {ms:.1} | {predicted:.1} | {:.2} |",
                predicted / ms
            )?;
        }
        Ok(())
    }
}

/// Three digits.
fn milliseconds(ms: f64) -> String {
    let digits = match ms {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{ms:.digits$}")
}

impl fmt::Display for Roofline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}; predicted by formula, m: memory bounds it",
            self.size
        )?;
        for device in &self.devices {
            writeln!(
                f,
                "{}: {:.3} TFLOP/s and {:.0} GB/s{}, of which {:.0} and {:.0} % are taken",
                device.name,
                device.tflops,
                device.gb_s,
                if self.measured.is_some() {
                    ", measured"
                } else {
                    ", published"
                },
                device.product_share * 100.0,
                device.bandwidth_share * 100.0
            )?;
        }
        let rows = self.rows();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        for (at, row) in rows.iter().enumerate() {
            write!(f, "\n|")?;
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, " {cell:<width$} |")?,
                    _ => write!(f, " {cell:>width$} |")?,
                }
            }
            if at == 0 {
                write!(f, "\n|{}", " --- |".repeat(widths.len()))?;
            }
        }
        match &self.measured {
            Some(measured) => self.compared(measured, f),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
