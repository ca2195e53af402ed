//! What is said before the first step: device, images, model, run.

use std::path::PathBuf;

use console::{Term, measure_text_width};
use ibot::data::ScanSummary;
use ibot::device::{BackendChoice, Selected};
use ibot::error::{counted, printable};
use ibot::memory::in_gib;
use ibot::train::plan::{Choosable, Plan, Verdict};
use ibot::train::{RunConfig, RunStart};

use super::flags::in_flags;
use super::screen::{dim, is_verbose, warning};

/// Columns of a title with its space.
const INDENT: usize = 8;
/// Files that could not be read that are named without --verbose.
const NAMED: usize = 3;
/// Left out of each epoch, by all images: more is said to be much.
const MANY_LEFT_OUT: f64 = 0.1;

/// What is known of a run before its images are.
#[derive(Debug, Clone)]
pub struct Opening {
    pub config: RunConfig,
    pub selected: Selected,
    /// Where the settings are from: `preset small-data, chosen for 120 images on a CPU`.
    pub source: String,
    /// Checkpoints that are kept.
    pub keep: usize,
}

/// A line with its name before it; on a terminal, broken between words.
pub fn titled(title: &str, text: &str) -> String {
    let terminal = Term::stdout();
    let columns = if terminal.is_term() {
        usize::from(terminal.size().1)
    } else {
        usize::MAX
    };
    let title = dim(format_args!("{title:<width$}", width = INDENT - 1));
    format!("{title} {}", wrapped(text, columns))
}

/// Words in lines of less than so many columns, each after the first one indented as the first is by its title.
fn wrapped(text: &str, columns: usize) -> String {
    let (mut lines, mut used) = (String::new(), INDENT);
    for (at, word) in text.split(' ').enumerate() {
        let width = measure_text_width(word);
        if at > 0 && used + 1 + width >= columns {
            lines += &format!("\n{:INDENT$}", "");
            used = INDENT;
        } else if at > 0 {
            lines.push(' ');
            used += 1;
        }
        lines += word;
        used += width;
    }
    lines
}

impl Opening {
    /// `Radeon RX 7800 XT, Vulkan, discrete GPU, 16.0 GiB`.
    pub fn device(selected: &Selected) -> String {
        let text = match selected {
            Selected::Wgpu { adapter, .. } => {
                let memory = adapter
                    .memory_bytes
                    .map(|size| format!(", {}", in_gib(size)));
                adapter.title() + &memory.unwrap_or_default()
            }
            Selected::Flex | Selected::NdArray => {
                format!("CPU, {}", counted(rayon::current_num_threads(), "thread"))
            }
        };
        let backend = selected.backend();
        let backend = match backend {
            BackendChoice::Auto | BackendChoice::Wgpu | BackendChoice::Flex => String::new(),
            BackendChoice::NdArray => format!(" (backend {backend})"),
        };
        titled("device", &format!("{text}{backend}"))
    }

    /// What the folders hold, what is held out of it, and what each epoch leaves out.
    pub fn data(
        &self,
        sources: &[PathBuf],
        found: &ScanSummary,
        held_out: Option<usize>,
    ) -> String {
        let sources: Vec<String> = sources.iter().map(printable).collect();
        let sources = match &sources[..] {
            [first, rest @ ..] if rest.len() > 2 => format!("{first} and {} more", rest.len()),
            sources => sources.join(", "),
        };
        let found_text = found.to_string();
        let mut lines = found_text.lines();
        let mut text = format!("{sources}: {}", lines.next().unwrap_or_default());
        let mut kept = found.images;
        if let Some(held_out) = held_out {
            kept = kept.saturating_sub(held_out);
            text +=
                &format!("; {held_out} images are held out for evaluation; {kept} are trained on");
        }
        text += &self.left_out(kept);
        let mut text = titled("data", &text);
        let most = if is_verbose() { usize::MAX } else { NAMED };
        let rest: Vec<&str> = lines.collect();
        for line in rest.iter().take(most) {
            text += &format!("\n{line}");
        }
        if rest.len() > most {
            text += &format!("\n  ... and {} more (-v names them)", rest.len() - most);
        }
        text
    }

