// Vectors of pairs, as the prototypes' potentials are: entry 0 of all pairs of a chunk and entry 1 of them, in two chunks
// that hold the pairs side by side.

/// Entry 0 of the pairs in two chunks, the lower one first.
fn first_of(low: Chunk, high: Chunk) -> Chunk {
    return {{ first }};
}

/// Entry 1 of them.
fn second_of(low: Chunk, high: Chunk) -> Chunk {
    return {{ second }};
}

/// The lower chunk of the pairs of two chunks.
fn low_of(first: Chunk, second: Chunk) -> Chunk {
    return {{ low }};
}

/// The higher one.
fn high_of(first: Chunk, second: Chunk) -> Chunk {
    return {{ high }};
}
