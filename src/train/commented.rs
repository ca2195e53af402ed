//! Settings as TOML with a comment for each key, from the page that is written from the code.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::train::config::RunConfig;

/// Written from the comments of the settings, and compared with them, by tests/architecture.
const PAGE: &str = include_str!("../../docs/settings.md");
/// Longest line of a comment.
const WIDTH: usize = 100;

impl RunConfig {
    /// As [`RunConfig::to_toml`], with what each key means above it.
    ///
    /// # Errors
    /// As [`RunConfig::to_toml`].
    pub fn to_commented_toml(&self) -> Result<String> {
        let meanings = meanings();
        let (mut section, mut text) = (String::new(), String::new());
        for line in self.to_toml()?.lines() {
            if let Some(name) = line.strip_prefix('[') {
                name.trim_end_matches(']').clone_into(&mut section);
            } else if let Some((key, _)) = line.split_once(" = ")
                && let Some(meaning) = meanings.get(&(section.as_str(), key))
            {
                text += &comment(meaning);
            }
            text += line;
            text.push('\n');
        }
        Ok(text)
    }
}

/// What each key means, by its section and name.
fn meanings() -> BTreeMap<(&'static str, &'static str), &'static str> {
    let (mut meanings, mut section) = (BTreeMap::new(), None);
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = match heading.trim_matches('`') {
                "The run" => Some(""),
                // of another command
                name => name
                    .strip_prefix('[')
                    .and_then(|name| name.strip_suffix(']')),
            };
        } else if let Some(section) = section
            && let Some(row) = line.strip_prefix("| `")
        {
            // key, default, meaning
            let mut cells = row.trim_end_matches(" |").splitn(3, " | ");
            if let (Some(key), Some(meaning)) = (cells.next(), cells.nth(1)) {
                meanings.insert((section, key.trim_end_matches('`')), meaning);
            }
        }
    }
    meanings
}

/// Lines that begin with `# `.
fn comment(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), "#".to_owned());
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            lines = lines + &line + "\n";
            "#".clone_into(&mut line);
        }
        line = line + " " + word;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::presets::{DEMO, preset};

    #[test]
    fn each_key_has_its_comment_and_reads_back() {
        let config = preset(DEMO).unwrap();
        let text = config.to_commented_toml().unwrap();
        assert_eq!(RunConfig::default().merged_with_toml(&text), Ok(config));
        assert!(
            text.contains("# Optimizer steps.\nsteps = 2000\n"),
            "{text}"
        );
        let mut before = "";
        for line in text.lines().filter(|line| !line.is_empty()) {
            let is_key = !line.starts_with(['#', '[']);
            assert!(!is_key || before.starts_with('#'), "{line} has no comment");
            assert!(!line.starts_with('#') || line.len() <= WIDTH, "{line}");
            before = line;
        }
    }
}
