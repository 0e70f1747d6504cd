//! Scrapes on demand: a request for the metrics triggers a new scrape of etcd and waits briefly for its
//! result.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{MemberKey, MemberState, SharedMonitor, lock, scrape_round::scrape};

/// A result that is no older than this is fresh, so concurrent requests share one round.
const FRESHNESS: Duration = Duration::from_secs(1);

/// The maximum wait for a fresh copy. If etcd takes longer, its last copy is served, unless that is too old.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The part of a client's timeout that is reserved for encoding and sending.
const RESPONSE_RESERVE: Duration = Duration::from_millis(500);

/// Returns the maximum wait for a client with this timeout, in seconds, from
/// `X-Prometheus-Scrape-Timeout-Seconds`.
pub fn wait_limit(timeout_s: Option<&str>) -> Duration {
    let timeout =
        timeout_s.and_then(|text| text.parse().ok()).and_then(|s| Duration::try_from_secs_f64(s).ok());
    timeout.map_or(WAIT_MAX, |timeout| timeout.saturating_sub(RESPONSE_RESERVE).min(WAIT_MAX))
}

/// Scrapes every member whose last result is not fresh, and waits until all scrapes have ended, at most for
/// `wait_limit`.
///
/// Scrapes continue if the caller stops waiting: a cancelled scrape would close its connection.
pub async fn refresh(shared: &SharedMonitor, wait_limit: Duration) {
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
    // A member that is late is omitted, or served from a copy that is not too old; `scrape_age` exports its
    // age.
    _ = tokio::time::timeout(wait_limit, all_fresh).await;
}

/// Returns the running members whose last scrape, successful or not, ended too long before `arrived`.
fn stale(members: &BTreeMap<MemberKey, MemberState>, arrived: Instant) -> impl Iterator<Item = MemberKey> {
    let is_stale = move |member: &MemberState| {
        let ended = member.last_scrape_ended;
        member.id().is_some() && ended.is_none_or(|at| at + FRESHNESS < arrived)
    };
    members.iter().filter(move |(_, member)| is_stale(member)).map(|(key, _)| key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_ends_before_the_clients_timeout() {
        let cases = [
            (None, 1_000, "no header: a person"),
            (Some("10"), 1_000, "Prometheus' default"),
            (Some("1.2"), 700, "a short timeout"),
            (Some("0.3"), 0, "no time at all"),
            (Some("-1"), 1_000, "a negative timeout"),
            (Some("1e300"), 1_000, "a timeout out of range"),
            (Some("soon"), 1_000, "not a number"),
        ];
        for (timeout_s, expected_ms, why) in cases {
            assert_eq!(wait_limit(timeout_s), Duration::from_millis(expected_ms), "{why}");
        }
    }
}
