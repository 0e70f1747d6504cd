//! Pure functions of values: no I/O, no clock. Time is an argument.

pub mod latency;
pub mod causes;
pub mod slow_operation;
pub mod crosscheck;
pub mod verdict;
