//! Exit codes that mean something, from `sysexits.h` where it has one.

use std::error::Error;

use crate::{
    command::config::ConfigError,
    kernel::{KernelError, SelfTestError, StartError},
    server::{ListenError, WebError},
    system::permission::is_permission,
};

/// `doctor`: the probe can run, and somebody has to act.
pub const DEGRADED: u8 = 1;
/// `EX_USAGE`: a flag or setting is wrong; a restart will not help.
pub const BAD_USAGE: u8 = 64;
/// `EX_NOINPUT`: a file that a flag names cannot be read.
pub const UNREADABLE: u8 = 66;
/// `EX_UNAVAILABLE`: this kernel lacks what the probe needs.
pub const NO_KERNEL_SUPPORT: u8 = 69;
/// `EX_OSERR`: the address cannot be listened on.
pub const CANNOT_LISTEN: u8 = 71;
/// `EX_SOFTWARE`: anything else.
pub const FAILURE: u8 = 70;
/// `EX_NOPERM`: the kernel refuses for want of privilege.
pub const NO_PRIVILEGE: u8 = 77;

/// Returns the exit code of settings that cannot be.
pub fn of_config(error: &ConfigError) -> u8 {
    match error {
        ConfigError::Usage(_) => BAD_USAGE,
        ConfigError::Unreadable { .. } => UNREADABLE,
    }
}

/// Returns the exit code of a failure, by what is in its chain.
pub fn of(error: &anyhow::Error) -> u8 {
    if error.is::<ListenError>() {
        CANNOT_LISTEN
    } else if let Some(error) = error.downcast_ref::<WebError>() {
        match error {
            WebError::Wrong(_) => BAD_USAGE,
            WebError::Unreadable { .. } => UNREADABLE,
        }
    } else if error.chain().any(|cause| is_permission(cause) || is_of_privilege(cause)) {
        NO_PRIVILEGE
    } else if error.chain().any(is_of_the_kernel) {
        NO_KERNEL_SUPPORT
    } else {
        FAILURE
    }
}

/// `StartError` is looked for by itself: it is transparent, so what it wraps is no link of the chain.
fn is_of_the_kernel(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<KernelError>() || cause.is::<SelfTestError>() || cause.is::<StartError>()
}

fn is_of_privilege(cause: &(dyn Error + 'static)) -> bool {
    let start = cause.downcast_ref::<StartError>();
    start.is_some_and(|error| matches!(error, StartError::Refused { of_privilege: true, .. }))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_told_by_what_is_deepest() {
        let start = |error: KernelError| Err::<(), _>(StartError::from(error)).context("cannot start");
        let cases = [
            (start(KernelError::NoBtf("none".to_owned())), NO_KERNEL_SUPPORT, "what the kernel lacks"),
            (start(KernelError::NoTracefs(rustix::io::Errno::PERM.into())), NO_PRIVILEGE, "what it refuses"),
            (Err(anyhow::anyhow!("anything")), FAILURE, "all the rest"),
        ];
        for (failure, expected, why) in cases {
            assert_eq!(of(&failure.expect_err(why)), expected, "{why}");
        }
    }
}
