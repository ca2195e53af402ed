//! Line charts, drawn by the crate plotters: as PNG, and as SVG for a page.

use ibot::{Error, Result};
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};
use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::font::{CAPTION, MEDIUM, REGULAR};
use super::ticks::{is_shown, log_ticks, number, padded, span};

/// Size of a chart on a page, in CSS pixels; it is higher where the legend has more than `LEGEND_ROWS`.
const SIZE: [u32; 2] = [480, 300];
/// Rows of the legend that leave room for the curves.
const LEGEND_ROWS: u32 = 3;
/// Height of one.
const LEGEND_ROW: u32 = 18;
/// Where title and legend begin.
const LEFT: u32 = 14;
/// Drawn so many times larger, because plotters places everything at whole pixels.
const SCALE: u32 = 4;
/// Of a PNG.
const PNG_SCALE: u32 = 2;
/// Colors on a light page that people who do not see red or green can tell apart (Okabe and Ito, 2008), and lighter ones for a
/// dark page.
pub const COLORS: [[&str; 2]; 7] = [
    ["#0072B2", "#4FA8E0"],
    ["#D55E00", "#F08A45"],
    ["#009E73", "#35C99E"],
    ["#CC79A7", "#E39AC4"],
    ["#B8860B", "#E6B94A"],
    ["#56B4E9", "#8ACFF5"],
    ["#7A7A7A", "#B0B0B0"],
];
/// Letters, fainter letters and lines of the grid, likewise.
pub const INKS: [[&str; 2]; 3] = [
    ["#1F2328", "#E6E6E6"],
    ["#656D76", "#9DA5AE"],
    ["#D8DEE4", "#3A4048"],
];
/// Lines of at most this many points show them as dots.
const DOTS: usize = 24;
/// Lines of at least this many points can be smoothed, by the mean over a twenty-fifth of them.
const SMOOTHED: usize = 50;

/// A chart: lines in one pair of axes.
#[derive(Debug, Clone, Default)]
pub struct LineChart {
    /// What is shown.
    pub title: String,
    /// What the vertical axis measures, and its unit. The horizontal one is the step.
    pub y_label: String,
    /// Whether the vertical axis is logarithmic; values of 0 or less are then left out. One with a range below a factor of
    /// 20 is linear all the same, because few powers of ten lie in it. Default false.
    pub log_y: bool,
    /// Whether a smoothed line is drawn over the values, which become faint. Default false.
    pub smooth: bool,
    /// After seven of them colors repeat.
    pub series: Vec<Series>,
}

/// A named line.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// `[step, value]` in the order in which they are joined; where one is not finite the line is interrupted.
    pub points: Vec<[f64; 2]>,
}

/// A name in the legend.
struct Entry {
    /// From the first one in its row, in CSS pixels.
    x: u32,
    row: u32,
    name: String,
}

type Drawn<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

impl LineChart {
    /// As an image of 960 x 600 pixels, higher where the legend has more than three rows.
    ///
    /// # Errors
    /// None is known; those of plotters are passed on.
    pub fn png(&self) -> Result<RgbImage> {
        let size = self.size();
        let [width, height] = size.map(|side| side * SCALE);
        let mut large = RgbImage::from_pixel(width, height, Rgb([255; 3]));
        let area = BitMapBackend::with_buffer(&mut large, (width, height)).into_drawing_area();
        let drawn = self.draw(&area);
        drop(area);
        drawn.map_err(|error| self.failed(&error))?;
        let [width, height] = size.map(|side| side * PNG_SCALE);
        Ok(resize(&large, width, height, FilterType::Triangle))
    }

    /// As an SVG element whose text and colors a page can restyle: they are exactly [`COLORS`] and [`INKS`].
    ///
    /// # Errors
    /// As [`LineChart::png`].
    pub fn svg(&self) -> Result<String> {
        let [width, height] = self.size().map(|side| side * SCALE);
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        let drawn = self.draw(&area).and_then(|()| area.present());
        drop(area);
        drawn.map_err(|error| self.failed(&error))?;
        Ok(text)
    }

