//! `ibot report`: what runs reached, as one page with their curves.

mod comparison;
mod run;

pub use run::Run;

use std::path::{Path, PathBuf};

use ibot::data::LeftOut;
use ibot::data::drawing::write_drawing;
use ibot::embedding::Embedder;
use ibot::error::{counted, printable};
use ibot::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use super::curves::{RunLog, curves};
use super::destination;
use super::duration::in_words;
use super::output::{answer_json, say, warn};
use super::page::{Columns, Page, escape};
use super::screen::is_quiet;
use super::verdict::{Accuracy, Verdict};

/// Evaluations that the table shows in full.
const MOST_ROWS: usize = 12;

/// Flags of `ibot report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Run folders from `ibot train` or `ibot finetune`; several are compared.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Folder for report.html and a PNG of each chart [default: RUN/report; of several runs, ./report].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    runs: Vec<&'a Verdict>,
    #[serde(serialize_with = "ibot::path_text::serialize_all")]
    files: Vec<PathBuf>,
    /// Runs that cannot be read, each with the reason.
    skipped: Vec<LeftOut>,
}

impl ReportArgs {
    pub fn run(&self) -> Result<()> {
        let out = match (&self.out, self.runs.as_slice()) {
            (Some(out), _) => out.clone(),
            (None, [run]) => run.join("report"),
            (None, _) => PathBuf::from("report"),
        };
        destination::folder("--out", &out)?;
        destination::drawings(&out, is_curve)?;
        let (runs, skipped) = Run::read_all(&self.runs)?;
        std::fs::create_dir_all(&out).map_err(Error::io(&out))?;
        let mut page = Page::new(&title(&runs));
        add_verdicts(&mut page, &runs)?;
        let mut files = add_curves(&mut page, &runs, &out)?;
        let note = |line: &str| {
            if self.json && !is_quiet() {
                warn(line);
            } else if !self.json {
                say(line);
            }
        };
        destination::remove_earlier(&out, &files, is_curve, note);
        for run in &runs {
            add_facts(&mut page, run);
        }
        let file = out.join("report.html");
        page.write(&file)?;
        files.push(file.clone());
        let runs: Vec<&Verdict> = runs.iter().map(|run| &run.verdict).collect();
        answer_json(
            self.json,
            &Report {
                runs: runs.clone(),
                files,
                skipped,
            },
            || {
                let mut lines: Vec<String> = runs.iter().map(|verdict| terminal(verdict)).collect();
                lines.push(format!("report: {}", printable(&file)));
                lines.join("\n")
            },
        )
    }
}

fn title(runs: &[Run]) -> String {
    match runs {
        [run] => format!("Training report: {}", printable(&run.folder)),
        _ => format!("Comparison of {}", counted(runs.len(), "run")),
    }
}

fn terminal(verdict: &Verdict) -> String {
    let mut text = format!("{}: {}", printable(&verdict.run), verdict.headline);
    for (why, command) in verdict.next.iter().take(1) {
        text += &format!("\n  {why} {command}");
    }
    text
}

/// The verdict of a run, or a table of several.
pub fn add_verdicts(page: &mut Page, runs: &[Run]) -> Result<()> {
    if let [run] = runs {
        add_verdict(page, &run.verdict);
        add_evaluations(page, &run.log.evaluations);
        return Ok(());
    }
    comparison::add(page, runs)
}

/// Headline, findings, numbers and next steps.
fn add_verdict(page: &mut Page, verdict: &Verdict) {
    let findings: String = verdict
        .findings
        .iter()
        .map(|finding| format!("<li>{}</li>", escape(finding)))
        .collect();
    let (class, headline) = (verdict.state.class(), escape(&verdict.headline));
    page.html(format_args!(
        "<section class=\"verdict {class}\"><h2>{headline}</h2><ul>{findings}</ul></section>"
    ));
    let tile = |(name, value): &(&str, String)| {
        format!(
            "<div class=\"tile\"><b>{}</b><span>{name}</span></div>",
            escape(value)
        )
    };
    let tiles: String = tiles(verdict).iter().map(tile).collect();
    page.html(format_args!("<div class=\"tiles\">{tiles}</div>"));
    if !verdict.next.is_empty() {
        page.heading("What to do next");
        for (why, command) in &verdict.next {
            page.html(format_args!(
                "<p>{}</p><pre>{}</pre>",
                escape(why),
                escape(command)
            ));
        }
    }
}

fn tiles(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let mut tiles = Vec::new();
    if let Some(Accuracy { before, after, .. }) = verdict.knn {
        let before = before.map_or_else(String::new, |before| format!("{:.1} → ", 100.0 * before));
        tiles.push(("k-NN accuracy", format!("{before}{:.1} %", 100.0 * after)));
    }
    if let Some([first, last]) = verdict.loss {
        tiles.push(("training loss", format!("{first:.2} → {last:.2}")));
    }
    if let Some(rank) = verdict.rank_me {
        tiles.push(("feature rank (RankMe)", format!("{rank:.1}")));
    }
    tiles.push(("steps", verdict.steps.to_string()));
    tiles.push(("time of all steps", in_words(verdict.seconds)));
    tiles
}

