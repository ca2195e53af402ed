//! The remedies of many systems, by what each of them shows.

use ibot::device::{AdapterKind, Api};

use super::*;
use crate::cards::card;
use crate::doctor::check::State;

const RADEON: Card = Card {
    vendor: AMD,
    model: 0x744c,
};
const GEFORCE: Card = Card {
    vendor: NVIDIA,
    model: 0x2684,
};
/// The display of a server.
const ASPEED: Card = Card {
    vendor: 0x1a03,
    model: 0x2000,
};

/// A desktop whose drivers are all there.
fn desktop(packages: Packages, cards: &[Card]) -> Graphics {
    Graphics {
        system: "linux",
        is_wsl: false,
        is_container: false,
        packages,
        cards: cards.to_vec(),
        render_nodes: vec![RenderNode {
            path: "/dev/dri/renderD128".into(),
            closed_to_all_but: None,
        }],
        has_loader: true,
        drivers: vec!["radeon_icd.x86_64.json".into(), "nvidia_icd.json".into()],
        has_nvidia_module: true,
    }
}

/// The remedy of the one GPU that is missing.
#[track_caller]
fn remedy(graphics: &Graphics) -> String {
    let checks = checks(
        &[AdapterSummary {
            id: "10005:0000".into(),
            ..card(AdapterKind::Software)
        }],
        graphics,
    );
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert_eq!((checks[0].name, checks[0].state), ("software", State::Ok));
    assert_eq!((checks[1].name, checks[1].state), (GPU, State::Missing));
    assert!(!checks[1].is_needed);
    checks[1].remedy.join("\n")
}

#[test]
fn a_gpu_with_its_driver_lacks_nothing() {
    let adapters = [card(AdapterKind::Discrete)];
    let graphics = desktop(Packages::Apt, &[RADEON, ASPEED]);
    let checks = checks(&adapters, &graphics);
    assert_eq!(checks.len(), 1, "{checks:?}");
    let found = "Card, Vulkan, discrete GPU, 16.0 GiB; driver radv Mesa 25.0";
    assert_eq!(
        (checks[0].state, checks[0].found.as_str()),
        (State::Ok, found)
    );
}

#[test]
fn the_second_card_of_two_is_missed() {
    let adapters = [card(AdapterKind::Discrete)];
    let mut graphics = desktop(Packages::Apt, &[RADEON, GEFORCE]);
    graphics.drivers.pop();
    let checks = checks(&adapters, &graphics);
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(
        checks[1].found.starts_with("NVIDIA 10de:2684 "),
        "{}",
        checks[1]
    );
    assert!(
        checks[1].remedy[0].contains("nvidia-driver"),
        "{}",
        checks[1]
    );
}

#[test]
fn a_gpu_by_opengl_alone_lacks_its_driver() {
    let mut opengl = card(AdapterKind::Discrete);
    opengl.api = Api::Gl;
    let mut graphics = desktop(Packages::Pacman, &[RADEON]);
    graphics.drivers.clear();
    let checks = checks(&[opengl], &graphics);
    assert_eq!((checks[0].name, checks.len()), ("OpenGL", 2));
    assert!(
        checks[1].remedy[0].contains("vulkan-radeon"),
        "{}",
        checks[1]
    );
}

#[test]
fn packages_go_by_the_distribution() {
    for (names, packages, card, expected) in [
        (
            &["debian"][..],
            Packages::Apt,
            RADEON,
            "apt install libvulkan1 mesa-vulkan-drivers",
        ),
        (
            &["pop", "ubuntu", "debian"],
            Packages::Apt,
            GEFORCE,
            "ubuntu-drivers install",
        ),
        (
            &["fedora"],
            Packages::Dnf,
            RADEON,
            "dnf install vulkan-loader mesa-vulkan-drivers",
        ),
        (
            &["rocky", "rhel", "centos", "fedora"],
            Packages::Dnf,
            GEFORCE,
            "akmod-nvidia (from RPM Fusion)",
        ),
        (
            &["manjaro", "arch"],
            Packages::Pacman,
            RADEON,
            "pacman -S vulkan-icd-loader vulkan-radeon",
        ),
        (
            &["opensuse-tumbleweed", "opensuse", "suse"],
            Packages::Zypper,
            RADEON,
            "libvulkan_radeon",
        ),
        (&["nixos"], Packages::Other, RADEON, "Mesa's Vulkan drivers"),
    ] {
        assert_eq!(Packages::of_distribution(names), packages, "{names:?}");
        let mut graphics = desktop(packages, &[card]);
        graphics.drivers.clear();
        let said = remedy(&graphics);
        assert!(said.contains(expected), "{names:?}: {said}");
    }
}

#[test]
fn a_closed_device_file_names_its_group() {
    let mut graphics = desktop(Packages::Apt, &[RADEON]);
    graphics.render_nodes[0].closed_to_all_but = Some("render".into());
    let expected = "/dev/dri/renderD128 is closed to this user: sudo usermod -aG render $USER, then log in again";
    assert_eq!(remedy(&graphics), expected);
    graphics.is_container = true;
    assert!(remedy(&graphics).ends_with("--group-add $(stat -c %g /dev/dri/renderD128)"));
}

#[test]
fn containers_are_given_the_gpu() {
    let mut graphics = desktop(Packages::Apt, &[RADEON]);
    graphics.is_container = true;
    graphics.render_nodes.clear();
    assert_eq!(
        remedy(&graphics),
        "start the container with --device /dev/dri"
    );
    graphics.cards = vec![GEFORCE];
    graphics.drivers.clear();
    let said = remedy(&graphics);
    assert!(
        said.contains("--gpus all") && !said.contains("apt install"),
        "{said}"
    );
    graphics.has_loader = false;
    assert!(remedy(&graphics).ends_with("(Debian: libvulkan1)"));
    graphics.cards.clear();
    assert!(remedy(&graphics).contains("--device /dev/dri (AMD, Intel)"));
}

#[test]
fn what_is_no_package_is_told_too() {
    let mut graphics = desktop(Packages::Apt, &[GEFORCE]);
    assert!(
        remedy(&graphics).contains("vulkaninfo"),
        "nothing is missing, and yet it fails"
    );
    graphics.has_nvidia_module = false;
    assert!(remedy(&graphics).contains("modprobe nvidia"));
    graphics.cards = vec![RADEON];
    graphics.render_nodes.clear();
    assert!(remedy(&graphics).contains("/dev/dri is missing"));
    graphics.cards = vec![ASPEED];
    assert!(remedy(&graphics).contains("switched off in the firmware"));
    graphics.is_wsl = true;
    assert_eq!(remedy(&graphics), WSL);
    graphics.cards = vec![GEFORCE];
    assert_eq!(remedy(&graphics), WSL);
}

#[test]
fn systems_without_a_bus_to_look_at_say_what_they_need() {
    for (system, expected) in [
        ("macos", "Metal"),
        ("windows", "Direct3D 12"),
        ("freebsd", "firmware"),
    ] {
        let graphics = Graphics {
            system,
            ..desktop(Packages::Other, &[])
        };
        let said = remedy(&graphics);
        assert!(said.contains(expected), "{system}: {said}");
    }
}
