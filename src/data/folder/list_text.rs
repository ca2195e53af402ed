//! The text of a list or table of images, as editors and shells write it.

use std::path::Path;

use crate::data::storage::stored::{Facts, read_all};
use crate::error::{Error, Result};

/// Whose texts are UTF-16.
const UTF_16: &str =
    "is a text in UTF-16, as PowerShell's `>` and some editors write it: save it as UTF-8";

/// The text of a file, without the mark that Windows puts before it.
///
/// # Errors
/// It cannot be read, or is no file or no UTF-8, which the message says how to mend.
pub(super) fn text_of(path: &Path) -> Result<String> {
    // a pipe could keep it waiting for ever
    if !Facts::now(path).map_err(Error::io(path))?.is_file {
        return Err(Error::data(path, "is no file despite its ending"));
    }
    decoded(read_all(path).map_err(Error::io(path))?).map_err(|reason| Error::data(path, reason))
}

fn decoded(bytes: Vec<u8>) -> std::result::Result<String, String> {
    let is_utf_16 = match &bytes[..] {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        // without the mark: every other byte of a path in ASCII is zero
        bytes => bytes.iter().take(2).any(|byte| *byte == 0),
    };
    if is_utf_16 {
        return Err(UTF_16.to_owned());
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} is no UTF-8: save it as UTF-8; a byte of a name that is none is written as \\xff")
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_every_system() {
        assert_eq!(
            decoded(b"\xef\xbb\xbfa.png\r\n".to_vec()).unwrap(),
            "a.png\r\n"
        );
        assert_eq!(decoded("\u{e4}.png".into()).unwrap(), "\u{e4}.png");
        assert_eq!(decoded(Vec::new()).unwrap(), "");
        let utf_16 = |to_bytes: fn(u16) -> [u8; 2], text: &str| {
            text.encode_utf16().flat_map(to_bytes).collect::<Vec<u8>>()
        };
        for bytes in [
            utf_16(u16::to_le_bytes, "\u{feff}a.png"),
            utf_16(u16::to_be_bytes, "\u{feff}a.png"),
            utf_16(u16::to_le_bytes, "a.png"),
            utf_16(u16::to_be_bytes, "a.png"),
        ] {
            let reason = decoded(bytes).unwrap_err();
            assert!(
                reason.contains("UTF-16") && reason.contains("UTF-8"),
                "{reason}"
            );
        }
        let reason = decoded(b"a\nb\nK\xe4se".to_vec()).unwrap_err();
        assert!(
            reason.starts_with("line 3 is no UTF-8: save it"),
            "{reason}"
        );
    }
}
