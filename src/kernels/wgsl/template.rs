//! Strict templates: each placeholder has a value and each value is used, or it is an error.

use std::collections::BTreeSet;

/// Fills `{{ name }}` with the value of that name.
///
/// `{{ each name }} ... {{ end }}` repeats its body as often as the value of `name` says; inside, `{{ name }}` is the
/// number of the round, from 0. Such sections do not nest.
///
/// # Errors
/// A placeholder without a value, a value without a placeholder, or a section that is not closed.
pub fn fill(text: &str, values: &[(&'static str, String)]) -> Result<String, String> {
    let mut used = BTreeSet::new();
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(tag) = next_tag(rest)? {
        filled.push_str(tag.before);
        rest = tag.after;
        if let Some(name) = tag.name.strip_prefix("each ") {
            let count = lookup(name, values, &mut used)?;
            let count: usize = count
                .parse()
                .map_err(|_| format!("`{name}` is {count}, not a number of rounds"))?;
            let (body, after) = section(rest, name)?;
            for round in 0..count {
                fill_plain(body, &mut filled, &mut |inner| match inner == name {
                    true => Ok(round.to_string()),
                    false => lookup(inner, values, &mut used),
                })?;
            }
            rest = after;
        } else {
            filled.push_str(&lookup(tag.name, values, &mut used)?);
        }
    }
    filled.push_str(rest);
    match values.iter().find(|(name, _)| !used.contains(name)) {
        Some((name, _)) => Err(format!("no placeholder takes the value `{name}`")),
        None => Ok(filled),
    }
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

/// The text up to `{{ end }}`, and what follows it.
fn section<'a>(text: &'a str, name: &str) -> Result<(&'a str, &'a str), String> {
    let mut from = 0;
    while let Some(tag) = next_tag(&text[from..])? {
        let start = from + tag.before.len();
        from = text.len() - tag.after.len();
        if tag.name == "end" {
            return Ok((&text[..start], tag.after));
        }
    }
    Err(format!("`each {name}` has no end"))
}

fn fill_plain(
    text: &str,
    filled: &mut String,
    value: &mut dyn FnMut(&str) -> Result<String, String>,
) -> Result<(), String> {
    let mut rest = text;
    while let Some(tag) = next_tag(rest)? {
        filled.push_str(tag.before);
        filled.push_str(&value(tag.name)?);
        rest = tag.after;
    }
    filled.push_str(rest);
    Ok(())
}

fn lookup(
    name: &str,
    values: &[(&'static str, String)],
    used: &mut BTreeSet<&'static str>,
) -> Result<String, String> {
    let (known, value) = values
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("no value for the placeholder `{name}`"))?;
    used.insert(known);
    Ok(value.clone())
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
    fn each_mistake_is_an_error() {
        for (text, said) in [
            ("{{ size }}{{ pair }}{{ sice }}", "`sice`"),
            ("{{ size }}", "takes the value `pair`"),
            ("{{ size }}{{ each pair }}", "has no end"),
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