    fn left_out(&self, kept: usize) -> String {
        let batch = self.config.batch_size.max(1);
        let left_out = kept % batch;
        // of tiles, how many there are is said later
        if kept < batch || left_out == 0 || self.config.folder.tile.is_some() {
            return String::new();
        }
        let text = format!("; {left_out} left out of each epoch");
        if left_out as f64 <= MANY_LEFT_OUT * kept as f64 {
            return text;
        }
        let better = (2..=batch).rev().find(|size| kept % size <= kept / 20);
        let remedy = better.map(|size| {
            let most = match kept % size {
                0 => "all",
                _ => "more",
            };
            format!(": --batch-size {size} uses {most}")
        });
        warning(text + &remedy.unwrap_or_default())
    }

    /// The encoder, its size, and where the settings are from.
    pub fn model(&self, start: &RunStart) -> String {
        let method = &self.config.method;
        let encoder = match &method.vit {
            None => method.encoder_name.clone(),
            Some(vit) => format!(
                "ViT of width {}, {}, patch {}",
                vit.embed_dim,
                counted(vit.depth, "block"),
                vit.patch_size
            ),
        };
        let text = format!(
            "{encoder} at {} pixels, {:.1} M trained parameters; {}",
            method.image_size,
            start.parameters as f64 / 1e6,
            self.source
        );
        titled("model", &text)
    }

    /// Folder, length, memory and disk.
    pub fn run(&self, start: &RunStart) -> String {
        let mut text = format!(
            "{}: {} = {} of {} images",
            printable(&start.out),
            counted(start.epochs, "epoch"),
            counted(start.steps, "step"),
            self.config.batch_size,
        );
        if start.start_step > 0 {
            text += &format!(", from step {}", start.start_step);
        }
        let plan = Plan::new(
            &self.config,
            &self.selected,
            start.images,
            Choosable::default(),
        );
        let Ok(plan) = plan else {
            return titled("run", &text);
        };
        let memory = plan.device.memory_bytes;
        text += &match memory {
            Some(memory) => format!(
                "; about {} of {} memory",
                in_gib(plan.memory.needed_bytes),
                in_gib(memory)
            ),
            None => format!("; about {} memory", in_gib(plan.memory.needed_bytes)),
        };
        // one more while it is written
        let kept = (self.keep as u64).saturating_add(1);
        let disk = plan.checkpoint_bytes.saturating_mul(kept);
        text += &format!(", {} disk", in_gib(disk));
        let text = titled("run", &text);
        match plan.verdict {
            Verdict::Fits | Verdict::Unknown => text,
            verdict => format!("{text}\n{}", self.too_large(&verdict.in_words(), start)),
        }
    }

    /// That a run does not fit, and the flags with which it would.
    fn too_large(&self, why: &str, start: &RunStart) -> String {
        let may = Choosable::left_open_by(None);
        let plan = Plan::new(&self.config, &self.selected, start.images, may);
        let fitting = plan.ok().filter(|plan| plan.verdict.may_run());
        let remedy = match fitting.map(|plan| plan.choice) {
            Some(choice) => {
                let micro = choice
                    .micro_batch_size
                    .map(|size| format!(" --micro-batch-size {size}"));
                let again = if choice.grad_checkpointing {
                    " --grad-checkpointing"
                } else {
                    ""
                };
                format!("add{}{again}", micro.unwrap_or_default())
            }
            None => "lower --batch-size or --image-size, or take a smaller --encoder".to_owned(),
        };
        warning(in_flags(&format!("WARNING may not fit: {why}; {remedy}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        let text = "one two three four";
        assert_eq!(wrapped(text, usize::MAX), text);
        let lines = wrapped(text, 18);
        assert_eq!(lines, "one two\n        three\n        four");
        assert_eq!(wrapped("averyverylongword", 10), "averyverylongword");
    }
}
