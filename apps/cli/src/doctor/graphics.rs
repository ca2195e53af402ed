//! GPUs: those that wgpu can use, those that lack a driver, and what to install on this system.

use ibot::device::{AdapterSummary, Api, is_wsl};
use ibot::memory::in_gib;

use super::check::Check;
use super::machine::is_container;

/// Name of the checks of GPUs.
pub const GPU: &str = "GPU";

const AMD: u32 = 0x1002;
const INTEL: u32 = 0x8086;
const NVIDIA: u32 = 0x10de;

/// A display adapter on the bus of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    pub vendor: u32,
    pub model: u32,
}

impl Card {
    /// The maker's name; none for the display of a server or a virtual machine, which does not compute.
    fn maker(self) -> Option<&'static str> {
        match self.vendor {
            AMD => Some("AMD"),
            INTEL => Some("Intel"),
            NVIDIA => Some("NVIDIA"),
            _ => None,
        }
    }

    fn is_behind(self, adapter: &AdapterSummary) -> bool {
        is_usable(adapter) && adapter.id == format!("{:04x}:{:04x}", self.vendor, self.model)
    }
}

/// Whether `auto` may take it: OpenGL is untested.
fn is_usable(adapter: &AdapterSummary) -> bool {
    !adapter.is_software() && adapter.api != Api::Gl
}

/// A file of /dev/dri through which Mesa computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderNode {
    pub path: String,
    /// The group that may use it, if this user may not.
    pub closed_to_all_but: Option<String>,
}

/// Linux distributions by their package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packages {
    Apt,
    Dnf,
    Pacman,
    Zypper,
    Other,
}

impl Packages {
    /// Of `ID` and `ID_LIKE` in /etc/os-release.
    pub fn of_distribution<S: AsRef<str>>(names: &[S]) -> Self {
        let known = |name: &S| match name.as_ref() {
            "debian" | "ubuntu" => Some(Self::Apt),
            "fedora" | "rhel" | "centos" => Some(Self::Dnf),
            "arch" => Some(Self::Pacman),
            "suse" | "opensuse" => Some(Self::Zypper),
            _ => None,
        };
        names.iter().find_map(known).unwrap_or(Self::Other)
    }

    /// The command that installs the Vulkan loader and the driver of a maker.
    fn install(self, vendor: u32) -> String {
        let (command, loader, [amd, intel, nvidia]) = match self {
            Self::Apt => (
                "sudo apt install",
                "libvulkan1",
                [
                    "mesa-vulkan-drivers",
                    "mesa-vulkan-drivers",
                    "nvidia-driver",
                ],
            ),
            Self::Dnf => (
                "sudo dnf install",
                "vulkan-loader",
                ["mesa-vulkan-drivers", "mesa-vulkan-drivers", "akmod-nvidia"],
            ),
            Self::Pacman => (
                "sudo pacman -S",
                "vulkan-icd-loader",
                ["vulkan-radeon", "vulkan-intel", "nvidia-utils"],
            ),
            Self::Zypper => (
                "sudo zypper install",
                "libvulkan1",
                ["libvulkan_radeon", "libvulkan_intel", "nvidia-video-G06"],
            ),
            Self::Other => {
                return match vendor {
                    NVIDIA => "install the Vulkan loader and NVIDIA's driver".into(),
                    _ => "install the Vulkan loader and Mesa's Vulkan drivers".into(),
                };
            }
        };
        let driver = match vendor {
            AMD => amd,
            INTEL => intel,
            _ => nvidia,
        };
        let note = match (self, vendor) {
            (Self::Apt, NVIDIA) => " (Debian: from non-free; Ubuntu: sudo ubuntu-drivers install)",
            (Self::Dnf, NVIDIA) => " (from RPM Fusion)",
            (Self::Zypper, NVIDIA) => " (from NVIDIA's repository)",
            _ => "",
        };
        format!("{command} {loader} {driver}{note}")
    }
}

/// What decides on Linux whether a GPU can be used; empty elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graphics {
    pub system: &'static str,
    pub is_wsl: bool,
    pub is_container: bool,
    pub packages: Packages,
    pub cards: Vec<Card>,
    pub render_nodes: Vec<RenderNode>,
    /// Whether libvulkan can be loaded.
    pub has_loader: bool,
    /// Names of the Vulkan drivers' description files.
    pub drivers: Vec<String>,
    /// Whether NVIDIA's kernel module is loaded.
    pub has_nvidia_module: bool,
}

impl Graphics {
    /// This system, as far as it is the same everywhere.
    pub fn of_system() -> Self {
        Self {
            system: std::env::consts::OS,
            is_wsl: is_wsl(),
            is_container: is_container(),
            packages: Packages::Other,
            cards: Vec::new(),
            render_nodes: Vec::new(),
            has_loader: true,
            drivers: Vec::new(),
            has_nvidia_module: false,
        }
    }

    fn has_driver_of(&self, vendor: u32) -> bool {
        let names: &[&str] = match vendor {
            AMD => &["radeon", "amd"],
            INTEL => &["intel"],
            _ => &["nvidia", "nouveau"],
        };
        let is_its = |driver: &String| names.iter().any(|name| driver.contains(name));
        self.drivers.iter().any(is_its)
    }