fn add_evaluations(page: &mut Page, lines: &[Value]) {
    if lines.is_empty() {
        return;
    }
    page.heading("Evaluations");
    page.text(
        "Of the teacher. Feature rank (RankMe) is the effective number of dimensions that the features use; the standard \
         deviation is near 0 if all images get the same feature.",
    );
    let number = |value: &Value, scale: f64, digits: usize, unit: &str| {
        let text = value
            .as_f64()
            .map(|value| format!("{:.digits$}{unit}", value * scale));
        text.unwrap_or_default()
    };
    let row = |line: &Value| {
        vec![
            line["step"].to_string(),
            number(&line["knn"], 100.0, 1, " %"),
            number(&line["queries"], 1.0, 0, ""),
            number(&line["rank_me"], 1.0, 1, ""),
            number(&line["feature_std"], 1.0, 2, ""),
        ]
    };
    let head = [
        "step",
        "k-NN accuracy",
        "test images",
        "feature rank",
        "standard deviation",
    ];
    // of many, those with k-NN and the last; the curves have all
    let last = lines.len() - 1;
    let is_shown = |(at, line): &(usize, &Value)| {
        lines.len() <= MOST_ROWS || line["knn"].is_number() || *at == last
    };
    let shown = lines.iter().enumerate().filter(is_shown);
    page.table(&head, &shown.map(|(_, line)| row(line)).collect::<Vec<_>>());
}

/// Draws the curves on the page and as PNG files; returns those.
pub fn add_curves(page: &mut Page, runs: &[Run], out: &Path) -> Result<Vec<PathBuf>> {
    page.heading("Curves");
    page.grid(None, Columns::Charts);
    let logs: Vec<&RunLog> = runs.iter().map(|run| &run.log).collect();
    let mut files = Vec::new();
    for (name, chart) in curves(&logs) {
        let file = out.join(format!("{name}.png"));
        write_drawing(&file, &chart.png()?)?;
        page.chart(&chart)?;
        files.push(file);
    }
    Ok(files)
}

/// Whether a chart of [`add_curves`] is called so.
pub fn is_curve(name: &str) -> bool {
    name.starts_with("curve-") && name.ends_with(".png")
}

/// How a run was made, and its settings.
pub fn add_facts(page: &mut Page, run: &Run) {
    page.heading(&format!("Run {}", run.log.name));
    let mut facts = vec![("folder", printable(&run.folder))];
    if let Some(record) = &run.record {
        facts.extend([
            ("device", record.device.clone()),
            (
                "images",
                format!("{} of {}", record.images, record.first_data()),
            ),
            ("program", format!("ibot {}", record.ibot)),
        ]);
    }
    let metrics = &run.log.metrics;
    facts.extend(most(metrics, "resident_mib").map(|mib| ("peak memory", mib)));
    facts.extend(most(metrics, "gpu_in_use_mib").map(|mib| ("peak GPU memory", mib)));
    page.facts(&facts);
    if let Some(record) = &run.record {
        page.details("All settings", &record.config);
    }
}

/// The model's description, and the device that computed the drawings.
pub fn add_model(page: &mut Page, file: &str, embedder: &Embedder) {
    page.heading("Model and hardware");
    let vit = embedder.architecture();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let size = embedder.preprocessing().image_size;
    let transformer = format!(
        "width {}, {} blocks, {} heads, patches of {} at {size} pixels",
        vit.embed_dim, vit.depth, vit.num_heads, vit.patch_size
    );
    let mut facts = vec![
        ("file", file.to_owned()),
        ("BLAKE3", embedder.hash().to_owned()),
        ("transformer", transformer),
        ("drawn on", embedder.device().to_owned()),
        ("machine", format!("{system} {machine}, {threads} threads")),
    ];
    // nothing to say where this device computes what the one that wrote the file did
    let difference = embedder.fingerprint_difference().filter(|of| *of > 0.0);
    facts.extend(difference.map(|difference| {
        let text = format!(
            "at most {difference:.1e} of the largest value, from the device that wrote the file"
        );
        ("features differ by", text)
    }));
    page.facts(&facts);
    let mut card = serde_json::to_value(embedder.card()).unwrap_or_default();
    if let Some(card) = card.as_object_mut() {
        card.remove("fingerprint"); // thousands of numbers
        let text = serde_json::to_string_pretty(&card).unwrap_or_default();
        page.details("Model file metadata", &text);
    }
}

/// The largest value under a key, in MiB.
fn most(metrics: &[Value], key: &str) -> Option<String> {
    let values = metrics.iter().filter_map(|line| line[key].as_f64());
    let most = values.reduce(f64::max)?;
    Some(format!("{most:.0} MiB"))
}
