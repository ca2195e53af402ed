//! The value of `--devices`.

use ibot::device::AdapterSummary;
use ibot::{Error, Result};

/// GPUs of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    All,
    Numbers(Vec<usize>),
}

impl std::str::FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let numbers: Option<Vec<usize>> = text.split(',').map(number).collect();
        let numbers = numbers.ok_or("must be all, or numbers of `ibot devices` such as 0,1,3")?;
        let mut once = numbers.clone();
        once.sort_unstable();
        once.dedup();
        if once.len() == numbers.len() {
            Ok(Self::Numbers(numbers))
        } else {
            Err("a GPU is named twice".into())
        }
    }
}

impl Devices {
    /// These of all adapters.
    pub fn of(&self, adapters: &[AdapterSummary]) -> Result<Vec<AdapterSummary>> {
        match self {
            Self::Numbers(numbers) => {
                let found = numbers.iter().map(|number| {
                    let adapter = adapters.iter().find(|adapter| adapter.index == *number);
                    adapter.cloned().ok_or_else(|| {
                        Error::Device(format!("--devices: `ibot devices` lists no GPU {number}"))
                    })
                });
                found.collect()
            }
            Self::All => {
                // an adapter is listed once for each API, and a machine with a card often has a small GPU in its processor
                let real = adapters.iter().filter(|adapter| !adapter.is_software());
                let first = real.clone().min_by_key(|adapter| adapter.kind);
                let like = |adapter: &&AdapterSummary| {
                    first
                        .is_some_and(|first| (adapter.api, adapter.kind) == (first.api, first.kind))
                };
                let mut found: Vec<_> = real.filter(like).cloned().collect();
                // each process asks the driver, which may list equal GPUs in another order each time
                found.sort_by(|a, b| (&a.pci_bus, a.index).cmp(&(&b.pci_bus, b.index)));
                if found.is_empty() {
                    Err(Error::Device(
                        "--devices all: no GPU was found; `ibot doctor` says what is missing"
                            .into(),
                    ))
                } else {
                    Ok(found)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ibot::device::AdapterKind;

    use super::*;
    use crate::cards::card;

    fn numbered(index: usize, kind: AdapterKind, pci_bus: &str) -> AdapterSummary {
        AdapterSummary {
            index,
            pci_bus: pci_bus.into(),
            ..card(kind)
        }
    }

    #[test]
    fn all_are_the_best_cards_in_the_order_of_the_bus() {
        use AdapterKind::{Discrete, Integrated, Software};
        let adapters = [
            numbered(0, Integrated, "0000:00:02.0"),
            numbered(1, Discrete, "0000:81:00.0"),
            numbered(2, Discrete, "0000:01:00.0"),
            numbered(3, Software, ""),
        ];
        let found = Devices::All.of(&adapters).unwrap();
        let found: Vec<usize> = found.iter().map(|adapter| adapter.index).collect();
        assert_eq!(found, [2, 1]);
        let without_bus = [1, 0].map(|index| numbered(index, Discrete, ""));
        let found = Devices::All.of(&without_bus).unwrap();
        assert_eq!(found[0].index, 0);
        assert!(Devices::All.of(&adapters[3..]).is_err());
    }

    #[test]
    fn devices_are_all_or_numbers() {
        assert_eq!("all".parse(), Ok(Devices::All));
        assert_eq!("0, 1,3".parse(), Ok(Devices::Numbers(vec![0, 1, 3])));
        for bad in ["", "0,", "a", "-1", "0,1,0"] {
            assert!(bad.parse::<Devices>().is_err(), "{bad}");
        }
    }
}
