//! How long the series of a member that is gone stay.

use std::time::Duration;

use super::MemberKey;

/// Long enough for its last counts to be scraped.
const KEPT: Duration = Duration::from_mins(15);

/// Whatever comes and goes: an etcd that is started again and again under another name does not fill our memory.
const KEPT_AT_MOST: usize = 32;

/// Returns which of those that are gone, with the time since, are to be forgotten: who is gone for a quarter of an hour, and
/// the longest gone of too many.
pub(super) fn forgotten(mut gone: Vec<(MemberKey, Duration)>) -> Vec<MemberKey> {
    gone.sort_by_key(|(_, since)| *since);
    let in_time = gone.iter().take_while(|(_, since)| *since < KEPT).count();
    gone.split_off(in_time.min(KEPT_AT_MOST)).into_iter().map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone_for(seconds: u64) -> (MemberKey, Duration) {
        ((format!("gone for {seconds} s"), "/d".into()), Duration::from_secs(seconds))
    }

    #[test]
    fn the_longest_gone_leave_first() {
        let many: Vec<u64> = (0..40).rev().collect();
        let oldest: Vec<u64> = (32..40).collect();
        let cases: [(&[u64], &[u64], &str); 4] = [
            (&[], &[], "nobody is gone"),
            (&[10, 899], &[], "in time"),
            (&[901, 10, 900], &[900, 901], "after a quarter of an hour"),
            (&many, &oldest, "too many"),
        ];
        for (gone, expected, why) in cases {
            let leaving = forgotten(gone.iter().map(|seconds| gone_for(*seconds)).collect());
            let expected: Vec<_> = expected.iter().map(|seconds| gone_for(*seconds).0).collect();
            assert_eq!(leaving, expected, "{why}");
        }
    }
}
