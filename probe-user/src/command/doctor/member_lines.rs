//! The lines about the members: data, endpoints, certificates.

use super::{
    DoctorFinding, Severity,
    inspect_members::{
        CertificateRole, InspectedCertificate, InspectedDirectory, InspectedEndpoint, InspectedMember,
        InspectedMembers, advice,
    },
};
use crate::analysis::certificate_expiry::{Urgency, date, days};

const GROUP: &str = "members";

/// Returns the lines, at a time in seconds since 1970.
pub fn findings(inspected: &InspectedMembers, now_s: i64) -> Vec<DoctorFinding> {
    let mut findings = Vec::new();
    for sentence in &inspected.unreadable {
        let finding = DoctorFinding::new(GROUP, "etcd", Severity::Warning, sentence);
        findings.push(finding.advice("if it is a member, it cannot be found: see the privileges above"));
    }
    for pid in &inspected.without_wal {
        let detail = format!("process {pid} has etcd's name and no open WAL");
        findings.push(DoctorFinding::new(GROUP, "etcd", Severity::Note, detail));
    }
    if inspected.members.is_empty() && findings.is_empty() {
        let finding = DoctorFinding::new(GROUP, "etcd", Severity::Note, "no etcd process runs here");
        findings.push(finding.advice("if one runs with another name, set --process-name"));
    }
    findings.extend(inspected.members.iter().flat_map(|member| of_member(member, now_s)));
    findings
}

fn of_member(member: &InspectedMember, now_s: i64) -> Vec<DoctorFinding> {
    let group = format!("etcd {}, pid {}", member.member, member.pid);
    let layout = member.layout.map(|layout| DoctorFinding::new(&group, "layout", Severity::Ok, layout));
    let mut findings: Vec<_> = layout.into_iter().collect();
    findings.extend([of_directory(&group, "data", &member.data), of_directory(&group, "WAL", &member.wal)]);
    let answered = member.endpoints.iter().any(|endpoint| endpoint.error.is_none());
    findings.extend(member.endpoints.iter().map(|endpoint| of_endpoint(&group, endpoint, answered)));
    if member.endpoints.is_empty() {
        let finding = DoctorFinding::new(
            &group,
            "endpoint",
            Severity::Failed,
            "no endpoint that serves metrics is known",
        );
        findings.push(finding.advice(advice("")));
    }
    findings.extend(member.certificates.iter().map(|certificate| of_certificate(&group, certificate, now_s)));
    findings
}

fn of_directory(group: &str, what: &str, directory: &InspectedDirectory) -> DoctorFinding {
    let InspectedDirectory { path, device, filesystem } = directory;
    if filesystem.is_empty() {
        return DoctorFinding::new(group, what, Severity::Note, format!("{path}, on an unknown device"));
    }
    DoctorFinding::new(group, what, Severity::Ok, format!("{path}, {filesystem} on {device}"))
}

/// One endpoint that answers is enough, so failures of the others are notes.
fn of_endpoint(group: &str, endpoint: &InspectedEndpoint, answered: bool) -> DoctorFinding {
    let url = &endpoint.url;
    let Some(error) = &endpoint.error else {
        let version = endpoint.version.as_deref().unwrap_or("of unknown version");
        return DoctorFinding::new(group, "endpoint", Severity::Ok, format!("{url} answers: etcd {version}"));
    };
    let detail = format!("{url}: {}", error.sentence);
    if answered {
        return DoctorFinding::new(group, "endpoint", Severity::Note, detail)
            .advice("nothing: another endpoint answers, and one is enough");
    }
    DoctorFinding::new(group, "endpoint", Severity::Failed, detail).advice(advice(error.reason))
}

