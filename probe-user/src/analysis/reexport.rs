//! What of etcd's own text is passed on: whole families of the allow-list, their samples as they were, checked one by one.
//!
//! Whatever etcd serves, what comes out of here is valid: what is not is left out and counted.

pub mod allow_list;
mod collector;

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

pub use allow_list::AllowList;
pub use collector::Collector;

use super::exposition::Kind;

/// As many samples are passed on of one etcd. The default list makes 189 of a member with two peers, `*` some 1389.
pub const MAX_SAMPLES: usize = 2_000;

/// As many bytes of text are passed on of one etcd, names and help included.
pub const MAX_BYTES: usize = 512 << 10;

/// The families of one etcd at one time, compact: one text, and where its parts end.
#[derive(Clone, Debug, PartialEq)]
pub struct ReexportedMetrics {
    text: Box<str>,
    parts: Box<[Part]>,
    /// A hash of the families' names and types.
    shape: u64,
    pub omitted: OmittedSamples,
}

/// How many samples of allowed families were left out, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OmittedSamples {
    /// Their family is too large for [`MAX_SAMPLES`] or [`MAX_BYTES`].
    pub beyond_limit: u64,
    /// Lines that cannot be read, or that their family cannot have.
    pub malformed: u64,
    /// Series that were there already.
    pub duplicate: u64,
    /// Their family's type or name contradicts another family's.
    pub conflicting: u64,
}

/// One family. Its samples are lines of `name{labels} value`, without the label `member`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family<'a> {
    pub name: &'a str,
    pub kind: Kind,
    /// With its escapes.
    pub help: Option<&'a str>,
    pub samples: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    kind: Kind,
    has_help: bool,
    name_end: usize,
    help_end: usize,
    samples_end: usize,
}

impl Default for ReexportedMetrics {
    fn default() -> Self {
        Self::pack([].into_iter(), OmittedSamples::default())
    }
}

impl ReexportedMetrics {
    /// Packs families that are valid together.
    fn pack<'a>(families: impl Iterator<Item = Family<'a>>, omitted: OmittedSamples) -> Self {
        let (mut text, mut parts) = (String::new(), Vec::new());
        let mut shape = DefaultHasher::new();
        for family in families {
            (family.name, family.kind).hash(&mut shape);
            text.push_str(family.name);
            let name_end = text.len();
            text.push_str(family.help.unwrap_or_default());
            let help_end = text.len();
            text.push_str(family.samples);
            let (kind, has_help) = (family.kind, family.help.is_some());
            parts.push(Part { kind, has_help, name_end, help_end, samples_end: text.len() });
        }
        Self { text: text.into(), parts: parts.into(), shape: shape.finish(), omitted }
    }

    /// Returns how long the text is.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the families by name.
    pub fn families(&self) -> impl Iterator<Item = Family<'_>> {
        let mut begin = 0;
        self.parts.iter().map(move |part| {
            let family = Family {
                name: &self.text[begin..part.name_end],
                kind: part.kind,
                help: part.has_help.then_some(&self.text[part.name_end..part.help_end]),
                samples: &self.text[part.help_end..part.samples_end],
            };
            begin = part.samples_end;
            family
        })
    }
}

impl OmittedSamples {
    /// Returns the counts, by the label `reason`.
    pub const fn by_reason(&self) -> [(&'static str, u64); 4] {
        [
            ("etcd_series_limit", self.beyond_limit),
            ("etcd_line_malformed", self.malformed),
            ("etcd_series_duplicate", self.duplicate),
            ("etcd_type_conflict", self.conflicting),
        ]
    }

    pub fn add(&mut self, other: &Self) {
        self.beyond_limit += other.beyond_limit;
        self.malformed += other.malformed;
        self.duplicate += other.duplicate;
        self.conflicting += other.conflicting;
    }
}

/// The names and types of families that are valid together.
#[derive(Debug, Default)]
struct Names<'a>(BTreeMap<&'a str, Kind>);

impl<'a> Names<'a> {
    /// Takes a family in; returns whether its type is the one known, and no sample of its could be taken for another family's.
    fn admit(&mut self, name: &'a str, kind: Kind) -> bool {
        if let Some(known) = self.0.get(name) {
            return *known == kind;
        }
        let is_part_of_another = ["_bucket", "_sum", "_count"].into_iter().any(|suffix| {
            let whole = name.strip_suffix(suffix).and_then(|whole| self.0.get(whole));
            whole.is_some_and(|kind| kind.suffixes().contains(&suffix))
        });
        let has_another_as_part =
            kind.suffixes().iter().any(|suffix| self.0.contains_key(format!("{name}{suffix}").as_str()));
        if is_part_of_another || has_another_as_part {
            return false;
        }
        self.0.insert(name, kind);
        true
    }
}

/// A family over all members that serve it: one type, and the help of the first that has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub help: Option<&'a str>,
    /// Member and samples.
    pub samples: Vec<(&'a str, &'a str)>,
}

/// Brings the families of several members together, by name. Of those that contradict each other the first member's stays.
pub fn merge<'a>(copies: impl Iterator<Item = (&'a str, &'a ReexportedMetrics)>) -> Vec<Merged<'a>> {
    let mut names = Names::default();
    let mut merged: BTreeMap<&str, Merged<'_>> = BTreeMap::new();
    for (member, copy) in copies {
        for Family { name, kind, help, samples } in copy.families() {
            if !names.admit(name, kind) {
                continue;
            }
            let family =
                merged.entry(name).or_insert_with(|| Merged { name, kind, help: None, samples: Vec::new() });
            family.help = family.help.or(help);
            family.samples.push((member, samples));
        }
    }
    merged.into_values().collect()
}

/// Returns how many samples [`merge`] leaves out of a member's copy for those of the members before it.
pub fn conflicting<'a>(
    before: impl Iterator<Item = &'a ReexportedMetrics>,
    own: &'a ReexportedMetrics,
) -> u64 {
    let mut names = Names::default();
    // Members of one version have the same families, and the second time they add nothing.
    let mut seen = HashSet::from([own.shape]);
    for Family { name, kind, .. } in
        before.filter(|copy| seen.insert(copy.shape)).flat_map(ReexportedMetrics::families)
    {
        names.admit(name, kind);
    }
    let lost = own.families().filter(|family| !names.admit(family.name, family.kind));
    lost.map(|family| family.samples.lines().count() as u64).sum()
}

/// Gathers the allowed families of a text, as a scrape does.
#[cfg(test)]
pub(crate) fn collect(text: &str, allowed: &AllowList) -> ReexportedMetrics {
    use super::exposition;

    let mut collector = Collector::new(allowed);
    for line in text.split('\n') {
        let name = exposition::name_of(line).unwrap_or_default();
        let is_comment = line.starts_with('#');
        let is_wanted = !name.is_empty() && collector.wants(name, is_comment);
        if !is_wanted && (is_comment || !name.is_empty()) {
            continue;
        }
        match exposition::read(line) {
            Ok(line) if is_wanted => collector.take(&line),
            Ok(_) => {}
            Err(_) => collector.malformed(),
        }
    }
    collector.finish()
}

#[cfg(test)]
mod tests;
