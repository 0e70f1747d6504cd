//! Re-export of etcd's own metrics: whole families of the allow-list, with unchanged samples that are checked
//! one by one.
//!
//! The output is valid for any input: invalid samples are omitted and counted.

pub mod allow_list;
mod collector;

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

pub use allow_list::AllowList;
pub use collector::Collector;

use super::exposition::FamilyType;

/// The maximum number of re-exported samples of one member. The default list yields 189 for a member with two
/// peers, `*` some 1389.
pub const MAX_SAMPLES: usize = 2_000;

/// The maximum size of one member's re-exported text in bytes, names and help included.
pub const MAX_BYTES: usize = 512 << 10;

/// The families of one member at one time in compact form: one text, and the offsets at which its parts end.
#[derive(Clone, Debug, PartialEq)]
pub struct ReexportedMetrics {
    text: Box<str>,
    parts: Box<[PackedFamily]>,
    /// A hash of the families' names and types.
    shape: u64,
    pub omitted: OmittedSamples,
}

/// The numbers of omitted samples of allowed families, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OmittedSamples {
    /// Their family is too large for [`MAX_SAMPLES`] or [`MAX_BYTES`].
    pub beyond_limit: u64,
    /// Lines that cannot be parsed, or that the type of their family does not permit.
    pub malformed: u64,
    /// Series that had occurred already.
    pub duplicate: u64,
    /// The type or name of their family conflicts with another family.
    pub conflicting: u64,
}

/// One family. Its samples are lines of `name{labels} value`, without the label `member`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family<'a> {
    pub name: &'a str,
    pub kind: FamilyType,
    /// With its escapes.
    pub help: Option<&'a str>,
    pub samples: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct PackedFamily {
    kind: FamilyType,
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
            parts.push(PackedFamily { kind, has_help, name_end, help_end, samples_end: text.len() });
        }
        Self { text: text.into(), parts: parts.into(), shape: shape.finish(), omitted }
    }

    /// Returns the length of the text in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the families, ordered by name.
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
struct FamilyNames<'a>(BTreeMap<&'a str, FamilyType>);

impl<'a> FamilyNames<'a> {
    /// Adds a family; returns whether its type matches the known one, and its sample names conflict with no
    /// other family.
    fn admit(&mut self, name: &'a str, kind: FamilyType) -> bool {
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

/// A family over all members that serve it, with one type and the help of the first member that has one.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedFamily<'a> {
    pub name: &'a str,
    pub kind: FamilyType,
    pub help: Option<&'a str>,
    /// Member and samples.
    pub samples: Vec<(&'a str, &'a str)>,
}

/// Merges the families of several members by name. If families conflict, the first member's is kept.
pub fn merge<'a>(copies: impl Iterator<Item = (&'a str, &'a ReexportedMetrics)>) -> Vec<MergedFamily<'a>> {
    let mut names = FamilyNames::default();
    let mut merged: BTreeMap<&str, MergedFamily<'_>> = BTreeMap::new();
    for (member, copy) in copies {
        for Family { name, kind, help, samples } in copy.families() {
            if !names.admit(name, kind) {
                continue;
            }
            let family = merged.entry(name).or_insert_with(|| MergedFamily {
                name,
                kind,
                help: None,
                samples: Vec::new(),
            });
            family.help = family.help.or(help);
            family.samples.push((member, samples));
        }
    }
    merged.into_values().collect()
}

/// Returns the number of samples that [`merge`] omits from a member's copy because of the members before it.
pub fn conflicting<'a>(
    before: impl Iterator<Item = &'a ReexportedMetrics>,
    own: &'a ReexportedMetrics,
) -> u64 {
    let mut names = FamilyNames::default();
    // Members of one version have the same families: repeated shapes add nothing.
    let mut seen = HashSet::from([own.shape]);
    for Family { name, kind, .. } in
        before.filter(|copy| seen.insert(copy.shape)).flat_map(ReexportedMetrics::families)
    {
        names.admit(name, kind);
    }
    let lost = own.families().filter(|family| !names.admit(family.name, family.kind));
    lost.map(|family| family.samples.lines().count() as u64).sum()
}

/// Collects the allowed families of a text, as a scrape does.
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
