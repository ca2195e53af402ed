//! Comma-separated text by RFC 4180, but for line ends: `\n` alone, which every reader takes and awk and git like better.
//!
//! By hand: the crate `csv` does not tell no label from an empty one, neither where it writes nor where it reads.

use std::borrow::Cow;

use crate::error::counted;

/// No label is nothing at all, an empty one is `""`.
pub(crate) fn label_field(label: Option<&str>) -> Cow<'_, str> {
    label.map_or(Cow::Borrowed(""), field)
}

/// The text as a field, quoted where it must be.
pub(crate) fn field(text: &str) -> Cow<'_, str> {
    if text.is_empty() || text.contains(['"', ',', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

/// A field of a record.
#[derive(Debug)]
pub(crate) struct Field<'a> {
    pub text: Cow<'a, str>,
    pub is_quoted: bool,
}

/// Records of a text, one after the other; lines without a character are none.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    whole: &'a str,
    rest: &'a str,
    /// Where the last record begins.
    start: usize,
    /// Where an earlier one begins, and its line.
    counted: (usize, usize),
}

impl<'a> Records<'a> {
    /// Those of a text, of which none was read.
    pub fn of(text: &'a str) -> Self {
        Self {
            whole: text,
            rest: text,
            start: 0,
            counted: (0, 1),
        }
    }

    /// The line of the text in which the last record begins, from 1.
    pub fn line(&mut self) -> usize {
        let (at, line) = self.counted;
        let line = line + self.whole[at..self.start].matches('\n').count();
        self.counted = (self.start, line);
        line
    }

    /// The next record, which has to have so many fields; none at the end.
    pub fn next(&mut self, count: usize) -> Option<Result<Vec<Field<'a>>, String>> {
        self.pass_blank_lines();
        if self.rest.is_empty() {
            return None;
        }
        Some(self.fields().and_then(|fields| {
            if fields.len() == count {
                return Ok(fields);
            }
            Err(format!(
                "line {} has {}, but the first one has {count}: put quotes around a field that holds a comma",
                self.line(),
                counted(fields.len(), "field")
            ))
        }))
    }

    fn pass_blank_lines(&mut self) {
        while let Some(rest) = after_line_end(self.rest) {
            self.rest = rest;
        }
    }

    /// The next record, of any number of fields; one empty field at the end.
    pub fn fields(&mut self) -> Result<Vec<Field<'a>>, String> {
        self.pass_blank_lines();
        self.start = self.whole.len() - self.rest.len();
        let mut fields = Vec::new();
        loop {
            let field = match self.rest.strip_prefix('"') {
                Some(quoted) => self.quoted(quoted)?,
                None => self.plain(),
            };
            fields.push(field);
            match self.rest.strip_prefix(',') {
                Some(rest) => self.rest = rest,
                None => break,
            }
        }
        let rest = self.rest;
        match after_line_end(rest) {
            Some(rest) => self.rest = rest,
            None if rest.is_empty() => {}
            None => {
                return Err(format!(
                    "line {} has text behind a quote: quotes go around a whole field",
                    self.line()
                ));
            }
        }
        Ok(fields)
    }

    /// Up to the next comma or line end.
    fn plain(&mut self) -> Field<'a> {
        let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let text = if rest.starts_with('\n') {
            text.strip_suffix('\r').unwrap_or(text)
        } else {
            text
        };
        Field {
            text: text.into(),
            is_quoted: false,
        }
    }

    /// Up to the quote that no other one follows; `text` is what stands behind the first quote.
    fn quoted(&mut self, text: &'a str) -> Result<Field<'a>, String> {
        let mut end = 0;
        loop {
            let Some(at) = text[end..].find('"') else {
                return Err(format!(
                    "line {} has a quote without an end: in a field that begins with a quote, write each one twice, and one at the end",
                    self.line()
                ));
            };
            end += at;
            self.rest = &text[end + 1..];
            if !self.rest.starts_with('"') {
                break;
            }
            end += 2;
        }
        let text = &text[..end];
        Ok(Field {
            text: if text.contains('"') {
                text.replace("\"\"", "\"").into()
            } else {
                text.into()
            },
            is_quoted: true,
        })
    }
}

/// What follows a line end; None where there is none.
fn after_line_end(text: &str) -> Option<&str> {
    text.strip_prefix("\r\n")
        .or_else(|| text.strip_prefix('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let cases = [
            ("cats/1.jpg", "cats/1.jpg"),
            (" a b ", " a b "),
            ("a,b", "\"a,b\""),
            ("say \"cheese\"", "\"say \"\"cheese\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("two\rlines", "\"two\rlines\""),
            ("", "\"\""),
            ("größe", "größe"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(text, expected)| field(text) != *expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(label_field(None), "");
        assert_eq!(label_field(Some("")), "\"\"");
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let read = |text: &str| -> Result<Vec<Vec<(String, bool)>>, String> {
            let mut records = Records::of(text);
            let mut all = Vec::new();
            while let Some(record) = records.next(2) {
                let fields = record?.into_iter();
                all.push(
                    fields
                        .map(|field| (field.text.into_owned(), field.is_quoted))
                        .collect(),
                );
            }
            Ok(all)
        };
        let plain = |text: &str| (text.to_owned(), false);
        let quoted = |text: &str| (text.to_owned(), true);
        let cases = [
            (
                "a,b\nc,d\n",
                vec![vec![plain("a"), plain("b")], vec![plain("c"), plain("d")]],
            ),
            (
                "a,b\r\nc,",
                vec![vec![plain("a"), plain("b")], vec![plain("c"), plain("")]],
            ),
            (
                "\"a,\"\"b\"\"\nc\r/\",\"\"\r\n",
                vec![vec![quoted("a,\"b\"\nc\r/"), quoted("")]],
            ),
            (",\"\"\"\"", vec![vec![plain(""), quoted("\"")]]),
            ("\r\n\na,b\n\n\r\n", vec![vec![plain("a"), plain("b")]]),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Ok(expected), "{text:?}");
        }
        for (text, expected) in [
            (
                "a,b\n\nc\n",
                "line 3 has 1 field, but the first one has 2: ",
            ),
            (
                "\"a\n\",b\nc\n",
                "line 3 has 1 field, but the first one has 2: ",
            ),
            ("\"a,b\n", "line 1 has a quote without an end: "),
            ("\"a\"b,c\n", "line 1 has text behind a quote: "),
        ] {
            let reason = read(text).unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
        }
    }
}
