//! Compares docs/metrics.md with the recorded text of `/metrics` and with the closed sets of labels.

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::miss::Miss;
use probe_user::analysis::causes::Cause;

const PAGE: &str = include_str!("../../docs/metrics.md");
const GOLDEN: &str = include_str!("../testdata/metrics.prom");
const PREFIX: &str = "etcd_disk_probe_";

/// Type and labels of a family, `le` left out.
type Family = (String, BTreeSet<String>);

/// Returns the probe's own families of a text in Prometheus' format.
fn exposed(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            if name.starts_with(PREFIX) {
                families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            }
            continue;
        }
        let Some((name, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else { continue };
        let family = ["_bucket", "_sum", "_count"]
            .into_iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| families.contains_key(*family))
            .unwrap_or(name);
        if let Some((_, known)) = families.get_mut(family) {
            known.extend(label_names(labels).filter(|label| label != "le"));
        }
    }
    families
}

/// Returns the names before `="`; no value of the recorded text contains that sequence.
fn label_names(labels: &str) -> impl Iterator<Item = String> {
    let parts = labels.split("=\"");
    parts
        .map(|part| part.rsplit(['"', ',']).next().unwrap_or_default().to_owned())
        .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// Returns the families that the page has a section for, and the unit of each.
fn documented(page: &str) -> BTreeMap<String, (Family, String)> {
    let mut families = BTreeMap::new();
    for section in page.split("\n### `").skip(1) {
        let (name, rest) = section.split_once('`').expect("a heading ends in a backtick");
        let facts = rest.lines().find(|line| line.starts_with("Type: ")).expect(name);
        let fact = |key: &str| {
            let (_, value) = facts.split_once(key).expect(facts);
            value.split('.').next().unwrap_or_default().trim().to_owned()
        };
        let labels = fact("Labels: ").split('`').skip(1).step_by(2).map(str::to_owned).collect();
        for part in ["\n- Absent or 0: ", "\n- What to do: "] {
            assert!(rest.contains(part), "{name} lacks {part:?}");
        }
        let known = families.insert(name.to_owned(), ((fact("Type: "), labels), fact("Unit: ")));
        assert!(known.is_none(), "{name} has two sections");
    }
    families
}

#[test]
fn every_family_has_a_section_with_its_type_and_labels() {
    let exposed = exposed(GOLDEN);
    assert!(exposed.len() > 20, "{exposed:?}");
    let documented: BTreeMap<_, _> =
        documented(PAGE).into_iter().map(|(name, (family, _))| (name, family)).collect();
    assert_eq!(documented, exposed);
}

#[test]
fn units_follow_from_the_names() {
    for (name, (_, unit)) in documented(PAGE) {
        let base = name.trim_end_matches("_total");
        for (suffix, expected) in [("_seconds", "seconds"), ("_bytes", "bytes")] {
            assert_eq!(base.ends_with(suffix), unit == expected, "{name}: {unit}");
        }
    }
}

#[test]
fn every_value_of_a_closed_set_has_a_row() {
    let reasons = Miss::ALL.map(Miss::as_str);
    let causes = Cause::ALL.map(Cause::as_str);
    for value in reasons.into_iter().chain(causes) {
        assert!(PAGE.contains(&format!("\n| `{value}` | ")), "docs/metrics.md has no row for {value}");
    }
}
