//! Sockets: listening, connecting, and the outbox through which the data path sends.

pub(crate) mod clock;
pub(crate) mod listener;
pub(crate) mod outbox;
pub(crate) mod ring;
pub(crate) mod stream;
pub(crate) mod tcp;
pub(crate) mod tls;
