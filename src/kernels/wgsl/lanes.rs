//! How many lanes a workgroup has, by the sort of device.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::launch::Client;
use crate::device::{AdapterKind, kind_of};
use crate::scope::restoring;

/// Name of the variable that sets the lanes of a workgroup, a power of two: for tuning, and for running on a software
/// device what a GPU runs.
pub const WORKGROUP_VARIABLE: &str = "IBOT_WORKGROUP";

/// Lanes of a workgroup on a GPU.
const GPU_WORKGROUP: u32 = 256;
/// Lanes of a workgroup on a software device, those of a CPU's vector unit. There a barrier costs more than lanes that idle, so a
/// workgroup is one subgroup (944 x 8192 cross-entropy on lavapipe: 14 ms at 8 lanes, 26 ms at 256).
pub(super) const SOFTWARE_SUBGROUP: u32 = 8;

/// lavapipe leaves any loop after this many rounds, without a word (LP_MAX_TGSI_LOOP_ITERATIONS in Mesa's gallivm).
pub(super) const MAX_ROUNDS: usize = 65_535;

/// Whether the device is a program on the CPU.
pub(super) fn is_software(client: &Client) -> bool {
    let subgroup = client.properties().hardware.plane_size_max;
    is_software_kind(chosen_workgroup(), kind_of(client), subgroup)
}

/// By the lanes that are asked for, else by the sort of adapter; by its largest subgroup only where that is unknown: small
/// GPUs (Mali) have subgroups of 8 too, and lavapipe on AVX-512 has some of 16.
fn is_software_kind(lanes: Option<u32>, kind: Option<AdapterKind>, largest_subgroup: u32) -> bool {
    match (lanes, kind) {
        (Some(lanes), _) => lanes <= SOFTWARE_SUBGROUP,
        (None, Some(AdapterKind::Software)) => true,
        (None, None | Some(AdapterKind::Other)) => largest_subgroup <= SOFTWARE_SUBGROUP,
        (None, Some(_)) => false,
    }
}

/// Lanes that [`with_workgroup`] asks for; 0 where it does not run.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Runs `work` with workgroups of so many lanes, as [`WORKGROUP_VARIABLE`] does for a whole process: with 256, what GPUs run
/// runs on a software device. For tests; other threads' launches are meant too.
pub fn with_workgroup<R>(lanes: u32, work: impl FnOnce() -> R) -> R {
    let before = ASKED.swap(lanes, Ordering::Relaxed);
    restoring(|| ASKED.store(before, Ordering::Relaxed), work)
}

/// What [`with_workgroup`] or else [`WORKGROUP_VARIABLE`] says; anything but a power of two up to 1024 is warned of and left
/// aside.
fn chosen_workgroup() -> Option<u32> {
    static CHOSEN: OnceLock<Option<u32>> = OnceLock::new();
    let asked = ASKED.load(Ordering::Relaxed);
    if asked > 0 {
        return Some(asked);
    }
    *CHOSEN.get_or_init(|| {
        let value = std::env::var(WORKGROUP_VARIABLE).ok()?;
        let lanes = value.parse().ok();
        let lanes = lanes.filter(|lanes: &u32| lanes.is_power_of_two() && *lanes <= 1024);
        if lanes.is_none() {
            log::warn!("{WORKGROUP_VARIABLE} = {value}: must be a power of two up to 1024");
        }
        lanes
    })
}

/// Lanes of a workgroup that suit the device.
pub(super) fn workgroup(client: &Client) -> u32 {
    let hardware = &client.properties().hardware;
    if let Some(lanes) = chosen_workgroup() {
        return lanes.min(1 << hardware.max_units_per_cube.max(1).ilog2());
    }
    workgroup_for(is_software(client), hardware.max_units_per_cube)
}

/// Lanes of a workgroup that suit the device and reduce `length` entries in no more rounds than it can count.
pub(super) fn reducing_workgroup(client: &Client, length: usize) -> u32 {
    lanes_for(length, workgroup(client))
}

fn lanes_for(length: usize, mut lanes: u32) -> u32 {
    while length.div_ceil(lanes as usize) > MAX_ROUNDS && lanes < GPU_WORKGROUP {
        lanes *= 2;
    }
    let rounds = length.div_ceil(lanes as usize);
    assert!(
        rounds <= MAX_ROUNDS,
        "a row of {length} entries is too long for one workgroup"
    );
    lanes
}

fn workgroup_for(is_software: bool, max_lanes: u32) -> u32 {
    if is_software {
        SOFTWARE_SUBGROUP
    } else {
        GPU_WORKGROUP.min(1 << max_lanes.max(1).ilog2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_suit_the_device() {
        assert_eq!(workgroup_for(true, 1024), 8); // lavapipe
        assert_eq!(workgroup_for(false, 1024), 256); // NVIDIA, Apple
        assert_eq!(workgroup_for(false, 128), 128); // small workgroups
        assert_eq!(workgroup_for(false, 100), 64);
    }

    #[test]
    fn software_is_told_by_the_sort_of_adapter() {
        let software = |kind, subgroup| is_software_kind(None, kind, subgroup);
        // lavapipe: AVX2, and AVX-512 or LP_NATIVE_VECTOR_WIDTH=512; WARP
        for subgroup in [8, 16, 4] {
            assert!(software(Some(AdapterKind::Software), subgroup));
        }
        assert!(!software(Some(AdapterKind::Integrated), 8)); // Mali
        assert!(!software(Some(AdapterKind::Discrete), 32));
        for unknown in [None, Some(AdapterKind::Other)] {
            assert!(software(unknown, 8) && !software(unknown, 16));
        }
        // what is asked for is right
        assert!(!is_software_kind(Some(256), Some(AdapterKind::Software), 8));
        assert!(is_software_kind(Some(8), Some(AdapterKind::Discrete), 32));
    }

    #[test]
    fn long_rows_get_more_lanes() {
        assert_eq!(lanes_for(0, 8), 8);
        assert_eq!(lanes_for(8 * 65_535, 8), 8);
        assert_eq!(lanes_for(8 * 65_535 + 1, 8), 16);
        assert_eq!(lanes_for(256 * 65_535, 8), 256);
    }
}
