//! One mapping of a configuration, taken apart key by key, so that what is left over is a mistake.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Wrong;

/// The keys of a mapping that nobody has asked for yet.
pub(super) struct Section {
    /// Its own key with those above it, and a dot: `tls_server_config.`; nothing for the whole file.
    path: String,
    keys: BTreeMap<String, Value>,
}

impl Section {
    /// Takes a mapping; nothing is an empty one.
    pub fn new(path: &str, value: Value) -> Result<Self, Wrong> {
        let keys = match value {
            Value::Null => BTreeMap::new(),
            Value::Object(keys) => keys.into_iter().collect(),
            _ if path.is_empty() => return Err(Wrong::new("it holds no keys and values")),
            _ => return Err(Wrong::new(format!("`{path}` has to hold keys and values"))),
        };
        Ok(Self { path: if path.is_empty() { String::new() } else { format!("{path}.") }, keys })
    }

    pub fn section(&mut self, key: &str) -> Result<Self, Wrong> {
        Self::new(&format!("{}{key}", self.path), self.keys.remove(key).unwrap_or_default())
    }

    /// Returns a text; an empty one is none. Numbers and truth values are the texts that they look like.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, Wrong> {
        let text = match self.keys.remove(key) {
            None | Some(Value::Null) => None,
            Some(value) => Some(scalar(value).ok_or_else(|| self.wrong(key, "has to be a text"))?),
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// Returns a truth value, in any of the spellings of YAML 1.1, which exporter-toolkit reads.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>, Wrong> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(Some(true)),
            "false" | "no" | "off" | "n" => Ok(Some(false)),
            _ => Err(self.wrong(key, "has to be true or false")),
        }
    }

    /// Returns a list of texts; none is an empty one.
    pub fn list(&mut self, key: &str) -> Result<Vec<String>, Wrong> {
        let items = match self.keys.remove(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.wrong(key, "has to be a list")),
        };
        let texts: Option<Vec<String>> = items.into_iter().map(scalar).collect();
        texts.ok_or_else(|| self.wrong(key, "has to be a list of texts"))
    }

    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// Says what is wrong with one of its keys.
    pub fn wrong(&self, key: &str, what: &str) -> Wrong {
        Wrong::new(format!("`{}{key}` {what}", self.path))
    }

    /// Ends the section: a key that nobody asked for is none that we know.
    pub fn end(&self) -> Result<(), Wrong> {
        match self.keys.keys().next() {
            None => Ok(()),
            Some(key) => Err(Wrong::new(format!("unknown key `{}{}`", self.path, printable(key)))),
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

/// Returns the beginning of a key, fit for a line of a log: what is a key here may be a whole PEM file, indented wrongly.
fn printable(key: &str) -> String {
    key.chars().take(64).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
