//! Line charts.

use image::{Rgb, RgbImage};

use super::axis::Axis;
use super::font::HEIGHT;
use super::paint::{FAINT, INK, PAPER, blend, draw_text, fill, shortened, text_width};

/// Size of the area inside the axes.
const PLOT: [u32; 2] = [720, 400];
/// Left top corner of that area.
const CORNER: [i64; 2] = [112, 88];
/// Space below it, for numbers and the name of the axis.
const BELOW: u32 = 68;
/// Names in the legend are cut off at this width.
const LEGEND: u32 = 300;
/// Scale of all letters but the title's, which is one more: to be read where a page shows the chart at half its size.
const LETTER: u32 = 2;
/// Colors that people who do not see red or green can tell apart (Okabe and Ito, 2008), black last.
const COLORS: [Rgb<u8>; 8] = [
    Rgb([0, 114, 178]),
    Rgb([213, 94, 0]),
    Rgb([0, 158, 115]),
    Rgb([204, 121, 167]),
    Rgb([230, 159, 0]),
    Rgb([86, 180, 233]),
    Rgb([240, 228, 66]),
    Rgb([0, 0, 0]),
];
/// Lines of at most this many points show them as dots.
const DOTS: usize = 40;

/// What is written around a chart.
#[derive(Debug, Clone, Default)]
pub struct ChartConfig {
    /// Text above the chart, in large letters. Default empty.
    pub title: String,
    /// Text below the horizontal axis. Default empty.
    pub x_label: String,
    /// Text above the vertical axis. Default empty.
    pub y_label: String,
    /// Whether the vertical axis is logarithmic; values of 0 or less are then left out. Default false.
    pub log_y: bool,
}

/// A named line.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// `[x, y]` in the order in which they are joined; where one is not finite the line is interrupted.
    pub points: Vec<[f64; 2]>,
}

/// Lines in one pair of axes with numbers, and a legend at the right. After eight series colors repeat.
///
/// # Shapes
/// 556 pixels high, 896 to 1196 wide: as the names in the legend need.
pub fn line_chart(config: &ChartConfig, series: &[Series]) -> RgbImage {
    let points = || series.iter().flat_map(|series| &series.points);
    let x_axis = Axis::fit(points().map(|point| point[0]), false, 0.02);
    let y_axis = Axis::fit(points().map(|point| point[1]), config.log_y, 0.05);
    let names = || {
        series
            .iter()
            .map(|series| shortened(&series.name, LEGEND, LETTER))
    };
    let longest = names().map(|name| text_width(&name, LETTER)).max();
    let legend = longest.unwrap_or(0) + 64;
    let width = CORNER[0] as u32 + PLOT[0] + legend;
    let mut image = RgbImage::from_pixel(width, CORNER[1] as u32 + PLOT[1] + BELOW, PAPER);

    let title = shortened(&config.title, width - 16, LETTER + 1);
    draw_text(&mut image, [8, 8], &title, LETTER + 1);
    draw_frame(&mut image, config, &x_axis, &y_axis);
    for (index, (series, name)) in series.iter().zip(names()).enumerate() {
        let color = COLORS[index % COLORS.len()];
        let pixel = |point: &[f64; 2]| {
            Some([
                x_axis.place(point[0])? * f64::from(PLOT[0] - 1),
                (1.0 - y_axis.place(point[1])?) * f64::from(PLOT[1] - 1),
            ])
        };
        let points: Vec<_> = series.points.iter().map(pixel).collect();
        draw_line(&mut image, &points, color);
        let [x, y] = [
            CORNER[0] + i64::from(PLOT[0]) + 16,
            CORNER[1] + index as i64 * 28,
        ];
        fill(&mut image, [x, y + 5], [24, 4], color);
        draw_text(&mut image, [x + 32, y], &name, LETTER);
    }
    image
}

/// Grid, numbers and names of the axes.
fn draw_frame(image: &mut RgbImage, config: &ChartConfig, x_axis: &Axis, y_axis: &Axis) {
    let [left, top] = CORNER;
    let [width, height] = PLOT.map(i64::from);
    let letter = i64::from(HEIGHT * LETTER);
    for (value, label) in &x_axis.ticks {
        let Some(place) = x_axis.place(*value) else {
            continue;
        };
        let x = left + (place * (width - 1) as f64).round() as i64;
        fill(image, [x, top], [1, PLOT[1]], FAINT);
        fill(image, [x, top + height], [1, 5], INK);
        let half = i64::from(text_width(label, LETTER) / 2);
        draw_text(image, [x - half, top + height + 9], label, LETTER);
    }
    for (value, label) in &y_axis.ticks {
        let Some(place) = y_axis.place(*value) else {
            continue;
        };
        let y = top + ((1.0 - place) * (height - 1) as f64).round() as i64;
        fill(image, [left, y], [PLOT[0], 1], FAINT);
        fill(image, [left - 5, y], [5, 1], INK);
        let x = left - 9 - i64::from(text_width(label, LETTER));
        draw_text(image, [x, y - letter / 2], label, LETTER);
    }
    fill(image, [left - 1, top], [1, PLOT[1] + 1], INK);
    fill(image, [left - 1, top + height], [PLOT[0] + 1, 1], INK);
    let log = if config.log_y { " (log scale)" } else { "" };
    let y_label = format!("{}{log}", config.y_label);
    draw_text(image, [8, top - 36], y_label.trim_start(), LETTER);
    let middle = left + (width - i64::from(text_width(&config.x_label, LETTER))) / 2;
    draw_text(image, [middle, top + height + 38], &config.x_label, LETTER);
}

