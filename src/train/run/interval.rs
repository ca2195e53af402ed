//! An interval in steps or in time.

use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An interval. As text, `200` is steps, and `30s`, `10m` and `2h` are time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Interval {
    /// Number of steps.
    Steps(usize),
    /// Duration.
    Time(Duration),
}

impl Default for Interval {
    /// Ten minutes.
    fn default() -> Self {
        Self::Time(Duration::from_secs(600))
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        match interval {
            Interval::Steps(steps) => steps.max(1).to_string(),
            Interval::Time(time) => format!("{}s", time.as_secs().max(1)),
        }
    }
}

impl TryFrom<String> for Interval {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Interval {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let seconds = |unit: char| match unit {
            's' => Some(1),
            'm' => Some(60),
            'h' => Some(3600),
            _ => None,
        };
        let unit = text.chars().next_back().and_then(seconds);
        let digits = if unit.is_some() {
            &text[..text.len() - 1]
        } else {
            text
        };
        let number = digits.parse().ok().filter(|number| *number > 0);
        let found = number.and_then(|number: usize| match unit {
            None => Some(Self::Steps(number)),
            Some(unit) => (number as u64)
                .checked_mul(unit)
                .map(|all| Self::Time(Duration::from_secs(all))),
        });
        found.ok_or_else(|| {
            let remedy =
                "is not an interval; give steps, such as 200, or a time, such as 30s, 10m or 2h";
            Error::config("checkpoint_every", text, remedy)
        })
    }
}

/// When it was last done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    every: Interval,
    step: usize,
    time: Instant,
}

impl Due {
    /// Last done now, after `step` steps.
    pub fn after(every: Interval, step: usize) -> Self {
        Self {
            every,
            step,
            time: Instant::now(),
        }
    }

    /// Whether it is due after `step` steps.
    pub fn is_due(&self, step: usize) -> bool {
        match self.every {
            Interval::Steps(steps) => step.saturating_sub(self.step) >= steps,
            Interval::Time(time) => self.time.elapsed() >= time,
        }
    }

    /// Records that it was done.
    pub fn done(&mut self, step: usize) {
        *self = Self::after(self.every, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_steps_or_time() {
        let every = |text: &str| text.parse::<Interval>();
        assert_eq!(every("200").unwrap(), Interval::Steps(200));
        assert_eq!(
            every("10m").unwrap(),
            Interval::Time(Duration::from_secs(600))
        );
        assert_eq!(
            every("2h").unwrap(),
            Interval::Time(Duration::from_secs(7200))
        );
        for wrong in ["", "0", "m", "-3", "1d", "1.5m", "é", "99999999999999999h"] {
            let message = every(wrong).unwrap_err().to_string();
            assert!(message.contains("checkpoint_every"), "{wrong}: {message}");
        }
    }
}
