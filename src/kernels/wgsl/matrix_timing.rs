//! Which tile multiplies fastest on a device: found by a short timing when a class of products is first met, and kept.
//!
//! It moves no number. All tiles add up the same terms in the same order, as how a sum is cut into parts does not depend on
//! the tile that is taken; a test compares their bits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::launch::Client;
use super::matrix_kernels::fingerprint;
use super::matrix_plan::{Plan, Way};
use super::matrix_tiles::Tile;
use super::observed::observe;
use super::tile_times::{Origin, TileTimes, Timed, folder};
use crate::device::{AdapterKind, AdapterSummary, adapter_behind, synchronize_client};
use crate::lock::lock;

/// Name of the variable that says where products are timed: 0 nowhere, 1 on software devices too, however long that takes;
/// where it is not set, on GPUs, and for about a second.
pub const TIMING_VARIABLE: &str = "IBOT_TIME_TILES";

/// How long timing may take.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// In a process, on one adapter, compiling the kernels among it.
    all: Duration,
    /// A product that takes longer is made with the usual tile: to time the others would take too long.
    one: Duration,
}

impl Bounds {
    const USUAL: Self = Self {
        all: Duration::from_secs(1),
        one: Duration::from_millis(50),
    };
    const NONE: Self = Self {
        all: Duration::MAX,
        one: Duration::MAX,
    };
}

/// What each tile is timed for in a round; shorter products are repeated, as a wait for the device takes some 0.1 ms.
const ROUND: Duration = Duration::from_millis(2);
/// Products of a round, at most.
const MAX_REPEATS: u32 = 32;
/// Each tile's time is the best of so many rounds, by turns.
const ROUNDS: u32 = 3;
/// Another tile than the usual one must be this much faster: less may be chance.
const GAIN: f64 = 0.97;

/// What is known of one adapter.
struct Known {
    adapter: Arc<AdapterSummary>,
    times: TileTimes,
    /// What is left.
    bounds: Bounds,
    /// Classes that it did not suffice for.
    untimed: BTreeSet<String>,
    /// Whether a failed write was told.
    is_told: bool,
}

/// The plan with the fastest tile for products of this class; `launch` queues one by a plan. All such plans cut sums alike.
pub(super) fn fastest(
    client: &Client,
    plan: Plan,
    class: impl FnOnce() -> String,
    launch: impl Fn(Plan),
) -> Plan {
    static ALL: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    let (Way::Tiled(usual), Some(adapter)) = (plan.way, adapter_behind(client)) else {
        return plan;
    };
    if Tile::asked_for().is_some() || !is_timed(timing(), adapter.kind) {
        return plan;
    }
    // held while products are timed: those of other threads would disturb
    let mut all = lock(&ALL);
    let is_its = |known: &Known| Arc::ptr_eq(&known.adapter, &adapter);
    let at = all.iter().position(is_its).unwrap_or_else(|| {
        all.push(Known::open(adapter));
        all.len() - 1
    });
    let run = |tile: Tile, repeats: u32| {
        let started = Instant::now();
        (0..repeats).for_each(|_| launch(plan.with(tile)));
        synchronize_client(client);
        started.elapsed()
    };
    // what is timed is no part of the work that somebody counts
    let (tile, _) = observe(|| all[at].tile(class(), &Tile::candidates(client, usual), &run));
    plan.with(tile)
}

impl Known {
    fn open(adapter: Arc<AdapterSummary>) -> Self {
        let origin = Origin::new(&adapter, fingerprint());
        Self {
            adapter,
            times: TileTimes::open(folder().as_deref(), origin),
            bounds: match timing() {
                Some(true) => Bounds::NONE,
                _ => Bounds::USUAL,
            },
            untimed: BTreeSet::new(),
            is_told: false,
        }
    }