fn of_certificate(group: &str, certificate: &InspectedCertificate, now_s: i64) -> DoctorFinding {
    let what = match certificate.role {
        CertificateRole::Authority => "authority",
        CertificateRole::Server => "server certificate",
        CertificateRole::Client => "client certificate",
        CertificateRole::ServerAndClient => "certificate",
    };
    let path = &certificate.path;
    let finding = |state, detail: String| DoctorFinding::new(group, what, state, format!("{path} {detail}"));
    if let Some(error) = &certificate.error {
        return DoctorFinding::new(group, what, Severity::Warning, error)
            .advice(advice("unreadable_credentials"));
    }
    let all = &certificate.validities_s;
    let (valid, invalid): (Vec<_>, Vec<_>) =
        all.iter().copied().partition(|(from_s, until_s)| (*from_s..=*until_s).contains(&now_s));
    // A bundle of authorities may contain expired ones; in a chain, every certificate must be valid.
    let lenient = certificate.role == CertificateRole::Authority && !valid.is_empty();
    if let Some((from_s, until_s)) = invalid.first().filter(|_| !lenient) {
        let detail = if *from_s > now_s {
            format!("is not valid before {}", date(*from_s))
        } else {
            format!("expired on {}, {} ago", date(*until_s), days(now_s - until_s))
        };
        return finding(Severity::Failed, detail).advice(Urgency::Expired.advice());
    }
    let until_s = valid.iter().map(|(_, until_s)| *until_s).min().unwrap_or(now_s);
    let left_s = until_s - now_s;
    let mut detail = format!("is valid for {}, until {}", days(left_s), date(until_s));
    if all.len() > 1 {
        detail = format!("contains {} certificates, the first to expire {detail}", all.len());
    }
    if let Some(urgency) = Urgency::of(until_s, now_s) {
        return finding(Severity::Warning, detail).advice(urgency.advice());
    }
    if !invalid.is_empty() {
        return finding(Severity::Note, format!("{detail}; {} expired", invalid.len()));
    }
    finding(Severity::Ok, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::inspect_members::EndpointFailure;

    use crate::analysis::certificate_expiry::DAY_S;

    const NOW_S: i64 = 1_795_500_000; // 2026-11-24

    fn after(days: i64) -> (i64, i64) {
        (NOW_S - 100 * DAY_S, NOW_S + days * DAY_S)
    }

    fn certificate(role: CertificateRole, validities_s: &[(i64, i64)]) -> DoctorFinding {
        let certificate = InspectedCertificate {
            role,
            path: "/c.pem".to_owned(),
            validities_s: validities_s.to_vec(),
            error: None,
        };
        of_certificate("etcd", &certificate, NOW_S)
    }

    #[test]
    fn certificates_are_judged_by_the_days_left() {
        use CertificateRole::{Authority, Client, Server};
        use Severity::{Failed, Note, Ok, Warning};
        let future = (NOW_S + DAY_S, NOW_S + 90 * DAY_S);
        let cases = [
            (Server, &[after(365)][..], Ok, "365 days, until 2027-11-24", "a year left"),
            (Server, &[after(30)], Ok, "30 days", "the last day without a warning"),
            (Server, &[after(29)], Warning, "29 days", "soon"),
            (Client, &[(0, NOW_S + 3600)], Warning, "less than a day", "today"),
            (Client, &[(0, NOW_S)], Warning, "less than a day", "the very last second is valid"),
            (Client, &[after(-1)], Failed, "expired on 2026-11-23, 1 day ago", "over"),
            (
                Server,
                &[future],
                Failed,
                "is not valid before 2026-11-25",
                "the clock or the certificate is wrong",
            ),
            (Server, &[after(365), after(-3)], Failed, "3 days ago", "every certificate of a chain counts"),
            (Authority, &[after(365), after(-3)], Note, "; 1 expired", "a bundle may contain expired ones"),
            (
                Authority,
                &[after(365), after(3)],
                Warning,
                "contains 2 certificates, the first to expire is valid for 3 days",
                "one expires soon",
            ),
            (Authority, &[after(-3)], Failed, "expired", "no valid authority is left"),
        ];
        for (role, validities_s, state, part, why) in cases {
            let finding = certificate(role, validities_s);
            assert_eq!(finding.state, state, "{why}: {finding:?}");
            assert!(finding.detail.contains(part), "{why}: {part:?} in {finding:?}");
            assert_eq!(finding.advice.is_some(), state >= Warning, "{why}: {finding:?}");
        }
    }

    fn endpoint(url: &str, reason: Option<&'static str>) -> InspectedEndpoint {
        let error = reason.map(|reason| EndpointFailure { reason, sentence: "no".to_owned() });
        InspectedEndpoint { url: url.to_owned(), version: Some("3.5.16".to_owned()), error }
    }

    fn directory(path: &str) -> InspectedDirectory {
        InspectedDirectory {
            path: path.to_owned(),
            device: "/dev/vda".to_owned(),
            filesystem: "ext4".to_owned(),
        }
    }

    #[test]
    fn a_directory_is_reported_with_its_device() {
        let known = of_directory("etcd", "WAL", &directory("/d"));
        assert_eq!((known.state, &*known.detail), (Severity::Ok, "/d, ext4 on /dev/vda"));
        let empty = String::new;
        let unknown = InspectedDirectory { device: empty(), filesystem: empty(), ..directory("/d") };
        let unknown = of_directory("etcd", "WAL", &unknown);
        assert_eq!((unknown.state, &*unknown.detail), (Severity::Note, "/d, on an unknown device"));
    }

    #[test]
    fn one_endpoint_that_answers_is_enough() {
        use Severity::{Failed, Note, Ok};
        let cases = [
            (&[("a", None)][..], &[Ok][..], "it answers"),
            (&[("a", Some("timeout")), ("b", None)], &[Note, Ok], "another one answers"),
            (&[("a", Some("timeout")), ("b", Some("tls_expired"))], &[Failed, Failed], "none answers"),
            (&[], &[Failed], "there is none"),
        ];
        for (endpoints, expected, why) in cases {
            let member = InspectedMember {
                member: "m".to_owned(),
                pid: 7,
                layout: Some("kubeadm"),
                data: directory("/d"),
                wal: directory("/d/member/wal"),
                endpoints: endpoints.iter().map(|(url, reason)| endpoint(url, *reason)).collect(),
                certificates: Vec::new(),
            };
            let findings = of_member(&member, NOW_S);
            let states: Vec<Severity> = findings
                .iter()
                .filter(|finding| finding.what == "endpoint")
                .map(|finding| finding.state)
                .collect();
            assert_eq!(states, expected, "{why}: {findings:?}");
            assert_eq!((&*findings[0].what, &*findings[0].detail), ("layout", "kubeadm"));
        }
    }

    #[test]
    fn no_etcd_is_a_note_and_no_failure() {
        let none = findings(&InspectedMembers::default(), NOW_S);
        assert_eq!((none.len(), none[0].state), (1, Severity::Note));
        let closed =
            InspectedMembers { unreadable: vec!["cannot read it".to_owned()], ..InspectedMembers::default() };
        let closed = findings(&closed, NOW_S);
        assert_eq!(
            (closed.len(), closed[0].state),
            (1, Severity::Warning),
            "the unreadable process may be one"
        );
    }
}
