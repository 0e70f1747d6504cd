//! Types and arithmetic shared by the kernel programs and the daemon.
#![no_std]
