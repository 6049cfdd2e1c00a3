//! Which method a client is met with: `auth_type`, or what a line of the `auth_hba_file` says.

use std::net::IpAddr;
use std::sync::Arc;

use pgweir_config::{Access, AuthType, Config, HbaMethod, IdentMap};
use pgweir_proto::client_error::ClientError;

use super::{AuthError, Outside, Reason};
use crate::net::stream::Stream;
use crate::net::tls::SharedTls;
use crate::registry::Ends;

/// How a client has to prove who it is.
#[derive(Debug)]
pub(crate) enum Method {
    Any,
    Trust,
    Plain,
    Md5,
    ScramSha256,
    /// By the certificate that it has shown.
    Cert {
        /// `None`: a name in the certificate must be the user's.
        map: Option<Arc<IdentMap>>,
    },
    /// By the system user at the other end of a Unix socket.
    Peer {
        /// `None`: the names must be the same.
        map: Option<Arc<IdentMap>>,
    },
    /// By a password that somebody else knows.
    Outside(Outside),
}

/// Where a client comes from, as far as a method or a rule asks.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// `None`: over a Unix socket.
    pub(super) address: Option<IpAddr>,
    /// The system user at the other end of a Unix socket, where the system tells it.
    pub(super) uid: Option<u32>,
    pub(super) tls: Option<SharedTls>,
    /// The hash of our certificate in that TLS connection. `None` where it has none.
    pub(super) end_point: Option<Vec<u8>>,
}

impl Origin {
    pub(crate) fn new(stream: &Stream, ends: &Ends) -> Origin {
        let address = match ends {
            Ends::Tcp { peer, .. } => Some(peer.ip()),
            Ends::Unix { .. } => None,
        };
        let tls = stream.tls().cloned();
        let end_point = tls.as_ref().and_then(|tls| tls.lock().end_point());
        Origin { address, uid: stream.peer_cred().map(|peer| peer.uid()), tls, end_point }
    }
}

impl Method {
    /// The method for a client that asks for `database` as `user`.
    pub(crate) fn choose(
        config: &Config,
        origin: &Origin,
        is_physical_replication: bool,
        database: &str,
        user: &str,
    ) -> Result<Method, AuthError> {
        if config.settings.auth_type != AuthType::Hba {
            return Method::of(config);
        }
        let (address, is_tls) = (origin.address, origin.tls.is_some());
        let access = Access { address, is_tls, is_physical_replication, database, user };
        let rule = config.hba.as_ref().and_then(|hba| hba.find(&access));
        let rule = rule.ok_or(AuthError::protocol(ClientError::NoAuthenticationMethod))?;
        Ok(match &rule.method {
            HbaMethod::Trust => Method::Trust,
            HbaMethod::Md5 => Method::Md5,
            HbaMethod::Plain => Method::Plain,
            HbaMethod::ScramSha256 => Method::ScramSha256,
            HbaMethod::Cert => Method::Cert { map: rule.map.clone() },
            HbaMethod::Peer => Method::Peer { map: rule.map.clone() },
            HbaMethod::Reject => {
                return Err(AuthError::refused(ClientError::LoginRejected, Reason::Rule { line: rule.line }));
            }
            HbaMethod::Ldap(options) => Method::Outside(Outside::Ldap(Arc::clone(options))),
        })
    }

    /// That of an `auth_type` that is a method itself.
    pub(super) fn of(config: &Config) -> Result<Method, AuthError> {
        let auth_type = config.settings.auth_type;
        Ok(match auth_type {
            AuthType::Any => Method::Any,
            AuthType::Trust => Method::Trust,
            AuthType::Plain => Method::Plain,
            AuthType::Md5 => Method::Md5,
            AuthType::ScramSha256 => Method::ScramSha256,
            AuthType::Cert => Method::Cert { map: None },
            AuthType::Pam => Method::Outside(Outside::Pam),
            AuthType::Hba | AuthType::Ldap => match &config.ldap {
                Some(options) => Method::Outside(Outside::Ldap(Arc::clone(options))),
                // There are options wherever a configuration with this method is in force.
                None => return Err(AuthError::refused(ClientError::LoginRejected, Reason::NoMethod(auth_type))),
            },
        })
    }
}
