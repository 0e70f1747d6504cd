//! Collects the allowed families of one response body line by line, within limits.

use std::collections::{BTreeMap, HashSet};

use super::{Family, FamilyNames, MAX_BYTES, MAX_SAMPLES, OmittedSamples, ReexportedMetrics};
use crate::analysis::{
    exposition::{FamilyType, Line, Sample, is_name_byte, number},
    reexport::AllowList,
};

/// The maximum number of collected families of one member; etcd 3.5 has 190.
const MAX_FAMILIES: usize = 1_000;

/// The families collected so far.
#[derive(Debug)]
pub struct Collector<'a> {
    allowed: &'a AllowList,
    names: FamilyNames<'a>,
    families: BTreeMap<&'a str, CollectedFamily<'a>>,
    /// The last name without an allowed family: samples of one family are adjacent.
    refused: &'a str,
    samples: usize,
    bytes: usize,
    omitted: OmittedSamples,
}

#[derive(Debug, Default)]
struct CollectedFamily<'a> {
    kind: Option<FamilyType>,
    help: Option<&'a str>,
    text: String,
    /// Names with sorted labels, to detect duplicates.
    series: HashSet<String>,
    /// Too large, or in conflict with another family: all its samples are omitted.
    rejection: Option<Rejection>,
}

#[derive(Clone, Copy, Debug)]
enum Rejection {
    TooLarge,
    Conflicting,
}

impl<'a> Collector<'a> {
    pub fn new(allowed: &'a AllowList) -> Self {
        Self {
            allowed,
            names: FamilyNames::default(),
            families: BTreeMap::new(),
            refused: "",
            samples: 0,
            bytes: 0,
            omitted: OmittedSamples::default(),
        }
    }

    /// Returns whether a line starts with the name that was refused last.
    pub fn refuses(&self, line: &str) -> bool {
        let rest = line.strip_prefix(self.refused).filter(|_| !self.refused.is_empty());
        rest.is_some_and(|rest| !rest.bytes().next().is_some_and(is_name_byte))
    }

    /// Returns whether lines of this name must be parsed for [`Collector::take`].
    ///
    /// Counts a line of a family that is omitted as a whole without parsing it: there may be millions.
    pub fn wants(&mut self, name: &'a str, is_comment: bool) -> bool {
        if name == self.refused || self.allowed.is_empty() {
            return false;
        }
        let family = if is_comment { name } else { self.family_of(name) };
        if let Some(collected) = self.families.get(family) {
            match collected.rejection {
                Some(_) if is_comment => return false,
                Some(Rejection::TooLarge) => self.omitted.beyond_limit += 1,
                Some(Rejection::Conflicting) => self.omitted.conflicting += 1,
                None => return true,
            }
            return false;
        }
        if !self.allowed.allows(family) {
            self.refused = name;
            return false;
        }
        let fits = self.families.len() < MAX_FAMILIES;
        self.omitted.beyond_limit += u64::from(!fits && !is_comment);
        fits
    }

    /// Counts a line that cannot be parsed and is wanted, or does not start with a name.
    pub fn malformed(&mut self) {
        self.omitted.malformed += u64::from(!self.allowed.is_empty());
    }

    /// Adds a line that is wanted.
    pub fn take(&mut self, line: &Line<'a>) {
        match line {
            Line::Type { family, kind } => self.declare(family, *kind),
            Line::Help { family, text } => {
                let collected = self.families.entry(family).or_default();
                // Format: one help for each family, before its first sample.
                if collected.help.is_some() || !collected.text.is_empty() {
                    self.omitted.malformed += 1;
                } else if self.bytes + text.len() > MAX_BYTES {
                    self.omitted.beyond_limit += 1;
                } else {
                    self.bytes += text.len();
                    collected.help = Some(text);
                }
            }
            Line::Sample(sample) => self.add(sample),
            Line::Nothing => {}
        }
    }

    /// Returns the families to re-export.
    pub fn finish(self) -> ReexportedMetrics {
        let families = self.families.iter().filter(|(_, collected)| !collected.text.is_empty());
        let families = families.map(|(name, collected)| Family {
            name,
            kind: collected.kind.unwrap_or(FamilyType::Untyped),
            help: collected.help,
            samples: &collected.text,
        });
        ReexportedMetrics::pack(families, self.omitted)
    }

