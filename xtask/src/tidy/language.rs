//! Words and widths of what people read: comments, strings, documents and configuration.
//!
//! The words are put together from halves, so that this file passes its own rule.

use std::path::Path;

use super::syntax::{Kind, tokens};

/// Columns of a line that has a comment; rustfmt holds code to the same width.
const COLUMNS_MAX: usize = 110;

/// Words that stand for nothing in particular. A noun for the idea, or an active verb, says more.
const WORDS: [(&str, &str); 14] = [
    ("te", "ll"),
    ("tel", "ls"),
    ("to", "ld"),
    ("tel", "ling"),
    ("no", "body"),
    ("some", "body"),
    ("every", "body"),
    ("who", "ever"),
    ("who", "mever"),
    ("what", "ever"),
    ("an", "ew"),
    ("etc", "ds"),
    ("le", "st"),
    ("who", "m"),
];

/// The same for several words in a row.
const PHRASES: [&[(&str, &str)]; 4] = [
    &[("fo", "r"), ("wa", "nt"), ("o", "f")],
    &[("tho", "se"), ("th", "at")],
    &[("tho", "se"), ("wh", "o")],
    &[("contr", "ol"), ("gro", "up")],
];

/// Texts of others, quoted or recorded, and what is written by a program.
fn is_foreign(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let directories = ["/testdata/", "/fixtures/", "/corpus/", "/manifests/"];
    let names = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "Cargo.lock"];
    names.contains(&name) || directories.iter().any(|directory| path.contains(directory))
}

/// Checks one file.
pub fn check(path: &str, text: &str) -> Vec<String> {
    if is_foreign(path) {
        return Vec::new();
    }
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut problems = Vec::new();
    for (line, columns) in wide_comments(extension, text) {
        problems.push(format!("{path}:{line}: a comment of {columns} columns, {COLUMNS_MAX} at most"));
    }
    for (line, words) in unwanted(&prose(extension, text)) {
        problems.push(format!("{path}:{line}: says `{words}`; see the language rules in CONTRIBUTING.md"));
    }
    problems
}

/// Returns the words that people read, in lower case, with their lines: in Rust, comments and strings.
fn prose(extension: &str, text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    let mut add = |first: usize, text: &str| {
        for (index, line) in text.lines().enumerate() {
            let split = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '\''));
            words.extend(
                split.filter(|word| !word.is_empty()).map(|word| (first + index, word.to_lowercase())),
            );
        }
    };
    if extension == "rs" {
        for token in tokens(text) {
            match token.kind {
                // An entry of passwd(5) is not prose.
                Kind::Text(text) if text.contains(":x:") => {}
                Kind::Comment(text) | Kind::Text(text) => add(token.line, text),
                _ => {}
            }
        }
    } else {
        add(1, text);
    }
    words
}

/// Finds unwanted words and phrases, also across the end of a line.
fn unwanted(words: &[(usize, String)]) -> Vec<(usize, String)> {
    let join = |halves: &(&str, &str)| format!("{}{}", halves.0, halves.1);
    let singles = WORDS.iter().map(|word| vec![join(word)]);
    let phrases = PHRASES.iter().map(|phrase| phrase.iter().map(join).collect());
    let all: Vec<Vec<String>> = singles.chain(phrases).collect();
    let mut found = Vec::new();
    for (index, (line, _)) in words.iter().enumerate() {
        for phrase in &all {
            let here = words[index..].iter().map(|(_, word)| word);
            if words.len() - index >= phrase.len() && here.zip(phrase).all(|(word, wanted)| word == wanted) {
                found.push((*line, phrase.join(" ")));
            }
        }
    }
    found
}

/// Finds lines with a comment that are too wide. A comment of one word, such as an address, cannot be
/// wrapped.
fn wide_comments(extension: &str, text: &str) -> Vec<(usize, usize)> {
    let starts_comment = |line: &str| match extension {
        "toml" | "yaml" | "yml" | "sh" | "py" | "service" | "" => line.trim_start().starts_with('#'),
        _ => false,
    };
    let comments: Vec<(usize, &str)> = if extension == "rs" {
        let all = tokens(text).into_iter();
        let of_token = |line: usize, text: &'_ str| text.lines().count().max(1) + line;
        let lines = all.filter_map(|token| match token.kind {
            Kind::Comment(comment) => Some((token.line..of_token(token.line, comment), comment)),
            _ => None,
        });
        lines.flat_map(|(range, comment)| range.zip(comment.lines())).collect()
    } else {
        text.lines()
            .enumerate()
            .filter(|(_, line)| starts_comment(line))
            .map(|(n, line)| (n + 1, line))
            .collect()
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut wide = Vec::new();
    for (line, comment) in comments {
        let columns = lines.get(line - 1).map_or(0, |line| line.chars().count());
        let can_wrap =
            comment.trim_start_matches(['/', '!', '#', '*', ' ']).split_whitespace().nth(1).is_some();
        if columns > COLUMNS_MAX && can_wrap {
            wide.push((line, columns));
        }
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(index: usize) -> String {
        format!("{}{}", WORDS[index].0, WORDS[index].1)
    }

    #[test]
    fn unwanted_words() {
        let (verb, noun) = (word(0), word(11));
        let phrase: Vec<_> = PHRASES[0].iter().map(|(a, b)| format!("{a}{b}")).collect();
        let wrapped = format!("{} {}\n/// {}", phrase[0], phrase[1], phrase[2]);
        let cases = [
            ("a.rs", format!("/// Does {verb} something."), 1, "a comment"),
            ("a.rs", format!("const HELP: &str = \"Several {noun} \";"), 1, "a string"),
            ("a.rs", format!("fn {verb}() {{}}"), 0, "an identifier"),
            ("a.rs", format!("// in{verb}igible, {verb}_all"), 0, "part of a word"),
            ("a.rs", format!("/// Fails {wrapped} memory."), 1, "a phrase over the end of a line"),
            ("a.md", format!("{} does it", word(4).to_uppercase()), 1, "documents, in capitals as well"),
            ("a.yaml", format!("summary: {verb} it"), 1, "configuration"),
            ("CHANGELOG.md", verb.clone(), 0, "the past is quoted"),
            ("probe-user/testdata/a.txt", verb, 0, "recorded texts of others"),
        ];
        for (path, text, expected, why) in cases {
            assert_eq!(check(path, &text).len(), expected, "{path}: {why}");
        }
    }

    #[test]
    fn widths_of_comments() {
        let wide = "word ".repeat(25);
        let cases = [
            ("a.rs", format!("// {wide}"), 1, "a comment"),
            ("a.rs", format!("let x = 1; // {wide}"), 1, "a comment behind code"),
            ("a.rs", format!("/* short\n{wide} */"), 1, "a line of a block"),
            ("a.rs", format!("let x = \"{wide}\";"), 0, "rustfmt minds code"),
            ("a.rs", format!("// {}", "x".repeat(150)), 0, "one word cannot be wrapped"),
            (
                "a.rs",
                format!("// {}", "é".repeat(50) + " " + &"ö".repeat(50)),
                0,
                "columns are characters, not bytes",
            ),
            ("a.toml", format!("# {wide}"), 1, "configuration"),
            ("x", format!("# {wide}"), 1, "a script"),
            ("a.md", format!("# {wide}"), 0, "a title is no comment"),
            ("deploy/manifests/a.yaml", format!("# {wide}"), 0, "written by a program"),
        ];
        for (path, text, expected, why) in cases {
            assert_eq!(check(path, &text).len(), expected, "{path}: {why}");
        }
    }
}
