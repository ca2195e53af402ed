//! Number formats in which ranks exchange gradients.

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use serde::{Deserialize, Serialize};

/// Binary exponent that the largest number of a message is brought to: sums of f16 are made in f32, so that only a single
/// number must stay below f16's largest one, 65504.
const LARGEST_EXPONENT: i32 = 14;
/// A scale is a power of two that f32 has, also as its inverse.
const EXPONENTS: i32 = 100;

/// Number format in which ranks exchange gradients; sums are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// As it is.
    #[default]
    F32,
    /// In half the bytes: rounded to 11 bits, or fewer where it is less than 2^-28 of the largest of its message.
    F16,
}

impl Wire {
    /// Whether it is the one that loses nothing.
    pub fn is_exact(self) -> bool {
        self == Self::F32
    }

    /// The bytes of numbers, little-endian, so that ranks of any machines understand each other.
    pub fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => flattened(values.iter().map(|value| value.to_le_bytes())),
            Self::F16 => {
                let exponent = exponent_of(values);
                let scale = 2f32.powi(exponent);
                let scaled: Vec<f32> = values.iter().map(|value| value * scale).collect();
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(&scaled);
                let halves = flattened(halves.iter().map(|half| half.to_le_bytes()));
                [&exponent.to_le_bytes()[..], &halves].concat()
            }
        }
    }

    /// The numbers of [`Wire::bytes`].
    pub fn values(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => {
                let values = bytes.as_chunks::<4>().0.iter();
                values.map(|&value| f32::from_le_bytes(value)).collect()
            }
            Self::F16 => {
                let Some((exponent, halves)) = bytes.split_first_chunk::<4>() else {
                    return Vec::new();
                };
                let inverse = 2f32.powi(-i32::from_le_bytes(*exponent));
                let halves = halves.as_chunks::<2>().0.iter();
                let values = halves.map(|&half| f16::from_le_bytes(half).to_f32() * inverse);
                values.collect()
            }
        }
    }
}

/// As arrays first: bytes one by one take ten times as long.
fn flattened<const N: usize>(numbers: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    numbers.collect::<Vec<[u8; N]>>().into_flattened()
}

/// The exponent of the scale that brings the largest finite number below 2^15; 0 for zeros alone.
fn exponent_of(values: &[f32]) -> i32 {
    let finite = values.iter().map(|value| value.abs());
    let finite = finite.filter(|value| value.is_finite());
    let largest = finite.fold(0.0, f32::max);
    if largest == 0.0 {
        return 0;
    }
    // of a number below f32's normal ones too: its logarithm may be off by one, which leaves it below 2^16
    let exponent = LARGEST_EXPONENT - largest.log2().floor() as i32;
    exponent.clamp(-EXPONENTS, EXPONENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_keep_eleven_bits_at_any_scale() {
        for scale in [1e-30, 1e-8, 1.0, 3e8, 1e30] {
            let values: Vec<f32> = (-50..=50).map(|at| at as f32 * 0.37 * scale).collect();
            let bytes = Wire::F16.bytes(&values);
            assert_eq!(bytes.len(), 4 + 2 * values.len());
            let found = Wire::F16.values(&bytes);
            for (found, value) in found.iter().zip(&values) {
                let error = (found - value).abs();
                assert!(error <= value.abs() / 2048.0, "{found}, not {value}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_arrives() {
        let found = Wire::F16.values(&Wire::F16.bytes(&[f32::NAN, f32::INFINITY, 1.5, -0.0]));
        assert!(found[0].is_nan());
        assert_eq!(found[1..3], [f32::INFINITY, 1.5]);
        assert!(found[3] == 0.0 && found[3].is_sign_negative());
        assert_eq!(Wire::F16.values(&Wire::F16.bytes(&[0.0; 3])), [0.0; 3]);
        let exact = [1.0, f32::MIN_POSITIVE / 2.0, -3.7e30];
        assert_eq!(Wire::F32.values(&Wire::F32.bytes(&exact)), exact);
    }
}
