//! TFRecord framing: what lies around each event in a file.
//!
//! ```text
//! u64  length of the data             little-endian, as all of it
//! u32  masked CRC32C of the length
//!      data
//! u32  masked CRC32C of the data
//! ```
//!
//! CRC32C is written here: it is twenty lines with published test vectors (RFC 3720, B.4), the crates of the tree have the
//! other CRC32, and a table of bytes keeps up with what is logged (a PNG of 1 MB every few hundred steps).

/// The Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8)
    });
    !crc
}

/// The checksum as TFRecord has it: a CRC over data that holds its own CRC would be weak.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// The data as a record.
pub(super) fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc32c(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc32c(data).to_le_bytes());
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_the_published_values() {
        // RFC 3720, B.4, and the check value of the Catalogue of parametrised CRC algorithms
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        let cases: [(&[u8], u32); 6] = [
            (b"", 0),
            (b"123456789", 0xE306_9283),
            (&[0; 32], 0x8A91_36AA),
            (&[0xFF; 32], 0x62A8_AB43),
            (&ascending, 0x46DD_794E),
            (&descending, 0x113F_DB5C),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(bytes, expected)| crc32c(bytes) != *expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:x?}");
    }

    #[test]
    fn records_have_these_bytes() {
        // as TensorBoard's own RecordWriter frames them
        assert_eq!(
            record(b"ibot"),
            [
                &[4, 0, 0, 0, 0, 0, 0, 0][..],
                &0x0452_4542_u32.to_le_bytes(),
                b"ibot",
                &0xBC3C_3970_u32.to_le_bytes(),
            ]
            .concat()
        );
        assert_eq!(record(b"").len(), 16);
    }
}
