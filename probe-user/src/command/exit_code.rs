//! The exit codes, from `sysexits.h` where it defines one.

use std::error::Error;

use crate::{
    command::config::ConfigError,
    kernel::{KernelError, SelfTestError, StartError},
    server::{ListenError, WebError},
    system::permission::is_permission,
};

/// `doctor`: the probe can run, and action is required.
pub const DEGRADED: u8 = 1;
/// `EX_USAGE`: a flag or setting is invalid; a restart does not help.
pub const BAD_USAGE: u8 = 64;
/// `EX_NOINPUT`: a file that a flag names cannot be read.
pub const UNREADABLE: u8 = 66;
/// `EX_UNAVAILABLE`: this kernel lacks a feature that the probe needs.
pub const NO_KERNEL_SUPPORT: u8 = 69;
/// `EX_OSERR`: cannot listen on the address.
pub const CANNOT_LISTEN: u8 = 71;
/// `EX_SOFTWARE`: anything else.
pub const FAILURE: u8 = 70;
/// `EX_NOPERM`: the kernel refuses because privileges are insufficient.
pub const NO_PRIVILEGE: u8 = 77;

/// Returns the exit code of invalid settings.
pub fn of_config(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Usage(_) => BAD_USAGE,
        ConfigError::Unreadable { .. } => UNREADABLE,
    }
}

/// Returns the exit code of a failure, by the errors in its chain.
pub fn of(error: &anyhow::Error) -> u8 {
    if error.is::<ListenError>() {
        CANNOT_LISTEN
    } else if let Some(error) = error.downcast_ref::<WebError>() {
        match error {
            WebError::Invalid(_) => BAD_USAGE,
            WebError::Unreadable { .. } => UNREADABLE,
        }
    } else if error.chain().any(|cause| is_permission(cause) || is_missing_privilege(cause)) {
        NO_PRIVILEGE
    } else if error.chain().any(is_kernel_error) {
        NO_KERNEL_SUPPORT
    } else {
        FAILURE
    }
}

/// `StartError` is checked separately: it is transparent, so the error that it wraps is not part of the
/// chain.
fn is_kernel_error(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<KernelError>() || cause.is::<SelfTestError>() || cause.is::<StartError>()
}

fn is_missing_privilege(cause: &(dyn Error + 'static)) -> bool {
    let start = cause.downcast_ref::<StartError>();
    start.is_some_and(|error| matches!(error, StartError::Refused { missing_privilege: true, .. }))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_exit_code_follows_the_root_cause() {
        let start = |error: KernelError| Err::<(), _>(StartError::from(error)).context("cannot start");
        let cases = [
            (start(KernelError::NoBtf("none".to_owned())), NO_KERNEL_SUPPORT, "a missing kernel feature"),
            (start(KernelError::NoTracefs(rustix::io::Errno::PERM.into())), NO_PRIVILEGE, "a refusal"),
            (Err(anyhow::anyhow!("anything")), FAILURE, "any other failure"),
        ];
        for (failure, expected, why) in cases {
            assert_eq!(of(&failure.expect_err(why)), expected, "{why}");
        }
    }
}