    /// The tile for a class, of these, the first of which is the usual one. `run` makes so many products, and waits.
    fn tile(&mut self, class: String, tiles: &[Tile], run: &dyn Fn(Tile, u32) -> Duration) -> Tile {
        let usual = tiles[0];
        let kept = self.times.get(&class);
        let tries = kept.map_or(0, |timed| timed.tries);
        let kept = kept.filter(|timed| timed.is_final());
        let kept = kept.and_then(|timed| Tile::named(&timed.tile));
        if let Some(tile) = kept.filter(|tile| tiles.contains(tile)) {
            return tile;
        }
        if tiles.len() == 1 || self.untimed.contains(&class) {
            return usual;
        }
        run(usual, 0); // what was queued before
        let mut timing = Timing {
            run,
            spent: Duration::ZERO,
            bounds: self.bounds,
        };
        let times = timing.time(tiles);
        self.bounds.all = self.bounds.all.saturating_sub(timing.spent);
        let Some(times) = times else {
            log::debug!("products {class}: no time is left to time tiles");
            self.untimed.insert(class.clone());
            if !timing.spent.is_zero() {
                self.keep(class, usual, BTreeMap::new(), tries + 1);
            }
            return usual;
        };
        let tile = choose(&times);
        let milliseconds = times.iter().map(|(tile, time)| {
            let milliseconds = time.as_secs_f64() * 1e3;
            (tile.name(), (milliseconds * 1e4).round() / 1e4)
        });
        let milliseconds: BTreeMap<String, f64> = milliseconds.collect();
        log::debug!("products {class}: {} of {milliseconds:?} ms", tile.name());
        self.keep(class, tile, milliseconds, tries + 1);
        tile
    }

    fn keep(&mut self, class: String, tile: Tile, milliseconds: BTreeMap<String, f64>, tries: u32) {
        let timed = Timed {
            tile: tile.name(),
            milliseconds,
            tries,
        };
        if let Err(error) = self.times.keep(class, timed)
            && !self.is_told
        {
            self.is_told = true;
            log::warn!(
                "{error}: each run times products anew; set HF_HOME to a folder that can be written, or \
                 {TIMING_VARIABLE}=0"
            );
        }
    }
}

/// A device's clock, and how long it ran.
struct Timing<'a> {
    run: &'a dyn Fn(Tile, u32) -> Duration,
    spent: Duration,
    bounds: Bounds,
}

impl Timing<'_> {
    /// Of one product with each tile; of the first one alone where that is slow, and none where the bounds do not suffice.
    fn time(&mut self, tiles: &[Tile]) -> Option<Vec<(Tile, Duration)>> {
        if self.is_over() {
            return None;
        }
        self.one_of(tiles[0], 1); // compiles the kernel
        let once = self.one_of(tiles[0], 1);
        if once > self.bounds.one {
            return Some(vec![(tiles[0], once)]);
        }
        for tile in &tiles[1..] {
            self.one_of(*tile, 1);
            if self.is_over() {
                return None;
            }
        }
        let repeats = ROUND.as_nanos() / once.as_nanos().max(1);
        let repeats = repeats.clamp(1, MAX_REPEATS.into()) as u32;
        let mut best: Vec<_> = tiles.iter().map(|tile| (*tile, Duration::MAX)).collect();
        for _ in 0..ROUNDS {
            for (tile, best) in &mut best {
                *best = (*best).min(self.one_of(*tile, repeats));
            }
            if self.is_over() {
                break;
            }
        }
        Some(best)
    }

    fn is_over(&self) -> bool {
        self.spent >= self.bounds.all
    }

    /// One product of so many.
    fn one_of(&mut self, tile: Tile, repeats: u32) -> Duration {
        let taken = (self.run)(tile, repeats);
        self.spent += taken;
        taken / repeats
    }
}

/// The fastest, unless it gains little on the first.
fn choose(times: &[(Tile, Duration)]) -> Tile {
    let (usual, of_usual) = times[0];
    let fastest = times.iter().min_by_key(|(_, time)| *time);
    match fastest {
        Some((tile, time)) if *time < of_usual.mul_f64(GAIN) => *tile,
        _ => usual,
    }
}

/// What [`TIMING_VARIABLE`] says; anything but 0 and 1 is warned of and left aside.
fn timing() -> Option<bool> {
    static SET: OnceLock<Option<bool>> = OnceLock::new();
    *SET.get_or_init(|| {
        let value = std::env::var(TIMING_VARIABLE).ok()?;
        match value.as_str() {
            "0" => Some(false),
            "1" => Some(true),
            _ => {
                log::warn!("{TIMING_VARIABLE} = {value}: must be 0 or 1");
                None
            }
        }
    })
}

