//! The modules of a crate: found from its root through `mod` declarations, with the imports between their
//! files.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{Source, absolute};

/// How many re-exports a path may lead through; a longer chain is a cycle of its own.
const REEXPORTS_MAX: usize = 8;

/// A library or a program with its modules.
#[derive(Debug)]
pub struct Crate {
    /// The name by which programs of the same package import it.
    name: String,
    files: Vec<File>,
    /// The index of a module's file, by the module's path.
    modules: BTreeMap<Vec<String>, usize>,
}

#[derive(Debug)]
struct File {
    path: String,
    module: Vec<String>,
    source: Source,
}

/// An import from one file to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge<'a> {
    pub from: &'a str,
    pub line: usize,
    pub to: &'a str,
    /// The modules of both, which are in the crate of `from` if the import does not leave it.
    modules: Option<(&'a [String], &'a [String])>,
}

/// Children of one module that import each other, directly or through others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle<'a> {
    /// Sorted paths from the crate's root.
    pub modules: Vec<String>,
    /// The imports between them.
    pub edges: Vec<&'a Edge<'a>>,
}

impl Crate {
    /// Reads a crate from its root file, such as `probe-user/src/lib.rs`. A module without a text is left
    /// out.
    pub fn read(name: &str, root: &str, texts: &BTreeMap<String, String>) -> Self {
        let mut this = Self { name: name.to_owned(), files: Vec::new(), modules: BTreeMap::new() };
        let directory = root.rsplit_once('/').map_or("", |(directory, _)| directory);
        this.add(root, &[], directory, texts);
        this
    }

    fn add(&mut self, path: &str, module: &[String], directory: &str, texts: &BTreeMap<String, String>) {
        let Some(text) = texts.get(path) else { return };
        let source = Source::of(text);
        let children = source.children.clone();
        self.modules.insert(module.to_vec(), self.files.len());
        self.files.push(File { path: path.to_owned(), module: module.to_vec(), source });
        for child in children {
            let module: Vec<_> = module.iter().chain(&child).cloned().collect();
            self.add(&format!("{directory}/{}.rs", module.join("/")), &module, directory, texts);
        }
    }

    /// Returns the file that a path from the root leads to, through re-exports.
    fn resolve(&self, path: &[String], hops: usize) -> Option<usize> {
        let at = (0..=path.len()).rev().find(|&at| self.modules.contains_key(&path[..at]))?;
        let index = *self.modules.get(&path[..at])?;
        let (file, rest) = (&self.files[index], &path[at..]);
        let Some(name) = rest.first().filter(|_| hops < REEXPORTS_MAX) else { return Some(index) };
        let reexport = file.source.imports.iter().find(|import| {
            import.inside.is_empty() && import.name.as_ref() == Some(name) && import.path.last().is_some()
        });
        let target = reexport.and_then(|import| absolute(import, &file.module, &self.modules));
        match target {
            Some(target) if target != path => {
                let further: Vec<_> = target.into_iter().chain(rest[1..].iter().cloned()).collect();
                self.resolve(&further, hops + 1)
            }
            _ => Some(index),
        }
    }
}

/// Returns the imports between the files of one crate, and to files of the others. `mod` declarations are
/// none.
pub fn edges<'a>(this: &'a Crate, others: &'a [Crate]) -> Vec<Edge<'a>> {
    let mut edges = Vec::new();
    for (index, file) in this.files.iter().enumerate() {
        for import in &file.source.imports {
            let is_named = |other: &&Crate| Some(&other.name) == import.path.first();
            let (to, inside) = if let Some(other) = others.iter().find(is_named) {
                (other.resolve(&import.path[1..], 0).map(|at| &other.files[at]), false)
            } else {
                let path = absolute(import, &file.module, &this.modules);
                let at = path.and_then(|path| this.resolve(&path, 0)).filter(|&at| at != index);
                (at.map(|at| &this.files[at]), true)
            };
            if let Some(to) = to {
                let modules = inside.then_some((file.module.as_slice(), to.module.as_slice()));
                edges.push(Edge { from: &file.path, line: import.line, to: &to.path, modules });
            }
        }
    }
    edges.sort();
    edges.dedup_by_key(|edge| (edge.from, edge.to));
    edges
}

