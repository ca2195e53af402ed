//! TFRecord framing: what lies around each event in a file.
//!
//! ```text
//! u64  length of the data             little-endian, as all of it
//! u32  masked CRC32C of the length
//!      data
//! u32  masked CRC32C of the data
//! ```

use crc32c::crc32c;

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
