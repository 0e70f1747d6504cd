//! The arguments of a traced system call, independent of the kind of hook.

use probe_ebpf::series::Op;

/// The arguments that the programs use; 0 where a system call has none.
#[derive(Clone, Copy)]
pub struct Arguments {
    pub descriptor: u64,
    pub buffer: u64,
    pub bytes: u64,
    pub offset: u64,
}

impl Arguments {
    /// Reads the arguments by their index through the hook's accessor; the call and the indexes are
    /// constants.
    #[inline(always)]
    pub fn of(op: Op, argument: impl Fn(usize) -> u64) -> Self {
        let descriptor = argument(0);
        match op {
            Op::Pwrite64 => Self { descriptor, buffer: argument(1), bytes: argument(2), offset: argument(3) },
            _ => Self { descriptor, buffer: 0, bytes: 0, offset: 0 },
        }
    }
}
