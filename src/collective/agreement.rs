//! Decisions that all ranks make together. A rank that went on while another one stopped would wait for it for ever.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::collective::Collective;
use crate::error::{Error, Result};

/// What a rank says: that it goes on, that it was stopped, or why it failed.
const GOES_ON: u8 = 0;
const STOPPED: u8 = 1;
const FAILED: u8 = 2;

/// The bytes that tell other ranks of `own`: its state, then `made` if it is sound, or the text of its error.
fn message<T>(own: &Result<T>, made: &[u8]) -> Vec<u8> {
    match own {
        Ok(_) => [&[GOES_ON], made].concat(),
        Err(Error::Stopped) => vec![STOPPED],
        Err(error) => [&[FAILED], error.to_string().as_bytes()].concat(),
    }
}

/// Returns `own` if it is `Ok` on every rank. Otherwise every rank gets an error: its own or, where it has none, that of the
/// first rank that failed, with that rank's number. A rank that was stopped ([`Error::Stopped`]) stops all.
///
/// # Errors
/// As [`Collective`], and those of the ranks.
pub fn all_ok<T>(collective: &dyn Collective, own: Result<T>) -> Result<T> {
    if collective.size() == 1 {
        return own;
    }
    let words = collective.all_gather(message(&own, &[]))?;
    if let Err(error) = own {
        // a failure is worth more than a stop, which another rank may have noticed before it failed
        let failed = matches!(error, Error::Stopped).then(|| failure(&words));
        return Err(failed.flatten().unwrap_or(error));
    }
    if let Some(error) = failure(&words) {
        return Err(error);
    }
    if words.iter().any(|word| word.first() == Some(&STOPPED)) {
        Err(Error::Stopped)
    } else {
        own
    }
}

/// The error of the first rank that failed.
fn failure(words: &[Vec<u8>]) -> Option<Error> {
    words
        .iter()
        .enumerate()
        .find_map(|(rank, word)| match word.split_first() {
            Some((&FAILED, reason)) => {
                let reason = String::from_utf8_lossy(reason);
                Some(Error::Ranks(format!("rank {rank}: {reason}")))
            }
            _ => None,
        })
}

/// What rank 0 makes, on all ranks; the others make nothing.
///
/// # Errors
/// As [`Collective`], and that of rank 0 on all ranks.
pub fn from_rank_0<T: Serialize + DeserializeOwned>(
    collective: &dyn Collective,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let broken = |error: serde_json::Error| Error::Ranks(format!("rank 0 said {error}"));
    if collective.rank() == 0 {
        let made = make();
        if collective.size() == 1 {
            return made;
        }
        let bytes = match &made {
            Ok(made) => serde_json::to_vec(made).map_err(broken)?,
            Err(_) => Vec::new(),
        };
        collective.all_gather(message(&made, &bytes))?;
        return made;
    }
    let words = collective.all_gather(Vec::new())?;
    match words.first().and_then(|word| word.split_first()) {
        Some((&GOES_ON, made)) => serde_json::from_slice(made).map_err(broken),
        Some((&STOPPED, _)) => Err(Error::Stopped),
        _ => Err(failure(&words).unwrap_or_else(|| Error::Ranks("rank 0 said nothing".into()))),
    }
}

/// Whether any rank says yes.
///
/// # Errors
/// As [`Collective`].
pub fn any_rank(collective: &dyn Collective, own: bool) -> Result<bool> {
    if collective.size() == 1 {
        return Ok(own);
    }
    let words = collective.all_gather(vec![u8::from(own)])?;
    Ok(words.iter().any(|word| word.first() == Some(&1)))
}

/// Whether all ranks have the same bytes of something that is `what` in an error, best a hash.
///
/// # Errors
/// As [`Collective`]; [`Error::Ranks`] that names the ranks which differ from rank 0.
pub fn check_equal(collective: &dyn Collective, what: &str, own: &[u8]) -> Result<()> {
    if collective.size() == 1 {
        return Ok(());
    }
    let all = collective.all_gather(own.to_vec())?;
    let others = all
        .iter()
        .enumerate()
        .filter(|(_, other)| **other != all[0]);
    let others: Vec<String> = others.map(|(rank, _)| rank.to_string()).collect();
    if others.is_empty() {
        return Ok(());
    }
    let others = others.join(", ");
    Err(Error::Ranks(format!(
        "{what} of rank {others} differ from those of rank 0"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::LocalRanks;

    /// What each of three ranks makes.
    fn on_three<T: Send + 'static>(
        make: impl Fn(&LocalRanks, usize) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let ranks = LocalRanks::group(3).into_iter().map(|rank| {
            let make = make.clone();
            std::thread::spawn(move || make(&rank, rank.rank()))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    }

    #[test]
    fn a_failure_is_that_of_all() {
        let found = on_three(|ranks, rank| {
            let own = match rank {
                0 => Ok(()),
                1 => Err(Error::Loader("no image".into())),
                _ => Err(Error::Stopped),
            };
            all_ok(ranks, own).unwrap_err().to_string()
        });
        assert_eq!(found, ["rank 1: no image", "no image", "rank 1: no image"]);
    }

    #[test]
    fn one_stop_stops_all() {
        let found = on_three(|ranks, rank| {
            let own = if rank == 2 {
                Err(Error::Stopped)
            } else {
                Ok(rank)
            };
            let stopped = matches!(all_ok(ranks, own), Err(Error::Stopped));
            [
                stopped,
                any_rank(ranks, rank == 1).unwrap(),
                any_rank(ranks, false).unwrap(),
            ]
        });
        assert_eq!(found, [[true, true, false]; 3]);
    }

    #[test]
    fn rank_0_decides() {
        let found = on_three(|ranks, rank| from_rank_0(ranks, || Ok(vec![rank, 7])).unwrap());
        assert_eq!(found, [[0, 7], [0, 7], [0, 7]]);
        let found = on_three(|ranks, _| {
            let failed = || Err::<(), _>(Error::Training("no room".into()));
            from_rank_0(ranks, failed).unwrap_err().to_string()
        });
        assert_eq!(found, ["no room", "rank 0: no room", "rank 0: no room"]);
    }

    #[test]
    fn a_rank_that_differs_is_named() {
        let found = on_three(|ranks, rank| {
            check_equal(ranks, "the settings", b"alike").unwrap();
            let own = [u8::from(rank == 1)];
            check_equal(ranks, "the weights", &own)
                .unwrap_err()
                .to_string()
        });
        let expected = "the weights of rank 1 differ from those of rank 0";
        assert_eq!(found, [expected; 3]);
    }
}