/// Joins points, given in pixels of the plot, by a line two pixels wide.
fn draw_line(image: &mut RgbImage, points: &[Option<[f64; 2]>], color: Rgb<u8>) {
    // The line as a whole is drawn once, so that pixels under two pieces do not get darker.
    let mut shares = vec![0.0f64; (PLOT[0] * PLOT[1]) as usize];
    let mut add = |from: [f64; 2], to: [f64; 2], radius: f64| {
        let [width, height] = PLOT.map(i64::from);
        let reach = radius + 1.0;
        let range = |axis: usize, end: i64| {
            let low = (from[axis].min(to[axis]) - reach).floor() as i64;
            let high = (from[axis].max(to[axis]) + reach).ceil() as i64;
            low.max(0)..high.saturating_add(1).min(end)
        };
        for y in range(1, height) {
            for x in range(0, width) {
                let distance = distance_to_segment([x as f64, y as f64], from, to);
                let share = &mut shares[(y * width + x) as usize];
                *share = share.max((radius + 0.5 - distance).clamp(0.0, 1.0));
            }
        }
    };
    for pair in points.windows(2) {
        if let [Some(from), Some(to)] = *pair {
            add(from, to, 1.0);
        }
    }
    if points.len() <= DOTS {
        for &point in points.iter().flatten() {
            add(point, point, 2.5);
        }
    }
    for (index, &share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        let [x, y] = [
            index as i64 % i64::from(PLOT[0]),
            index as i64 / i64::from(PLOT[0]),
        ];
        blend(image, [CORNER[0] + x, CORNER[1] + y], color, share);
    }
}

fn distance_to_segment(point: [f64; 2], from: [f64; 2], to: [f64; 2]) -> f64 {
    let along = [to[0] - from[0], to[1] - from[1]];
    let offset = [point[0] - from[0], point[1] - from[1]];
    let square = along[0] * along[0] + along[1] * along[1];
    let place = (offset[0] * along[0] + offset[1] * along[1]) / square.max(1e-12);
    let place = place.clamp(0.0, 1.0);
    (offset[0] - place * along[0]).hypot(offset[1] - place * along[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[[f64; 2]]) -> Series {
        Series {
            name: "a".into(),
            points: points.to_vec(),
        }
    }

    /// Rows of the plot where a column has the first color in full.
    fn rows(image: &RgbImage, x: u32) -> Vec<u32> {
        let x = CORNER[0] as u32 + x;
        (0..PLOT[1])
            .filter(|y| *image.get_pixel(x, CORNER[1] as u32 + y) == COLORS[0])
            .collect()
    }

    #[test]
    fn lines_go_through_their_points() {
        let line = series(&[[0.0, 0.0], [10.0, 10.0], [20.0, 0.0]]);
        let image = line_chart(&ChartConfig::default(), &[line]);
        let middle = rows(&image, PLOT[0] / 2);
        // 5 % of the range is free above the highest point: 400 * 0.05 / 1.1 = 18
        assert!(
            middle.iter().all(|y| (14..=24).contains(y)) && !middle.is_empty(),
            "{middle:?}"
        );
        let quarter = rows(&image, PLOT[0] / 4);
        assert!(
            quarter.iter().all(|y| (180..=220).contains(y)) && !quarter.is_empty(),
            "{quarter:?}"
        );
    }

    #[test]
    fn a_value_that_is_not_finite_interrupts() {
        let points: Vec<_> = (0..=50)
            .map(|x| [f64::from(x), if x == 25 { f64::NAN } else { 1.0 }])
            .collect();
        let image = line_chart(&ChartConfig::default(), &[series(&points)]);
        assert!(rows(&image, PLOT[0] / 2).is_empty());
        assert!(!rows(&image, PLOT[0] / 4).is_empty());
    }

    #[test]
    fn odd_input_is_drawn() {
        let empty = line_chart(&ChartConfig::default(), &[]);
        assert!(empty.width() > PLOT[0]);
        let config = ChartConfig {
            title: "long ".repeat(100),
            log_y: true,
            ..ChartConfig::default()
        };
        let points = [
            [0.0, -1.0],
            [1.0, 0.0],
            [1.0, 1e300],
            [f64::INFINITY, 1e-300],
        ];
        line_chart(&config, &[series(&points), series(&[])]);
    }
}
