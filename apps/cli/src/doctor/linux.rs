//! What Linux tells of GPUs and their drivers.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ibot::error::printable;

use super::graphics::{Card, Graphics, Packages, RenderNode};

/// Where the Vulkan loader looks for drivers, beside the user's own folders.
const DRIVER_FOLDERS: [&str; 4] = [
    "/etc/vulkan/icd.d",
    "/usr/local/etc/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
];

/// Variables that name driver files in place of those folders.
const DRIVER_VARIABLES: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

/// With what only Linux tells.
pub fn completed(graphics: Graphics) -> Graphics {
    let mut names = vec![sysinfo::System::distribution_id()];
    names.extend(sysinfo::System::distribution_id_like());
    Graphics {
        packages: Packages::of_distribution(&names),
        cards: cards(Path::new("/sys/bus/pci/devices")),
        render_nodes: render_nodes(Path::new("/dev/dri")),
        has_loader: can_load(c"libvulkan.so.1"),
        drivers: drivers(),
        has_nvidia_module: Path::new("/proc/driver/nvidia/version").exists(),
        ..graphics
    }
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Display adapters (class 03) on the PCI bus. A container sees those of its host.
fn cards(bus: &Path) -> Vec<Card> {
    let number = |path: PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let card = |device: PathBuf| {
        let class = number(device.join("class"))?;
        let (vendor, model) = (
            number(device.join("vendor"))?,
            number(device.join("device"))?,
        );
        (class >> 16 == 3).then_some(Card { vendor, model })
    };
    inside(bus).into_iter().filter_map(card).collect()
}

fn render_nodes(folder: &Path) -> Vec<RenderNode> {
    let is_one = |path: &PathBuf| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with("renderD"))
    };
    let nodes = inside(folder).into_iter().filter(is_one);
    let nodes = nodes.map(|path| RenderNode {
        closed_to_all_but: closed_to_all_but(&path),
        path: printable(&path),
    });
    nodes.collect()
}

/// The group of a file that this user may not read and write.
fn closed_to_all_but(path: &Path) -> Option<String> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(path);
    let error = opened.err()?;
    if error.kind() != std::io::ErrorKind::PermissionDenied {
        return None;
    }
    let group = fs::metadata(path).ok()?.gid();
    let known = fs::read_to_string("/etc/group").unwrap_or_default();
    Some(group_name(&known, group).unwrap_or_else(|| group.to_string()))
}

/// The name of a group in the text of /etc/group: `name:password:number:members`.
fn group_name(known: &str, group: u32) -> Option<String> {
    let number = group.to_string();
    let line = known
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&number))?;
    Some(line.split(':').next()?.to_owned())
}

fn can_load(library: &CStr) -> bool {
    // SAFETY: a C string, and a library that this process loads anyway to list its GPUs.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY) };
    if handle.is_null() {
        return false;
    }
    // SAFETY: the handle of a library that was loaded here.
    unsafe { libc::dlclose(handle) };
    true
}

/// Names of the drivers' files, in folders or in variables.
fn drivers() -> Vec<String> {
    let named = DRIVER_VARIABLES.iter().find_map(std::env::var_os);
    let paths: Vec<PathBuf> = match named {
        Some(named) => std::env::split_paths(&named).collect(),
        None => {
            let of_user = std::env::home_dir().map(|home| home.join(".local/share/vulkan/icd.d"));
            let folders = DRIVER_FOLDERS.iter().map(PathBuf::from).chain(of_user);
            folders.flat_map(|folder| inside(&folder)).collect()
        }
    };
    let names = paths.iter().filter_map(|path| path.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn cards_are_those_of_class_3() {
        let bus = std::env::temp_dir().join(format!("ibot-doctor-pci-{}", std::process::id()));
        for (name, class, vendor, model) in [
            ("0000:00:1f.0", "0x060100\n", "0x8086\n", "0x0001\n"),
            ("0000:03:00.0", "0x030000\n", "0x1002\n", "0x744c\n"),
            ("0000:04:00.0", "0x030200\n", "0x10de\n", "0x2330\n"),
            ("0000:05:00.0", "broken", "0x10de\n", "0x2330\n"),
        ] {
            let device = bus.join(name);
            fs::create_dir_all(&device).unwrap();
            for (file, text) in [("class", class), ("vendor", vendor), ("device", model)] {
                fs::write(device.join(file), text).unwrap();
            }
        }
        let found: Vec<_> = cards(&bus)
            .iter()
            .map(|card| (card.vendor, card.model))
            .collect();
        assert_eq!(found, [(0x1002, 0x744c), (0x10de, 0x2330)]);
        fs::remove_dir_all(&bus).unwrap();
        assert!(cards(&bus).is_empty());
    }

    #[test]
    fn a_group_has_a_name() {
        let known = "root:x:0:\nvideo:x:44:ann\nrender:x:104:ann,ben\n";
        assert_eq!(group_name(known, 104).as_deref(), Some("render"));
        assert_eq!(group_name(known, 10), None);
    }

    #[test]
    fn only_device_files_for_rendering_count() {
        let folder = std::env::temp_dir().join(format!("ibot-doctor-dri-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["card0", "renderD128"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let nodes = render_nodes(&folder);
        assert_eq!(nodes.len(), 1, "{nodes:?}");
        assert!(nodes[0].path.ends_with("renderD128"));
        assert_eq!(nodes[0].closed_to_all_but, None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_library_loads_or_does_not() {
        assert!(can_load(c"libc.so.6") || can_load(c"libc.musl-x86_64.so.1"));
        assert!(!can_load(c"libno-such-thing.so.9"));
    }
}
