//! When a certificate ends, how soon somebody has to act, and when that was last said. No I/O; time is an argument.

use std::time::{Duration, UNIX_EPOCH};

pub const DAY_S: i64 = 24 * 3600;

/// How long before its end a certificate is warned of.
const SOON_S: i64 = 30 * DAY_S;
const URGENT_S: i64 = 7 * DAY_S;

/// When one certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before_s: i64,
    pub not_after_s: i64,
}

/// What a certificate is for; the label `certificate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateKind {
    Ca,
    Server,
    Client,
}

impl CertificateKind {
    pub const ALL: [Self; 3] = [Self::Ca, Self::Server, Self::Client];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Ca => "the certificate of etcd's authority",
            Self::Server => "etcd's server certificate",
            Self::Client => "the client certificate that etcd is shown",
        }
    }
}

/// How soon somebody has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Within thirty days.
    Soon,
    /// Within seven.
    Urgent,
    Expired,
}

impl Urgency {
    /// Returns how urgent it is to renew a certificate; none if it is not. Times are seconds since 1970.
    pub fn of(until_s: i64, now_s: i64) -> Option<Self> {
        match until_s.saturating_sub(now_s) {
            left_s if left_s < 0 => Some(Self::Expired),
            left_s if left_s < URGENT_S => Some(Self::Urgent),
            left_s if left_s < SOON_S => Some(Self::Soon),
            _ => None,
        }
    }

    /// Returns what to do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Soon => "renew it soon",
            Self::Urgent => "renew it now",
            Self::Expired => "renew it, or correct this machine's clock",
        }
    }
}

/// The last warning of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub until_s: i64,
    pub urgency: Urgency,
    pub at_s: i64,
}

/// Returns the warning that is due: at first sight, when it gets more urgent, and once a day.
pub fn due(told: Option<Told>, until_s: i64, now_s: i64) -> Option<Told> {
    let warning = Told { until_s, urgency: Urgency::of(until_s, now_s)?, at_s: now_s };
    let again = told.is_none_or(|told| {
        let same = (told.until_s, told.urgency) == (until_s, warning.urgency);
        // A clock that was set back has no say in when the day is over.
        !same || !(told.at_s..told.at_s.saturating_add(DAY_S)).contains(&now_s)
    });
    again.then_some(warning)
}

pub fn sentence(kind: CertificateKind, urgency: Urgency, until_s: i64, now_s: i64) -> String {
    let (what, day, advice) = (kind.words(), date(until_s), urgency.advice());
    match urgency {
        Urgency::Expired => format!("{what} expired on {day}, {} ago: {advice}", days(now_s - until_s)),
        Urgency::Soon | Urgency::Urgent => {
            format!("{what} ends on {day}, in {}: {advice}", days(until_s - now_s))
        }
    }
}

/// Returns the end that counts of the certificates in one file, in seconds since 1970; none if there are none.
///
/// Of a chain every link counts, so it is the earliest. A bundle of authorities may hold dead ones beside those that replaced
/// them: it is the earliest that is yet to come, and the last of all once all are over.
pub fn end_of(kind: CertificateKind, certificates: &[Validity], now_s: i64) -> Option<i64> {
    let ends = || certificates.iter().map(|validity| validity.not_after_s);
    match kind {
        CertificateKind::Ca => ends().filter(|end_s| *end_s >= now_s).min().or_else(|| ends().max()),
        CertificateKind::Server | CertificateKind::Client => ends().min(),
    }
}

