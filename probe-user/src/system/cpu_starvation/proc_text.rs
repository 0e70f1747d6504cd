//! Parsers for the kernel's files.

use super::{MemoryEvents, Throttling};
use crate::system::cgroups::CgroupVersion;

/// Parses the throttling in a `cpu.stat`; `None` if the cgroup has no CPU controller, and therefore no such
/// lines.
pub(super) fn throttling(text: &str, version: CgroupVersion, cgroup: &str) -> Option<Throttling> {
    let throttled_ns = match version {
        CgroupVersion::V1 => value(text, "throttled_time")?,
        CgroupVersion::V2 => value(text, "throttled_usec")?.saturating_mul(1000),
    };
    Some(Throttling {
        cgroup: cgroup.to_owned(),
        periods: value(text, "nr_periods")?,
        throttled_periods: value(text, "nr_throttled")?,
        throttled_ns,
    })
}

/// Parses the number of CPUs that a `cpu.max` permits: `50000 100000` is half of one, `max 100000` is no
/// limit.
pub(super) fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota, period)
}

/// Returns quota divided by period, both in microseconds; in version 1 a quota of -1 is no limit.
pub(super) fn cpus(quota: &str, period: &str) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<u64>().ok().filter(|number| *number > 0);
    Some(number(quota)? as f64 / number(period)? as f64)
}

/// Parses the `some` line of a pressure file, in microseconds. Before Linux 5.13 the file of the CPU has no
/// other line, and the parser of the procfs crate would fail without it.
pub(super) fn pressure(text: &str) -> Option<u64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    procfs::parse_pressure_record(some).ok().map(|record| record.total)
}

/// Parses a `memory.events`.
pub(super) fn memory_events(text: &str) -> MemoryEvents {
    MemoryEvents { high: value(text, "high"), max: value(text, "max"), oom: value(text, "oom") }
}

/// Returns the number after a name, in lines of `name number`.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_in_the_units_of_its_version() {
        let v1 = "nr_periods 10\nnr_throttled 4\nthrottled_time 5000000\n";
        let v2 =
            "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5000\n";
        for (text, version) in [(v1, CgroupVersion::V1), (v2, CgroupVersion::V2)] {
            let throttling = throttling(text, version, "/a").unwrap();
            assert_eq!((throttling.periods, throttling.throttled_periods), (10, 4), "{version:?}");
            assert_eq!(throttling.throttled_ns, 5_000_000, "{version:?}");
        }
        let without = "usage_usec 9\nuser_usec 5\nsystem_usec 4\n";
        assert_eq!(throttling(without, CgroupVersion::V2, "/a"), None, "no CPU controller");
    }

    #[test]
    fn a_quota_is_in_cpus() {
        let cases = [
            ("50000 100000\n", Some(0.5)),
            ("200000 100000\n", Some(2.0)),
            ("max 100000\n", None),
            ("-1 100000", None),
            ("0 100000", None),
            ("50000 0", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(cpu_max(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pressure_is_the_total_of_some() {
        let some = "some avg10=57.72 avg60=33.28 avg300=24.47 total=2493399006";
        let cases = [
            (format!("{some}\n"), Some(2_493_399_006), "the CPU's before Linux 5.13"),
            (
                format!("{some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
                Some(2_493_399_006),
                "since Linux 5.13",
            ),
            ("full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n".to_owned(), None, "no such line"),
            ("some total=1\n".to_owned(), None, "another format"),
            (String::new(), None, "nothing"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(pressure(&text), expected, "{why}");
        }
    }

    #[test]
    fn memory_events_are_matched_by_whole_names() {
        let events = memory_events("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\n");
        assert_eq!(events, MemoryEvents { high: Some(2), max: Some(3), oom: Some(4) });
        let old = memory_events("low 1\nmax 3\noom_kill 5\n");
        assert_eq!(old, MemoryEvents { high: None, max: Some(3), oom: None });
    }
}
