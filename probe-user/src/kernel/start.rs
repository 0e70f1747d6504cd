//! Takes the cheapest hook that works: one that loads, attaches and passes the self-test.

use tracing::info;

use super::{Hook, Kernel, KernelConfig, KernelError, SelfTestError};
use crate::logging::chain;

/// Which hook to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HookChoice {
    /// fentry where it works, else tracepoint.
    Auto,
    Fentry,
    Tracepoint,
}

/// Why the probe does not work here.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    #[error("no hook works here; not fentry ({fentry}), and not tracepoint")]
    None { fentry: String, source: Box<Self> },
}

/// Attaches by the hook that was chosen, and tests that it sees what happens.
///
/// # Errors
/// Why that does not work here; then nothing is left attached.
pub fn start(choice: HookChoice, config: &KernelConfig) -> Result<Kernel, StartError> {
    match choice {
        HookChoice::Fentry => attach_and_test(Hook::Fentry, config),
        HookChoice::Tracepoint => attach_and_test(Hook::Tracepoint, config),
        HookChoice::Auto => match attach_and_test(Hook::Fentry, config) {
            Err(error) if error.is_of_the_hook() => {
                let fentry = chain(&error);
                info!("the fentry hook does not work here, so it is tracepoint: {fentry}");
                attach_and_test(Hook::Tracepoint, config)
                    .map_err(|error| StartError::None { fentry, source: Box::new(error) })
            }
            outcome => outcome,
        },
    }
}

fn attach_and_test(hook: Hook, config: &KernelConfig) -> Result<Kernel, StartError> {
    let mut kernel = Kernel::attach(hook, config)?;
    kernel.self_test()?;
    Ok(kernel)
}

impl StartError {
    /// Returns whether another kind of hook may do better.
    fn is_of_the_hook(&self) -> bool {
        match self {
            Self::Kernel(error) => error.is_of_the_hook(),
            Self::SelfTest(error) => matches!(error, SelfTestError::Blind { .. }),
            Self::None { .. } => false,
        }
    }
}
