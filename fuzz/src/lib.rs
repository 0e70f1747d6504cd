//! Fuzz targets: one function per parser of untrusted input.
//!
//! `cargo xtask fuzz` calls them with generated input. `probe-user/tests/corpus.rs` includes this file and
//! replays the corpus. A target checks more than the absence of panics: a parsed value must have the
//! properties on which the rest of the program relies.

use std::{collections::HashMap, path::Path};

use probe_user::{
    analysis::{
        exposition::{self, Line},
        reexport::AllowList,
    },
    discovery::{Endpoint, MemberSettings, member_settings::LaunchConfig},
    etcd::Scrape,
    output::metrics::Format,
    server::{self, web_config::WebConfig},
};

/// A fuzz target: its name, which is also the name of its corpus, and the function under test.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("metrics", metrics),
    ("flags", flags),
    ("config_file", config_file),
    ("web_config", web_config),
    ("headers", headers),
];

/// Parses the body of etcd's `/metrics`.
///
/// # Panics
/// If the parsed value is inconsistent.
pub fn metrics(bytes: &[u8]) {
    let everything = AllowList::parse(&["*".to_owned()]).expect("a pattern");
    let Ok(scrape) = Scrape::parse(bytes, &everything) else { return };
    for family in scrape.reexported.families() {
        for line in family.samples.lines() {
            let Ok(Line::Sample(sample)) = exposition::read(line) else { panic!("re-exported: {line:?}") };
            assert!(sample.name.starts_with(family.name), "{line:?} below {}", family.name);
        }
    }
    for histogram in [scrape.wal_fsync, scrape.backend_commit] {
        assert!(histogram.at_most.is_sorted(), "cumulative buckets decrease");
        assert!(
            histogram.at_most.iter().all(|at_most| *at_most <= histogram.count),
            "a bucket exceeds the count"
        );
        assert!(histogram.sum_s.is_finite() && histogram.sum_s >= 0.0, "the sum is negative or not finite");
    }
    assert!(scrape.process_start_time_s.is_none_or(f64::is_finite));
    assert!(scrape.process_cpu_s.is_none_or(f64::is_finite));
}

/// Parses a command line, one argument per line, and the environment after an empty line.
///
/// # Panics
/// If the parsed value is inconsistent.
pub fn flags(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (arguments, environment) = text.split_once("\n\n").unwrap_or((&text, ""));
    let argv: Vec<String> = arguments.lines().map(str::to_owned).collect();
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let environment: HashMap<String, String> =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let source = LaunchConfig::new(&argv, &environment);
    assert!(source.config_file().is_none_or(|path| !path.as_os_str().is_empty()), "a file without a name");
    check(&source.settings());
}

/// Parses the file of etcd's `--config-file`.
///
/// # Panics
/// If the parsed value is inconsistent.
pub fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(settings) = MemberSettings::from_config_file(text) {
        check(&settings);
    }
}

fn check(settings: &MemberSettings) {
    assert!(
        !settings.name.is_empty() && !settings.data_dir.as_os_str().is_empty(),
        "etcd has defaults for both"
    );
    assert!(!settings.wal_path().as_os_str().is_empty(), "the WAL has a path");
    for url in settings.listen_metrics_urls.iter().chain(&settings.listen_client_urls) {
        if let Ok(endpoint) = Endpoint::parse(url) {
            let again = Endpoint::parse(&endpoint.to_string());
            assert_eq!(again.as_ref(), Ok(&endpoint), "an endpoint's text parses to the same endpoint");
        }
    }
}

/// Parses the file of `--web.config.file`.
///
/// # Panics
/// If the parsed value is inconsistent, or an error is longer than a sentence.
pub fn web_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match WebConfig::parse(text, Path::new("/etc")) {
        Ok(config) => {
            assert!(config.users.values().all(|hash| hash.len() == 60), "a bcrypt hash has 60 characters");
            if let Some(tls) = config.tls {
                let suites = &tls.cipher_suites;
                let usable = |version| suites.iter().any(|suite| suite.version() == version);
                assert!(!tls.versions.is_empty() && tls.versions.iter().all(|version| usable(*version)));
                assert!(!tls.curves.is_empty());
                assert!(
                    !tls.client_auth.verifies() || tls.client_ca.is_some(),
                    "client certificates need an authority"
                );
            }
        }
        Err(wrong) => {
            let sentence = wrong.to_string();
            assert!(sentence.len() < 1_000 && !sentence.contains(char::is_control), "{sentence:?}");
        }
    }
}

/// Parses the `Accept` and `Authorization` headers of a client of the probe.
///
/// # Panics
/// If the parsed value is inconsistent.
pub fn headers(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let format = Format::accepted(Some(text));
        assert!(
            format == Format::Prometheus || text.contains("openmetrics"),
            "the client did not request it"
        );
    }
    if let Some((user, _)) = server::credentials(bytes) {
        assert!(!user.contains(':'), "the first colon ends the name");
    }
}