    /// Returns the family of a sample by its name: a known histogram or summary, otherwise the name itself.
    fn family_of(&self, name: &'a str) -> &'a str {
        if self.families.contains_key(name) {
            return name;
        }
        let whole = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
            let whole = name.strip_suffix(suffix)?;
            let kind = self.families.get(whole)?.kind?;
            kind.suffixes().contains(&suffix).then_some(whole)
        });
        whole.unwrap_or(name)
    }

    fn declare(&mut self, family: &'a str, kind: FamilyType) {
        self.refused = ""; // A refused name may belong to this family.
        let collected = self.families.entry(family).or_default();
        // Format: one type for each family, before its first sample.
        if collected.kind.is_some() {
            self.omitted.malformed += 1;
        } else if self.names.admit(family, kind) {
            collected.kind = Some(kind);
        } else {
            collected.kind = Some(kind);
            collected.rejection = Some(Rejection::Conflicting);
        }
    }

    fn add(&mut self, sample: &Sample<'a>) {
        let name = self.family_of(sample.name);
        let collected = self.families.entry(name).or_default();
        if collected.kind.is_none() {
            collected.kind = Some(FamilyType::Untyped);
            if !self.names.admit(name, FamilyType::Untyped) {
                collected.rejection = Some(Rejection::Conflicting);
                self.omitted.conflicting += 1;
                return;
            }
        }
        let kind = collected.kind.unwrap_or(FamilyType::Untyped);
        if !is_possible(sample, name, kind) {
            self.omitted.malformed += 1;
            return;
        }
        if !collected.series.insert(identity(sample)) {
            self.omitted.duplicate += 1;
            return;
        }
        let before = collected.text.len();
        render(sample, &mut collected.text);
        let first = if before == 0 { name.len() } else { 0 };
        let added = first + collected.text.len() - before;
        if self.samples == MAX_SAMPLES || self.bytes + added > MAX_BYTES {
            // A part of a family would yield a wrong sum, so the whole family is omitted; others use its
            // space.
            let lost = collected.text[..before].lines().count();
            let help = collected.help.map_or(0, str::len);
            self.samples -= lost;
            self.bytes -= before + help + if lost > 0 { name.len() } else { 0 };
            self.omitted.beyond_limit += lost as u64 + 1;
            let rejection = Some(Rejection::TooLarge);
            *collected = CollectedFamily { kind: Some(kind), rejection, ..CollectedFamily::default() };
            return;
        }
        self.samples += 1;
        self.bytes += added;
    }
}

/// Returns whether a family of this type can contain the sample.
fn is_possible(sample: &Sample<'_>, family: &str, kind: FamilyType) -> bool {
    let bound = |label| sample.label(label).and_then(number).is_some();
    let is_count = sample.number >= 0.0; // False for NaN.
    match (kind, sample.name.strip_prefix(family).unwrap_or_default()) {
        (FamilyType::Counter, _) | (FamilyType::Histogram | FamilyType::Summary, "_count") => is_count,
        (FamilyType::Histogram, "_bucket") => is_count && bound("le"),
        (FamilyType::Histogram | FamilyType::Summary, suffix) => {
            suffix == "_sum" || kind == FamilyType::Summary && bound("quantile")
        }
        (FamilyType::Gauge | FamilyType::Untyped, _) => true,
    }
}

/// Returns the identity of a series: independent of the order of labels, without labels that have no value.
fn identity(sample: &Sample<'_>) -> String {
    let mut labels: Vec<_> = sample.labels.iter().filter(|(_, value)| !value.is_empty()).collect();
    labels.sort_unstable();
    let length: usize = labels.iter().map(|(name, value)| name.len() + value.len() + ",=''".len()).sum();
    let mut identity = String::with_capacity(sample.name.len() + length);
    identity.push_str(sample.name);
    for (name, value) in labels {
        identity.extend([",", name, "=\"", value, "\""]);
    }
    identity
}

/// Writes a sample unchanged, except that a label `member` of its own is renamed in favour of the probe's, as
/// Prometheus does for its own labels.
fn render(sample: &Sample<'_>, line: &mut String) {
    line.push_str(sample.name);
    let mut before = "{";
    for (name, value) in &sample.labels {
        line.push_str(before);
        if *name == "member" {
            let mut renamed = "exported_member".to_owned();
            while sample.label(&renamed).is_some() {
                renamed.insert_str(0, "exported_");
            }
            line.push_str(renamed.trim_end_matches("member"));
        }
        line.extend([name, "=\"", value, "\""]);
        before = ",";
    }
    line.push_str(if before == "," { "} " } else { " " });
    line.push_str(sample.value);
    line.push('\n');
}
