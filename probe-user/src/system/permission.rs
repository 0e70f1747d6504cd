//! Recognition of permission errors.

use std::{error::Error, io};

/// Returns whether the kernel refused a request because a privilege is missing.
pub fn is_permission(cause: &(dyn Error + 'static)) -> bool {
    let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    let rustix = cause.downcast_ref::<rustix::io::Errno>().map(|errno| errno.kind());
    io.or(rustix) == Some(io::ErrorKind::PermissionDenied)
}
