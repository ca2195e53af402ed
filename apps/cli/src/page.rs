//! A self-contained HTML page: no other file, no network, light and dark, for a screen and a phone.

use std::fmt::{Display, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ibot::unfinished::write_whole;
use ibot::{Error, Result};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use super::drawing::{COLORS, INKS, LineChart, without_title};

/// Of the JPEG of a drawing.
const QUALITY: u8 = 90;

/// Widths of the columns of a grid.
#[derive(Debug, Clone, Copy)]
pub enum Columns {
    /// Charts.
    Charts,
    /// Single images.
    Images,
    /// Pairs of images.
    Pairs,
}

/// A page under construction; each part is added at the end.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
    in_grid: bool,
}

impl Page {
    pub fn new(title: &str) -> Self {
        Self {
            title: escape(title),
            body: String::new(),
            in_grid: false,
        }
    }

    /// Adds HTML as it is.
    pub fn html(&mut self, html: impl Display) {
        self.end_grid();
        let _ = writeln!(self.body, "{html}");
    }

    /// Starts a section.
    pub fn heading(&mut self, text: &str) {
        self.html(format_args!("<h2>{}</h2>", escape(text)));
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: &str) {
        self.html(format_args!("<p class=\"faint\">{}</p>", escape(text)));
    }

    /// Starts a grid of figures.
    pub fn grid(&mut self, title: Option<&str>, columns: Columns) {
        self.end_grid();
        if let Some(title) = title {
            let _ = writeln!(self.body, "<h3>{}</h3>", escape(title));
        }
        let class = match columns {
            Columns::Charts => "grid charts",
            Columns::Images => "grid",
            Columns::Pairs => "grid wide",
        };
        let _ = writeln!(self.body, "<div class=\"{class}\">");
        self.in_grid = true;
    }

    /// Adds a drawing with its title below instead of in it; the title is the text for those who do not see it too.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be encoded.
    pub fn image(&mut self, title: &str, drawing: &RgbImage) -> Result<()> {
        let (title, data) = (escape(title), jpeg(&without_title(drawing), QUALITY)?);
        let _ = writeln!(
            self.body,
            "<figure><img alt=\"{title}\" src=\"data:image/jpeg;base64,{data}\"><figcaption>{title}</figcaption></figure>"
        );
        Ok(())
    }

    /// Adds a chart.
    ///
    /// # Errors
    /// As [`LineChart::svg`].
    pub fn chart(&mut self, chart: &LineChart) -> Result<()> {
        let label = escape(&chart.description());
        let svg = chart.svg()?;
        let svg = svg.replacen(
            "<svg",
            &format!("<svg role=\"img\" aria-label=\"{label}\""),
            1,
        );
        let _ = writeln!(self.body, "<figure>{svg}</figure>");
        Ok(())
    }

    /// Adds a table of names and values.
    pub fn facts(&mut self, facts: &[(&str, String)]) {
        let rows = facts
            .iter()
            .map(|(name, value)| format!("<tr><td>{name}</td><td>{}</td></tr>\n", escape(value)));
        let rows: String = rows.collect();
        self.html(format_args!("<table class=\"facts\">{rows}</table>"));
    }

    /// Adds a table; all columns but the first are numbers.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let line = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            let cell = |(at, text): (usize, &str)| {
                let class = if at == 0 { "" } else { " class=\"n\"" };
                format!("<{tag}{class}>{}</{tag}>", escape(text))
            };
            let cells: String = cells.enumerate().map(cell).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let head = line("th", &mut head.iter().copied());
        let rows = rows.iter();
        let rows: String = rows
            .map(|row| line("td", &mut row.iter().map(String::as_str)))
            .collect();
        self.html(format_args!(
            "<div class=\"scroll\"><table>{head}{rows}</table></div>"
        ));
    }

    /// Adds text that is shown on a click.
    pub fn details(&mut self, name: &str, text: &str) {
        let (name, text) = (escape(name), escape(text));
        self.html(format_args!(
            "<details><summary>{name}</summary><pre>{text}</pre></details>"
        ));
    }

    fn end_grid(&mut self) {
        if std::mem::take(&mut self.in_grid) {
            self.body.push_str("</div>\n");
        }
    }

    /// Writes the page, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(mut self, file: &Path) -> Result<()> {
        self.end_grid();
        let Self { title, body, .. } = self;
        let style = include_str!("page.css");
        let charts = chart_style();
        let page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"><title>{title}</title><style>{style}{charts}</style></head>\n\
             <body><h1>{title}</h1>\n{body}</body></html>\n"
        );
        write_whole(file, page.as_bytes())
    }
}

/// The colors of charts on a dark page.
fn chart_style() -> String {
    let mut style = String::from("@media(prefers-color-scheme:dark){");
    for [light, dark] in COLORS.iter().chain(&INKS) {
        for what in ["fill", "stroke"] {
            let _ = write!(style, "svg [{what}=\"{light}\"]{{{what}:{dark}}}");
        }
    }
    style + "}\n"
}

/// An image as JPEG in base64: maps of photos are a fifth of their size as PNG.
///
/// # Errors
/// [`Error::Io`] if it cannot be encoded.
pub fn jpeg(image: &RgbImage, quality: u8) -> Result<String> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    let written = image.write_with_encoder(encoder);
    written.map_err(|error| Error::io("image of a page")(std::io::Error::other(error)))?;
    Ok(STANDARD.encode(bytes))
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
