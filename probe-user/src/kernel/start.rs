//! Selects the cheapest hook that works, which means that it loads, attaches and passes the self-test.

use std::{error::Error, iter};

use tracing::info;

use super::{Hook, Kernel, KernelConfig, KernelError, SelfTestError, struct_offsets::KernelLayout};
use crate::{
    support::logging::chain,
    system::{
        host::{Host, Lockdown},
        permission::is_permission,
    },
};

/// Which hook to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HookChoice {
    /// fentry if it works, otherwise tracepoint.
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

/// Why the probe does not work on this machine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// The kernel did not allow it.
    #[error("{reason}")]
    Refused {
        reason: String,
        /// Whether a process with all privileges would have been allowed.
        missing_privilege: bool,
        /// Whether every other hook would fail, too.
        affects_all_hooks: bool,
        source: KernelError,
    },
    #[error("cannot use any hook: fentry ({fentry}) and tracepoint fail")]
    None { fentry: String, source: Box<Self> },
}

/// Attaches with the chosen hook, and runs the self-test.
///
/// # Errors
/// The reason why the hook does not work; nothing is left attached in that case.
pub fn start(choice: HookChoice, config: &KernelConfig) -> Result<Kernel, StartError> {
    let layout = KernelLayout::read()?;
    match choice {
        HookChoice::Fentry => attach_and_test(&layout, Hook::Fentry, config),
        HookChoice::Tracepoint => attach_and_test(&layout, Hook::Tracepoint, config),
        HookChoice::Auto => match attach_and_test(&layout, Hook::Fentry, config) {
            Err(error) if error.depends_on_hook() => {
                let fentry = chain(&error);
                info!("cannot use the fentry hook, using tracepoint: {fentry}");
                attach_and_test(&layout, Hook::Tracepoint, config)
                    .map_err(|error| StartError::None { fentry, source: Box::new(error) })
            }
            outcome => outcome,
        },
    }
}

fn attach_and_test(layout: &KernelLayout, hook: Hook, config: &KernelConfig) -> Result<Kernel, StartError> {
    let mut kernel = Kernel::attach_to(layout, hook, config).map_err(|error| explain(hook, error))?;
    kernel.self_test()?;
    Ok(kernel)
}

/// Adds the reason why the kernel denies an operation, derived from the properties of this machine.
fn explain(hook: Hook, error: KernelError) -> StartError {
    if !error.may_be_denial() {
        return error.into();
    }
    let not_allowed = iter::successors(error.source(), |cause| (*cause).source()).any(is_permission);
    let host = Host::read();
    // If helpers that read kernel memory are forbidden, the kernel treats them as unknown and returns EINVAL,
    // not EPERM. That is the case in every lockdown mode, and on 7.2 without CAP_PERFMON.
    if !not_allowed && !host.forbids_measuring() {
        return error.into();
    }
    let missing_privilege = not_allowed || host.lockdown != Lockdown::Confidentiality;
    let reason = host.why_refused(hook == Hook::Tracepoint);
    StartError::Refused {
        reason,
        missing_privilege,
        affects_all_hooks: host.forbids_measuring(),
        source: error,
    }
}

impl StartError {
    /// Returns whether another kind of hook may work.
    fn depends_on_hook(&self) -> bool {
        match self {
            Self::Kernel(error) => error.depends_on_hook(),
            Self::SelfTest(error) => matches!(error, SelfTestError::Blind { .. }),
            Self::Refused { affects_all_hooks, .. } => !affects_all_hooks,
            Self::None { .. } => false,
        }
    }
}
