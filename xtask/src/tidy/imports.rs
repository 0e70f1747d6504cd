//! Finds the paths in a Rust source text that name other modules of its crate.
//!
//! Found are all trees of `use`, nested and on several lines, and every path in code that starts with
//! `crate`, `self`, `super`, a name of the same crate from outside (`probe_user`), or a module that the text
//! itself declares.

use std::collections::{BTreeMap, BTreeSet};

use super::syntax::{Kind, Token, code, tokens};

/// A path as it is written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    pub line: usize,
    /// The inline modules around it, outermost first: `tests` in `mod tests { … }`.
    pub inside: Vec<String>,
    /// `super`, `super`, `monitor`, …; `*` is the last segment of a glob.
    pub path: Vec<String>,
    /// The name that a `use` introduces, if this is one: the last segment, or that after `as`.
    pub name: Option<String>,
}

/// What one source text declares and imports.
#[derive(Debug, Default)]
pub struct Source {
    pub imports: Vec<Import>,
    /// Modules with a file of their own (`mod x;`), by the inline modules around the declaration.
    pub children: BTreeSet<Vec<String>>,
}

impl Source {
    pub fn of(text: &str) -> Self {
        let tokens = code(&tokens(text));
        let mut reader = Reader { tokens: &tokens, at: 0, found: Self::default(), inline: BTreeSet::new() };
        reader.read(&[]);
        let Reader { mut found, inline, .. } = reader;
        let declared: BTreeSet<&str> =
            found.children.iter().chain(&inline).filter_map(|path| Some(path.last()?.as_str())).collect();
        // Any other first segment is another crate, a type or a local import, which is counted where it is
        // imported.
        let names_module = |import: &Import| {
            let first = import.path.first().map_or("", String::as_str);
            is_anchor(first) || import.name.is_some() || declared.contains(first)
        };
        let kept = found.imports.iter().filter(|import| names_module(import)).cloned().collect();
        found.imports = kept;
        found
    }
}

fn is_anchor(word: &str) -> bool {
    matches!(word, "crate" | "self" | "super") || word.starts_with("probe_")
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    found: Source,
    inline: BTreeSet<Vec<String>>,
}

