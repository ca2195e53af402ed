//! The few protocol-buffer messages of an event file.
//!
//! Field numbers: tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto. Written for `prost` by hand;
//! docs/architecture.md says why no crate has them.

use prost::Message as _;

/// What an event is about.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionLog {
    #[prost(uint32, tag = "1")]
    status: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Point", tags = "2, 4")]
    point: Option<Point>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Point {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Image {
    #[prost(uint32, tag = "1")]
    height: u32,
    #[prost(uint32, tag = "2")]
    width: u32,
    /// Number of channels.
    #[prost(uint32, tag = "3")]
    colorspace: u32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(uint64, tag = "2")]
    step: u64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

impl What {
    /// The first event of a file.
    pub fn file_version() -> Self {
        Self::FileVersion("brain.Event:2".into())
    }

    /// A number.
    pub fn scalar(tag: &str, value: f32) -> Self {
        Self::summary(tag, Point::Scalar(value))
    }

    /// An RGB image of this width and height.
    pub fn image(tag: &str, [width, height]: [u32; 2], png: Vec<u8>) -> Self {
        let image = Image {
            height,
            width,
            colorspace: 3,
            encoded: png,
        };
        Self::summary(tag, Point::Image(image))
    }

    /// `SessionLog` START: earlier events of the event's step or a later one count no more.
    pub fn session_start() -> Self {
        Self::SessionLog(SessionLog { status: 1 })
    }

    fn summary(tag: &str, point: Point) -> Self {
        let value = Value {
            tag: tag.into(),
            point: Some(point),
        };
        Self::Summary(Summary {
            values: vec![value],
        })
    }
}

/// The event as protocol-buffer bytes; `wall_time` is in seconds since 1970.
pub(super) fn event(wall_time: f64, step: u64, what: What) -> Vec<u8> {
    let what = Some(what);
    let event = Event {
        wall_time,
        step,
        what,
    };
    event.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::record::record;
    use super::*;

    /// Written by TensorBoard's own messages and record writer: tests/fixtures/events.py.
    const FILE: &[u8] =
        include_bytes!("../../../../tests/fixtures/events/events.out.tfevents.1700000000.ibot.1");
    const PNG: &[u8] = include_bytes!("../../../../tests/fixtures/events/image.png");

    #[test]
    fn events_have_the_bytes_tensorboard_writes() {
        let scalar = |value| What::scalar("loss/total", value);
        let start = 1_700_000_000.25;
        let events = [
            event(start, 0, What::file_version()),
            event(start + 1.0, 0, scalar(0.0)),
            event(start + 2.0, 1, scalar(9.75)),
            event(start + 3.0, 300, scalar(-1.0e-30)),
            event(start + 4.0, 5_000_000_000, scalar(f32::INFINITY)),
            event(start + 5.0, 300, What::image("masks", [3, 200], PNG.into())),
            event(start + 6.0, 299, What::session_start()),
            event(start + 7.0, 299, What::session_start()),
            event(start + 8.0, 299, What::scalar("Verlust/größe", 0.1)),
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
