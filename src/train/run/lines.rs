//! JSON Lines files in which each line belongs to a step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, if_there, printable};
use crate::unfinished::Unfinished;

/// Maximum number of damaged lines that are listed; more are counted.
const NAMED: usize = 5;

/// Appends a line.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn append(file: &mut impl Write, path: &Path, line: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(line)
        .map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
    line.push('\n');
    file.write_all(line.as_bytes()).map_err(Error::io(path))
}

/// The file cut to the lines whose step is kept, open at its end; and a message about damaged lines, as after a power cut,
/// which are removed. A last line without a line break was being written, and is removed silently.
///
/// # Errors
/// [`Error::Io`]; the file is then unchanged, or cut to the kept lines.
pub(super) fn keep_lines(
    path: &Path,
    stays: impl Fn(usize) -> bool,
) -> Result<(File, Option<String>)> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let open = || options.open(path).map_err(Error::io(path));
    let mut file = open()?;
    let found = LineScan::read(&file, &stays).map_err(Error::io(path))?;
    if found.has_gap {
        Unfinished::write(path, |out| copy(&file, &stays, out))?.finish()?;
        file = open()?;
    } else {
        file.set_len(found.kept).map_err(Error::io(path))?;
    }
    file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
    Ok((file, found.said(path)))
}

/// Whether there is a line of a step; false without a file.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn has_line(path: &Path, of: usize) -> Result<bool> {
    let mut found = false;
    let see = |line: &[u8]| {
        found |= step(line) == Some(of);
        Ok(())
    };
    if let Some(file) = if_there(path, File::open(path))? {
        each_line(&file, see).map_err(Error::io(path))?;
    }
    Ok(found)
}

/// All lines, without the damaged ones; none without a file.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    read_with_damage(path).map(|(lines, _)| lines)
}

/// The same with the numbers of the damaged lines, from 1.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn read_with_damage<T: DeserializeOwned>(path: &Path) -> Result<(Vec<T>, Vec<usize>)> {
    let (mut lines, mut damaged, mut number) = (Vec::new(), Vec::new(), 0);
    let see = |line: &[u8]| {
        number += 1;
        match serde_json::from_slice::<T>(line) {
            Ok(line) => lines.push(line),
            Err(_) => damaged.push(number),
        }
        Ok(())
    };
    if let Some(file) = if_there(path, File::open(path))? {
        each_line(&file, see).map_err(Error::io(path))?;
    }
    Ok((lines, damaged))
}

/// Damaged lines in words: "line 3 is damaged"; none if there are none.
pub(crate) fn damage_in_words(damaged: &[usize]) -> Option<String> {
    let named: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    Some(match named.as_slice() {
        [] => return None,
        [one] => format!("line {one} is damaged"),
        [.., last] if named.len() <= NAMED => {
            let others = named[..named.len() - 1].join(", ");
            format!("lines {others} and {last} are damaged")
        }
        [first, ..] => format!("{} lines, from line {first}, are damaged", named.len()),
    })
}

/// Contents of a file.
#[derive(Default)]
struct LineScan {
    /// Bytes of the lines before the first one to remove.
    kept: u64,
    /// Whether a line after that is kept.
    has_gap: bool,
    /// Numbers of damaged lines, from 1.
    damaged: Vec<usize>,
}

impl LineScan {
    fn read(file: &File, stays: &impl Fn(usize) -> bool) -> std::io::Result<Self> {
        let (mut found, mut is_cut, mut number) = (Self::default(), false, 0);
        each_line(file, |line| {
            number += 1;
            match step(line) {
                Some(step) if stays(step) && is_cut => found.has_gap = true,
                Some(step) if stays(step) => found.kept += line.len() as u64,
                Some(_) => is_cut = true,
                None => {
                    is_cut = true;
                    found.damaged.push(number);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn said(&self, path: &Path) -> Option<String> {
        let lines = damage_in_words(&self.damaged)?;
        Some(format!("{}: {lines} and left out", printable(path)))
    }
}

/// Writes the lines that are kept.
fn copy(file: &File, stays: &impl Fn(usize) -> bool, out: &mut impl Write) -> std::io::Result<()> {
    each_line(file, |line| match step(line) {
        Some(step) if stays(step) => out.write_all(line),
        _ => Ok(()),
    })
}

/// Calls `see` with each complete line.
fn each_line(
    mut file: &File,
    mut see: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    file.rewind()?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        see(&line)?;
    }
}

/// The step of a line; none if it is damaged.
fn step(line: &[u8]) -> Option<usize> {
    #[derive(Deserialize)]
    struct Line {
        step: usize,
    }
    serde_json::from_slice::<Line>(line)
        .ok()
        .map(|line| line.step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_line_costs_itself() {
        let digits = crate::unfinished::unique_digits().unwrap();
        let path = std::env::temp_dir().join(format!("ibot-lines-{digits}.jsonl"));
        let line = |step: usize| format!("{{\"step\":{step},\"loss\":1.5}}\n");
        let lines = |steps: std::ops::RangeInclusive<usize>| steps.map(line).collect::<String>();
        let name = printable(&path);
        let cases = [
            (lines(1..=9) + "{\"step\":10", lines(1..=5), String::new()),
            (String::new(), String::new(), String::new()),
            (
                lines(1..=2) + "\0\0\0\n" + &lines(4..=9),
                lines(1..=2) + &lines(4..=5),
                format!("{name}: line 3 is damaged and left out"),
            ),
            (
                "{}\n".to_owned() + &lines(2..=9) + "\0\n",
                lines(2..=5),
                format!("{name}: lines 1 and 10 are damaged and left out"),
            ),
            (
                "\0\n".repeat(7) + &lines(5..=5),
                lines(5..=5),
                format!("{name}: 7 lines, from line 1, are damaged and left out"),
            ),
        ];
        for (before, after, expected) in cases {
            std::fs::write(&path, &before).unwrap();
            let (mut file, said) = keep_lines(&path, |step| step <= 5).unwrap();
            assert_eq!(said.unwrap_or_default(), expected);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
            append(&mut file, &path, &serde_json::json!({ "step": 6 })).unwrap();
            let found = std::fs::read_to_string(&path).unwrap();
            assert_eq!(found, after + "{\"step\":6}\n");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
