//! Takes the cheapest hook that works: one that loads, attaches and passes the self-test.

use std::{error::Error, iter};

use tracing::info;

use super::{Hook, Kernel, KernelConfig, KernelError, SelfTestError, struct_offsets::Layout};
use crate::{
    support::logging::chain,
    system::{
        host::{Host, Lockdown},
        permission::is_permission,
    },
};

/// Which hook to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HookChoice {
    /// fentry where it works, else tracepoint.
    Auto,
    Fentry,
    Tracepoint,
}

impl From<Hook> for HookChoice {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Fentry => Self::Fentry,
            Hook::Tracepoint => Self::Tracepoint,
        }
    }
}

/// Why the probe does not work here.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// The kernel did not allow it.
    #[error("{why}")]
    Refused {
        why: String,
        /// Whether whoever has every right would have been let.
        of_privilege: bool,
        /// Whether no other hook can do better.
        hopeless: bool,
        source: KernelError,
    },
    #[error("no hook works here; not fentry ({fentry}), and not tracepoint")]
    None { fentry: String, source: Box<Self> },
}

/// Attaches by the hook that was chosen, and tests that it sees what happens.
///
/// # Errors
/// Why that does not work here; then nothing is left attached.
pub fn start(choice: HookChoice, config: &KernelConfig) -> Result<Kernel, StartError> {
    let layout = Layout::read()?;
    match choice {
        HookChoice::Fentry => attach_and_test(&layout, Hook::Fentry, config),
        HookChoice::Tracepoint => attach_and_test(&layout, Hook::Tracepoint, config),
        HookChoice::Auto => match attach_and_test(&layout, Hook::Fentry, config) {
            Err(error) if error.is_of_the_hook() => {
                let fentry = chain(&error);
                info!("the fentry hook does not work here, so it is tracepoint: {fentry}");
                attach_and_test(&layout, Hook::Tracepoint, config)
                    .map_err(|error| StartError::None { fentry, source: Box::new(error) })
            }
            outcome => outcome,
        },
    }
}

fn attach_and_test(layout: &Layout, hook: Hook, config: &KernelConfig) -> Result<Kernel, StartError> {
    let mut kernel = Kernel::attach_to(layout, hook, config).map_err(|error| explain(hook, error))?;
    kernel.self_test()?;
    Ok(kernel)
}

/// Says why the kernel does not allow something, by what can be seen of this machine.
fn explain(hook: Hook, error: KernelError) -> StartError {
    if !error.may_be_refusal() {
        return error.into();
    }
    let not_allowed = iter::successors(error.source(), |cause| (*cause).source()).any(is_permission);
    let host = Host::read();
    // Where helpers that read its memory are closed, the kernel does not know them: it says EINVAL then, not EPERM. That is so in
    // every lockdown, and on 7.2 without CAP_PERFMON.
    if !not_allowed && !host.forbids_measuring() {
        return error.into();
    }
    let of_privilege = not_allowed || host.lockdown != Lockdown::Confidentiality;
    let why = host.why_refused(hook == Hook::Tracepoint);
    StartError::Refused { why, of_privilege, hopeless: host.forbids_measuring(), source: error }
}

impl StartError {
    /// Returns whether another kind of hook may do better.
    fn is_of_the_hook(&self) -> bool {
        match self {
            Self::Kernel(error) => error.is_of_the_hook(),
            Self::SelfTest(error) => matches!(error, SelfTestError::Blind { .. }),
            Self::Refused { hopeless, .. } => !hopeless,
            Self::None { .. } => false,
        }
    }
}
