//! The chunks of a PNG file.

/// What the last chunk is, with its length and checksum.
const END: &[u8] = b"\0\0\0\0IEND\xaeB`\x82";

/// The name and the data of each chunk that lies in the file to its end.
pub fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (chunk, behind) = first(rest)?;
        rest = behind;
        Some(chunk)
    })
}

/// Ends a file whose last chunk is missing or cut; the pixels are all there, or their decoder says that they are not.
pub fn complete(bytes: &mut Vec<u8>) {
    let mut at = 8;
    let mut has_pixels = false;
    while let Some(((kind, _), behind)) = bytes.get(at..).and_then(first) {
        if kind == b"IEND" {
            return;
        }
        has_pixels |= kind == b"IDAT";
        at = bytes.len() - behind.len();
    }
    let is_cut_in_pixels = bytes.get(at + 4..at + 8) == Some(b"IDAT");
    if has_pixels && !is_cut_in_pixels {
        bytes.truncate(at);
        bytes.extend_from_slice(END);
    }
}

type Chunk<'a> = (&'a [u8], &'a [u8]);

/// The first chunk, and what lies behind its checksum.
fn first(bytes: &[u8]) -> Option<(Chunk<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_at_checked(4)?;
    let (data, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some(((kind, data), rest.get(4..)?))
}
