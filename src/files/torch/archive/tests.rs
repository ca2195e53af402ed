//! Damaged and hostile files are errors; what good ones hold is in tests/torch_files.rs.

use std::io::Cursor;

use super::*;

const FILES: [&str; 4] = ["tensors", "tensors_protocol_4", "ibot", "lightning"];

fn file(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/torch");
    std::fs::read(format!("{folder}/{name}.pth")).unwrap()
}

fn read(bytes: &[u8]) -> Checked<BTreeMap<String, NamedTensor>> {
    let length = bytes.len() as u64;
    let mut archive = Archive::open(Cursor::new(bytes), length)?;
    let pickle = archive.pickle()?;
    tensors(&pickle, length, |storage| archive.storage(storage))
}

/// splitmix64, to be the same everywhere.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % bound
    }

    /// Flips, cuts, moves and repeats a few bytes, or puts in numbers at the borders of their types.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 if at > 16 => bytes.truncate(at),
                3 => {
                    let end = (at + self.below(8)).min(bytes.len() - 1);
                    bytes.drain(at.min(end)..end);
                }
                4 => {
                    let from = self.below(bytes.len());
                    let piece = bytes[from..(from + self.below(64)).min(bytes.len())].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
                _ => {
                    let number = [0, 1, 0x7f, 0x80, 0xff][self.below(5)];
                    let end = (at + (1 << self.below(4))).min(bytes.len());
                    bytes[at..end].fill(number);
                }
            }
        }
    }
}

#[test]
fn damaged_archives_are_errors() {
    let mut draw = Draw(1);
    let mut refused = 0;
    for name in FILES {
        let whole = file(name);
        assert!(read(&whole).is_ok(), "{name}");
        for _ in 0..400 {
            let mut bytes = whole.clone();
            draw.damage(&mut bytes);
            refused += usize::from(read(&bytes).is_err());
        }
    }
    assert!(refused > 800, "only {refused} refused");
}

#[test]
fn a_flipped_bit_in_a_weight_is_found() {
    let mut bytes = file("ibot");
    let Some(NamedTensor { values, .. }) =
        read(&bytes).unwrap().remove("teacher.backbone.cls_token")
    else {
        panic!("no class token");
    };
    let entry = values[0].to_le_bytes();
    let at = bytes.windows(4).position(|window| window == entry).unwrap();
    bytes[at] ^= 1;
    match read(&bytes) {
        Err(Fault::Content(reason)) => assert!(reason.contains("Invalid checksum"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Past the archive's checksums.
#[test]
fn damaged_pickles_do_not_panic() {
    let mut draw = Draw(2);
    let [mut refused, mut read] = [0, 0];
    for name in FILES {
        let bytes = file(name);
        let length = bytes.len() as u64;
        let mut archive = Archive::open(Cursor::new(bytes), length).unwrap();
        let whole = archive.pickle().unwrap();
        for _ in 0..1500 {
            let mut pickle = whole.clone();
            draw.damage(&mut pickle);
            let found = tensors(&pickle, length, |storage| archive.storage(storage));
            match found {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        refused > 500 && read > 500,
        "{refused} refused, {read} read"
    );
}

#[test]
fn hostile_pickles_are_refused_soon() {
    let none = |_: &str| Err(Fault::Content("no storage".into()));
    let refusal = |pickle: &[u8]| match tensors(pickle, 100, none) {
        Err(Fault::Content(reason)) => reason,
        other => panic!("{other:?}"),
    };
    // {"a": d, "b": d} twenty times around each other: 2^20 names; d is memo 0
    let mut doubling = b"\x80\x02}q\x00".to_vec();
    for _ in 0..15 {
        doubling.extend(
            b"}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00X\x01\x00\x00\x00ch\x00uq\x00",
        );
    }
    doubling.push(b'.');
    assert!(refusal(&doubling).contains("more than 1048576 entries"));
    // {"a": itself}
    let cycle = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.";
    assert!(refusal(cycle).contains("no named float tensors"));
    let endless = [b"\x80\x02".to_vec(), vec![b'N'; 1 << 25]].concat();
    assert!(refusal(&endless).contains("more than 16777216 instructions"));
    let long_text = b"\x80\x02X\xff\xff\xff\xffa.";
    assert!(refusal(long_text).contains("ends too early"));
    for empty_stack in [
        b"\x80\x02.".as_slice(),
        b"\x80\x02R.",
        b"\x80\x02(u.",
        b"\x80\x02e.",
        b"\x80\x02(0.",
        b"\x80\x02NN(\x86t.",
    ] {
        assert!(refusal(empty_stack).contains("takes a value from an empty stack"));
    }
}