    /// What the chart shows, in words: with the last value of each line.
    pub fn description(&self) -> String {
        let last = |series: &Series| {
            let [step, value] = *series.points.iter().rfind(|point| is_shown(point[1]))?;
            let name = format!(" {}", series.name);
            Some(format!(
                "{} {} at step {step}",
                name.trim_end(),
                number(value)
            ))
        };
        let lines: Vec<String> = self.series.iter().filter_map(last).collect();
        let label = format!("{} ({}):{}", self.title, self.y_label, lines.join(","));
        label.trim_end_matches(':').to_owned()
    }

    /// Width and height in CSS pixels.
    fn size(&self) -> [u32; 2] {
        let rows = self.legend().last().map_or(0, |entry| entry.row + 1);
        [
            SIZE[0],
            SIZE[1] + rows.saturating_sub(LEGEND_ROWS) * LEGEND_ROW,
        ]
    }

    /// Where the names of the lines stand, in rows that are filled one after the other; none of a line alone.
    fn legend(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let [mut x, mut row] = [0, 0];
        if self.series.len() < 2 {
            return entries;
        }
        for series in &self.series {
            let name = CAPTION.shortened(&series.name, 400);
            let width = CAPTION.width(&name) + 34;
            if x > 0 && LEFT + x + width > SIZE[0] {
                [x, row] = [0, row + 1];
            }
            entries.push(Entry { x, row, name });
            x += width;
        }
        entries
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Error {
        Error::data("chart", format!("{} cannot be drawn: {error}", self.title))
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        for (name, bytes) in [("sans-serif", REGULAR), ("title", MEDIUM)] {
            // never fails: a test reads both files
            let _ = register_font(name, FontStyle::Normal, bytes);
        }
        let top = self.draw_head(area)?;
        let places = || self.series.iter().flat_map(|series| &series.points);
        let steps = span(places().map(|point| point[0]));
        let [x0, x1] = padded(steps, 0.02);
        let values = places().map(|point| point[1]);
        let [low, high] = span(values.clone().filter(|value| !self.log_y || *value > 0.0));
        let mut builder = ChartBuilder::on(area);
        builder
            .margin_top(top)
            .margin_right(scaled(16))
            .margin_bottom(scaled(6))
            .x_label_area_size(scaled(42));
        if self.log_y && low > 0.0 && high / low >= 20.0 {
            let ticks = log_ticks(low, high);
            let label_width = tick_width(&ticks);
            let axis = (low / 1.2..high * 1.2).log_scale().with_key_points(ticks);
            builder.y_label_area_size(label_width);
            return self.draw_lines(builder.build_cartesian_2d(x0..x1, axis)?);
        }
        let [low, high] = padded([low, high], 0.06);
        let axis = RangedCoordf64::from(low..high);
        builder.y_label_area_size(tick_width(&axis.key_points(6)));
        self.draw_lines(builder.build_cartesian_2d(x0..x1, axis)?)
    }

    /// Title, vertical axis and legend; returns the height that they take.
    fn draw_head<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> std::result::Result<u32, DrawingAreaErrorKind<B::ErrorType>> {
        let left = LEFT as i32;
        let title = text_style("title", 15, INKS[0][0], HPos::Left);
        area.draw_text(&self.title, &title, place(left, 18))?;
        let small = text_style("sans-serif", 12, INKS[1][0], HPos::Left);
        area.draw_text(&self.y_label, &small, place(left, 38))?;
        let mut bottom = 60;
        for (index, Entry { x, row, name }) in self.legend().into_iter().enumerate() {
            let (x, y) = (left + x as i32, 57 + row * LEGEND_ROW);
            let line = [x, x + 14].map(|x| place(x, y as i32)).to_vec();
            area.draw(&PathElement::new(
                line,
                color(index).stroke_width(scaled(3)),
            ))?;
            let style = text_style("sans-serif", 12, INKS[0][0], HPos::Left);
            area.draw_text(&name, &style, place(x + 19, y as i32))?;
            bottom = y + 20;
        }
        Ok(scaled(bottom))
    }

    fn draw_lines<B: DrawingBackend, Y>(
        &self,
        mut chart: ChartContext<'_, B, Cartesian2d<RangedCoordf64, Y>>,
    ) -> Drawn<B>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(ink(2).stroke_width(scaled(1)))
            .axis_style(ink(2).stroke_width(scaled(1)))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .label_style(text_style("sans-serif", 12, INKS[1][0], HPos::Left))
            .set_tick_mark_size(LabelAreaPosition::Bottom, scaled(7))
            .x_desc("step")
            .draw()?;
        for (index, series) in self.series.iter().enumerate() {
            let is_smoothed = self.smooth && series.points.len() >= SMOOTHED;
            let alpha = if is_smoothed { 0.25 } else { 1.0 };
            self.draw_line(&mut chart, &series.points, color(index).mix(alpha))?;
            if is_smoothed {
                self.draw_line(&mut chart, &smoothed(&series.points), color(index).mix(1.0))?;
            }
        }
        Ok(())
    }

