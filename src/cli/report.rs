//! One page of a run or model that needs no other file.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ibot::embedding::Embedder;
use ibot::{Error, Result};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;\
background:#fff}img{max-width:100%;image-rendering:auto;border:1px solid #ddd}figure{margin:1rem 0}figcaption{color:#555}\
pre{background:#f5f5f5;padding:1rem;overflow:auto}h2{margin-top:2.5rem}.grid{display:grid;gap:1rem;\
grid-template-columns:repeat(auto-fill,minmax(22rem,1fr))}@media(prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}\
pre{background:#262626}figcaption{color:#aaa}img{border-color:#444}}";

/// A page under construction.
pub struct Page {
    title: String,
    top: String,
    pictures: String,
}

impl Page {
    pub fn new(title: &str) -> Self {
        Self {
            title: escape(title),
            top: String::new(),
            pictures: String::new(),
        }
    }

    /// A picture that was written as a PNG.
    pub fn picture(&mut self, name: &str, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).map_err(Error::io(file))?;
        let (name, data) = (escape(name), STANDARD.encode(bytes));
        let _ = writeln!(
            self.pictures,
            "<figure><img alt=\"{name}\" src=\"data:image/png;base64,{data}\"><figcaption>{name}</figcaption></figure>"
        );
        Ok(())
    }

    /// What a run folder says in words: its k-NN, how it began, its settings.
    pub fn run(&mut self, run: &Path) -> Result<()> {
        let read = |name: &str| {
            let path = run.join(name);
            std::fs::read_to_string(&path).map_err(Error::io(path))
        };
        let evaluations = read("evaluations.jsonl").unwrap_or_default();
        let mut rows = String::new();
        for line in evaluations.lines() {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            if let (Some(step), Some(knn)) = (line["step"].as_u64(), line["knn"].as_f64()) {
                let _ = write!(
                    rows,
                    "<tr><td>{step}</td><td>{:.1} %</td></tr>",
                    100.0 * knn
                );
            }
        }
        if !rows.is_empty() {
            let _ = writeln!(
                self.top,
                "<h2>k-NN</h2><table><tr><th>step</th><th>accuracy of the teacher</th></tr>{rows}</table>"
            );
        }
        self.details("Settings", &read("config.toml")?);
        Ok(())
    }

    /// What the model says of itself, and the device that looked at it.
    pub fn card(&mut self, embedder: &Embedder) -> Result<()> {
        let mut card = serde_json::to_value(embedder.card()).unwrap_or_default();
        if let Some(card) = card.as_object_mut() {
            card.remove("fingerprint"); // thousands of numbers
        }
        let text = serde_json::to_string_pretty(&card).unwrap_or_default();
        self.details("Model", &format!("BLAKE3 {}\n{text}", embedder.hash()));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let system = format!(
            "ibot {} on {} {}, {threads} threads",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        self.details("Hardware", &format!("{system}\n{}", embedder.device()));
        Ok(())
    }

    fn details(&mut self, name: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.top,
            "<details><summary>{name}</summary><pre>{text}</pre></details>"
        );
    }

    /// Writes the page.
    pub fn write(&self, file: &Path) -> Result<()> {
        let Self {
            title,
            top,
            pictures,
        } = self;
        let page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{top}\n\
             <div class=\"grid\">{pictures}</div></body></html>\n"
        );
        std::fs::write(file, page).map_err(Error::io(file))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
