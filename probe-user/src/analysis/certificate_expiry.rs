//! Expiry of certificates, its urgency, and the interval of its warnings. No I/O; time is an argument.

use std::time::{Duration, UNIX_EPOCH};

pub const DAY_S: i64 = 24 * 3600;

/// How long before the expiry of a certificate its warnings start, and become urgent.
const SOON_S: i64 = 30 * DAY_S;
const URGENT_S: i64 = 7 * DAY_S;

/// Validity period of one certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before_s: i64,
    pub not_after_s: i64,
}

/// The purpose of a certificate; the label `certificate`.
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

    const fn title(self) -> &'static str {
        match self {
            Self::Ca => "etcd's CA certificate",
            Self::Server => "etcd's server certificate",
            Self::Client => "the client certificate for etcd",
        }
    }
}

/// How urgent the renewal of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Expires within thirty days.
    Soon,
    /// Expires within seven days.
    Urgent,
    Expired,
}

impl Urgency {
    /// Returns the urgency of renewing a certificate; none if it is not urgent. Times are seconds since 1970.
    pub fn of(until_s: i64, now_s: i64) -> Option<Self> {
        match until_s.saturating_sub(now_s) {
            left_s if left_s < 0 => Some(Self::Expired),
            left_s if left_s < URGENT_S => Some(Self::Urgent),
            left_s if left_s < SOON_S => Some(Self::Soon),
            _ => None,
        }
    }

    /// Returns the action to take.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Soon => "renew it soon",
            Self::Urgent => "renew it now",
            Self::Expired => "renew it, or correct this machine's clock",
        }
    }
}

/// A warning about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryWarning {
    pub until_s: i64,
    pub urgency: Urgency,
    pub at_s: i64,
}

/// Returns the warning that is due: on the first check, when it becomes more urgent, and once a day.
pub fn due(last: Option<ExpiryWarning>, until_s: i64, now_s: i64) -> Option<ExpiryWarning> {
    let warning = ExpiryWarning { until_s, urgency: Urgency::of(until_s, now_s)?, at_s: now_s };
    let is_due = last.is_none_or(|last| {
        let same = (last.until_s, last.urgency) == (until_s, warning.urgency);
        // A clock that was set back must not postpone the next warning.
        !same || !(last.at_s..last.at_s.saturating_add(DAY_S)).contains(&now_s)
    });
    is_due.then_some(warning)
}

/// Returns the text of a warning.
pub fn sentence(kind: CertificateKind, urgency: Urgency, until_s: i64, now_s: i64) -> String {
    let (title, day, advice) = (kind.title(), date(until_s), urgency.advice());
    match urgency {
        Urgency::Expired => format!("{title} expired on {day}, {} ago: {advice}", days(now_s - until_s)),
        Urgency::Soon | Urgency::Urgent => {
            format!("{title} expires on {day}, in {}: {advice}", days(until_s - now_s))
        }
    }
}

/// Returns the relevant expiry of the certificates in one file, in seconds since 1970; none if there are
/// none.
///
/// Every certificate of a chain must be valid, so the earliest expiry is relevant. A bundle of authorities
/// may contain expired ones next to their replacements: the next expiry is relevant, or the last one if all
/// have expired.
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
    // The format supports times up to the end of the year 9999.
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
        let warned = |days: i64, urgency, ago_s: i64| {
            Some(ExpiryWarning { until_s: NOW_S + days * DAY_S, urgency, at_s: NOW_S - ago_s })
        };
        let cases = [
            (31, None, None, "a month is not soon"),
            (29, None, Some(Soon), "on the first check"),
            (29, warned(29, Soon, 60), None, "warned a minute ago"),
            (29, warned(29, Soon, DAY_S - 1), None, "warned almost a day ago"),
            (29, warned(29, Soon, DAY_S), Some(Soon), "warned a day ago"),
            (29, warned(20, Soon, 60), Some(Soon), "that was another certificate"),
            (29, warned(29, Soon, -3600), Some(Soon), "the clock was set back"),
            (6, warned(6, Soon, 60), Some(Urgent), "more urgent"),
            (6, warned(6, Urgent, 60), None, "already warned as urgent"),
            (0, warned(0, Urgent, 60), None, "valid up to and including the last second"),
            (-1, warned(-1, Urgent, 60), Some(Expired), "expired"),
            (-1, warned(-1, Expired, DAY_S), Some(Expired), "still expired a day later"),
            (365, warned(-1, Expired, DAY_S), None, "renewed"),
            (i64::MAX / DAY_S, None, None, "never"),
        ];
        for (days, before, expected, why) in cases {
            let warning = due(before, NOW_S.saturating_add(days.saturating_mul(DAY_S)), NOW_S);
            assert_eq!(warning.map(|warning| warning.urgency), expected, "{why}");
            assert!(warning.is_none_or(|warning| warning.at_s == NOW_S), "{why}");
        }
    }

    #[test]
    fn the_next_expiry_is_relevant() {
        let valid = |days: &[i64]| -> Vec<Validity> {
            let end_s = |days| NOW_S + days * DAY_S;
            days.iter().map(|days| Validity { not_before_s: 0, not_after_s: end_s(*days) }).collect()
        };
        let cases = [
            (CertificateKind::Server, &[365, 10][..], Some(10), "every certificate of a chain must be valid"),
            (CertificateKind::Client, &[365, -3], Some(-3), "an expired one, too"),
            (CertificateKind::Ca, &[365, 10], Some(10), "the next authority to expire"),
            (CertificateKind::Ca, &[365, -3], Some(365), "a bundle may contain expired ones"),
            (CertificateKind::Ca, &[-20, -3], Some(-3), "all have expired: the last one"),
            (CertificateKind::Ca, &[], None, "nothing"),
        ];
        for (kind, days, expected, why) in cases {
            let expected = expected.map(|days| NOW_S + days * DAY_S);
            assert_eq!(end_of(kind, &valid(days), NOW_S), expected, "{why}");
        }
    }

    #[test]
    fn warnings_name_the_certificate_the_day_and_the_action() {
        let cases = [
            (
                CertificateKind::Client,
                20,
                "the client certificate for etcd expires on 2026-12-14, in 20 days: renew it soon",
            ),
            (
                CertificateKind::Server,
                6,
                "etcd's server certificate expires on 2026-11-30, in 6 days: renew it now",
            ),
            (
                CertificateKind::Ca,
                0,
                "etcd's CA certificate expires on 2026-11-24, in less than a day: renew it now",
            ),
            (
                CertificateKind::Ca,
                -2,
                "etcd's CA certificate expired on 2026-11-22, 2 days ago: renew it, or correct this machine's clock",
            ),
        ];
        for (kind, days, expected) in cases {
            let until_s = NOW_S + days * DAY_S;
            let urgency = Urgency::of(until_s, NOW_S).expect("all of these are due");
            assert_eq!(sentence(kind, urgency, until_s, NOW_S), expected);
        }
        assert_eq!(date(i64::MAX), "9999-12-31", "for any value in a certificate");
    }
}
