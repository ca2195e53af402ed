//! Strict templates: each placeholder has a value and each value is used, or it is an error.

use std::collections::BTreeSet;

/// Fills `{{ name }}` with the value of that name.
///
/// `{{ each name }} ... {{ end }}` repeats its body as often as the value of `name` says, not at all for 0; inside,
/// `{{ name }}` is the number of the round, from 0. Such sections nest.
///
/// # Errors
/// A placeholder without a value, a value without a placeholder, or a section that is not closed.
pub fn fill(text: &str, values: &[(&'static str, String)]) -> Result<String, String> {
    let mut scope = Scope {
        values,
        used: BTreeSet::new(),
        rounds: Vec::new(),
    };
    let mut filled = String::with_capacity(text.len());
    fill_section(text, &mut scope, &mut filled)?;
    match values.iter().find(|(name, _)| !scope.used.contains(name)) {
        Some((name, _)) => Err(format!("no placeholder takes the value `{name}`")),
        None => Ok(filled),
    }
}

/// What placeholders stand for at some place of the text.
struct Scope<'a> {
    values: &'a [(&'static str, String)],
    used: BTreeSet<&'static str>,
    /// Open sections and their rounds, the innermost last.
    rounds: Vec<(&'a str, usize)>,
}

impl Scope<'_> {
    fn value(&mut self, name: &str) -> Result<String, String> {
        if let Some((_, round)) = self.rounds.iter().rev().find(|(open, _)| *open == name) {
            return Ok(round.to_string());
        }
        let (known, value) = self
            .values
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| format!("no value for the placeholder `{name}`"))?;
        self.used.insert(known);
        Ok(value.clone())
    }
}

fn fill_section<'a>(
    text: &'a str,
    scope: &mut Scope<'a>,
    filled: &mut String,
) -> Result<(), String> {
    let mut rest = text;
    while let Some(tag) = next_tag(rest)? {
        filled.push_str(tag.before);
        rest = tag.after;
        let Some(name) = tag.name.strip_prefix("each ") else {
            filled.push_str(&scope.value(tag.name)?);
            continue;
        };
        let count = scope.value(name)?;
        let count: usize = count
            .parse()
            .map_err(|_| format!("`{name}` is {count}, not a number of rounds"))?;
        let (body, after) = section(rest, name)?;
        for round in 0..count {
            scope.rounds.push((name, round));
            fill_section(body, scope, filled)?;
            scope.rounds.pop();
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(())
}

/// A placeholder and the text around it.
struct Tag<'a> {
    before: &'a str,
    name: &'a str,
    after: &'a str,
}

fn next_tag(text: &str) -> Result<Option<Tag<'_>>, String> {
    let Some((before, inside)) = text.split_once("{{") else {
        return Ok(None);
    };
    let (name, after) = inside
        .split_once("}}")
        .ok_or("a placeholder is not closed")?;
    Ok(Some(Tag {
        before,
        name: name.trim(),
        after,
    }))
}

/// The text up to the `{{ end }}` that closes the section, and what follows it.
fn section<'a>(text: &'a str, name: &str) -> Result<(&'a str, &'a str), String> {
    let mut from = 0;
    let mut open = 1;
    while let Some(tag) = next_tag(&text[from..])? {
        let start = from + tag.before.len();
        from = text.len() - tag.after.len();
        match tag.name {
            "end" => open -= 1,
            _ if tag.name.starts_with("each ") => open += 1,
            _ => {}
        }
        if open == 0 {
            return Ok((&text[..start], tag.after));
        }
    }
    Err(format!("`each {name}` has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<(&'static str, String)> {
        vec![("size", "8".into()), ("pair", "2".into())]
    }

    #[test]
    fn values_and_rounds() {
        let filled = fill(
            "a{{ size }}{{ each pair }}<{{ pair }}:{{size}}>{{ end }}z",
            &values(),
        );
        assert_eq!(filled.unwrap(), "a8<0:8><1:8>z");
    }

    #[test]
    fn sections_nest() {
        let mut values = values();
        values.push(("none", "0".into()));
        let text = "{{ each pair }}{{ each size }}{{ pair }}{{ size }} {{ end }}{{ each none }}{{ size }}{{ end }}|{{ end }}{{ pair }}";
        values[0].1 = "3".into();
        let filled = fill(text, &values);
        assert_eq!(filled.unwrap(), "00 01 02 |10 11 12 |2");
    }

    #[test]
    fn each_mistake_is_an_error() {
        for (text, said) in [
            ("{{ size }}{{ pair }}{{ sice }}", "`sice`"),
            ("{{ size }}", "takes the value `pair`"),
            ("{{ size }}{{ each pair }}", "has no end"),
            ("{{ each size }}{{ each pair }}{{ end }}", "has no end"),
            ("{{ size }}{{ each pair }}{{ sice }}{{ end }}", "`sice`"),
            ("{{ size }}{{ pair", "not closed"),
            ("{{ size }}{{ pair }}{{ end }}", "`end`"),
        ] {
            let error = fill(text, &values()).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let word = [("pair", "two".to_owned())];
        assert!(fill("{{ each pair }}{{ end }}", &word).is_err());
    }
}
