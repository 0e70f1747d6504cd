//! Whether the programs still see what happens: the self-test, repeated.

use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::{kernel::Kernel, support::logging::chain};

/// What the last self-test said, and when. A probe that starts has just passed one.
#[derive(Debug)]
pub struct SelfTestStatus {
    tested: Instant,
    failure: Option<String>,
}

impl SelfTestStatus {
    pub fn passed_now() -> Self {
        Self { tested: Instant::now(), failure: None }
    }

    /// Tests anew if the last test is older than this.
    pub fn test(&mut self, kernel: &mut Kernel, at_most: Duration) {
        if self.tested.elapsed() < at_most {
            return;
        }
        let outcome = kernel.self_test();
        self.tested = Instant::now();
        let failure = outcome.err().map(|error| chain(&error));
        match (&self.failure, &failure) {
            (None, Some(failure)) => error!("the probe is blind: {failure}"),
            (Some(_), None) => info!("the probe sees again: it passed its self-test"),
            _ => {}
        }
        self.failure = failure;
    }

    /// Returns why nothing that the probe says can be believed, if so.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}