impl<'a> Reader<'a> {
    fn kind(&self, offset: usize) -> Option<Kind<'a>> {
        Some(self.tokens.get(self.at + offset)?.kind)
    }

    fn word(&self, offset: usize) -> Option<&'a str> {
        self.kind(offset)?.word()
    }

    fn before(&self, offset: usize) -> Option<Kind<'a>> {
        Some(self.tokens.get(self.at.checked_sub(offset)?)?.kind)
    }

    /// Reads to the brace that closes the current inline module.
    fn read(&mut self, inside: &[String]) {
        let mut depth = 0_usize;
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Symbol('{') => depth += 1,
                Kind::Symbol('}') if depth == 0 => return,
                Kind::Symbol('}') => depth -= 1,
                Kind::Word("mod") if self.word(1).is_some() => {
                    self.module(inside);
                    continue;
                }
                // `use<'a>` in a type captures lifetimes, and imports nothing.
                Kind::Word("use") if self.kind(1) != Some(Kind::Symbol('<')) => {
                    self.at += 1;
                    self.tree(&[], inside);
                    continue;
                }
                Kind::Word(_) if self.starts_path() => {
                    self.path(inside);
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Reads `mod name;` or `mod name { … }`.
    fn module(&mut self, inside: &[String]) {
        let name = self.word(1).unwrap_or_default().to_owned();
        let path: Vec<_> = inside.iter().cloned().chain([name]).collect();
        self.at += 2;
        match self.kind(0) {
            Some(Kind::Symbol(';')) => _ = self.found.children.insert(path),
            Some(Kind::Symbol('{')) => {
                self.at += 1;
                self.read(&path);
                self.inline.insert(path);
            }
            _ => return,
        }
        self.at += 1;
    }

    /// Reads one tree of a `use`, to the comma, brace or semicolon behind it.
    fn tree(&mut self, prefix: &[String], inside: &[String]) {
        let mut path = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let mut name = None;
        loop {
            match self.kind(0) {
                Some(Kind::Word("as")) => {
                    name = self.word(1).map(str::to_owned);
                    self.at += 2;
                }
                Some(Kind::Word(word)) => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
                Some(Kind::Symbol('*')) => {
                    path.push("*".to_owned());
                    self.at += 1;
                }
                Some(Kind::Separator) => self.at += 1,
                Some(Kind::Symbol('{')) => {
                    self.at += 1;
                    while !matches!(self.kind(0), None | Some(Kind::Symbol('}'))) {
                        self.tree(&path, inside);
                        if self.kind(0) == Some(Kind::Symbol(',')) {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                _ => break,
            }
        }
        // `a::{self}` is `a` itself.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = name.or_else(|| path.last().cloned());
        self.found.imports.push(Import { line, inside: inside.to_vec(), path, name });
        // Anything that is no tree ends here: a macro may write what it likes behind `use`.
        if !matches!(self.kind(0), Some(Kind::Symbol(',' | '}' | ';'))) {
            self.at += 1;
        }
    }

    /// A path starts at a word with `::` behind it and none before. `pub(in crate::x)` restricts, and imports
    /// nothing.
    fn starts_path(&self) -> bool {
        let restricts = self.before(1) == Some(Kind::Word("in")) && self.before(2) == Some(Kind::Symbol('('));
        let continues = self.before(1) == Some(Kind::Separator);
        !restricts && !continues && self.kind(1) == Some(Kind::Separator) && self.word(2).is_some()
    }

    fn path(&mut self, inside: &[String]) {
        let line = self.tokens[self.at].line;
        let mut path = Vec::new();
        while let Some(word) = self.word(0) {
            path.push(word.to_owned());
            self.at += 1;
            if self.kind(0) != Some(Kind::Separator) || self.word(1).is_none() {
                break;
            }
            self.at += 1;
        }
        self.found.imports.push(Import { line, inside: inside.to_vec(), path, name: None });
    }
}

/// Returns the path of an import from the root of the crate, given the module of its file; `None` for other
/// crates.
///
/// `crate` is its own name from outside as well. A path that starts with a declared module is relative.
pub fn absolute(
    import: &Import,
    module: &[String],
    declared: &BTreeMap<Vec<String>, usize>,
) -> Option<Vec<String>> {
    let mut base: Vec<String> = module.iter().chain(&import.inside).cloned().collect();
    let mut rest = import.path.as_slice();
    match rest.first().map(String::as_str) {
        Some("crate") => {
            base.clear();
            rest = &rest[1..];
        }
        Some("self") => rest = &rest[1..],
        Some("super") => {
            while rest.first().is_some_and(|first| first == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        Some(first) => {
            let relative: Vec<_> = base.iter().cloned().chain([first.to_owned()]).collect();
            if !declared.contains_key(&relative) {
                return None;
            }
        }
        None => return None,
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let join = |import: Import| {
            let inside = import.inside.iter().map(|name| format!("[{name}] "));
            inside.collect::<String>() + &import.path.join("::")
        };
        Source::of(text).imports.into_iter().map(join).collect()
    }

    #[test]
    fn paths_are_found() {
        let cases: [(&str, &[&str], &str); 12] = [
            ("use crate::a::B;", &["crate::a::B"], "an import"),
            ("pub(crate) use crate::a::B as C;", &["crate::a::B"], "a re-export with another name"),
            (
                "use crate::{a::{self, B, c::*},\n  d};",
                &["crate::a", "crate::a::B", "crate::a::c::*", "crate::d"],
                "nested, on several lines",
            ),
            ("fn f() { crate::a::g(); }", &["crate::a::g"], "a path in code"),
            ("fn f(x: super::super::a::T) {}", &["super::super::a::T"], "out of two modules"),
            ("// crate::a::B\nconst S: &str = \"crate::a::B\";", &[], "comments and strings import nothing"),
            (
                "mod tests { use super::*; fn f() { crate::a::g() } }",
                &["[tests] super::*", "[tests] crate::a::g"],
                "inline",
            ),
            ("mod a { fn f() {} } use crate::b;", &["crate::b"], "after an inline module"),
            ("pub(in crate::a) struct S;", &[], "a restriction"),
            (
                "mod child; fn f() { child::g(); }",
                &["child::g"],
                "relative to a module that is declared here",
            ),
            ("fn f() { io::stdin(); Vec::<u8>::new(); }", &[], "other crates and types"),
            ("fn f() -> impl Sized + use<'_> { super::g() }", &["super::g"], "captured lifetimes"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(paths(text), expected, "{text}: {why}");
        }
    }

    #[test]
    fn absolute_paths() {
        let module = ["a", "b"].map(str::to_owned);
        let declared = BTreeMap::from([(["a", "b", "child"].map(str::to_owned).to_vec(), 0)]);
        let cases = [
            ("use crate::c::D;", Some("c::D"), "from the root"),
            ("use super::c::D;", Some("a::c::D"), "from the parent"),
            ("use super::super::D;", Some("D"), "out of the top-level module"),
            ("use self::child::D;", Some("a::b::child::D"), "from here"),
            ("use child::D;", Some("a::b::child::D"), "a declared module"),
            ("use std::fs;", None, "another crate"),
            ("mod tests { use super::super::x; }", Some("a::x"), "an inline module is one level"),
        ];
        for (text, expected, why) in cases {
            let import = Source::of(text).imports.remove(0);
            let absolute = absolute(&import, &module, &declared).map(|path| path.join("::"));
            assert_eq!(absolute.as_deref(), expected, "{text}: {why}");
        }
    }
}
