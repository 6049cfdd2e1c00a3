//! The server's side of the protocol, for tests of ours.

use pgweir_proto::auth;
use pgweir_proto::backend::{self, TransactionStatus};
use pgweir_proto::cancel::CancelKey;
use pgweir_proto::console;
use pgweir_proto::error_response::{ErrorResponse, Severity};
use pgweir_proto::frame::{self, HEADER_LEN, Header};
use pgweir_proto::sqlstate::SqlState;
use pgweir_proto::startup::{StartupPacket, StartupRequest, parse_startup};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) struct Fake<S>(pub(crate) S);

/// The parameters that `welcome` reports.
pub(crate) const REPORTED: [(&str, &str); 3] =
    [("server_version", "15.8"), ("TimeZone", "Europe/Berlin"), ("is_superuser", "off")];

pub(crate) fn key(secret: &[u8]) -> CancelKey {
    CancelKey::parse(&[&[0, 0, 0, 7], secret].concat()).unwrap()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Fake<S> {
    pub(crate) async fn startup(&mut self) -> StartupPacket {
        let len = self.0.read_u32().await.unwrap();
        let mut packet = len.to_be_bytes().to_vec();
        packet.resize(len as usize, 0);
        self.0.read_exact(&mut packet[4..]).await.unwrap();
        match parse_startup(&packet).unwrap() {
            StartupRequest::Startup(startup) => startup,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; HEADER_LEN];
        self.0.read_exact(&mut head).await.unwrap();
        let head = Header::read(&head).unwrap().unwrap();
        let mut body = vec![0; head.len - HEADER_LEN];
        self.0.read_exact(&mut body).await.unwrap();
        (head.tag, body)
    }

    /// Sends what `write` writes. The other side may have given up by then.
    pub(crate) async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        let _ = self.0.write_all(&out).await;
    }

    /// Lets the client in.
    pub(crate) async fn welcome(&mut self) {
        self.send(|out| {
            auth::authentication_ok(out);
            greeting(out);
        })
        .await;
    }

    /// Takes the startup packet and lets the client in.
    pub(crate) async fn trust(&mut self) -> StartupPacket {
        let startup = self.startup().await;
        self.welcome().await;
        startup
    }

    /// The client closes, with or without Terminate.
    pub(crate) async fn end(&mut self) {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        assert!(rest.is_empty() || rest == b"X\0\0\0\x04", "{rest:?}");
    }
}

pub(crate) fn greeting(out: &mut Vec<u8>) {
    for (name, value) in REPORTED {
        console::parameter_status(out, name, value);
    }
    key(b"abcd").backend_key_data(out);
    console::ready_for_query(out, TransactionStatus::Idle);
}

pub(crate) fn refusal(out: &mut Vec<u8>, sqlstate: &[u8], message: &str) {
    ErrorResponse::new(Severity::Fatal, SqlState::parse(sqlstate).unwrap(), message).error(out);
}

pub(crate) fn negotiation(out: &mut Vec<u8>, version: u32) {
    frame::message(out, backend::NEGOTIATE_PROTOCOL_VERSION, &[version.to_be_bytes(), [0; 4]].concat());
}
