//! What a worker sends in one loop turn, flushed once when the turn ends.
//!
//! A [`Lane`] is one direction of one session: towards its client or towards its server. While
//! bytes of a lane are unsent its session must not read from the other side, so that a slow
//! reader stops the sender and not the process. Order within a lane is kept: a lane has at most
//! one entry per turn, and none while bytes are left over from an earlier one.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::Waker;

use super::ring::{self, BATCH_MAX, Ring};
use super::tls::SharedTls;

/// Past this an entry is not gathered any longer but sent.
const ENTRY_MAX: usize = 16 * 1024;

/// Buffers up to this size are kept for the next turn.
const SPARE_BUFFER_MAX: usize = 2 * ENTRY_MAX;

/// So many are kept: of each entry of a turn its text, and its records.
const SPARE_BUFFERS: usize = 2 * BATCH_MAX;

/// Whom a lane's bytes go to, in the order in which those of a turn are sent: a server can work while the
/// rest is sent, and there are fewer servers than clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Towards {
    Server,
    Client,
}

/// One direction of a session.
pub(crate) struct Lane {
    towards: Towards,
    /// The socket that the bytes go to; -1 while there is none.
    fd: Cell<RawFd>,
    /// What encrypts them: text becomes records when it is sent, those of a turn together.
    /// `None`: nothing.
    tls: RefCell<Option<SharedTls>>,
    /// Turn and index of this lane's entry in the outbox; meaningless in any other turn.
    place: Cell<(u64, u32)>,
    /// Bytes, as they go out, that the socket did not take; what follows must wait behind them.
    unsent: RefCell<Vec<u8>>,
    /// The socket refused for good; an errno, or 0.
    failed: Cell<i32>,
    /// The session's task, to be woken when a send came up short.
    waker: Cell<Option<Waker>>,
}

impl Lane {
    pub(crate) fn new(towards: Towards) -> Lane {
        Lane {
            towards,
            fd: Cell::new(-1),
            tls: RefCell::new(None),
            place: Cell::new((0, 0)),
            unsent: RefCell::new(Vec::new()),
            failed: Cell::new(0),
            waker: Cell::new(None),
        }
    }

    /// Bytes sent from now on go to `fd`, which stays open until `close`.
    pub(crate) fn open(&self, fd: RawFd, tls: Option<&SharedTls>) {
        debug_assert!(self.unsent.borrow().is_empty());
        self.fd.set(fd);
        self.tls.replace(tls.cloned());
        self.failed.set(0);
    }

    /// Must be called before the socket is closed. What is unsent is lost.
    pub(crate) fn close(&self) {
        self.fd.set(-1);
        self.tls.take();
        self.place.set((0, 0));
        self.unsent.take();
    }

