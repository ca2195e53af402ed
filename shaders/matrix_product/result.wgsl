// What becomes of a finished sum: `after(left x right + bias) + residual`, where after is nothing, GELU, or GELU's
// derivative at another matrix as a factor; and, where it is asked for, GELU of that other matrix, or else of the result.

/// Where a block of the product lies.
struct Target {
    /// First element of the matrix in `product`.
    start: u32,
    rows: u32,
    columns: u32,
    row: u32,
    /// First column, within the matrix.
    column: u32,
}

{{ each gelu_gradient }}
fn slope_of_gelu(x: vec4<f32>) -> vec4<f32> {
    let decay = decay_of(x);
    return probability_below(x, decay) + x * (PEAK * decay);
}
{{ end }}

{{ each activated }}
fn write_activated(at: u32, room: u32, y: vec4<f32>) {
    {{ each vectors }}
    activated[at] = Stored(y);
    {{ end }}
    {{ each singles }}
    activated[at] = Stored(y.x);
    if room > 0u {
        activated[at + 1u] = Stored(y.y);
    }
    if room > 1u {
        activated[at + 2u] = Stored(y.z);
    }
    if room > 2u {
        activated[at + 3u] = Stored(y.w);
    }
    {{ end }}
}
{{ end }}

fn write_row(sum: vec4<f32>, place: Target, offset: u32) {
    let row = place.row + offset;
    if row >= place.rows {
        return;
    }
    let at = place.start + row * (place.columns / ENTRIES) + place.column / ENTRIES;
    let room = place.columns - 1u - place.column;
    var y = sum;
    {{ each vectors }}
    {{ each bias }}
    y += bias[place.column / 4u];
    {{ end }}
    {{ each gelu_gradient }}
    let before = vec4<f32>(at_gelu[at]);
    {{ end }}
    {{ end }}
    {{ each singles }}
    {{ each bias }}
    let of_bias = within(place.column, room);
    y += vec4<f32>(bias[of_bias.x], bias[of_bias.y], bias[of_bias.z], bias[of_bias.w]);
    {{ end }}
    {{ each gelu_gradient }}
    let of_gelu = within(at, room);
    let before = vec4<f32>(vec4(at_gelu[of_gelu.x], at_gelu[of_gelu.y], at_gelu[of_gelu.z], at_gelu[of_gelu.w]));
    {{ end }}
    {{ end }}
    {{ each activated }}
    var x = y;
    {{ end }}
    {{ each gelu_gradient }}
    {{ each activated }}
    x = before;
    {{ end }}
    y *= slope_of_gelu(before);
    {{ end }}
    {{ each activated }}
    write_activated(at, room, x * probability_below(x, decay_of(x)));
    {{ end }}
    {{ each gelu }}
    y = y * probability_below(y, decay_of(y));
    {{ end }}
    {{ each vectors }}
    {{ each residual }}
    y += vec4<f32>(residual[at]);
    {{ end }}
    product[at] = Stored(y);
    {{ end }}
    {{ each singles }}
    {{ each residual }}
    let of_residual = within(at, room);
    y += vec4<f32>(
        vec4(residual[of_residual.x], residual[of_residual.y], residual[of_residual.z], residual[of_residual.w]),
    );
    {{ end }}
    product[at] = Stored(y.x);
    if room > 0u {
        product[at + 1u] = Stored(y.y);
    }
    if room > 1u {
        product[at + 2u] = Stored(y.z);
    }
    if room > 2u {
        product[at + 3u] = Stored(y.w);
    }
    {{ end }}
}

/// Four rows of four columns; the first column is within the matrix, rows and the other columns may not be.
fn write_block(sum: mat4x4<f32>, place: Target) {
    write_row(sum[0], place, 0u);
    write_row(sum[1], place, 1u);
    write_row(sum[2], place, 2u);
    write_row(sum[3], place, 3u);
}

{{ each totals }}
/// Sums of four columns of right, the first one within the matrix; `start` is the element at which those of its part start.
fn write_totals(total: vec4<f32>, start: u32, column: u32, columns: u32) {
    let at = start + column / ENTRIES;
    {{ each vectors }}
    totals[at] = total;
    {{ end }}
    {{ each singles }}
    let room = columns - 1u - column;
    totals[at] = total.x;
    if room > 0u {
        totals[at + 1u] = total.y;
    }
    if room > 1u {
        totals[at + 2u] = total.z;
    }
    if room > 2u {
        totals[at + 3u] = total.w;
    }
    {{ end }}
}
{{ end }}
