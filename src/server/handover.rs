//! A server connection goes to the process that takes over, or comes from the one before.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use pgweir_proto::backend::TransactionStatus;

use super::parameters::{Parameters, Tracked};
use super::{Server, Socket};
use crate::net::stream::Detached;
use crate::pool::Permit;
use crate::registry::{Registry, ServerInfo};
use crate::relay::{Outstanding, Prepared, PreparedParts, Replies, Statement};
use crate::takeover::record::{Bytes, ServerRecord};

/// All that is needed of the process that adopts a server.
pub(crate) struct Adopter<'a> {
    pub(crate) registry: &'a Arc<Registry>,
    pub(crate) tracked: &'a Tracked,
    pub(crate) database: &'a Arc<str>,
    pub(crate) user: &'a Arc<str>,
    pub(crate) statement: &'a dyn Fn(u64) -> Option<Arc<Statement>>,
}

impl Server {
    /// Nothing is under way, and another process could go on with it: TLS has keys that only this one has.
    pub(crate) fn is_resting(&self) -> bool {
        self.outstanding.resting().is_some()
            && self.replies.at_boundary()
            && self.partial.is_empty()
            && self.prepared.is_settled()
            && self.info.tls.is_none()
            && self.info.replication.is_none()
            && !self.info.is_being_canceled()
    }

    /// What another process has to know of it, and the statements that are named there; `None`: it does not rest.
    pub(crate) fn record(&self, pool: u64, tracked: &Tracked) -> Option<(ServerRecord, Vec<Arc<Statement>>)> {
        let status = self.outstanding.resting()?;
        let PreparedParts { statements, sql_level } = self.prepared.parts()?;
        let info = &self.info;
        let record = ServerRecord {
            pool,
            ends: info.ends.clone(),
            address: info.address.clone(),
            host: info.host.clone(),
            cancel_key: info.cancel_key.clone(),
            connect_us: info.connect_us,
            request_us: info.request_us(),
            parameters: self.parameters.named(tracked),
            statements: statements.iter().map(|(statement, is_trusted)| (statement.id, *is_trusted)).collect(),
            sql_level,
            status: status.byte(),
            is_doubtful: self.outstanding.is_doubtful(),
            was_lent: self.was_lent,
            is_fresh: self.is_fresh,
            is_close_needed: info.is_close_needed(),
            notices: Bytes(self.notices.clone()),
        };
        Some((record, statements.into_iter().map(|(statement, _)| statement).collect()))
    }

    /// A further descriptor of its socket.
    pub(crate) fn duplicate_socket(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Socket::Attached(stream) => stream.duplicate(),
            Socket::Detached(detached) => detached.duplicate(),
            Socket::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// `None`: the record makes no sense.
    pub(crate) fn adopt(
        record: ServerRecord,
        fd: OwnedFd,
        permits: [Permit; 2],
        adopter: &Adopter<'_>,
    ) -> Option<Server> {
        let Adopter { registry, tracked, database, user, statement } = adopter;
        let status = TransactionStatus::read(&[record.status])?;
        let known = |(id, is_trusted): (u64, bool)| Some((statement(id)?, is_trusted));
        let statements: Option<Vec<_>> = record.statements.into_iter().map(known).collect();
        let mut info = ServerInfo::new(
            registry.next_id(),
            record.ends,
            record.address,
            Arc::clone(user),
            Arc::clone(database),
            record.cancel_key,
            record.connect_us,
        );
        info.host = record.host;
        info.set_request_us(record.request_us);
        if record.is_close_needed {
            info.set_close_needed();
        }
        let parameters = Parameters::of_reports(&record.parameters, tracked);
        info.set_values(parameters.shared());
        info.fd = fd.as_raw_fd();
        let prepared = Prepared::from_parts(PreparedParts { statements: statements?, sql_level: record.sql_level });
        info.set_prepared(prepared.len());
        let server = Server {
            socket: Socket::Detached(Detached::adopt(fd, None)?),
            outstanding: Outstanding::rest(status, record.is_doubtful),
            replies: Replies::default(),
            prepared,
            partial: Vec::new(),
            notices: record.notices.0,
            is_midway: false,
            was_lent: record.was_lent,
            is_fresh: record.is_fresh,
            parameters,
            info: Arc::new(info),
            _permits: permits,
            registry: Arc::clone(registry),
        };
        registry.add_server(&server.info);
        Some(server)
    }
}
