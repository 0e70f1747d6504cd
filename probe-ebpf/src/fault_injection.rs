//! Wrong counts on purpose, which the tests of the cross-check must detect.

use probe_ebpf::{
    miss::Miss,
    state::{COMPLETES_COMMIT, COMPLETES_WAL_FSYNC, Thread},
};

use crate::maps::{FAULT, FAULT_EVENTS, atomic_add};

/// [`FAULT`]: drop every thousandth reconciled event.
const DROP: u32 = 1;
/// [`FAULT`]: count every thousandth reconciled event twice.
const DOUBLE: u32 = 2;
/// `Thread::completes`: count the completed event twice.
pub const COMPLETES_TWICE: u32 = 1 << 31;

/// Returns how often a probe with an injected fault counts this event.
#[inline(always)]
pub fn times(thread: &mut Thread) -> Result<u64, Miss> {
    if thread.completes & (COMPLETES_WAL_FSYNC | COMPLETES_COMMIT) == 0 {
        return Ok(1);
    }
    let events = FAULT_EVENTS.get_ptr_mut(0).ok_or(Miss::RingFull)?;
    // SAFETY: the element exists as long as its map; a race is harmless, because about every thousandth
    // suffices.
    let events = unsafe {
        atomic_add(events, 1);
        *events
    };
    if events % 1000 != 0 {
        return Ok(1);
    }
    match FAULT.load() {
        DROP => Ok(0),
        DOUBLE => {
            thread.completes |= COMPLETES_TWICE;
            Ok(2)
        }
        _ => Ok(1),
    }
}