    /// One line, in pieces where values are missing, and dots where they are few.
    fn draw_line<B: DrawingBackend, Y: Ranged<ValueType = f64>>(
        &self,
        chart: &mut ChartContext<'_, B, Cartesian2d<RangedCoordf64, Y>>,
        points: &[[f64; 2]],
        color: RGBAColor,
    ) -> Drawn<B> {
        let has_place =
            |[x, y]: &[f64; 2]| is_shown(*x) && is_shown(*y) && (!self.log_y || *y > 0.0);
        for piece in points.split(|point| !has_place(point)) {
            let piece: Vec<(f64, f64)> = piece.iter().map(|point| (point[0], point[1])).collect();
            if piece.len() == 1 || points.len() <= DOTS {
                let dot = |at: &(f64, f64)| Circle::new(*at, scaled(3), color.filled());
                chart.draw_series(piece.iter().map(dot))?;
            }
            let style = color.stroke_width(scaled(2));
            chart.draw_series(LineSeries::new(piece, style))?;
        }
        Ok(())
    }
}

fn scaled(pixels: u32) -> u32 {
    pixels * SCALE
}

fn place(x: i32, y: i32) -> (i32, i32) {
    (x * SCALE as i32, y * SCALE as i32)
}

/// Text of an em square of `size`; plotters gives the height of a line, 1.24 times that.
fn text_style(family: &'static str, size: u32, color: &str, side: HPos) -> TextStyle<'static> {
    let height = f64::from(scaled(size)) * 1.24;
    TextStyle {
        font: (family, height).into_font(),
        color: hex(color).to_backend_color(),
        pos: Pos::new(side, VPos::Center),
    }
}

fn color(index: usize) -> RGBColor {
    hex(COLORS[index % COLORS.len()][0])
}

fn ink(index: usize) -> RGBColor {
    hex(INKS[index][0])
}

/// `#RRGGBB`.
fn hex(text: &str) -> RGBColor {
    let value = u32::from_str_radix(text.trim_start_matches('#'), 16).unwrap_or(0);
    let [_, red, green, blue] = value.to_be_bytes();
    RGBColor(red, green, blue)
}

/// Width of the column of their labels.
fn tick_width(ticks: &[f64]) -> u32 {
    let widths = ticks.iter().map(|tick| CAPTION.width(&number(*tick)));
    scaled(widths.max().unwrap_or(0) + 16)
}

/// Each value's mean with its neighbors on both sides, as far as there are any; a value that is not finite stays.
fn smoothed(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let half = points.len() / SMOOTHED;
    let mean = |(at, &[step, value]): (usize, &[f64; 2])| {
        let around = &points[at.saturating_sub(half)..(at + half + 1).min(points.len())];
        let finite: Vec<f64> = around
            .iter()
            .map(|point| point[1])
            .filter(|v| v.is_finite())
            .collect();
        let mean = finite.iter().sum::<f64>() / finite.len().max(1) as f64;
        [step, if value.is_finite() { mean } else { value }]
    };
    points.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
