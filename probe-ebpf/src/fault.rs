//! Ways to count wrong, which the tests of the cross-check have to find.

use probe_ebpf::{
    miss::Miss,
    state::{ENDS_COMMIT, ENDS_WAL_FSYNC, Thread},
};

use crate::maps::{FAULT, FAULT_EVENTS, atomic_add};

/// [`FAULT`]: forget every thousandth reconciled event.
const DROP: u32 = 1;
/// [`FAULT`]: count every thousandth reconciled event twice.
const DOUBLE: u32 = 2;
/// `Thread::ends`: count what ends twice.
pub const ENDS_TWICE: u32 = 1 << 31;

/// Returns how often a faulty probe counts this event.
#[inline(always)]
pub fn times(thread: &mut Thread) -> Result<u64, Miss> {
    if thread.ends & (ENDS_WAL_FSYNC | ENDS_COMMIT) == 0 {
        return Ok(1);
    }
    let events = FAULT_EVENTS.get_ptr_mut(0).ok_or(Miss::RingFull)?;
    // SAFETY: the element lives as long as its map; roughly every thousandth will do.
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
            thread.ends |= ENDS_TWICE;
            Ok(2)
        }
        _ => Ok(1),
    }
}
