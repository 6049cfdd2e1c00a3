//! The one place where pgwire's structures become bytes.

use bytes::BytesMut;
use pgwire::messages::Message;

use crate::frame;

/// Appends `message`. The framing is ours: pgwire's own refuses bodies above 10 or 30 kB
/// after the tag has been written, and a long password or parameter is no error here.
pub(crate) fn message<M: Message>(out: &mut Vec<u8>, message: &M) {
    let Some(tag) = M::message_type() else {
        return;
    };
    let mut body = BytesMut::new();
    // Only a cancel key of a wrong length fails, and those are written in `cancel`.
    if message.encode_body(&mut body).is_ok() {
        frame::message(out, tag, &body);
    }
}

/// A value for a NUL-terminated field, which a NUL inside would end early.
pub(crate) fn text(value: &str) -> String {
    value.replace('\0', "")
}