    /// What to do so that Vulkan finds a card, by its maker; the first thing that is missing, and then a look again.
    fn remedy(&self, vendor: u32) -> Vec<String> {
        if self.is_wsl {
            return vec![WSL.into()];
        }
        let is_nvidia = vendor == NVIDIA;
        let closed = (self.render_nodes.iter()).find_map(|node| {
            let group = node.closed_to_all_but.as_ref()?;
            Some((node, group))
        });
        let mut steps = Vec::new();
        match (is_nvidia, self.is_container) {
            (true, true) => steps.push(
                "start the container with --gpus all -e NVIDIA_DRIVER_CAPABILITIES=graphics,compute,utility (the host needs \
                 nvidia-container-toolkit)"
                    .into(),
            ),
            (false, true) if self.render_nodes.is_empty() => {
                steps.push("start the container with --device /dev/dri".into());
            }
            (false, false) if self.render_nodes.is_empty() => steps.push(
                "the kernel has no driver for it: /dev/dri is missing; a newer kernel or linux-firmware may have one".into(),
            ),
            _ => {}
        }
        if let Some((node, group)) = closed.filter(|_| !is_nvidia) {
            let node = &node.path;
            steps.push(if self.is_container {
                let flag = format!("--group-add $(stat -c %g {node})");
                format!("{node} is closed to this user: start the container with {flag}")
            } else {
                format!("{node} is closed to this user: sudo usermod -aG {group} $USER, then log in again")
            });
        }
        // in a container, NVIDIA's driver is the host's
        let is_of_host = is_nvidia && self.is_container;
        let has_all = self.has_loader && self.has_driver_of(vendor);
        if !(has_all || is_of_host) {
            steps.push(self.packages.install(vendor));
        }
        if !self.has_loader && is_nvidia && self.is_container {
            steps.push("install the Vulkan loader in the image (Debian: libvulkan1)".into());
        }
        if is_nvidia && !self.is_container && self.has_driver_of(vendor) && !self.has_nvidia_module
        {
            steps.push(
                "NVIDIA's kernel module is not loaded: restart, or sudo modprobe nvidia".into(),
            );
        }
        if steps.is_empty() {
            steps.push(
                "`vulkaninfo --summary` (package vulkan-tools) says what the driver's problem is"
                    .into(),
            );
        }
        steps
    }

    /// Why this system has no GPU at all.
    fn nothing(&self) -> (String, Vec<String>) {
        let of = |found: &str, remedy: &str| (found.to_owned(), vec![remedy.to_owned()]);
        match self.system {
            _ if self.is_wsl => of("none that wgpu can use", WSL),
            "macos" => of(
                "none that wgpu can use",
                "every Mac since 2012 has Metal: log in at its screen, as a session by ssh alone may have no access",
            ),
            "windows" => of(
                "none that wgpu can use",
                "install the current driver of the GPU's maker: it brings Vulkan and Direct3D 12",
            ),
            "linux" if self.is_container => of(
                "none on this machine that the container can see",
                "if the host has one: --device /dev/dri (AMD, Intel), or --gpus all -e \
                 NVIDIA_DRIVER_CAPABILITIES=graphics,compute,utility",
            ),
            _ => of(
                "none on this machine",
                "if there is one, it is switched off in the firmware, or not passed to this virtual machine",
            ),
        }
    }
}

const WSL: &str = "WSL has no conformant Vulkan driver for the GPU: use the Windows build of ibot";

/// One check for each GPU: those that wgpu can use, then those that it cannot.
pub fn checks(adapters: &[AdapterSummary], graphics: &Graphics) -> Vec<Check> {
    let mut checks: Vec<Check> = adapters.iter().map(adapter).collect();
    let computes = |card: &&Card| card.maker().is_some();
    let mut without: Vec<Card> = graphics.cards.clone();
    without.retain(|card| computes(&card) && !adapters.iter().any(|of| card.is_behind(of)));
    let has_hardware = adapters.iter().any(is_usable);
    if without.is_empty() && !has_hardware {
        let (found, remedy) = graphics.nothing();
        checks.push(Check::missing(GPU, found, remedy));
    }
    for card in without {
        let maker = card.maker().unwrap_or_default();
        let found = format!(
            "{maker} {:04x}:{:04x} is in this machine, but no Vulkan driver lists it",
            card.vendor, card.model
        );
        checks.push(Check::missing(GPU, found, graphics.remedy(card.vendor)));
    }
    checks
}

fn adapter(adapter: &AdapterSummary) -> Check {
    let memory = adapter.memory_bytes;
    let memory = memory.map_or_else(String::new, |bytes| format!(", {}", in_gib(bytes)));
    let driver = [adapter.driver.as_str(), adapter.driver_info.as_str()];
    let driver = driver.map(str::trim).join(" ");
    let name = match (adapter.is_software(), is_usable(adapter)) {
        (true, _) => "software",
        (false, true) => GPU,
        (false, false) => "OpenGL",
    };
    let title = adapter.title();
    Check::ok(name, format!("{title}{memory}; driver {}", driver.trim()))
}

#[cfg(test)]
mod tests;
