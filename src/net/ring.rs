//! Many small sends in one system call. The only module with `unsafe`.
//!
//! A send that wakes its peer at once lets the peer pre-empt us, and each costs a system call.
//! io_uring takes the sends of a whole loop turn in one `io_uring_enter`; where the kernel or
//! seccomp refuses a ring, each is a plain `send`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, opcode, squeue, types};

/// Sends per submission; the outbox never holds more.
pub(crate) const BATCH_MAX: usize = 64;

const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// One send: the bytes, the open socket they go to, and what came of it.
pub(crate) trait Send {
    fn fd(&self) -> RawFd;
    fn bytes(&self) -> &[u8];
    /// Bytes taken by the kernel, or a negated errno.
    fn done(&mut self, result: i32);
}

/// How a worker hands its sends to the kernel.
pub(crate) enum Ring {
    Uring(Box<IoUring>),
    Plain,
}

impl Ring {
    /// A ring, or plain sends if `wanted` is false or the kernel has none for us.
    /// A ring belongs to the thread that makes it (`SINGLE_ISSUER`).
    pub(crate) fn new(wanted: bool) -> (Ring, Option<io::Error>) {
        if !wanted {
            return (Ring::Plain, None);
        }
        let ring = IoUring::builder()
            .setup_single_issuer()
            // Without it every completion interrupts the thread: 2 us per transaction.
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(BATCH_MAX as u32);
        match ring {
            Ok(ring) => (Ring::Uring(Box::new(ring)), None),
            Err(error) => (Ring::Plain, Some(error)),
        }
    }

    pub(crate) fn is_uring(&self) -> bool {
        matches!(self, Ring::Uring(_))
    }

    /// Sends all of `sends`, at most `BATCH_MAX`, in order, without waiting for any peer.
    pub(crate) fn send_all<S: Send>(&mut self, sends: &mut [S]) {
        match self {
            // A ring costs more than it saves for a single send.
            Ring::Uring(ring) if sends.len() > 1 => {
                if submit(ring, sends).is_err() {
                    // Nothing was taken, or the kernel broke its word; either way the ring is
                    // of no more use, and `submit` has failed whatever is not known to be sent.
                    *self = Ring::Plain;
                }
            }
            _ => sends.iter_mut().for_each(send_one),
        }
    }
}

fn send_one<S: Send>(send: &mut S) {
    let bytes = send.bytes();
    // SAFETY: `bytes` is valid for its length for the whole call, which does not keep it. The
    // descriptor is open: the outbox forgets a lane's entries before its socket is closed.
    let n = unsafe { libc::send(send.fd(), bytes.as_ptr().cast(), bytes.len(), FLAGS) };
    let result = if n < 0 { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { n as i32 };
    send.done(result);
}

/// Submits `sends` and waits for all their completions.
fn submit<S: Send>(ring: &mut IoUring, sends: &mut [S]) -> io::Result<()> {
    assert!(sends.len() <= BATCH_MAX, "the outbox flushes at {BATCH_MAX}");
    for (i, send) in sends.iter().enumerate() {
        let bytes = send.bytes();
        let entry: squeue::Entry = opcode::Send::new(types::Fd(send.fd()), bytes.as_ptr(), bytes.len() as u32)
            .flags(FLAGS)
            .build()
            .user_data(i as u64);
        // SAFETY: the buffer outlives the operation, since this function reaps every completion
        // before it returns, on every path (below). The descriptor is open, as in `send_one`.
        let pushed = unsafe { ring.submission().push(&entry) };
        pushed.expect("the queue holds BATCH_MAX entries and is empty between calls");
    }
    let mut left = sends.len();
    let mut known = [false; BATCH_MAX];
    while left > 0 {
        match ring.submit_and_wait(left) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if left == sends.len() && ring.submission().len() == sends.len() => {
                // The kernel has seen none of them: the queue goes away with the ring.
                sends.iter_mut().for_each(send_one);
                return Err(e);
            }
            // Some are in flight: their buffers must stay until they complete.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {}
            Err(e) => {
                // The ring is unusable with operations in flight. They are non-blocking sends,
                // completed within the submission, so what has not reported never will.
                for (send, _) in sends.iter_mut().zip(known).filter(|(_, known)| !known) {
                    send.done(-libc::EIO);
                }
                return Err(e);
            }
        }
        for completion in ring.completion() {
            let i = completion.user_data() as usize;
            if let Some(send) = sends.get_mut(i) {
                known[i] = true;
                send.done(completion.result());
                left -= 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    struct One(RawFd, Vec<u8>, Option<i32>);

    impl Send for One {
        fn fd(&self) -> RawFd {
            self.0
        }
        fn bytes(&self) -> &[u8] {
            &self.1
        }
        fn done(&mut self, result: i32) {
            assert_eq!(self.2.replace(result), None, "reported twice");
        }
    }

    fn send_and_check(mut ring: Ring) {
        let pairs: Vec<_> = (0..10).map(|_| UnixStream::pair().unwrap()).collect();
        let mut sends: Vec<One> =
            pairs.iter().enumerate().map(|(i, (a, _))| One(a.as_raw_fd(), vec![i as u8; i + 1], None)).collect();
        ring.send_all(&mut sends);
        for (i, ((_, b), send)) in pairs.iter().zip(&sends).enumerate() {
            assert_eq!(send.2, Some(i as i32 + 1));
            let mut got = vec![0; i + 1];
            (&*b).read_exact(&mut got).unwrap();
            assert_eq!(got, send.1);
        }
    }

    #[test]
    fn plain_sends_arrive() {
        send_and_check(Ring::Plain);
    }

    #[test]
    fn ring_sends_arrive_where_there_is_a_ring() {
        let (ring, error) = Ring::new(true);
        assert!(ring.is_uring() || error.is_some());
        send_and_check(ring);
    }

    #[test]
    fn a_full_socket_and_a_gone_peer_are_told_apart() {
        for wanted in [false, true] {
            let (mut ring, _) = Ring::new(wanted);
            let (a, _b) = UnixStream::pair().unwrap();
            let (c, d) = UnixStream::pair().unwrap();
            drop(d);
            let mut sends = [One(a.as_raw_fd(), vec![0; 16 << 20], None), One(c.as_raw_fd(), vec![1], None)];
            ring.send_all(&mut sends);
            let short = sends[0].2.unwrap();
            assert!((1..16 << 20).contains(&short), "{short}");
            assert_eq!(sends[1].2, Some(-libc::EPIPE));
            let mut again = [One(a.as_raw_fd(), vec![0; 16], None), One(a.as_raw_fd(), vec![0; 16], None)];
            ring.send_all(&mut again);
            assert_eq!(again.map(|s| s.2), [Some(-libc::EAGAIN); 2]);
        }
    }
}
