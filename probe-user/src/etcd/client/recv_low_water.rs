//! How much of a body has to arrive before the kernel wakes us.

use std::{
    ffi::c_int,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

/// At most so much is waited for: it fits into the window of a new connection, so etcd never waits for us.
const MOST: usize = 48 << 10;

/// The last sixteenth is not waited for: an answer may be a little shorter than the one before.
const MARGIN: usize = 16;

/// Who has waited longer for a body takes whatever arrives: it is shorter than the one before, or etcd is slow.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);

/// The low-water mark of a connection's socket: `SO_RCVLOWAT` of socket(7), which epoll keeps to on TCP (Linux 5.10 to 7.2).
///
/// Go sends a body in pieces of 4 KiB, and what arrives would wake us some 18 times for 157 kB; so it is 5 times.
#[derive(Debug, Default)]
pub(super) struct LowWater {
    /// A second descriptor of it; none where there is no such mark.
    socket: Option<OwnedFd>,
    mark: usize,
    /// How long the last body was, as it was sent.
    usual: usize,
}

impl LowWater {
    /// Takes a TCP socket that nobody has set a mark of.
    pub fn of(socket: &impl AsFd) -> Self {
        // Without a descriptor to spare we are woken more often, that is all.
        Self { socket: socket.as_fd().try_clone_to_owned().ok(), mark: 1, usual: 0 }
    }

    /// Waits for what is still to come of a body, if it is as long as the last one.
    pub fn await_rest(&mut self, received: usize) {
        let left = self.usual.saturating_sub(received);
        self.set((left - left / MARGIN).clamp(1, MOST));
    }

    /// Waits for anything; wakes us at once if there is something already.
    pub fn await_anything(&mut self) {
        self.set(1);
    }

    /// Notes that a body has ended.
    pub fn end(&mut self, received: usize) {
        self.usual = received;
        self.await_anything();
    }

    fn set(&mut self, mark: usize) {
        let Some(socket) = self.socket.as_ref().filter(|_| mark != self.mark) else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most `MOST`")]
        let value = mark as c_int;
        #[expect(clippy::cast_possible_truncation, reason = "four")]
        let length = size_of::<c_int>() as libc::socklen_t;
        let descriptor = socket.as_raw_fd();
        // SAFETY: the kernel reads one integer, which lives until then, and the descriptor is ours.
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

    /// Returns whether a socket wakes who waits for it within a moment.
    fn wakes(socket: &TcpStream) -> bool {
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&moment)).unwrap() > 0
    }

    #[test]
    fn a_body_wakes_us_when_most_of_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut sender, _) = listener.accept().unwrap();
        let mut low_water = LowWater::of(&receiver);
        low_water.await_rest(0);
        sender.write_all(&[0; 100]).unwrap();
        assert!(wakes(&receiver), "of the first body nothing is known");
        low_water.end(1_600);
        low_water.await_rest(0);
        assert!(!wakes(&receiver), "100 bytes of 1,600");
        sender.write_all(&[0; 1_399]).unwrap();
        assert!(!wakes(&receiver), "1,499 of them");
        sender.write_all(&[0; 1]).unwrap();
        assert!(wakes(&receiver), "but for a sixteenth all");
        low_water.await_rest(0);
        low_water.end(1 << 20);
        low_water.await_rest(0);
        assert!(!wakes(&receiver), "a larger one is expected now");
        low_water.await_anything();
        assert!(wakes(&receiver), "what is there is told at once");
        low_water.await_rest(2 << 20);
        assert!(wakes(&receiver), "longer than the last one: nothing is known of the rest");
        low_water.await_rest(0);
        drop(sender);
        assert!(wakes(&receiver), "the end of the connection is not waited for");
    }
}
