//! The connection between the two processes: messages framed as PostgreSQL's are, descriptors beside them.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use pgweir_proto::frame::{self, HEADER_LEN, Header};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::record::Field;

/// A client's socket and its server's: no message has more.
const FDS_MAX: usize = 2;

const READ_LEN: usize = 64 * 1024;

pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Message {
    /// The body may have secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}, {} bytes)", self.tag.escape_ascii(), self.body.len())
    }
}

impl Message {
    pub(crate) fn record<T: Field>(&self) -> io::Result<T> {
        T::read(&self.body).ok_or_else(|| invalid(self.tag))
    }
}

/// The other process says what this one does not understand.
pub(crate) fn invalid(tag: u8) -> io::Error {
    let text = format!("a message '{}' that makes no sense", tag.escape_ascii());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The sending half. When it is dropped, the other side reads the end, and can still be heard.
pub(crate) struct Writer(Arc<UnixStream>);

impl Drop for Writer {
    fn drop(&mut self) {
        // The other side may be gone.
        let _ = shutdown(&*self.0, Shutdown::Write);
    }
}

/// The receiving half.
pub(crate) struct Reader {
    socket: Arc<UnixStream>,
    /// Received and not taken yet.
    bytes: Zeroizing<Vec<u8>>,
    /// Those that came beside them.
    fds: VecDeque<OwnedFd>,
}

pub(crate) fn channel(socket: UnixStream) -> (Writer, Reader) {
    let socket = Arc::new(socket);
    (Writer(Arc::clone(&socket)), Reader { socket, bytes: Zeroizing::default(), fds: VecDeque::new() })
}

impl Writer {
    /// To be awaited to its end: half a message would be the other half of the next.
    pub(crate) async fn send(&self, tag: u8, record: &impl Field, fds: &[OwnedFd]) -> io::Result<()> {
        let mut bytes = Zeroizing::new(Vec::new());
        let at = frame::begin(&mut bytes, tag);
        record.put(&mut bytes);
        frame::finish(&mut bytes, at);
        self.send_bytes(&bytes, fds).await
    }

    pub(crate) async fn send_bytes(&self, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut at = 0;
        while at < bytes.len() {
            at += self.0.async_io(Interest::WRITABLE, || send_some(&self.0, &bytes[at..], &fds)).await?;
            // They have gone with the first byte.
            fds.clear();
        }
        Ok(())
    }
}

fn send_some(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

impl Reader {
    /// The next message. Nothing is lost if it is dropped before it is done.
    pub(crate) async fn next(&mut self) -> io::Result<Message> {
        loop {
            let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "a message without a length");
            if let Some(Header { tag, len }) = Header::read(&self.bytes).map_err(bad)?
                && self.bytes.len() >= len
            {
                let body = Zeroizing::new(self.bytes[HEADER_LEN..len].to_vec());
                self.bytes.drain(..len);
                return Ok(Message { tag, body });
            }
            let Reader { socket, bytes, fds } = self;
            if socket.async_io(Interest::READABLE, || receive_some(socket, bytes, fds)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// A descriptor that belongs to the message taken last.
    pub(crate) fn fd(&mut self) -> io::Result<OwnedFd> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
        self.fds.pop_front().ok_or_else(missing)
    }
}

fn receive_some(socket: &UnixStream, bytes: &mut Zeroizing<Vec<u8>>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let had = bytes.len();
    if bytes.capacity() < had + READ_LEN {
        // A buffer that grows by itself leaves a copy behind.
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * had + READ_LEN));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.resize(had + READ_LEN, 0);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes[had..])], &mut control, RecvFlags::CMSG_CLOEXEC);
    bytes.truncate(had + received.as_ref().map_or(0, |received| received.bytes));
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let received = received?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // Those that come next would be taken for the ones that are lost.
        return Err(io::Error::other("a descriptor was lost; is the limit on open files high enough?"));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::record::Bytes;
    use super::*;

    #[tokio::test]
    async fn messages_come_whole_with_their_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let ((writer, _), (_, mut reader)) = (channel(a), channel(b));
        let sent = async {
            for n in 0..20u8 {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                (&ours).write_all(&[n]).unwrap();
                // Much more than a socket holds, with and without descriptors.
                let body = Bytes(vec![n; usize::from(n) * 50_000]);
                let fds: Vec<OwnedFd> = (0..n % 3).map(|_| theirs.try_clone().unwrap().into()).collect();
                writer.send(n, &body, &fds).await.unwrap();
            }
        };
        let received = async {
            for n in 0..20u8 {
                let message = reader.next().await.unwrap();
                assert_eq!(message.tag, n);
                assert_eq!(message.record::<Bytes>().unwrap().0.len(), usize::from(n) * 50_000);
                let fds: Vec<OwnedFd> = (0..n % 3).map(|_| reader.fd().unwrap()).collect();
                if let Some(fd) = fds.into_iter().next() {
                    let mut byte = [0];
                    std::os::unix::net::UnixStream::from(fd).read_exact(&mut byte).unwrap();
                    assert_eq!(byte, [n]);
                }
            }
            assert!(reader.fd().is_err());
        };
        tokio::join!(sent, received);
        drop(writer);
    }

    #[tokio::test]
    async fn a_lost_descriptor_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let (bytes, mut reader) = (b"x\0\0\0\x04", channel(b).1);
        // More than there is room for, as where no more files may be open.
        let fds = [a.as_fd(); FDS_MAX + 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&a, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(reader.next().await.unwrap_err().to_string().contains("a descriptor was lost"));
    }

    #[tokio::test]
    async fn who_sends_no_more_still_hears() {
        let (a, b) = UnixStream::pair().unwrap();
        let ((ours, mut reader), (theirs, mut their_reader)) = (channel(a), channel(b));
        drop(ours);
        assert_eq!(their_reader.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        theirs.send(b'a', &(), &[]).await.unwrap();
        assert_eq!(reader.next().await.unwrap().tag, b'a');
    }

    #[tokio::test]
    async fn the_end_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut reader = channel(b).1;
        a.try_write(b"x\0\0\0").unwrap();
        drop(a);
        assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