/// Returns a time in whole days, such as `3 days`.
pub fn days(seconds: i64) -> String {
    match seconds / DAY_S {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Returns the day in UTC, such as `2026-11-24`.
pub fn date(at_s: i64) -> String {
    // The last one that the format knows ends the year 9999.
    let at = UNIX_EPOCH + Duration::from_secs(at_s.clamp(0, 253_402_300_799).cast_unsigned());
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_795_500_000; // 2026-11-24

    #[test]
    fn a_warning_comes_ahead_of_time_and_once_a_day() {
        use Urgency::{Expired, Soon, Urgent};
        let told = |days: i64, urgency, ago_s: i64| {
            Some(Told { until_s: NOW_S + days * DAY_S, urgency, at_s: NOW_S - ago_s })
        };
        let cases = [
            (31, None, None, "a month is not soon"),
            (29, None, Some(Soon), "at first sight"),
            (29, told(29, Soon, 60), None, "told a minute ago"),
            (29, told(29, Soon, DAY_S - 1), None, "told almost a day ago"),
            (29, told(29, Soon, DAY_S), Some(Soon), "told a day ago"),
            (29, told(20, Soon, 60), Some(Soon), "that was another certificate"),
            (29, told(29, Soon, -3600), Some(Soon), "the clock was set back"),
            (6, told(6, Soon, 60), Some(Urgent), "it has got more urgent"),
            (6, told(6, Urgent, 60), None, "which was told"),
            (0, told(0, Urgent, 60), None, "the very last second is valid"),
            (-1, told(-1, Urgent, 60), Some(Expired), "over"),
            (-1, told(-1, Expired, DAY_S), Some(Expired), "and a day later still over"),
            (365, told(-1, Expired, DAY_S), None, "renewed"),
            (i64::MAX / DAY_S, None, None, "never"),
        ];
        for (days, before, expected, why) in cases {
            let warning = due(before, NOW_S.saturating_add(days.saturating_mul(DAY_S)), NOW_S);
            assert_eq!(warning.map(|warning| warning.urgency), expected, "{why}");
            assert!(warning.is_none_or(|warning| warning.at_s == NOW_S), "{why}");
        }
    }

    #[test]
    fn the_end_that_counts_is_the_next_one() {
        let valid = |days: &[i64]| -> Vec<Validity> {
            let end_s = |days| NOW_S + days * DAY_S;
            days.iter().map(|days| Validity { not_before_s: 0, not_after_s: end_s(*days) }).collect()
        };
        let cases = [
            (CertificateKind::Server, &[365, 10][..], Some(10), "every link of a chain counts"),
            (CertificateKind::Client, &[365, -3], Some(-3), "one that is over, too"),
            (CertificateKind::Ca, &[365, 10], Some(10), "the next authority to end"),
            (CertificateKind::Ca, &[365, -3], Some(365), "a bundle may hold dead ones"),
            (CertificateKind::Ca, &[-20, -3], Some(-3), "nobody is left: since the last one ended"),
            (CertificateKind::Ca, &[], None, "nothing"),
        ];
        for (kind, days, expected, why) in cases {
            let expected = expected.map(|days| NOW_S + days * DAY_S);
            assert_eq!(end_of(kind, &valid(days), NOW_S), expected, "{why}");
        }
    }

    #[test]
    fn warnings_say_what_ends_when_and_what_to_do() {
        let cases = [
            (
                CertificateKind::Client,
                20,
                "the client certificate that etcd is shown ends on 2026-12-14, in 20 days: renew it soon",
            ),
            (
                CertificateKind::Server,
                6,
                "etcd's server certificate ends on 2026-11-30, in 6 days: renew it now",
            ),
            (
                CertificateKind::Ca,
                0,
                "the certificate of etcd's authority ends on 2026-11-24, in less than a day: renew it now",
            ),
            (
                CertificateKind::Ca,
                -2,
                "the certificate of etcd's authority expired on 2026-11-22, 2 days ago: renew it, or correct this machine's clock",
            ),
        ];
        for (kind, days, expected) in cases {
            let until_s = NOW_S + days * DAY_S;
            let urgency = Urgency::of(until_s, NOW_S).expect("all of these are due");
            assert_eq!(sentence(kind, urgency, until_s, NOW_S), expected);
        }
        assert_eq!(date(i64::MAX), "9999-12-31", "whatever a certificate says");
    }
}
