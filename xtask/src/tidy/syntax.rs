//! Splits Rust source into the few kinds of tokens that the rules need: words, symbols, literals and
//! comments.
//!
//! It is no parser: it accepts every text, and an unfinished literal or comment extends to the end of the
//! text.

/// A token and the line where it starts, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    pub line: usize,
    pub kind: Kind<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// An identifier, a keyword or a number.
    Word(&'a str),
    /// `::`
    Separator,
    /// Any other character that is not white space.
    Symbol(char),
    /// A string, with its quotes and its prefix.
    Text(&'a str),
    /// A comment with its marker, from `//` to the end of the line or from `/*` to `*/`.
    Comment(&'a str),
}

impl<'a> Kind<'a> {
    pub fn word(self) -> Option<&'a str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Returns all tokens of a source text.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut all = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (length, kind) = token(rest, first);
        if let Some(kind) = kind {
            all.push(Token { line, kind });
        }
        let (taken, left) = rest.split_at(length);
        line += taken.matches('\n').count();
        rest = left;
    }
    all
}

/// Returns the tokens that the compiler reads as code.
pub fn code<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    tokens.iter().copied().filter(|token| !matches!(token.kind, Kind::Comment(_) | Kind::Text(_))).collect()
}

/// Returns the length of the first token in bytes, and `None` for white space and character literals.
fn token(rest: &str, first: char) -> (usize, Option<Kind<'_>>) {
    let until = |end: usize| &rest[..end];
    if rest.starts_with("//") {
        let end = rest.find('\n').unwrap_or(rest.len());
        return (end, Some(Kind::Comment(until(end))));
    }
    if rest.starts_with("/*") {
        let end = block_comment(rest);
        return (end, Some(Kind::Comment(until(end))));
    }
    if let Some(end) = string(rest) {
        return (end, Some(Kind::Text(until(end))));
    }
    if first == '\'' {
        return character_or_lifetime(rest);
    }
    if rest.starts_with("::") {
        return (2, Some(Kind::Separator));
    }
    if is_word(first) {
        // `r#type` is the word `type`.
        let prefix = if rest.starts_with("r#") { 2 } else { 0 };
        let end = rest[prefix..].find(|c| !is_word(c)).map_or(rest.len(), |end| end + prefix);
        return (end, Some(Kind::Word(&rest[prefix..end])));
    }
    let kind = (!first.is_whitespace()).then_some(Kind::Symbol(first));
    (first.len_utf8(), kind)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the end of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let left = &rest[at..];
        if left.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if left.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += left.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Returns the end of a string literal of any kind, if one starts here: `"…"`, `b"…"`, `c"…"`, `r#"…"#`,
/// `br"…"`.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix).map(|after| after.trim_start_matches('#'));
        after.is_some_and(|after| after.starts_with('"'))
    })?;
    let after = &rest[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = &after[hashes + 1..];
    let start = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&close).map_or(rest.len(), |end| start + end + close.len()));
    }
    if hashes > 0 {
        return None; // Such as `#"` in a macro: a symbol, then a string.
    }
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(start + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// Skips `'a'`, `'\n'` and `'static` as a whole.
fn character_or_lifetime(rest: &str) -> (usize, Option<Kind<'_>>) {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next().unwrap_or((0, ' '));
    if first == '\\' {
        // The escaped character itself may be a quote.
        let end = rest.char_indices().skip(3).find(|&(_, c)| c == '\'');
        return (end.map_or(rest.len(), |(at, _)| at + 1), None);
    }
    match chars.next() {
        Some((at, '\'')) => (at + 1, None),
        _ => (1, None), // A lifetime: its name follows as a word.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind<'_>> {
        tokens(text).into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn kinds_of_tokens() {
        use Kind::{Comment, Separator, Symbol, Text, Word};
        let cases = [
            ("use a::b;", vec![Word("use"), Word("a"), Separator, Word("b"), Symbol(';')], "a path"),
            ("x // y::z\nw", vec![Word("x"), Comment("// y::z"), Word("w")], "a comment is no code"),
            ("/* a /* b */ c */ d", vec![Comment("/* a /* b */ c */"), Word("d")], "comments nest"),
            (r#""a\"b" c"#, vec![Text(r#""a\"b""#), Word("c")], "an escaped quote"),
            (r##"r#"a"b"# c"##, vec![Text(r##"r#"a"b"#"##), Word("c")], "a raw string"),
            (
                r#"b"a" c"d" br"e\" f"#,
                vec![Text(r#"b"a""#), Text(r#"c"d""#), Text(r#"br"e\""#), Word("f")],
                "prefixes",
            ),
            ("r#type", vec![Word("type")], "a raw identifier"),
            (r"'a' '\'' '\n' b", vec![Word("b")], "characters"),
            ("&'static str", vec![Symbol('&'), Word("static"), Word("str")], "a lifetime"),
            ("'\"' x", vec![Word("x")], "a quote as a character starts no string"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(kinds(text), expected, "{text}: {why}");
        }
    }

    #[test]
    fn lines_count_from_one() {
        let lines: Vec<_> = tokens("a\n\"x\ny\" b\n/*\n*/ c").iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5], "a literal of several lines counts where it starts");
    }
}
