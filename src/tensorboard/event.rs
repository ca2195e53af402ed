//! The few protocol-buffer messages of an event file, field by field.
//!
//! Field numbers: tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto. A field that holds its
//! default is left out, as proto3 has it; members of a oneof are written always.

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum What<'a> {
    /// The first event of a file.
    FileVersion,
    /// A number.
    Scalar { tag: &'a str, value: f32 },
    /// An RGB picture.
    Image {
        tag: &'a str,
        width: u32,
        height: u32,
        png: &'a [u8],
    },
    /// `SessionLog` START: earlier events of the event's step or a later one count no more.
    SessionStart,
}

/// The event as protocol-buffer bytes; `wall_time` is in seconds since 1970.
pub(super) fn event(wall_time: f64, step: u64, what: What<'_>) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time);
    event.varint(2, step);
    match what {
        What::FileVersion => event.bytes(3, b"brain.Event:2"),
        What::Scalar { tag, value } => {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, value);
            event.bytes(5, &summary(&entry));
        }
        What::Image {
            tag,
            width,
            height,
            png,
        } => {
            let mut image = Message::default();
            image.varint(1, height.into());
            image.varint(2, width.into());
            image.varint(3, 3); // channels: RGB
            image.bytes(4, png);
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.bytes(4, &image.0);
            event.bytes(5, &summary(&entry));
        }
        What::SessionStart => {
            let mut log = Message::default();
            log.varint(1, 1); // status: START
            event.bytes(7, &log.0);
        }
    }
    event.0
}

/// A summary of one value.
fn summary(entry: &Message) -> Vec<u8> {
    let mut summary = Message::default();
    summary.bytes(1, &entry.0);
    summary.0
}

/// Fields of a message, in the order of their numbers.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    /// Number and wire type of the next field.
    fn key(&mut self, field: u64, wire_type: u64) {
        self.push_varint(field << 3 | wire_type);
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// An integer that is not negative; left out where it is 0.
    fn varint(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.key(field, 0);
            self.push_varint(value);
        }
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    /// A string, bytes or a message.
    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.push_varint(value.len() as u64);
        self.0.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::record;
    use super::*;

    /// Written by TensorBoard's own messages and record writer: tests/fixtures/events.py.
    const FILE: &[u8] =
        include_bytes!("../../tests/fixtures/events/events.out.tfevents.1700000000.ibot.1");
    const PNG: &[u8] = include_bytes!("../../tests/fixtures/events/picture.png");

    #[test]
    fn events_have_the_bytes_tensorboard_writes() {
        let scalar = |value| What::Scalar {
            tag: "loss/total",
            value,
        };
        let image = What::Image {
            tag: "masks",
            width: 3,
            height: 200,
            png: PNG,
        };
        let start = 1_700_000_000.25;
        let events = [
            event(start, 0, What::FileVersion),
            event(start + 1.0, 0, scalar(0.0)),
            event(start + 2.0, 1, scalar(9.75)),
            event(start + 3.0, 300, scalar(-1.0e-30)),
            event(start + 4.0, 5_000_000_000, scalar(f32::INFINITY)),
            event(start + 5.0, 300, image),
            event(start + 6.0, 299, What::SessionStart),
            event(start + 7.0, 299, What::SessionStart),
            event(
                start + 8.0,
                299,
                What::Scalar {
                    tag: "Verlust/größe",
                    value: 0.1,
                },
            ),
        ];
        let mut rest = FILE;
        for (index, bytes) in events.iter().enumerate() {
            let expected = record(bytes);
            let found = &rest[..expected.len().min(rest.len())];
            assert_eq!(found, expected, "event {index}");
            rest = &rest[expected.len()..];
        }
        assert!(rest.is_empty(), "{} bytes more", rest.len());
    }
}
