//! timm's names, their tags and the normalization of each are those of timm (tests/fixtures/timm_tags.py).

use std::collections::BTreeMap;

use ibot::backbone::{Normalization, encoder_names, encoder_tags, timm_normalization};
use serde::Deserialize;

#[derive(Deserialize)]
struct Recorded {
    names: BTreeMap<String, Vec<Tag>>,
}

#[derive(Deserialize)]
struct Tag {
    tag: String,
    mean: [f32; 3],
    std: [f32; 3],
}

#[test]
fn names_carry_timms_normalization() {
    let recorded: Recorded =
        serde_json::from_str(include_str!("../fixtures/timm_tags.json")).unwrap();
    let mut seen = [0; 3];
    for name in encoder_names() {
        let tags = &recorded.names[&name];
        let known: Vec<&str> = tags.iter().map(|tag| tag.tag.as_str()).collect();
        assert_eq!(encoder_tags(&name), known, "{name}");
        for Tag { tag, mean, std } in tags {
            let (mean, std) = (*mean, *std);
            let expected = Normalization { mean, std };
            assert_eq!(
                timm_normalization(&format!("{name}.{tag}")),
                expected,
                "{name}.{tag}"
            );
            let named = [
                Normalization::IMAGENET,
                Normalization::HALF,
                Normalization::CLIP,
            ];
            seen[named.iter().position(|named| *named == expected).unwrap()] += 1;
        }
        // the name alone is timm's default, its first tag
        let default = format!("{name}.{}", known[0]);
        assert_eq!(timm_normalization(&name), timm_normalization(&default));
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
