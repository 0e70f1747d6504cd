//! The daemon's status in one line, as `systemctl status` shows it.

use crate::monitor::Monitor;

/// Maximum number of members with a name in the line.
const MEMBERS_MAX: usize = 4;

/// Maximum number of characters of a name, and of the reason why the self-test failed.
const NAME_MAX: usize = 32;
const REASON_MAX: usize = 120;

/// Returns the current status.
pub fn of(monitor: &Monitor) -> String {
    // A member that has ended has no verdict to act on.
    let running = monitor.members().filter(|member| member.id().is_some());
    let members: Vec<_> = running
        .map(|member| (member.label(), member.verdict().map_or("not judged yet", |it| it.as_str())))
        .collect();
    line(monitor.hook().as_str(), monitor.self_test_failure(), &members)
}

fn line(hook: &str, self_test_failure: Option<&str>, members: &[(&str, &str)]) -> String {
    let self_test_failure = self_test_failure.map(|reason| format!("blind: {}; ", cut(reason, REASON_MAX)));
    let mut parts: Vec<_> = members
        .iter()
        .take(MEMBERS_MAX)
        .map(|(name, verdict)| format!("{} {verdict}", cut(name, NAME_MAX)))
        .collect();
    if let Some(more) = members.len().checked_sub(MEMBERS_MAX).filter(|more| *more > 0) {
        parts.push(format!("and {more} more"));
    }
    let parts = if parts.is_empty() { "no etcd here".to_owned() } else { parts.join(", ") };
    format!("{}attached by {hook}; {parts}", self_test_failure.unwrap_or_default())
}

/// Returns at most `max` characters of an untrusted text, without control characters: a line feed would start
/// another field of the notification.
fn cut(text: &str, max: usize) -> String {
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut letters = text.chars().map(printable);
    let mut cut: String = letters.by_ref().take(max).collect();
    if letters.next().is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_bounded_line() {
        let long = "n".repeat(1000);
        let many: Vec<_> = (0..6).map(|_| (long.as_str(), "healthy")).collect();
        let cut = "n".repeat(NAME_MAX) + "… healthy, ";
        let cases = [
            (None, vec![], "attached by fentry; no etcd here".to_owned(), "none"),
            (
                None,
                vec![("a", "healthy"), ("b", "device_slow")],
                "attached by fentry; a healthy, b device_slow".to_owned(),
                "two",
            ),
            (
                Some("not one of them"),
                vec![("a", "blind")],
                "blind: not one of them; attached by fentry; a blind".to_owned(),
                "blind",
            ),
            (
                None,
                vec![("a\nMAINPID=1", "healthy")],
                "attached by fentry; a MAINPID=1 healthy".to_owned(),
                "a name with a field of the protocol",
            ),
            (None, many, format!("attached by fentry; {}and 2 more", cut.repeat(MEMBERS_MAX)), "many"),
        ];
        for (self_test_failure, members, expected, why) in cases {
            assert_eq!(line("fentry", self_test_failure, &members), expected, "{why}");
        }
        let longest = line("tracepoint", Some(&long), &[(long.as_str(), "journal_contention"); 9]);
        assert!(longest.len() < 512, "{} bytes", longest.len());
    }
}
