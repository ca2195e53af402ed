//! What ibot keeps on this machine: whether it can be written, and how large it is.

use std::fs;
use std::path::{Path, PathBuf};

use ibot::data::demo::default_cache_dir;
use ibot::error::printable;
use ibot::kernels::wgsl::tile_times_folder;
use ibot::memory::in_gib;

use super::check::Check;

pub fn checks() -> Vec<Check> {
    let cache = default_cache_dir().map(|demo| demo.parent().map_or(demo.clone(), PathBuf::from));
    let mut checks = vec![match cache {
        Ok(folder) => check("cache", &folder, "set XDG_CACHE_HOME to a folder of yours"),
        Err(error) => Check::missing("cache", error.to_string(), ["set HOME"]).needed(),
    }];
    if let Some(folder) = tile_times_folder() {
        checks.push(check(
            "GPU times",
            &folder,
            "set HF_HOME to a folder of yours",
        ));
    }
    let temporary = std::env::temp_dir();
    checks.push(check(
        "temporary",
        &temporary,
        "set TMPDIR (Windows: TEMP) to a folder of yours",
    ));
    checks
}

fn check(name: &'static str, folder: &Path, remedy: &str) -> Check {
    let shown = printable(folder);
    let size = if !folder.is_dir() {
        ", made when it is needed".to_owned()
    } else if name == "temporary" {
        String::new() // other programs' files are in there too
    } else {
        format!(", {}", in_gib(size(folder)))
    };
    match write_into(folder) {
        Ok(()) => Check::ok(name, format!("{shown}{size}, writable")),
        Err(error) => {
            let owner = format!("make it writable, or {remedy}");
            Check::missing(name, format!("{shown} cannot be written: {error}"), [owner]).needed()
        }
    }
}

/// Bytes of the files in a folder; what cannot be read counts nothing, and links are not followed.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let data = entry.metadata().ok()?;
        Some(if data.is_dir() {
            size(&entry.path())
        } else {
            data.len()
        })
    });
    sizes.sum()
}

/// Writes a file into the folder, or where it would be made, and removes it.
fn write_into(folder: &Path) -> std::io::Result<()> {
    let there = folder.ancestors().find(|part| part.exists());
    // of a relative path, where the program is
    let there = there.unwrap_or(Path::new("."));
    let file = there.join(format!(".ibot-doctor-{}", std::process::id()));
    let written = fs::write(&file, b"ibot");
    let removed = fs::remove_file(&file);
    written.and(removed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn a_folder_is_weighed_and_written() {
        let folder = std::env::temp_dir().join(format!("ibot-doctor-{}", std::process::id()));
        let absent = check("cache", &folder.join("not/there"), "x");
        assert_eq!(absent.state, State::Ok, "{absent}");
        assert!(absent.found.contains("made when it is needed"), "{absent}");
        assert!(!folder.exists());

        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::write(folder.join("deep/a"), vec![0; 3 << 20]).unwrap();
        let there = check("cache", &folder, "x");
        assert!(there.found.ends_with(", 3.0 MiB, writable"), "{there}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        // a file where a folder should be made
        let file = check("cache", &folder.join("deep/a/cache"), "set X");
        assert!(file.state == State::Missing && file.is_needed, "{file}");
        assert!(file.remedy[0].ends_with("or set X"), "{file}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
