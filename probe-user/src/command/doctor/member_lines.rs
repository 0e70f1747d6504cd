//! The lines about etcd: data, endpoints, certificates.

use super::{
    Finding, State,
    inspect_members::{Directory, Role, Visited, VisitedCertificate, VisitedEndpoint, VisitedMember, advice},
};
use crate::analysis::certificate_expiry::{Urgency, date, days};

const GROUP: &str = "members";

/// Returns the lines, at a time in seconds since 1970.
pub fn findings(visited: &Visited, now_s: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for sentence in &visited.unreadable {
        let finding = Finding::new(GROUP, "etcd", State::Warning, sentence);
        findings.push(finding.advice("if it is a member, it is not found: see the privileges above"));
    }
    for pid in &visited.without_wal {
        let detail = format!("process {pid} goes by etcd's name and holds no WAL open");
        findings.push(Finding::new(GROUP, "etcd", State::Note, detail));
    }
    if visited.members.is_empty() && findings.is_empty() {
        let finding = Finding::new(GROUP, "etcd", State::Note, "none runs here");
        findings.push(finding.advice("if one does by another name, give it with --process-name"));
    }
    findings.extend(visited.members.iter().flat_map(|member| of_member(member, now_s)));
    findings
}

fn of_member(member: &VisitedMember, now_s: i64) -> Vec<Finding> {
    let group = format!("etcd {}, pid {}", member.member, member.pid);
    let layout = member.layout.map(|layout| Finding::new(&group, "layout", State::Ok, layout));
    let mut findings: Vec<_> = layout.into_iter().collect();
    findings.extend([of_directory(&group, "data", &member.data), of_directory(&group, "WAL", &member.wal)]);
    let answered = member.endpoints.iter().any(|endpoint| endpoint.error.is_none());
    findings.extend(member.endpoints.iter().map(|endpoint| of_endpoint(&group, endpoint, answered)));
    if member.endpoints.is_empty() {
        let finding = Finding::new(&group, "endpoint", State::Failed, "it serves nothing that can be asked");
        findings.push(finding.advice(advice("")));
    }
    findings.extend(member.certificates.iter().map(|certificate| of_certificate(&group, certificate, now_s)));
    findings
}

fn of_directory(group: &str, what: &str, directory: &Directory) -> Finding {
    let Directory { path, device, filesystem } = directory;
    if filesystem.is_empty() {
        return Finding::new(group, what, State::Note, format!("{path}, on an unknown device"));
    }
    Finding::new(group, what, State::Ok, format!("{path}, {filesystem} on {device}"))
}

/// One that answers is enough, so beside it no other one is worth more than a note.
fn of_endpoint(group: &str, endpoint: &VisitedEndpoint, answered: bool) -> Finding {
    let url = &endpoint.url;
    let Some(error) = &endpoint.error else {
        let version = endpoint.version.as_deref().unwrap_or("of unknown version");
        return Finding::new(group, "endpoint", State::Ok, format!("{url} answers: etcd {version}"));
    };
    let detail = format!("{url}: {}", error.sentence);
    if answered {
        return Finding::new(group, "endpoint", State::Note, detail)
            .advice("another one answers, which is enough");
    }
    Finding::new(group, "endpoint", State::Failed, detail).advice(advice(error.reason))
}

