//! Documents: docs/settings.md says what the code says, and links point at something.

use ibot::backbone::VitConfig;
use ibot::finetune::FinetuneConfig;
use ibot::train::RunConfig;
use toml::{Table, Value};

use super::{Path, files, fs, root};

/// Heading, place in the configuration and type of each table of docs/settings.md.
const SECTIONS: [(&str, &str, &str); 11] = [
    ("The run", "run", "RunConfig"),
    ("`[method]`", "run.method", "IbotConfig"),
    ("`[method.vit]`", "vit", "VitConfig"),
    ("`[optimizer]`", "run.optimizer", "OptimizerConfig"),
    ("`[schedule]`", "run.schedule", "ScheduleConfig"),
    ("`[augment]`", "run.augment", "AugmentConfig"),
    (
        "`[augment.color_jitter]`",
        "run.augment.color_jitter",
        "ColorJitter",
    ),
    ("`[augment.blur]`", "run.augment.blur", "Blur"),
    ("`[augment.solarize]`", "run.augment.solarize", "Solarize"),
    ("`[folder]`", "run.folder", "FolderConfig"),
    ("`ibot finetune`", "finetune", "FinetuneConfig"),
];

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().replace("\r\n", "\n")
}

/// Keys and comments of a struct's fields, without those that serde skips.
fn fields(name: &str) -> Vec<(String, String)> {
    let opening = format!("\npub struct {name} {{\n");
    let texts: Vec<String> = files("src", &["rs"])
        .iter()
        .map(|file| text(file))
        .collect();
    let body = texts
        .iter()
        .find_map(|text| text.split_once(&opening))
        .unwrap()
        .1;
    let (mut found, mut comment, mut is_key) = (Vec::new(), String::new(), true);
    for line in body.lines().map(str::trim).take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("/// ") {
            comment = format!("{comment} {text}");
        } else if let Some((key, _)) = line.strip_prefix("pub ").and_then(|f| f.split_once(':')) {
            let comment = std::mem::take(&mut comment)
                .replace("[`", "`")
                .replace("`]", "`");
            if std::mem::replace(&mut is_key, true) {
                found.push((key.to_owned(), comment));
            }
        }
        is_key &= line != "#[serde(skip)]";
    }
    found
}

/// The default that a comment states, as " Default 0.3." or " Default `[1, 2]` (remark)."
fn stated(comment: &str) -> &str {
    let (_, rest) = comment.split_once(" Default ").unwrap_or_default();
    let ends = [". ", " (", "; "]
        .into_iter()
        .filter_map(|end| rest.find(end));
    rest[..ends.min().unwrap_or(rest.len())].trim_end_matches('.')
}

/// Whether a stated default is the one of the code, numbers to three digits.
fn agrees(stated: &Value, real: &Value) -> bool {
    let number = |value: &Value| value.as_float().or(value.as_integer().map(|n| n as f64));
    match (stated, real) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agrees(a, b))
        }
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => (a - b).abs() <= 5e-4 * b.abs(),
            _ => a == b,
        },
    }
}

#[test]
fn the_settings_page_is_that_of_the_code() {
    let path = root().join("docs/settings.md");
    let written = text(&path);
    let mut page = written.split("\n## ").next().unwrap().to_owned();
    let mut all = Table::new();
    all.insert("run".into(), Value::try_from(RunConfig::default()).unwrap());
    all.insert("vit".into(), Value::try_from(VitConfig::default()).unwrap());
    let finetune = Value::try_from(FinetuneConfig::default()).unwrap();
    all.insert("finetune".into(), finetune);
    for (heading, place, name) in SECTIONS {
        page += &format!("\n## {heading}\n\n| key | default | what |\n| --- | --- | --- |\n");
        let values = place
            .split('.')
            .fold(&all, |table, key| table[key].as_table().unwrap());
        for (key, comment) in fields(name) {
            let said = stated(&comment);
            let plain = said.trim_matches('`');
            let is_right = match values.get(&key) {
                Some(Value::Table(_)) => continue, // a table of its own
                Some(real) => toml::from_str::<Table>(&format!("said = {plain}"))
                    .is_ok_and(|t| agrees(&t["said"], real)),
                None => plain == "none",
            };
            let real = values.get(&key);
            assert!(
                is_right,
                "{name}::{key} states the default `{said}`, but it is {real:?}"
            );
            let what = comment.replacen(&format!(" Default {said}."), "", 1);
            page += &format!("| `{key}` | `{plain}` |{what} |\n");
        }
    }
    if std::env::var_os("IBOT_UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    } else {
        assert!(
            written == page,
            "docs/settings.md is out of date: run this test with IBOT_UPDATE=1"
        );
    }
}

/// A document without its blocks and spans of code.
fn prose(text: &str) -> String {
    let blocks = text.split("```").step_by(2);
    blocks
        .flat_map(|block| block.split('`').step_by(2))
        .collect()
}

/// The names of a document's headings in links, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let outside = text.split("```").step_by(2).collect::<String>();
    let headings = outside.lines().filter(|line| line.starts_with('#'));
    let headings = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = headings.map(|h| {
        h.replace(' ', "-")
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
            .collect()
    });
    kept.collect()
}

/// A book has its own pages alone: links to other files of the repository are written out.
const REPOSITORY: &str = "https://github.com/ibot-rs/ibot/blob/main/";

#[test]
fn links_in_documents_point_at_something() {
    let names = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "tests/gpu_shapes/README.md",
    ];
    let names = names.map(|name| root().join(name));
    let (mut seen, mut wrong) = (0, Vec::new());
    for document in files("docs", &["md"]).iter().chain(&names) {
        let prose = prose(&text(document));
        let links = prose.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path.strip_prefix(REPOSITORY) {
                Some(path) => root().join(path),
                None if path.contains("://") => continue,
                None if path.is_empty() => document.clone(),
                None => document.with_file_name("").join(path),
            };
            seen += 1;
            let has = |anchor: &str| anchors(&text(&target)).iter().any(|a| a == anchor);
            if !target.exists() || !(anchor.is_empty() || has(anchor)) {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(seen > 20, "only {seen} links found: the search is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_book_has_every_page_and_no_link_out_of_it() {
    let summary = text(&root().join("docs/SUMMARY.md"));
    for page in files("docs", &["md"]) {
        let name = page.file_name().unwrap().to_str().unwrap();
        let is_listed = name == "SUMMARY.md" || summary.contains(&format!("({name})"));
        assert!(is_listed, "docs/SUMMARY.md does not list {name}");
        let leads_out = prose(&text(&page)).contains("](../");
        assert!(!leads_out, "{name}: write {REPOSITORY} instead of ../");
    }
}