fn is_timed(set: Option<bool>, kind: AdapterKind) -> bool {
    set.unwrap_or(kind != AdapterKind::Software)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::device::Api;
    use std::cell::RefCell;

    const MS: Duration = Duration::from_millis(1);

    /// What a device that takes so many ms for a product makes of it; a tile's first run takes 100 ms more.
    fn time(of_tile: [u32; 3], all: Duration) -> (Option<Vec<(Tile, Duration)>>, Duration, u32) {
        let runs = RefCell::new(Vec::new());
        let run = |tile: Tile, repeats: u32| {
            let at = Tile::ALL.iter().position(|known| *known == tile).unwrap();
            let is_first = !runs.borrow().contains(&at);
            runs.borrow_mut().push(at);
            MS * of_tile[at] * repeats + 100 * MS * u32::from(is_first)
        };
        let mut timing = Timing {
            run: &run,
            spent: Duration::ZERO,
            bounds: Bounds {
                all,
                ..Bounds::USUAL
            },
        };
        let times = timing.time(&Tile::ALL);
        (times, timing.spent, runs.borrow().len() as u32)
    }

    #[test]
    fn the_fastest_tile_is_taken() {
        let (times, spent, runs) = time([4, 2, 8], Bounds::USUAL.all);
        let times = times.unwrap();
        assert_eq!(choose(&times), Tile::TALL);
        assert_eq!(times[0], (Tile::SMALL, 4 * MS));
        assert_eq!((spent, runs), ((300 + 4 * 14 + 4) * MS, 13));
        let [small, tall] = [Tile::SMALL, Tile::TALL];
        let of = |tall_time: u32| choose(&[(small, 100 * MS), (tall, tall_time * MS)]);
        assert_eq!((of(96), of(98), of(100)), (tall, small, small));
    }

    #[test]
    fn timing_is_bounded() {
        // compiling alone takes 300 ms
        let (times, spent, _) = time([4, 2, 8], 150 * MS);
        assert_eq!((times, spent <= 250 * MS), (None, true));
        assert_eq!(time([4, 2, 8], Duration::ZERO), (None, Duration::ZERO, 0));
        // one round is enough
        let (times, _, runs) = time([40, 20, 48], 450 * MS);
        assert_eq!(
            (times.map(|times| choose(&times)), runs),
            (Some(Tile::TALL), 7)
        );
        // slow products are made as ever
        let (times, spent, runs) = time([60, 20, 20], Bounds::USUAL.all);
        assert_eq!(times, Some(vec![(Tile::SMALL, 60 * MS)]));
        assert_eq!((spent, runs), (220 * MS, 2));
    }

    #[test]
    fn gpus_are_timed_and_software_where_it_is_asked_for() {
        for (set, gpu, software) in [
            (None, true, false),
            (Some(false), false, false),
            (Some(true), true, true),
        ] {
            assert_eq!(is_timed(set, AdapterKind::Integrated), gpu);
            assert_eq!(is_timed(set, AdapterKind::Software), software);
        }
    }

    #[test]
    fn what_takes_too_long_is_tried_twice() {
        let folder = std::env::temp_dir().join(format!("ibot-tries-{}", std::process::id()));
        let adapter = Arc::new(AdapterSummary {
            index: 0,
            name: "of a test".into(),
            kind: AdapterKind::Discrete,
            api: Api::Vulkan,
            driver: String::new(),
            driver_info: String::new(),
            id: String::new(),
            pci_bus: String::new(),
            memory_bytes: None,
            has_f16: false,
            limits: wgpu::Limits::default().into(),
        });
        let slow = |_: Tile, repeats: u32| 900 * MS * repeats;
        for tries in [1, 2, 2, 2] {
            // a process
            let mut known = Known {
                adapter: Arc::clone(&adapter),
                times: TileTimes::open(Some(&folder), Origin::new(&adapter, String::new())),
                bounds: Bounds {
                    one: Duration::MAX,
                    ..Bounds::USUAL
                },
                untimed: BTreeSet::new(),
                is_told: false,
            };
            for _ in 0..2 {
                assert_eq!(known.tile("a".into(), &Tile::ALL, &slow), Tile::SMALL);
            }
            assert_eq!(known.times.get("a").map(|timed| timed.tries), Some(tries));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