fn of_certificate(group: &str, certificate: &VisitedCertificate, now_s: i64) -> Finding {
    let what = match certificate.role {
        Role::Authority => "authority",
        Role::Server => "server certificate",
        Role::Client => "client certificate",
        Role::ServerAndClient => "certificate",
    };
    let path = &certificate.path;
    let finding = |state, detail: String| Finding::new(group, what, state, format!("{path} {detail}"));
    if let Some(error) = &certificate.error {
        return Finding::new(group, what, State::Warning, error).advice(advice("unreadable_credentials"));
    }
    let all = &certificate.validities_s;
    let (valid, invalid): (Vec<_>, Vec<_>) =
        all.iter().copied().partition(|(from_s, until_s)| (*from_s..=*until_s).contains(&now_s));
    // A bundle of authorities may hold dead ones; of a chain every link counts.
    let lenient = certificate.role == Role::Authority && !valid.is_empty();
    if let Some((from_s, until_s)) = invalid.first().filter(|_| !lenient) {
        let detail = if *from_s > now_s {
            format!("is not valid before {}", date(*from_s))
        } else {
            format!("expired on {}, {} ago", date(*until_s), days(now_s - until_s))
        };
        return finding(State::Failed, detail).advice(Urgency::Expired.advice());
    }
    let until_s = valid.iter().map(|(_, until_s)| *until_s).min().unwrap_or(now_s);
    let left_s = until_s - now_s;
    let mut detail = format!("is valid for {}, until {}", days(left_s), date(until_s));
    if all.len() > 1 {
        detail = format!("holds {}, the next to end {detail}", all.len());
    }
    if let Some(urgency) = Urgency::of(until_s, now_s) {
        return finding(State::Warning, detail).advice(urgency.advice());
    }
    if !invalid.is_empty() {
        return finding(State::Note, format!("{detail}; {} expired", invalid.len()));
    }
    finding(State::Ok, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::analysis::certificate_expiry::DAY_S;

    const NOW_S: i64 = 1_795_500_000; // 2026-11-24

    fn after(days: i64) -> (i64, i64) {
        (NOW_S - 100 * DAY_S, NOW_S + days * DAY_S)
    }

    fn certificate(role: Role, validities_s: &[(i64, i64)]) -> Finding {
        let certificate = VisitedCertificate {
            role,
            path: "/c.pem".to_owned(),
            validities_s: validities_s.to_vec(),
            error: None,
        };
        of_certificate("etcd", &certificate, NOW_S)
    }

    #[test]
    fn certificates_are_judged_by_the_days_left() {
        use Role::{Authority, Client, Server};
        use State::{Failed, Note, Ok, Warning};
        let future = (NOW_S + DAY_S, NOW_S + 90 * DAY_S);
        let cases = [
            (Server, &[after(365)][..], Ok, "365 days, until 2027-11-24", "a year left"),
            (Server, &[after(30)], Ok, "30 days", "the last day without a warning"),
            (Server, &[after(29)], Warning, "29 days", "soon"),
            (Client, &[(0, NOW_S + 3600)], Warning, "less than a day", "today"),
            (Client, &[(0, NOW_S)], Warning, "less than a day", "the very last second is valid"),
            (Client, &[after(-1)], Failed, "expired on 2026-11-23, 1 day ago", "over"),
            (Server, &[future], Failed, "is not valid before 2026-11-25", "the clock is wrong, or it"),
            (Server, &[after(365), after(-3)], Failed, "3 days ago", "every link of a chain counts"),
            (Authority, &[after(365), after(-3)], Note, "; 1 expired", "a bundle may hold dead ones"),
            (
                Authority,
                &[after(365), after(3)],
                Warning,
                "holds 2, the next to end is valid for 3 days",
                "one ends",
            ),
            (Authority, &[after(-3)], Failed, "expired", "nobody left to trust"),
        ];
        for (role, validities_s, state, part, why) in cases {
            let finding = certificate(role, validities_s);
            assert_eq!(finding.state, state, "{why}: {finding:?}");
            assert!(finding.detail.contains(part), "{why}: {part:?} in {finding:?}");
            assert_eq!(finding.advice.is_some(), state >= Warning, "{why}: {finding:?}");
        }
    }

    fn endpoint(url: &str, reason: Option<&'static str>) -> VisitedEndpoint {
        let error = reason.map(|reason| crate::command::doctor::inspect_members::EndpointFailure {
            reason,
            sentence: "no".to_owned(),
        });
        VisitedEndpoint { url: url.to_owned(), version: Some("3.5.16".to_owned()), error }
    }

    fn directory(path: &str) -> Directory {
        Directory { path: path.to_owned(), device: "/dev/vda".to_owned(), filesystem: "ext4".to_owned() }
    }

    #[test]
    fn a_directory_is_told_with_what_holds_it() {
        let known = of_directory("etcd", "WAL", &directory("/d"));
        assert_eq!((known.state, &*known.detail), (State::Ok, "/d, ext4 on /dev/vda"));
        let empty = String::new;
        let unknown = Directory { device: empty(), filesystem: empty(), ..directory("/d") };
        let unknown = of_directory("etcd", "WAL", &unknown);
        assert_eq!((unknown.state, &*unknown.detail), (State::Note, "/d, on an unknown device"));
    }

    #[test]
    fn one_endpoint_that_answers_is_enough() {
        use State::{Failed, Note, Ok};
        let cases = [
            (&[("a", None)][..], &[Ok][..], "it answers"),
            (&[("a", Some("timeout")), ("b", None)], &[Note, Ok], "another one does"),
            (&[("a", Some("timeout")), ("b", Some("tls_expired"))], &[Failed, Failed], "nobody does"),
            (&[], &[Failed], "there is none"),
        ];
        for (endpoints, expected, why) in cases {
            let member = VisitedMember {
                member: "m".to_owned(),
                pid: 7,
                layout: Some("kubeadm"),
                data: directory("/d"),
                wal: directory("/d/member/wal"),
                endpoints: endpoints.iter().map(|(url, reason)| endpoint(url, *reason)).collect(),
                certificates: Vec::new(),
            };
            let findings = of_member(&member, NOW_S);
            let states: Vec<State> = findings
                .iter()
                .filter(|finding| finding.what == "endpoint")
                .map(|finding| finding.state)
                .collect();
            assert_eq!(states, expected, "{why}: {findings:?}");
            assert_eq!((&*findings[0].what, &*findings[0].detail), ("layout", "kubeadm"));
        }
    }

    #[test]
    fn no_etcd_is_a_line_and_no_failure() {
        let nobody = findings(&Visited::default(), NOW_S);
        assert_eq!((nobody.len(), nobody[0].state), (1, State::Note));
        let closed = Visited { unreadable: vec!["cannot read it".to_owned()], ..Visited::default() };
        let closed = findings(&closed, NOW_S);
        assert_eq!((closed.len(), closed[0].state), (1, State::Warning), "there may well be one");
    }
}
