//! One setting of `ibot train`, by its key.

use ibot::train::RunConfig;
use ibot::{Error, Result};

/// A setting of the command line.
#[derive(Debug, Clone)]
pub struct Setting {
    key: String,
    value: String,
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Self {
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            }),
            _ => Err("give KEY=VALUE, such as method.koleo_weight=0.1".to_owned()),
        }
    }
}

impl Setting {
    /// The setting as TOML; a value that is none is a string.
    fn as_toml(&self) -> String {
        let Self { key, value } = self;
        let as_it_is = format!("{key} = {value}\n");
        match as_it_is.parse::<toml::Table>() {
            Ok(_) => as_it_is,
            Err(_) => format!("{key} = {}\n", toml::Value::String(value.clone())),
        }
    }

    /// `config` with the setting.
    pub fn applied_to(&self, config: &RunConfig) -> Result<RunConfig> {
        config.merged_with_toml(&self.as_toml()).map_err(|message| {
            let remedy = format!("{message}\ndocs/settings.md lists all keys");
            Error::config(format!("--set {}", self.key), &self.value, remedy)
        })
    }

    /// Its key, dotted.
    pub fn key(&self) -> &str {
        &self.key
    }
}
