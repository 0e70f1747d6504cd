//! How old etcd's own series may be: whoever asks for them has etcd asked anew, and waits a moment for its answer.

use std::time::{Duration, Instant};

use super::{MemberKey, MemberState, SharedMonitor, lock, scrape_round::scrape};

/// A copy that is no older than this is fresh, so that many who ask at once share one round.
pub const FRESH_FOR: Duration = Duration::from_secs(1);

/// As long is waited for a fresh copy. An etcd that takes longer is answered for by its last copy, if that may be served.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What encoding and sending may take of the time that a client has.
const MARGIN: Duration = Duration::from_millis(500);

/// Returns how long a client can wait that says how many seconds it has, in `X-Prometheus-Scrape-Timeout-Seconds`.
pub fn patience(timeout_s: Option<&str>) -> Duration {
    let timeout =
        timeout_s.and_then(|text| text.parse().ok()).and_then(|s| Duration::try_from_secs_f64(s).ok());
    timeout.map_or(LONGEST_WAIT, |timeout| timeout.saturating_sub(MARGIN).min(LONGEST_WAIT))
}

/// Has every member asked whose last answer is not fresh, and waits until all have answered or failed, or patience is over.
///
/// Scrapes go on when the caller does not: one that is broken off would take its connection with it.
pub async fn refresh(shared: &SharedMonitor, patience: Duration) {
    let arrived = Instant::now();
    let mut ended = {
        let monitor = lock(shared);
        for key in stale(&monitor.members, arrived) {
            tokio::spawn(scrape(shared.clone(), key));
        }
        monitor.scrape_ended.subscribe()
    };
    let all_fresh = async {
        while stale(&lock(shared).members, arrived).next().is_some() && ended.changed().await.is_ok() {}
    };
    // Whoever is late is left out, or served from a copy that is not too old; its age tells.
    _ = tokio::time::timeout(patience, all_fresh).await;
}

/// Returns the members that live and were last asked, whatever came of it, too long before `arrived`.
fn stale(
    members: &std::collections::BTreeMap<MemberKey, MemberState>,
    arrived: Instant,
) -> impl Iterator<Item = MemberKey> {
    let is_stale = move |tracked: &MemberState| {
        let answered = tracked.answered;
        tracked.id().is_some() && answered.is_none_or(|at| at + FRESH_FOR < arrived)
    };
    members.iter().filter(move |(_, tracked)| is_stale(tracked)).map(|(key, _)| key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_than_it_can() {
        let cases = [
            (None, 1_000, "a person"),
            (Some("10"), 1_000, "Prometheus' default"),
            (Some("1.2"), 700, "one in a hurry"),
            (Some("0.3"), 0, "no time at all"),
            (Some("-1"), 1_000, "no time that could be"),
            (Some("1e300"), 1_000, "more than there is"),
            (Some("soon"), 1_000, "no number"),
        ];
        for (timeout_s, expected_ms, why) in cases {
            assert_eq!(patience(timeout_s), Duration::from_millis(expected_ms), "{why}");
        }
    }
}
