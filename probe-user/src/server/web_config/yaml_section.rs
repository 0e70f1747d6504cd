//! One mapping of a configuration, consumed key by key, so that remaining keys are errors.

use std::collections::BTreeMap;

use serde_json::Value;

use super::InvalidWebConfig;

/// The keys of a mapping that have not been consumed.
pub(super) struct Section {
    /// Path of the mapping with a final dot: `tls_server_config.`; empty for the whole file.
    path: String,
    keys: BTreeMap<String, Value>,
}

impl Section {
    /// Takes a mapping; null is an empty one.
    pub fn new(path: &str, value: Value) -> Result<Self, InvalidWebConfig> {
        let keys = match value {
            Value::Null => BTreeMap::new(),
            Value::Object(keys) => keys.into_iter().collect(),
            _ if path.is_empty() => return Err(InvalidWebConfig::new("it must be a mapping")),
            _ => return Err(InvalidWebConfig::new(format!("`{path}` must be a mapping"))),
        };
        Ok(Self { path: if path.is_empty() { String::new() } else { format!("{path}.") }, keys })
    }

    pub fn section(&mut self, key: &str) -> Result<Self, InvalidWebConfig> {
        Self::new(&format!("{}{key}", self.path), self.keys.remove(key).unwrap_or_default())
    }

    /// Returns a string; none if it is empty. Numbers and booleans are returned as written.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, InvalidWebConfig> {
        let text = match self.keys.remove(key) {
            None | Some(Value::Null) => None,
            Some(value) => Some(scalar(value).ok_or_else(|| self.invalid(key, "must be a string"))?),
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// Returns a boolean in any of the spellings of YAML 1.1, which exporter-toolkit accepts.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>, InvalidWebConfig> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(Some(true)),
            "false" | "no" | "off" | "n" => Ok(Some(false)),
            _ => Err(self.invalid(key, "must be true or false")),
        }
    }

    /// Returns a list of strings; empty if absent.
    pub fn list(&mut self, key: &str) -> Result<Vec<String>, InvalidWebConfig> {
        let items = match self.keys.remove(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.invalid(key, "must be a list")),
        };
        let texts: Option<Vec<String>> = items.into_iter().map(scalar).collect();
        texts.ok_or_else(|| self.invalid(key, "must be a list of strings"))
    }

    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// Returns an error about one of the keys.
    pub fn invalid(&self, key: &str, what: &str) -> InvalidWebConfig {
        InvalidWebConfig::new(format!("`{}{key}` {what}", self.path))
    }

    /// Ends the section; a key that was not consumed is unknown.
    pub fn end(&self) -> Result<(), InvalidWebConfig> {
        match self.keys.keys().next() {
            None => Ok(()),
            Some(key) => Err(InvalidWebConfig::new(format!("unknown key `{}{}`", self.path, printable(key)))),
        }
    }
}

fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns the beginning of a key without control characters: a key may be a whole PEM file with a wrong
/// indentation.
fn printable(key: &str) -> String {
    key.chars().take(64).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
