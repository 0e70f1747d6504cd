//! One line on how the daemon is, as `systemctl status` shows it.

use crate::monitor::Monitor;

/// Members that are told by name.
const MEMBERS_TOLD: usize = 4;

/// Characters of a name, and of the reason of self_test_failure.
const NAME_MAX: usize = 32;
const REASON_MAX: usize = 120;

/// Returns it of the daemon as it is.
pub fn of(monitor: &Monitor) -> String {
    // One that is gone has no verdict to act on.
    let living = monitor.members().filter(|tracked| tracked.id().is_some());
    let members: Vec<_> = living
        .map(|tracked| (tracked.label(), tracked.verdict().map_or("not judged yet", |it| it.as_str())))
        .collect();
    line(monitor.hook().as_str(), monitor.self_test_failure(), &members)
}

fn line(hook: &str, self_test_failure: Option<&str>, members: &[(&str, &str)]) -> String {
    let self_test_failure = self_test_failure.map(|reason| format!("blind: {}; ", cut(reason, REASON_MAX)));
    let mut told: Vec<_> = members
        .iter()
        .take(MEMBERS_TOLD)
        .map(|(name, verdict)| format!("{} {verdict}", cut(name, NAME_MAX)))
        .collect();
    if let Some(more) = members.len().checked_sub(MEMBERS_TOLD).filter(|more| *more > 0) {
        told.push(format!("and {more} more"));
    }
    let told = if told.is_empty() { "no etcd here".to_owned() } else { told.join(", ") };
    format!("{}attached by {hook}; {told}", self_test_failure.unwrap_or_default())
}

/// Returns at most so many characters of what others wrote, none of which could end the line: what follows would be another
/// message to the service manager.
fn cut(text: &str, max: usize) -> String {
    let harmless = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut letters = text.chars().map(harmless);
    let mut told: String = letters.by_ref().take(max).collect();
    if letters.next().is_some() {
        told.push('…');
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_bounded_line_whatever_members_are_called() {
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
                "a name that would give orders",
            ),
            (None, many, format!("attached by fentry; {}and 2 more", cut.repeat(MEMBERS_TOLD)), "many"),
        ];
        for (self_test_failure, members, expected, why) in cases {
            assert_eq!(line("fentry", self_test_failure, &members), expected, "{why}");
        }
        let longest = line("tracepoint", Some(&long), &[(long.as_str(), "journal_contention"); 9]);
        assert!(longest.len() < 512, "{} bytes", longest.len());
    }
}
