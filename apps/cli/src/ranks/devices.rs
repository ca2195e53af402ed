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
        match once.len() == numbers.len() {
            true => Ok(Self::Numbers(numbers)),
            false => Err("a GPU is named twice".into()),
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
                        let remedy = "is no number of a GPU in `ibot devices`";
                        Error::config("--devices", number, remedy)
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
                let found: Vec<_> = real.filter(like).cloned().collect();
                match found.is_empty() {
                    false => Ok(found),
                    true => Err(Error::Device(
                        "--devices all: no GPU was found; `ibot doctor` says what is missing"
                            .into(),
                    )),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_all_or_numbers() {
        assert_eq!("all".parse(), Ok(Devices::All));
        assert_eq!("0, 1,3".parse(), Ok(Devices::Numbers(vec![0, 1, 3])));
        for bad in ["", "0,", "a", "-1", "0,1,0"] {
            assert!(bad.parse::<Devices>().is_err(), "{bad}");
        }
    }
}
