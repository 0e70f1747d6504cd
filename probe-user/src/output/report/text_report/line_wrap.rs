//! Truncates, wraps and aligns lines to the width of the report.

use std::fmt::Write;

use anstyle::Style;

use super::WIDTH;

pub const INDENT: &str = "  ";

/// Writes an underlined heading of a block.
pub fn heading(out: &mut String, text: &str) {
    let style = Style::new().bold();
    // Writing to a `String` cannot fail, here and below.
    let _ = writeln!(out, "{INDENT}{style}{}{style:#}", cut(text, WIDTH - INDENT.len()));
}

/// Writes one indented line, truncated if it is too long.
pub fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{INDENT}{}", cut(text, WIDTH - INDENT.len()).trim_end());
}

/// Writes a sentence over as many lines as necessary. The following lines are indented by the length of
/// `beginning`.
pub fn wrap(out: &mut String, beginning: &str, text: &str) {
    let indent = length(beginning);
    let room = WIDTH - indent;
    let mut used = 0;
    let _ = write!(out, "{beginning}");
    for word in text.split_whitespace() {
        let word = cut(word, room);
        let wanted = length(&word) + usize::from(used > 0);
        if used + wanted > room {
            let _ = write!(out, "\n{:indent$}{word}", "");
            used = length(&word);
        } else {
            let _ = write!(out, "{}{word}", if used > 0 { " " } else { "" });
            used += wanted;
        }
    }
    out.push('\n');
}

/// Returns a text of at most this many columns, with … in place of an omitted end.
///
/// Control characters become `?`: a file name may contain them, and a terminal would interpret them. A
/// character counts as one column.
pub fn cut(text: &str, columns: usize) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    if length(text) <= columns {
        return text.chars().map(printable).collect();
    }
    let kept = text.chars().take(columns.saturating_sub(1)).map(printable);
    kept.chain(['…']).take(columns).collect()
}

/// Returns a bar for a share.
pub fn bar(share: f64, columns: usize) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a few columns is a number of columns"
    )]
    let filled = (share.clamp(0.0, 1.0) * columns as f64).round() as usize;
    "█".repeat(filled)
}

pub fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_to_their_columns() {
        let cases = [
            ("vda", 3, "vda", "it fits"),
            ("nvme0n1", 4, "nvm…", "the end is omitted"),
            ("µµµµ", 3, "µµ…", "columns, not bytes"),
            ("a\x1b[2Jb\n", 10, "a?[2Jb?", "a name cannot control the terminal"),
            ("ab", 1, "…", "no room"),
            ("ab", 0, "", "no room at all"),
        ];
        for (text, columns, expected, why) in cases {
            assert_eq!(cut(text, columns), expected, "{why}");
        }
    }

    #[test]
    fn sentences_are_wrapped_at_words() {
        let mut out = String::new();
        wrap(&mut out, "  1. ", &["word"; 40].join(" "));
        wrap(&mut out, "", &"x".repeat(150));
        assert!(out.lines().all(|line| length(line) <= WIDTH), "{out}");
        assert!(out.lines().nth(1).is_some_and(|line| line.starts_with("     word")), "{out}");
        assert!(!out.contains(" \n"), "no line ends in a space: {out:?}");
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let cases = [(0.0, 0), (0.5, 10), (1.0, 20), (7.0, 20), (f64::NAN, 0)];
        for (share, expected) in cases {
            assert_eq!(length(&bar(share, 20)), expected, "{share}");
        }
    }
}
