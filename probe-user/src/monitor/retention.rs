//! Retention of the series of ended members.

use std::time::Duration;

use super::MemberKey;

/// Long enough for the last counts of a member to be scraped.
const RETENTION: Duration = Duration::from_mins(15);

/// Bounds the memory if an etcd is restarted repeatedly with a new name.
const ENDED_MEMBERS_MAX: usize = 32;

/// Returns which of the ended members, given with the time since their end, to remove: those after a quarter
/// of an hour, and the oldest if there are too many.
pub(super) fn expired(mut ended: Vec<(MemberKey, Duration)>) -> Vec<MemberKey> {
    ended.sort_by_key(|(_, since)| *since);
    let in_time = ended.iter().take_while(|(_, since)| *since < RETENTION).count();
    ended.split_off(in_time.min(ENDED_MEMBERS_MAX)).into_iter().map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended_for(seconds: u64) -> (MemberKey, Duration) {
        ((format!("ended {seconds} s ago"), "/d".into()), Duration::from_secs(seconds))
    }

    #[test]
    fn the_oldest_are_removed_first() {
        let many: Vec<u64> = (0..40).rev().collect();
        let oldest: Vec<u64> = (32..40).collect();
        let cases: [(&[u64], &[u64], &str); 4] = [
            (&[], &[], "none has ended"),
            (&[10, 899], &[], "within the retention"),
            (&[901, 10, 900], &[900, 901], "after a quarter of an hour"),
            (&many, &oldest, "too many"),
        ];
        for (ended, expected, why) in cases {
            let removed = expired(ended.iter().map(|seconds| ended_for(*seconds)).collect());
            let expected: Vec<_> = expected.iter().map(|seconds| ended_for(*seconds).0).collect();
            assert_eq!(removed, expected, "{why}");
        }
    }
}
