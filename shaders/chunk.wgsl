// Entries that a lane handles at once: vectors of 4 where a row is a multiple of that, else single ones.

alias Chunk = {{ chunk }};

/// Where a running maximum starts. Below any logit, and finite in every difference and times every inverse temperature
/// up to 1e8: Metal's compiler takes it that no float is infinite.
const LOWEST = -1.0e30;

fn largest(v: Chunk) -> f32 {
    return {{ largest }};
}

fn total(v: Chunk) -> f32 {
    return {{ total }};
}
