//! `rate_limit`: a token bucket with `burst` tokens and one more per interval.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::web_config::RateLimit;

/// A bucket that holds `burst` tokens and gets one each interval, stored as the time at which it will be
/// full.
#[derive(Debug)]
pub struct RateLimiter {
    limit: RateLimit,
    full_at: Mutex<Option<Instant>>,
}

impl RateLimiter {
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, full_at: Mutex::new(None) }
    }

    /// Takes a token; returns whether there was one.
    pub fn allows(&self, now: Instant) -> bool {
        let RateLimit { interval, burst } = self.limit;
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = full_at.map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        let missing = missing.saturating_add(interval);
        let allowed = missing <= interval.saturating_mul(burst);
        if allowed {
            *full_at = now.checked_add(missing);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_one_with_every_interval() {
        let limiter = RateLimiter::new(RateLimit { interval: Duration::from_secs(1), burst: 2 });
        let start = Instant::now();
        let cases = [
            (0, true, "the first of the burst"),
            (0, true, "the second"),
            (0, false, "empty"),
            (999, false, "not yet"),
            (1_000, true, "one was added"),
            (1_001, false, "and is spent"),
            (60_000, true, "full again"),
            (60_000, true, "full again, with two"),
            (60_000, false, "not more than two"),
        ];
        for (at_ms, expected, why) in cases {
            assert_eq!(limiter.allows(start + Duration::from_millis(at_ms)), expected, "{at_ms} ms: {why}");
        }
    }
}
