//! The roofline of a step: how long each part takes at least on a device of so many operations and bytes a second.
//!
//! - `sizes`: the lengths of a step; `parts`: what is done with them
//! - `cards`: how fast devices can be by their vendors; `probe`: how fast this one is

mod cards;
mod parts;
mod probe;
mod sizes;

use std::fmt;

use ibot::device::{DeviceGuard, Selected};
use ibot::error::{Error, Result};
use serde::Serialize;

use super::size::StepSize;
use super::step::{BenchRequest, StepReport, StepTimes, bench_steps};
use cards::Ceiling;
use parts::{Part, Phase};
use sizes::{Kind, Sizes};

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
mod tests {
    use ibot::kernels::wgsl::{Launched, observe};
    use ibot::kernels::{Autodiff, Gpu};

    use super::super::step::random_input;
    use super::*;
    use crate::gpu;
    use ibot::train::{Rates, TrainerConfig};

    fn of(size: &StepSize) -> Vec<Part> {
        Sizes::of(size, Kind::Gpu).unwrap().parts()
    }

    /// timm says 4.61 G multiply-adds of a picture for ViT-S/16 at 224 (`vit_small_patch16_224`, its results table); this step
    /// leaves out most of the last block's second half.
    #[test]
    fn a_forward_pass_is_as_large_as_timm_says() {
        let size = StepSize {
            batch_size: 1,
            ..StepSize::default()
        };
        let mut sizes = Sizes::of(&size, Kind::Gpu).unwrap();
        sizes.masked = sizes.images * sizes.patches; // all tokens go through the last block
        let parts = sizes.parts();
        let backbone = parts.iter().filter(|part| {
            let is_head = part.name.contains("heads") || part.name.contains("prototypes");
            part.phase == Phase::Forward && !is_head
        });
        let pictures = 2 * sizes.images; // of both networks
        let each = backbone.map(|part| part.work.multiply_adds).sum::<u64>() / pictures;
        assert!((4.59e9..4.63e9).contains(&(each as f64)), "{each}");
    }

    /// Of a launch by one name in its info.
    fn word(info: &[(&str, u32)], name: &str) -> Option<u64> {
        let found = info.iter().find(|(field, _)| *field == name);
        found.map(|(_, word)| u64::from(*word))
    }

    /// Multiply-adds of the products and of attention that were launched.
    fn counted(seen: &[Launched], head_width: u64) -> [u64; 2] {
        let sum = |folder: &str, of: &dyn Fn(&str, &[(&str, u32)]) -> u64| -> u64 {
            let kernels = seen
                .iter()
                .filter(|launched| launched.name.starts_with(folder));
            let each = kernels.flat_map(|launched| {
                let sizes = launched.sizes.iter();
                sizes.map(|(info, launches)| *launches as u64 * of(launched.name, info))
            });
            each.sum()
        };
        let product = |name: &str, info: &[(&str, u32)]| {
            if name.ends_with("parts") {
                return 0; // adds up what others multiplied
            }
            let sizes = ["count", "rows", "columns", "depth"].map(|field| word(info, field));
            sizes.map(|size| size.unwrap()).iter().product()
        };
        let attention = |name: &str, info: &[(&str, u32)]| {
            let [batch, heads, tokens] =
                ["batch", "heads", "tokens"].map(|field| word(info, field).unwrap());
            // of a map: forward itself and its product with the values; by queries and by keys see `Kind`
            let products = match name.rsplit('/').next() {
                Some("forward") => 2,
                Some("queries") => 3,
                _ => 4,
            };
            products * batch * heads * tokens * tokens * head_width
        };
        [
            sum("matrix_product/", &product),
            sum("attention/", &attention),
        ]
    }

    /// The formulas against the launches of a step, on whatever GPU there is.
    #[test]
    fn products_are_those_that_are_launched() {
        let Some((device, guard)) = gpu::device() else {
            return;
        };
        let size = StepSize {
            image_size: 32,
            batch_size: 2,
            n_cls_prototypes: 512,
            n_patch_prototypes: 256,
            ..StepSize::tiny()
        };
        let config = size.method().unwrap();
        let method = config.init::<Autodiff<Gpu>>(0, &device).unwrap();
        let mut trainer = TrainerConfig::default().init(method, device.clone(), guard);
        let input = random_input::<Autodiff<Gpu>>(&size, &device).unwrap();
        let rates = Rates {
            temperature_teacher: 0.04,
            ..Rates::default()
        };
        let (stepped, seen) = observe(|| trainer.step(&input, &rates));
        stepped.unwrap();
        let parts = of(&size);
        let sum = |is_attention: bool| -> u64 {
            let of_kind = parts
                .iter()
                .filter(|part| part.name.starts_with("attention") == is_attention);
            of_kind.map(|part| part.work.multiply_adds).sum()
        };
        assert_eq!(counted(&seen, 64), [sum(false), sum(true)]);
    }

    #[test]
    fn parts_are_bound_by_what_takes_longer() {
        let size = StepSize {
            batch_size: 64,
            ..StepSize::default()
        };
        let found = roofline(&size, Against::Numbers([67.0, 3350.0]), &mut |_| {}).unwrap();
        let part = |name: &str| found.parts.iter().find(|part| part.part == name).unwrap();
        // 2 x 2 x 25 216 x 12 x 384 x 1 152 operations at 40.2 TFLOP/s
        let qkv = part("qkv");
        assert!((qkv.milliseconds[0] - 13.32).abs() < 0.01, "{qkv:?}");
        assert!(!qkv.by_memory[0]);
        // 7 entries of 51.6 M parameters at 2 680 GB/s
        let adamw = part("AdamW");
        assert!((adamw.milliseconds[0] - 0.539).abs() < 0.01, "{adamw:?}");
        assert!(adamw.by_memory[0]);
        let text = found.to_string();
        assert!(
            text.contains("published") && text.contains("**step**"),
            "{text}"
        );
        let error = roofline(&size, Against::Numbers([0.0, 1.0]), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("--tflops"), "{error}");
    }
}
