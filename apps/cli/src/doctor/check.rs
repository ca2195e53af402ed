//! A line of the report.

use std::fmt;

use serde::Serialize;

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    Missing,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    /// What there is, or what is missing.
    pub found: String,
    /// What to do about it, one step a line; empty if nothing is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedy: Vec<String>,
    /// Whether commands fail without it.
    #[serde(skip)]
    pub is_needed: bool,
}

impl Check {
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            remedy: Vec::new(),
            is_needed: false,
        }
    }

    /// Something that ibot can do without.
    pub fn missing<S: Into<String>>(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            state: State::Missing,
            remedy: remedy.into_iter().map(Into::into).collect(),
            ..Self::ok(name, found)
        }
    }

    /// Something that ibot needs.
    pub fn needed(self) -> Self {
        Self {
            is_needed: true,
            ..self
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "OK",
            State::Missing => "MISSING",
        };
        write!(f, "{state:<8} {:<10} {}", self.name, self.found)?;
        for line in &self.remedy {
            write!(f, "\n{:20}-> {line}", "")?;
        }
        Ok(())
    }
}
