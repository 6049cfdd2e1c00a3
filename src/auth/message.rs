//! The messages of a login, each read whole.

use pgweir_proto::auth::parse_password;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::frame::{BadLength, HEADER_LEN, Header};
use pgweir_proto::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::AuthError;

/// Longest answer to an md5 or SCRAM request that is read. Honest ones have some 100 bytes.
pub(super) const PROOF_LEN_MAX: usize = 8 * 1024;

/// Room for what is read at once: with SCRAM-SHA-256-PLUS honest answers have some 300 bytes.
const HONEST_LEN: usize = 512;

/// Sends what `write` appends.
pub(super) async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), AuthError> {
    let mut out = Vec::new();
    write(&mut out);
    stream.write_all(&out).await.map_err(|_| AuthError::Eof)?;
    stream.flush().await.map_err(|_| AuthError::Eof)
}

/// Reads the body of a PasswordMessage, SASLInitialResponse or SASLResponse. Memory grows
/// with what comes, not with what is announced.
pub(super) async fn receive<S: AsyncRead + Unpin>(stream: &mut S, body_len_max: usize) -> Result<Vec<u8>, AuthError> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).await.map_err(|_| AuthError::Eof)?;
    match head[0] {
        frontend::PASSWORD => {}
        frontend::TERMINATE => return Err(AuthError::Gone("client close request")),
        // Only a startup packet begins with its length.
        0 => return Err(AuthError::protocol(ClientError::StartupResent)),
        _ => return Err(AuthError::protocol(ClientError::UnknownPacket)),
    }
    let body_len = match Header::read(&head) {
        Ok(Some(header)) if header.len <= HEADER_LEN + body_len_max => header.len - HEADER_LEN,
        _ => {
            let hex = BadLength { header: head }.to_string();
            return Err(AuthError::protocol(ClientError::BadPacketHeader(hex)));
        }
    };
    let mut body = Vec::with_capacity(body_len.min(HONEST_LEN));
    let mut rest = stream.take(body_len as u64);
    rest.read_to_end(&mut body).await.map_err(|_| AuthError::Eof)?;
    if body.len() < body_len { Err(AuthError::Eof) } else { Ok(body) }
}

/// The password, or the answer to an md5 challenge, in the body of a PasswordMessage.
pub(super) fn password(body: &[u8]) -> Result<&[u8], AuthError> {
    match parse_password(body) {
        Ok([]) => Err(AuthError::protocol(ClientError::EmptyPassword)),
        Ok(password) => Ok(password),
        Err(_) => Err(AuthError::protocol(ClientError::BrokenPacket("Password"))),
    }
}
