//! Parses single lines of Prometheus' text format, version 0.0.4, and returns their parts byte for byte.
//!
//! A parser of our own, since existing ones change the text: prometheus-parse 0.2.5 splits labels at every
//! comma, `=` and `}`, also within values, and returns floats in place of the text; openmetrics-parser 0.5
//! does the latter, and is under the LGPL.
//!
//! It is strict because Prometheus discards a whole scrape for one line that it cannot parse: an accepted
//! line is also valid in `OpenMetrics` 1.0 and for the lexers of Prometheus 2.42 to 3 (`model/textparse`).

/// The maximum length of a line: etcd's longest has some 300 bytes.
pub const MAX_LINE_BYTES: usize = 16 << 10;

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FamilyType {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    Type {
        family: &'a str,
        kind: FamilyType,
    },
    /// `text` contains its escapes.
    Help {
        family: &'a str,
        text: &'a str,
    },
    Sample(Sample<'a>),
    /// A blank line, or a comment without a keyword.
    Nothing,
}

/// One value of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    /// Names are unique. Values are as in the text, with its escapes and without its quotes.
    pub labels: Vec<(&'a str, &'a str)>,
    /// As in the text. The timestamp is dropped: it is from the clock of another machine or process.
    pub value: &'a str,
    pub number: f64,
}

/// The line cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl FamilyType {
    /// Returns the suffixes that the names of a family's samples may have.
    pub const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["_sum", "_count"],
            Self::Counter | Self::Gauge | Self::Untyped => &[],
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "untyped" => Self::Untyped,
            _ => return None,
        })
    }
}

impl<'a> Sample<'a> {
    /// Returns the value of a label, as in the text.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// Returns the name at the start of a line, or the family of a `# TYPE` or `# HELP`, without parsing the
/// rest.
pub fn name_of(line: &str) -> Option<&str> {
    let text = match comment(line) {
        Some(Comment::Type(rest) | Comment::Help(rest)) => rest,
        Some(Comment::Other) => return None,
        None => line,
    };
    Some(split_name(text, is_name_byte)?.0)
}

/// Parses one line, without its line ending.
///
/// # Errors
/// If Prometheus or a strict parser of `OpenMetrics` would reject it, or it is too long.
pub fn read(line: &str) -> Result<Line<'_>, Malformed> {
    if line.len() > MAX_LINE_BYTES || memchr::memchr2(b'\0', b'\n', line.as_bytes()).is_some() {
        return Err(Malformed);
    }
    match comment(line) {
        Some(Comment::Type(rest)) => {
            let (family, rest) = split_name(rest, is_name_byte).ok_or(Malformed)?;
            let word = rest.strip_prefix(BLANK).ok_or(Malformed)?.trim_matches(BLANK);
            Ok(Line::Type { family, kind: FamilyType::parse(word).ok_or(Malformed)? })
        }
        Some(Comment::Help(rest)) => {
            let (family, rest) = split_name(rest, is_name_byte).ok_or(Malformed)?;
            let text = if rest.is_empty() { rest } else { rest.strip_prefix(BLANK).ok_or(Malformed)? };
            has_only_escapes(text, br"\n").then_some(Line::Help { family, text }).ok_or(Malformed)
        }
        Some(Comment::Other) => Ok(Line::Nothing),
        None if line.trim_matches(BLANK).is_empty() => Ok(Line::Nothing),
        None => sample(line).map(Line::Sample).ok_or(Malformed),
    }
}

const BLANK: [char; 2] = [' ', '\t'];

enum Comment<'a> {
    Type(&'a str),
    Help(&'a str),
    Other,
}

/// Returns the text after the keyword of a comment; none if the line is not a comment.
fn comment(line: &str) -> Option<Comment<'_>> {
    let text = line.strip_prefix('#')?;
    let after = |keyword| {
        let rest = text.strip_prefix(BLANK)?.trim_start_matches(BLANK).strip_prefix(keyword)?;
        Some(rest.strip_prefix(BLANK)?.trim_start_matches(BLANK))
    };
    let known = after("TYPE").map(Comment::Type).or_else(|| after("HELP").map(Comment::Help));
    Some(known.unwrap_or(Comment::Other))
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = split_name(line, is_name_byte)?;
    let after_name = rest.trim_start_matches(BLANK);
    let (labels, rest) = match after_name.strip_prefix('{') {
        Some(text) => labels(text)?,
        None => (Vec::new(), rest.strip_prefix(BLANK)?),
    };
    let mut words = rest.split(BLANK).filter(|word| !word.is_empty());
    let value = words.next()?;
    if let Some(timestamp) = words.next() {
        timestamp.parse::<i64>().ok()?;
    }
    words.next().is_none().then_some(())?;
    Some(Sample { name, labels, value, number: number(value)? })
}

/// Parses labels up to the closing brace; returns them and the rest.
fn labels(mut text: &str) -> Option<(Vec<(&str, &str)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches(BLANK);
        if let Some(rest) = text.strip_prefix('}') {
            return is_unique(&labels).then_some((labels, rest));
        }
        let (name, rest) = split_name(text, |byte| byte != b':' && is_name_byte(byte))?;
        // These names are reserved by Prometheus; one of them, `__name__`, would rename the series.
        (!name.starts_with("__")).then_some(())?;
        let rest = rest.trim_start_matches(BLANK).strip_prefix('=')?.trim_start_matches(BLANK);
        let (value, rest) = quoted(rest.strip_prefix('"')?)?;
        labels.push((name, value));
        text = rest.trim_start_matches(BLANK);
        match text.strip_prefix(',') {
            Some(rest) => text = rest,
            None => text.starts_with('}').then_some(())?,
        }
    }
}

/// Parses a value up to the closing quote; returns it and the rest.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    let (value, rest) = (&text[..end], &text[end + 1..]);
    has_only_escapes(value, br#"\n""#).then_some((value, rest))
}

/// Returns whether every backslash starts one of these escapes.
fn has_only_escapes(text: &str, escapes: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' && !bytes.next().is_some_and(|next| escapes.contains(&next)) {
            return false;
        }
    }
    true
}

fn is_unique(labels: &[(&str, &str)]) -> bool {
    let mut names: Vec<_> = labels.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.windows(2).all(|pair| pair[0] != pair[1])
}

/// Splits off a name, which must not start with a digit.
fn split_name(text: &str, is_part: impl Fn(u8) -> bool) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let name = text.get(..end)?;
    (!name.is_empty() && !name.as_bytes()[0].is_ascii_digit()).then_some((name, &text[end..]))
}

pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

/// Parses a value that Go and Rust parse alike. For a number that is too large for a float, Go returns an
/// error and Rust infinity.
pub fn number(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    // Go rejects a sign before `NaN`.
    let is_word = !is_decimal && (number.is_infinite() || text.eq_ignore_ascii_case("nan"));
    (is_word || is_decimal && number.is_finite()).then_some(number)
}

#[cfg(test)]
mod tests;
