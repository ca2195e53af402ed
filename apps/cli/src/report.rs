//! A self-contained HTML page about a run and its model.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ibot::embedding::Embedder;
use ibot::error::printable;
use ibot::train::RunRecord;
use ibot::{Error, Result};
use serde_json::Value;

use super::curves::lines;

/// Charts are legible at half their size, hence wide columns; they scroll if not even one fits.
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:90rem;margin:2rem auto;padding:0 1rem;color:#222;\
background:#fff;overflow-wrap:anywhere}img{max-width:100%;height:auto;display:block;border:1px solid #ddd}figure{margin:0;\
overflow-x:auto}figcaption{color:#666;font-size:.85rem}h2{margin:2.5rem 0 1rem}h3{margin:2rem 0 .5rem;font-weight:600}\
.grid{display:grid;gap:1rem;align-items:start;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}\
.curves{grid-template-columns:repeat(auto-fill,minmax(min(100%,36rem),1fr))}table{border-collapse:collapse}\
td,th{overflow-wrap:normal;padding:.15rem 1.5rem .15rem 0;text-align:left;vertical-align:top}td.n,th.n{text-align:right}\
.facts td:first-child{color:#666;white-space:nowrap}pre{background:#f5f5f5;padding:1rem;overflow:auto;overflow-wrap:normal}\
@media(max-width:40rem){.curves img{max-width:none;width:38rem}}@media(prefers-color-scheme:dark){body{background:#1b1b1b;\
color:#ddd}pre{background:#262626}figcaption,.facts td:first-child{color:#aaa}img{border-color:#444;background:#fff}\
.curves img{filter:invert(.9) hue-rotate(180deg)}}";

/// A page under construction; each part is added at the end.
pub struct Page {
    title: String,
    body: String,
    in_grid: bool,
}

impl Page {
    pub fn new(title: &str) -> Self {
        Self {
            title: escape(title),
            body: String::new(),
            in_grid: false,
        }
    }

    /// Starts a section.
    pub fn heading(&mut self, text: &str) {
        self.end_grid();
        let _ = writeln!(self.body, "<h2>{}</h2>", escape(text));
    }

    /// Starts a grid of images; wide ones are curves.
    pub fn grid(&mut self, title: Option<&str>, is_wide: bool) {
        self.end_grid();
        if let Some(title) = title {
            let _ = writeln!(self.body, "<h3>{}</h3>", escape(title));
        }
        let class = if is_wide { "grid curves" } else { "grid" };
        let _ = writeln!(self.body, "<div class=\"{class}\">");
        self.in_grid = true;
    }

    /// Adds an image that was written as a PNG.
    pub fn picture(&mut self, name: &str, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).map_err(Error::io(file))?;
        let (name, data) = (escape(name), STANDARD.encode(bytes));
        let _ = writeln!(
            self.body,
            "<figure><img alt=\"{name}\" src=\"data:image/png;base64,{data}\"><figcaption>{name}.png</figcaption></figure>"
        );
        Ok(())
    }

    /// Adds a table about a run folder: how it started, how far it got, its k-NN accuracy.
    pub fn run(&mut self, run: &Path) -> Result<()> {
        let record = RunRecord::read(run)?;
        let metrics = lines(&run.join("metrics.jsonl"))?;
        let mut facts = vec![("folder", printable(run))];
        if let Some(record) = &record {
            facts.extend([
                ("trained on", record.device.clone()),
                (
                    "pictures",
                    format!("{} of {}", record.pictures, printable(&record.data)),
                ),
                ("program", format!("ibot {}", record.ibot)),
            ]);
        }
        if let Some(last) = metrics.last() {
            facts.push(("steps", last["step"].to_string()));
            let loss = last["loss"].as_f64();
            facts.extend(loss.map(|loss| ("last loss", format!("{loss:.4}"))));
            let seconds = metrics.iter().filter_map(|line| line["step_s"].as_f64());
            facts.push(("total step time", format!("{:.0} s", seconds.sum::<f64>())));
            facts.extend(most(&metrics, "resident_mib").map(|mib| ("peak memory", mib)));
            facts.extend(most(&metrics, "gpu_in_use_mib").map(|mib| ("peak GPU memory", mib)));
        }
        self.heading("Run");
        self.facts(&facts);
        let evaluations = run.join("evaluations.jsonl");
        if evaluations.exists() {
            self.evaluations(&lines(&evaluations)?);
        }
        Ok(())
    }

    fn evaluations(&mut self, lines: &[Value]) {
        let number = |value: &Value, scale: f64, digits: usize, unit: &str| {
            let text = value
                .as_f64()
                .map(|value| format!("{:.digits$}{unit}", value * scale));
            format!("<td class=\"n\">{}</td>", text.unwrap_or_default())
        };
        self.heading("k-NN and features of the teacher");
        let mut rows = String::new();
        for line in lines {
            let _ = writeln!(
                rows,
                "<tr><td class=\"n\">{}</td>{}{}{}{}</tr>",
                line["step"],
                number(&line["knn"], 100.0, 1, " %"),
                number(&line["queries"], 1.0, 0, ""),
                number(&line["rank_me"], 1.0, 1, ""),
                number(&line["feature_std"], 1.0, 2, "")
            );
        }
        let names = [
            "step",
            "k-NN accuracy",
            "of images",
            "directions (RankMe)",
            "spread",
        ];
        let head = names
            .map(|name| format!("<th class=\"n\">{name}</th>"))
            .concat();
        let _ = writeln!(self.body, "<table><tr>{head}</tr>\n{rows}</table>");
    }

    /// Adds the model's description, and the device that computed the drawings.
    pub fn model(&mut self, file: &str, embedder: &Embedder) {
        self.heading("Model and hardware");
        let vit = embedder.architecture();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
        let difference = embedder.fingerprint_difference();
        let mut facts = vec![
            ("file", file.to_owned()),
            ("BLAKE3", embedder.hash().to_owned()),
            (
                "transformer",
                format!(
                    "width {}, {} blocks, {} heads, patches of {} at {} pixels",
                    vit.embed_dim,
                    vit.depth,
                    vit.num_heads,
                    vit.patch_size,
                    embedder.preprocessing().image_size
                ),
            ),
            ("drawn on", embedder.device().to_owned()),
            ("machine", format!("{system} {machine}, {threads} threads")),
        ];
        facts.extend(difference.map(|difference| {
            let text = format!("{difference:.1e} of the largest value, between this device and the one that wrote the file");
            ("features differ by", text)
        }));
        self.facts(&facts);
        let mut card = serde_json::to_value(embedder.card()).unwrap_or_default();
        if let Some(card) = card.as_object_mut() {
            card.remove("fingerprint"); // thousands of numbers
            let text = serde_json::to_string_pretty(&card).unwrap_or_default();
            self.details("Model file metadata", &text);
        }
    }

    /// Adds the settings of a run.
    pub fn settings(&mut self, run: &Path) -> Result<()> {
        let path = run.join("config.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::io(path))?;
        self.details("Settings", &text);
        Ok(())
    }

    fn facts(&mut self, facts: &[(&str, String)]) {
        let rows = facts
            .iter()
            .map(|(name, value)| format!("<tr><td>{name}</td><td>{}</td></tr>\n", escape(value)));
        let _ = writeln!(
            self.body,
            "<table class=\"facts\">{}</table>",
            rows.collect::<String>()
        );
    }

    fn details(&mut self, name: &str, text: &str) {
        self.end_grid();
        let text = escape(text);
        let _ = writeln!(
            self.body,
            "<details><summary>{name}</summary><pre>{text}</pre></details>"
        );
    }

    fn end_grid(&mut self) {
        if std::mem::take(&mut self.in_grid) {
            self.body.push_str("</div>\n");
        }
    }

    /// Writes the page.
    pub fn write(mut self, file: &Path) -> Result<()> {
        self.end_grid();
        let Self { title, body, .. } = self;
        let page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\
             </body></html>\n"
        );
        std::fs::write(file, page).map_err(Error::io(file))
    }
}

/// The largest value under a key, in MiB.
fn most(metrics: &[Value], key: &str) -> Option<String> {
    let values = metrics.iter().filter_map(|line| line[key].as_f64());
    let most = values.reduce(f64::max)?;
    Some(format!("{most:.0} MiB"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