    /// Whom to wake when a send came up short.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(known.or_else(|| Some(waker.clone())));
    }

    /// Wakes the session's task.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    /// Bytes are left over: do not read from the other side.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }

    /// How many bytes are left over.
    pub(crate) fn unsent_len(&self) -> usize {
        self.unsent.borrow().len()
    }

    fn has_failed(&self) -> bool {
        self.failed.get() != 0
    }

    /// The peer is gone; an errno.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.has_failed().then(|| io::Error::from_raw_os_error(self.failed.get()))
    }

    /// Sends what was left over with `send`, until it would block (`Ok(false)`) or all is out.
    pub(crate) fn drain(&self, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let mut unsent = self.unsent.borrow_mut();
        let mut at = 0;
        let result = loop {
            if at == unsent.len() {
                break Ok(true);
            }
            match send(&unsent[at..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        unsent.drain(..at);
        if unsent.is_empty() {
            *unsent = Vec::new();
        }
        result
    }

    /// Adds `bytes` to `into` as they go out. False: the lane has failed.
    fn seal(&self, bytes: &[u8], into: &mut Vec<u8>) -> bool {
        match &*self.tls.borrow() {
            None => into.extend_from_slice(bytes),
            Some(tls) => {
                if tls.lock().seal(bytes, into).is_err() {
                    self.fail(libc::EPIPE);
                    return false;
                }
            }
        }
        true
    }

    /// Sends what goes out as it is, behind what is left over.
    fn send_now(&self, bytes: &[u8], send: &mut impl FnMut(&[u8]) -> io::Result<usize>) {
        let mut at = 0;
        while at < bytes.len() && !self.is_blocked() {
            match send(&bytes[at..]) {
                Ok(n) if n > 0 => at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                    return self.fail(e.raw_os_error().unwrap_or(libc::EIO));
                }
                _ => return self.short(&bytes[at..]),
            }
        }
        self.unsent.borrow_mut().extend_from_slice(&bytes[at..]);
    }

    fn short(&self, rest: &[u8]) {
        self.unsent.borrow_mut().extend_from_slice(rest);
        self.wake();
    }

    fn fail(&self, errno: i32) {
        self.failed.set(errno);
        self.wake();
    }
}

/// One lane's bytes of this turn.
struct Entry {
    fd: RawFd,
    lane: Rc<Lane>,
    bytes: Vec<u8>,
    result: i32,
}

impl ring::Send for Entry {
    fn fd(&self) -> RawFd {
        self.fd
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn done(&mut self, result: i32) {
        self.result = result;
    }
}

/// A worker's outbox.
pub(crate) struct Outbox {
    inner: RefCell<Inner>,
}

struct Inner {
    ring: Ring,
    /// Counts flushes; an entry's place is valid in its own turn only. Starts at 1.
    turn: u64,
    entries: Vec<Entry>,
    /// Buffers of earlier turns.
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    pub(crate) fn new(ring: Ring) -> Outbox {
        let inner = Inner { ring, turn: 1, entries: Vec::with_capacity(BATCH_MAX), spare: Vec::new() };
        Outbox { inner: RefCell::new(inner) }
    }

    /// Adds `bytes` to what `lane` sends this turn.
    #[inline]
    pub(crate) fn push(&self, lane: &Rc<Lane>, bytes: &[u8]) {
        if bytes.is_empty() || lane.has_failed() {
            return;
        }
        if lane.is_blocked() {
            lane.seal(bytes, &mut lane.unsent.borrow_mut());
            return;
        }
        let mut inner = self.inner.borrow_mut();
        let (turn, index) = lane.place.get();
        if turn == inner.turn {
            let entry = &mut inner.entries[index as usize];
            entry.bytes.extend_from_slice(bytes);
            if entry.bytes.len() <= ENTRY_MAX {
                return;
            }
            return inner.flush();
        }
        if inner.entries.len() == BATCH_MAX {
            inner.flush();
        }
        let mut buffer = inner.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(bytes);
        lane.place.set((inner.turn, inner.entries.len() as u32));
        inner.entries.push(Entry { fd: lane.fd.get(), lane: Rc::clone(lane), bytes: buffer, result: 0 });
    }

    /// Sends `bytes` at once with `send`, behind what `lane` has in the outbox. For runs that
    /// are too long to be copied; what the socket does not take is kept.
    pub(crate) fn push_now(&self, lane: &Rc<Lane>, bytes: &[u8], mut send: impl FnMut(&[u8]) -> io::Result<usize>) {
        if self.is_pending(lane) {
            self.flush();
        }
        if lane.has_failed() {
            return;
        }
        if lane.tls.borrow().is_none() {
            return lane.send_now(bytes, &mut send);
        }
        let mut inner = self.inner.borrow_mut();
        let mut records = inner.spare.pop().unwrap_or_default();
        if lane.seal(bytes, &mut records) {
            lane.send_now(&records, &mut send);
        }
        keep(&mut inner.spare, records);
    }

    /// `lane` has bytes in this turn's batch.
    #[inline]
    pub(crate) fn is_pending(&self, lane: &Lane) -> bool {
        lane.place.get().0 == self.inner.borrow().turn
    }

    /// Hands everything to the kernel. Called when the loop turn ends.
    pub(crate) fn flush(&self) {
        let mut inner = self.inner.borrow_mut();
        if !inner.entries.is_empty() {
            inner.flush();
        }
    }
}

impl Inner {
    fn flush(&mut self) {
        let Inner { ring, turn, entries, spare } = self;
        // A lane closed since has lost its place: its descriptor may be somebody else's by now.
        let mut place = (*turn, 0);
        entries.retain(|entry| {
            let keep = entry.lane.place.get() == place;
            place.1 += 1;
            keep
        });
        *turn += 1;
        for entry in entries.iter_mut().filter(|entry| entry.lane.tls.borrow().is_some()) {
            let mut records = spare.pop().unwrap_or_default();
            entry.lane.seal(&entry.bytes, &mut records);
            std::mem::swap(&mut entry.bytes, &mut records);
            keep(spare, records);
        }
        entries.sort_unstable_by_key(|entry| entry.lane.towards);
        ring.send_all(entries);
        for entry in entries.drain(..) {
            let sent = usize::try_from(entry.result);
            match sent {
                Ok(n) if n >= entry.bytes.len() => {}
                Ok(n) => entry.lane.short(&entry.bytes[n..]),
                Err(_) if matches!(-entry.result, libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => {
                    entry.lane.short(&entry.bytes);
                }
                Err(_) => entry.lane.fail(-entry.result),
            }
            keep(spare, entry.bytes);
        }
    }
}

/// Keeps a buffer for later, unless it has become large.
fn keep(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if buffer.capacity() <= SPARE_BUFFER_MAX && spare.len() < SPARE_BUFFERS {
        buffer.clear();
        spare.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn lane(stream: &UnixStream) -> Rc<Lane> {
        lane_towards(Towards::Client, stream)
    }

    fn lane_towards(towards: Towards, stream: &UnixStream) -> Rc<Lane> {
        stream.set_nonblocking(true).unwrap();
        let lane = Rc::new(Lane::new(towards));
        lane.open(stream.as_raw_fd(), None);
        lane
    }

    fn outboxes() -> [Outbox; 2] {
        [Outbox::new(Ring::new(true).0), Outbox::new(Ring::Plain)]
    }

    #[test]
    fn pushes_of_a_turn_arrive_together_in_order() {
        for outbox in outboxes() {
            let (a, mut b) = UnixStream::pair().unwrap();
            let (c, mut d) = UnixStream::pair().unwrap();
            let (first, second) = (lane(&a), lane(&c));
            outbox.push(&first, b"one ");
            outbox.push(&second, b"other");
            outbox.push(&first, b"two");
            assert!(outbox.is_pending(&first));
            outbox.flush();
            assert!(!outbox.is_pending(&first));
            let (mut x, mut y) = ([0; 7], [0; 5]);
            b.read_exact(&mut x).unwrap();
            d.read_exact(&mut y).unwrap();
            assert_eq!((&x, &y), (b"one two", b"other"));
        }
    }

    #[test]
    fn servers_are_sent_to_before_clients() {
        for outbox in outboxes() {
            let (a, mut b) = UnixStream::pair().unwrap();
            let (client, server) = (lane_towards(Towards::Client, &a), lane_towards(Towards::Server, &a));
            outbox.push(&client, b"answer");
            outbox.push(&server, b"question ");
            outbox.flush();
            let mut got = [0; 15];
            b.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"question answer");
        }
    }

    #[test]
    fn short_sends_keep_every_byte_in_order() {
        for outbox in outboxes() {
            let (a, mut b) = UnixStream::pair().unwrap();
            let lane = lane(&a);
            let data: Vec<u8> = (0..4_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
            for (i, chunk) in data.chunks(1 << 20).enumerate() {
                match i % 3 {
                    0 => outbox.push_now(&lane, chunk, |b| (&a).write(b)),
                    _ => outbox.push(&lane, chunk),
                }
                outbox.flush();
            }
            assert!(lane.is_blocked());
            let reader = std::thread::spawn(move || {
                let mut got = vec![0; 16_000_000];
                b.read_exact(&mut got).map(|()| got)
            });
            while !lane.drain(|b| (&a).write(b)).unwrap() {
                std::thread::yield_now();
            }
            assert!(!lane.is_blocked());
            assert!(reader.join().unwrap().unwrap() == data);
        }
    }

    #[test]
    fn a_closed_lane_sends_nothing() {
        for outbox in outboxes() {
            let (a, b) = UnixStream::pair().unwrap();
            let (c, _d) = UnixStream::pair().unwrap();
            let (gone, other) = (lane(&a), lane(&c));
            outbox.push(&gone, b"secret");
            outbox.push(&other, b"x");
            gone.close();
            outbox.flush();
            b.set_nonblocking(true).unwrap();
            assert_eq!((&b).read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_gone_peer_is_reported() {
        for outbox in outboxes() {
            let (a, b) = UnixStream::pair().unwrap();
            drop(b);
            let lane = lane(&a);
            outbox.push(&lane, b"x");
            outbox.flush();
            assert_eq!(lane.failure().unwrap().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
