//! The periodic self-test: whether the programs still receive events.

use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::{kernel::Kernel, support::logging::chain};

/// The result and the time of the last self-test. The probe starts only after it has passed one.
#[derive(Debug)]
pub struct SelfTestStatus {
    tested_at: Instant,
    failure: Option<String>,
}

impl SelfTestStatus {
    pub fn passed_now() -> Self {
        Self { tested_at: Instant::now(), failure: None }
    }

    /// Tests again if the last test is older than this.
    pub fn test(&mut self, kernel: &mut Kernel, max_age: Duration) {
        if self.tested_at.elapsed() < max_age {
            return;
        }
        let outcome = kernel.self_test();
        self.tested_at = Instant::now();
        let failure = outcome.err().map(|error| chain(&error));
        match (&self.failure, &failure) {
            (None, Some(failure)) => error!("self-test failed, the probe is blind: {failure}"),
            (Some(_), None) => info!("self-test passed again, the probe is no longer blind"),
            _ => {}
        }
        self.failure = failure;
    }

    /// Returns why the probe's results cannot be trusted, if the last self-test failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}
