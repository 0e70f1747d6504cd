//! Receive low-water mark: how much of a body has to arrive before the kernel wakes the daemon.

use std::{
    ffi::c_int,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

/// Maximum of the mark. It fits into the receive window of a new connection, so etcd never waits for the
/// daemon.
const WAIT_MAX_BYTES: usize = 48 << 10;

/// The mark omits the last sixteenth, because a body may be a little shorter than the previous one.
const MARGIN_DIVISOR: usize = 16;

/// After this time, the reader takes any bytes that have arrived: the body is shorter than the previous one,
/// or etcd is slow.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(5);

/// The low-water mark of a connection's socket: `SO_RCVLOWAT` of socket(7), which epoll honors on TCP (Linux
/// 5.10 to 7.2).
///
/// Go sends a body in pieces of 4 KiB. Without a mark, 157 kB cause about 18 wake-ups; with it, 5.
#[derive(Debug, Default)]
pub(super) struct LowWater {
    /// A second descriptor of the socket; none where sockets have no such mark.
    socket: Option<OwnedFd>,
    mark: usize,
    /// Length of the last body, as sent.
    usual: usize,
}

impl LowWater {
    /// Takes a TCP socket whose mark has not been set.
    pub fn of(socket: &impl AsFd) -> Self {
        // Without a spare descriptor there are only more wake-ups.
        Self { socket: socket.as_fd().try_clone_to_owned().ok(), mark: 1, usual: 0 }
    }

    /// Sets the mark to the rest of a body that is as long as the last one.
    pub fn await_rest(&mut self, received: usize) {
        let left = self.usual.saturating_sub(received);
        self.set((left - left / MARGIN_DIVISOR).clamp(1, WAIT_MAX_BYTES));
    }

    /// Sets the mark to one byte; wakes the daemon at once if bytes have already arrived.
    pub fn await_any(&mut self) {
        self.set(1);
    }

    /// Records the length of a complete body.
    pub fn end(&mut self, received: usize) {
        self.usual = received;
        self.await_any();
    }

    fn set(&mut self, mark: usize) {
        let Some(socket) = self.socket.as_ref().filter(|_| mark != self.mark) else { return };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "at most `WAIT_MAX_BYTES`"
        )]
        let value = mark as c_int;
        #[expect(clippy::cast_possible_truncation, reason = "four")]
        let length = size_of::<c_int>() as libc::socklen_t;
        let descriptor = socket.as_raw_fd();
        // SAFETY: the kernel reads one integer during the call, and `value` outlives the call; we own the
        // descriptor.
        let outcome = unsafe {
            libc::setsockopt(
                descriptor,
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const value).cast(),
                length,
            )
        };
        if outcome == 0 {
            self.mark = mark;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
    };

    use rustix::{
        event::{PollFd, PollFlags, poll},
        time::Timespec,
    };

    use super::*;

    /// Returns whether a socket becomes readable within 50 ms.
    fn wakes(socket: &TcpStream) -> bool {
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&moment)).unwrap() > 0
    }

    #[test]
    fn a_body_wakes_the_reader_when_most_of_it_has_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut sender, _) = listener.accept().unwrap();
        let mut low_water = LowWater::of(&receiver);
        low_water.await_rest(0);
        sender.write_all(&[0; 100]).unwrap();
        assert!(wakes(&receiver), "the length of the first body is unknown");
        low_water.end(1_600);
        low_water.await_rest(0);
        assert!(!wakes(&receiver), "100 bytes of 1,600");
        sender.write_all(&[0; 1_399]).unwrap();
        assert!(!wakes(&receiver), "1,499 of them");
        sender.write_all(&[0; 1]).unwrap();
        assert!(wakes(&receiver), "all but a sixteenth");
        low_water.await_rest(0);
        low_water.end(1 << 20);
        low_water.await_rest(0);
        assert!(!wakes(&receiver), "a larger body is expected");
        low_water.await_any();
        assert!(wakes(&receiver), "bytes that have arrived wake at once");
        low_water.await_rest(2 << 20);
        assert!(wakes(&receiver), "longer than the last one: the rest is unknown");
        low_water.await_rest(0);
        drop(sender);
        assert!(wakes(&receiver), "the end of the connection wakes at once");
    }
}
