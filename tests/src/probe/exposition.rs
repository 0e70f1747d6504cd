//! Pages of metrics as text, to compare re-exported metrics with their source byte by byte.

use std::collections::BTreeMap;

/// A page: its samples by series, and the comments on its families.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// By name and labels, as written.
    pub samples: BTreeMap<String, String>,
    /// `# TYPE` and `# HELP`, in the order of their names.
    pub comments: Vec<String>,
}

impl Page {
    /// Reads the families that pass the filter. For the samples of a histogram, too, the filter receives the
    /// family's name.
    ///
    /// # Panics
    ///
    /// If a series occurs twice.
    pub fn of(text: &str, passes: impl Fn(&str) -> bool) -> Self {
        let mut page = Self::default();
        let histograms: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram"))
            .collect();
        for line in text.lines() {
            let of_comment = line.strip_prefix("# TYPE ").or_else(|| line.strip_prefix("# HELP "));
            if let Some(rest) = of_comment {
                if passes(rest.split(' ').next().unwrap_or_default()) {
                    page.comments.push(line.to_owned());
                }
                continue;
            }
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let family = whole.filter(|whole| histograms.contains(whole)).unwrap_or(name);
            // No label value of etcd contains a blank after its last brace.
            if let Some((series, value)) = line.rsplit_once(' ').filter(|_| passes(family)) {
                let before = page.samples.insert(series.to_owned(), value.to_owned());
                assert_eq!(before, None, "{series} occurs twice");
            }
        }
        page.comments.sort();
        page
    }

    /// Returns the samples of one member without its `member` label.
    ///
    /// # Panics
    ///
    /// If anything except labels follows that label.
    #[must_use]
    pub fn of_member(&self, member: &str) -> BTreeMap<String, String> {
        let label = format!("{{member=\"{member}\"");
        let own = self.samples.iter().filter_map(|(series, value)| {
            let (name, rest) = series.split_once(&label)?;
            let rest = rest.strip_prefix(',').map(|rest| format!("{{{rest}")).or_else(|| {
                assert_eq!(rest, "}", "{series}: nothing follows but other labels");
                Some(String::new())
            })?;
            Some((format!("{name}{rest}"), value.clone()))
        });
        own.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_kept_as_they_are_written() {
        let text = "# TYPE h histogram\nh_sum{member=\"m\"} 1\nh_bucket{member=\"m\",le=\"1\"} 2\n\
                    # TYPE h_count gauge\nother 3\n";
        let page = Page::of(text, |family| family == "h");
        assert_eq!(page.comments, ["# TYPE h histogram"]);
        let own = page.of_member("m");
        assert_eq!(own.get("h_sum").map(String::as_str), Some("1"));
        assert_eq!(own.get("h_bucket{le=\"1\"}").map(String::as_str), Some("2"));
        assert_eq!((own.len(), page.of_member("n").len()), (2, 0));
    }
}