/// Returns the cycles between the children of every module of a crate.
///
/// A child stands for all modules below it, so two modules that import each other are found wherever they
/// are: at the level where their paths part. A module and its own children are one unit: `super::X` in a
/// child is how it reaches what the parent defines for all of them, and no cycle.
pub fn cycles<'a>(this: &Crate, edges: &'a [Edge<'a>]) -> Vec<Cycle<'a>> {
    this.modules.keys().flat_map(|parent| cycles_below(parent, edges)).collect()
}

fn cycles_below<'a>(parent: &[String], edges: &'a [Edge<'a>]) -> Vec<Cycle<'a>> {
    let child = |module: &'a [String]| Some(module.strip_prefix(parent)?.first()?.as_str());
    let between: Vec<(&str, &str, &Edge)> = edges
        .iter()
        .filter_map(|edge| {
            let (from, to) = edge.modules?;
            Some((child(from)?, child(to)?, edge))
        })
        .filter(|(from, to, _)| from != to)
        .collect();
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for &(from, to, _) in &between {
        graph.entry(from).or_default().insert(to);
    }
    let describe = |group: Vec<&str>| Cycle {
        modules: group
            .iter()
            .map(|name| parent.iter().map(String::as_str).chain([*name]).collect::<Vec<_>>().join("::"))
            .collect(),
        edges: between
            .iter()
            .filter(|(from, to, _)| group.contains(from) && group.contains(to))
            .map(|&(_, _, edge)| edge)
            .collect(),
    };
    groups(&graph).into_iter().map(describe).collect()
}

/// Returns the groups of names that reach each other.
fn groups<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<Vec<&'a str>> {
    let reachable = |from: &str| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut left: Vec<&str> = graph.get(from).into_iter().flatten().copied().collect();
        while let Some(next) = left.pop() {
            if seen.insert(next) {
                left.extend(graph.get(next).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|&name| (name, reachable(name))).collect();
    let mut groups = BTreeSet::new();
    for (&name, reached) in all.iter().filter(|(name, reached)| reached.contains(*name)) {
        let reaches_back = |other: &&str| all.get(other).is_some_and(|back| back.contains(name));
        groups.insert(reached.iter().copied().filter(reaches_back).collect());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths and texts of files.
    type Files = &'static [(&'static str, &'static str)];

    fn crates(files: &[(&str, &str)]) -> [Crate; 2] {
        let texts = files.iter().map(|&(path, text)| (format!("p/src/{path}"), text.to_owned())).collect();
        [Crate::read("probe_p", "p/src/lib.rs", &texts), Crate::read("", "p/src/main.rs", &texts)]
    }

    fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
        let crates = crates(files);
        let of = |this| {
            let edges = edges(this, &crates);
            cycles(this, &edges).into_iter().map(|cycle| cycle.modules.join(" ")).collect::<Vec<_>>()
        };
        crates.iter().flat_map(of).collect()
    }

    #[test]
    fn cycles_between_modules() {
        let cases: [(Files, &[&str], &str); 8] = [
            (
                &[("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::X;"), ("b.rs", "")],
                &[],
                "one direction",
            ),
            (
                &[
                    ("lib.rs", "mod a; mod b;"),
                    ("a.rs", "use crate::b::X;"),
                    ("b.rs", "fn f() { super::a::g() }"),
                ],
                &["a b"],
                "both directions",
            ),
            (
                &[
                    ("lib.rs", "mod a;"),
                    ("a.rs", "mod b; use self::b::T; struct S;"),
                    ("a/b.rs", "use super::S;"),
                ],
                &[],
                "a module and its child are one unit",
            ),
            (
                &[
                    ("lib.rs", "mod a; mod b;"),
                    ("a.rs", "mod x; mod y;"),
                    ("a/x.rs", "use crate::b::U;"),
                    ("a/y.rs", ""),
                    ("b.rs", "use crate::a::y::T;"),
                ],
                &["a b"],
                "a module stands for all of its files",
            ),
            (
                &[
                    ("lib.rs", "mod a;"),
                    ("a.rs", "mod x; mod y;"),
                    ("a/x.rs", "use super::y::T;"),
                    ("a/y.rs", "use super::x::T;"),
                ],
                &["a::x a::y"],
                "below the top level",
            ),
            (
                &[
                    ("lib.rs", "mod a;"),
                    ("a.rs", "mod x; mod y; pub use x::S; use y::T;"),
                    ("a/x.rs", "use super::T;"),
                    ("a/y.rs", "fn f(s: super::S) {}"),
                ],
                &["a::x a::y"],
                "a re-export leads to where the item is defined",
            ),
            (
                &[("lib.rs", "mod a;"), ("a.rs", ""), ("main.rs", "mod m; use probe_p::a::X;"), ("m.rs", "")],
                &[],
                "a program uses its library",
            ),
            (
                &[
                    ("lib.rs", ""),
                    ("main.rs", "mod m; mod n;"),
                    ("m.rs", "use crate::n::f;"),
                    ("n.rs", "use crate::m::g;"),
                ],
                &["m n"],
                "in a program as well",
            ),
        ];
        for (files, expected, why) in cases {
            assert_eq!(cycles_of(files), expected, "{why}");
        }
    }

    #[test]
    fn imports_have_lines() {
        let files =
            [("lib.rs", "mod a; mod b;"), ("a.rs", "\n\nuse crate::b::X;\nuse crate::b::Y;"), ("b.rs", "")];
        let crates = crates(&files);
        let edges: Vec<_> =
            edges(&crates[0], &crates).iter().map(|edge| (edge.from, edge.line, edge.to)).collect();
        assert_eq!(edges, [("p/src/a.rs", 3, "p/src/b.rs")], "that of the first import");
    }
}
