//! Which values of images with more than 8 bits become black and white.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::de::{Error as _, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// Which values of 16 bits, or floats, become black and white. Images of 8 bits stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ValueRange {
    /// Measured: from 0 to the largest value of as many bits, 8 to 16, as hold 99.9 % of the values; floats of 0 to 1 stay
    /// as they are. Of a folder it is measured once, on up to 64 of its images; of an image alone, on itself.
    #[default]
    Auto,
    /// All values of 16 bits; floats from 0 to 1.
    Full,
    /// From the first value, black, to the second, white; what lies outside is cut off.
    Between([f64; 2]),
}

const REMEDY: &str = "give auto, full, or two numbers, black and white, such as 0,4095";

impl ValueRange {
    /// Whether nothing is known: what a folder without images of more than 8 bits has.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    /// This range, or `other` where it is [`ValueRange::Auto`].
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.is_auto() { other } else { self }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// Numbers that are not finite, or not rising; named as the setting `folder.range`.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Between([low, high]) if !(low.is_finite() && high.is_finite() && low < high) => {
                let remedy = "black must be a smaller number than white, such as [0, 4095]";
                Err(Error::config("folder.range", self, remedy))
            }
            _ => Ok(()),
        }
    }

    /// Where a value lies between black, 0, and white, 1. For [`ValueRange::Between`].
    pub(in crate::data) fn share([low, high]: [f64; 2], value: f64) -> f64 {
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }
}

impl Display for ValueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Full => f.write_str("full"),
            Self::Between([low, high]) => write!(f, "[{low}, {high}]"),
        }
    }
}

impl FromStr for ValueRange {
    type Err = String;

    /// `auto`, `full` or `LOW,HIGH`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.trim() {
            "auto" => return Ok(Self::Auto),
            "full" => return Ok(Self::Full),
            _ => {}
        }
        let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
        let (low, high) = inner.split_once(',').ok_or(REMEDY)?;
        let number = |part: &str| part.trim().parse::<f64>().map_err(|_| REMEDY.to_owned());
        let range = Self::Between([number(low)?, number(high)?]);
        range.validate().map_err(|_| REMEDY.to_owned())?;
        Ok(range)
    }
}

impl Serialize for ValueRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Between(range) => range.serialize(serializer),
            named => serializer.collect_str(named),
        }
    }
}

impl<'de> Deserialize<'de> for ValueRange {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Range;

        impl<'de> Visitor<'de> for Range {
            type Value = ValueRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", \"full\" or [black, white], such as [0, 4095]")
            }

            fn visit_str<E: serde::de::Error>(
                self,
                text: &str,
            ) -> std::result::Result<ValueRange, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                seq: A,
            ) -> std::result::Result<ValueRange, A::Error> {
                let bounds = Vec::<f64>::deserialize(SeqAccessDeserializer::new(seq));
                let bounds = bounds.ok().and_then(|bounds| bounds.try_into().ok());
                let bounds = bounds.ok_or_else(|| A::Error::custom(REMEDY))?;
                Ok(ValueRange::Between(bounds))
            }
        }

        from.deserialize_any(Range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Settings {
        range: ValueRange,
    }

    #[test]
    fn it_is_read_and_written_as_settings_and_flags() {
        for (range, toml, flag) in [
            (ValueRange::Auto, "range = \"auto\"\n", "auto"),
            (ValueRange::Full, "range = \"full\"\n", "full"),
            (
                ValueRange::Between([0.0, 4095.0]),
                "range = [0.0, 4095.0]\n",
                "0,4095",
            ),
            (
                ValueRange::Between([-1.5, 2.0]),
                "range = [-1.5, 2.0]\n",
                "[-1.5, 2]",
            ),
        ] {
            let settings = Settings { range };
            assert_eq!(toml::to_string(&settings).unwrap(), toml);
            assert_eq!(toml::from_str::<Settings>(toml).unwrap(), settings);
            assert_eq!(flag.parse(), Ok(range));
            let json = serde_json::to_string(&settings).unwrap();
            assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
        }
        let whole: Settings = toml::from_str("range = [0, 4095]\n").unwrap();
        assert_eq!(whole.range, ValueRange::Between([0.0, 4095.0]));
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_remedy() {
        for wrong in ["12bit", "4095", "1,0", "0,nan", "0,1,2", ""] {
            assert_eq!(
                wrong.parse::<ValueRange>(),
                Err(REMEDY.to_owned()),
                "{wrong}"
            );
        }
        for wrong in [
            "range = 3\n",
            "range = [1]\n",
            "range = [1, 2, 3]\n",
            "range = \"ful\"\n",
        ] {
            let message = toml::from_str::<Settings>(wrong).unwrap_err().to_string();
            assert!(message.contains("4095"), "{wrong}: {message}");
        }
        let message = ValueRange::Between([5.0, 5.0]).validate().unwrap_err();
        assert!(
            message.to_string().contains("folder.range = [5, 5]"),
            "{message}"
        );
    }
}
