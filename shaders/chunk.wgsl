// Entries that a lane handles at once: vectors of 4 where a row is a multiple of that, else single ones.

alias Chunk = {{ chunk }};

/// Where a running maximum starts; a difference of two of them is still finite.
const LOWEST = -3.0e38;

fn largest(v: Chunk) -> f32 {
    return {{ largest }};
}

fn total(v: Chunk) -> f32 {
    return {{ total }};
}
