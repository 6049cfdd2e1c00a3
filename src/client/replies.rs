//! What a server says while it is linked: passed on, and listened to.

use pgweir_config::PoolMode;
use pgweir_proto::backend::TransactionStatus;
use pgweir_proto::client_error::ClientError;
use pgweir_proto::console;
use pgweir_proto::error_response::ErrorFields;

use super::end::End;
use super::session::{COPY_MAX, Session};
use crate::pools::ServerPool;
use crate::registry::{ClientInfo, ServerInfo};
use crate::relay::{Books, Edit, Event};
use crate::server::Server;
use crate::server::parameters::{Parameters, Tracked};

/// What is listened for in a run of replies.
struct Heard<'a> {
    tracked: &'a Tracked,
    pool: &'a ServerPool,
    client: (&'a ClientInfo, &'a mut Parameters),
    server: (&'a ServerInfo, &'a mut Parameters),
    /// What the client asked for at its login.
    asked: &'a Parameters,
    was_reset: &'a mut bool,
    /// Texts mean something else on the server than before.
    is_other_dialect: bool,
    /// ParameterStatus for what a RESET has taken back to `asked` in our eyes.
    restored: Vec<u8>,
    /// The server has said FATAL: its end needs no words of ours.
    is_fatal: bool,
    /// The ReadyForQuery and where it begins; of several, the first that is in a transaction.
    status: Option<(TransactionStatus, usize)>,
}

impl Heard<'_> {
    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::ParameterStatus { name, value } => self.parameter(name, value),
            Event::ErrorResponse { body } => self.is_fatal |= ErrorFields::parse(body).is_fatal(),
            Event::Reset => *self.was_reset = true,
            Event::Ready { status, at } => {
                if self.status.is_none_or(|(earlier, _)| earlier == TransactionStatus::Idle) {
                    self.status = Some((status, at));
                }
            }
        }
    }

    fn parameter(&mut self, name: &str, value: &str) {
        let Some(position) = self.tracked.position(name) else { return };
        let (client, own) = &mut self.client;
        let (server, there) = &mut self.server;
        let dialect = there.dialect();
        **there = there.with(position, value);
        self.is_other_dialect |= there.dialect() != dialect;
        // The server knows nothing of what this client asked for at its login, so it has gone
        // back to its own default. The next request finds the client's value set again.
        let restored = self.asked.get(position).filter(|_| *self.was_reset && self.pool.is_default(name, value));
        **own = own.with(position, restored.map_or(value, |asked| asked));
        if let Some(asked) = restored {
            console::parameter_status(&mut self.restored, name, &**asked);
        }
        client.set_values(own.shared());
        server.set_values(there.shared());
    }
}

impl Session {
    /// Passes on what `buf` holds in messages and keeps the rest.
    pub(super) fn forward_replies(&mut self, buf: &[u8]) -> Result<(), End> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let Server { replies, outstanding, prepared, parameters, partial, info, .. } = &mut **server;
        let mut heard = Heard {
            tracked: &self.pools.tracked,
            pool: &self.member.pool,
            client: (&self.cell.info, &mut self.parameters),
            server: (info, parameters),
            asked: &self.asked,
            was_reset: &mut self.was_reset,
            is_other_dialect: false,
            restored: Vec::new(),
            is_fatal: false,
            status: None,
        };
        let was_at_boundary = replies.at_boundary();
        let mut books = Books { names: &mut self.names, prepared };
        let mut edits = Vec::new();
        let scanned = replies.scan(buf, outstanding, &mut books, &mut edits, |event| heard.note(event));
        let Heard { restored, is_fatal, status, is_other_dialect, .. } = heard;
        if is_other_dialect {
            prepared.distrust_unsettled();
        }
        let n = scanned.map_err(|fault| {
            // Nothing of `buf` is forwarded.
            self.is_cut = !was_at_boundary;
            End::ReplyFault(fault)
        })?;
        partial.extend_from_slice(&buf[n..]);
        self.was_told |= is_fatal;
        let ready_at = status.map_or(n, |(_, at)| at);
        if status.is_some_and(|(status, _)| status != TransactionStatus::Idle)
            && self.pool_mode() == PoolMode::Statement
        {
            self.send_edited(&buf[..ready_at], 0, &edits);
            return Err(End::Error(ClientError::TransactionBlockNotAllowed));
        }
        if restored.is_empty() {
            self.send_edited(&buf[..n], 0, &edits);
        } else {
            self.send_edited(&buf[..ready_at], 0, &edits);
            self.send_to_client(&restored);
            self.send_edited(&buf[..n], ready_at, &edits);
        }
        if status.is_some() {
            self.note_answered();
        }
        Ok(())
    }

    /// Sends `buf` from `from` on, with the edits that lie in it.
    fn send_edited(&self, buf: &[u8], from: usize, edits: &[Edit]) {
        let mut at = from;
        // What is put in at the very end belongs to this part, not to the next.
        let is_here = |edit: &&Edit| (edit.at > from || from == 0) && edit.at + edit.hide_len <= buf.len();
        for edit in edits.iter().filter(is_here) {
            self.send_to_client(&buf[at..edit.at]);
            self.send_to_client(edit.insert);
            at = edit.at + edit.hide_len;
        }
        self.send_to_client(&buf[at..]);
    }

    /// Answers what the server was not asked, if it is its turn.
    pub(super) fn answer(&mut self) {
        loop {
            let Some(server) = &mut self.server else { return };
            if !server.replies.at_boundary() {
                return;
            }
            let mut books = Books { names: &mut self.names, prepared: &mut server.prepared };
            let Some(answer) = server.outstanding.answer(&mut books) else { return };
            self.send_to_client(answer);
        }
    }

    #[inline]
    fn send_to_client(&self, bytes: &[u8]) {
        self.member.pool.stats(self.worker.id).sent.add(bytes.len() as u64);
        let lane = &self.cell.to_client;
        if bytes.len() <= COPY_MAX {
            self.worker.outbox.push(lane, bytes);
        } else {
            self.worker.outbox.push_now(lane, bytes, |bytes| self.stream.try_send(bytes));
        }
    }

    /// A ReadyForQuery has come: times, if it was the last one owed.
    fn note_answered(&mut self) {
        let Some(server) = &self.server else { return };
        if !server.outstanding.is_answered() {
            return;
        }
        let now_us = self.worker.now_us();
        let (info, stats) = (&self.cell.info, self.member.pool.stats(self.worker.id));
        if self.is_in_query {
            self.is_in_query = false;
            let query_us = now_us.saturating_sub(info.query_us());
            stats.query_time_us.add(query_us);
            stats.latencies().query.add(query_us);
            info.set_query_us(0);
        }
        info.set_request_us(now_us);
        if server.outstanding.is_idle() {
            let xact_us = now_us.saturating_sub(info.xact_us());
            stats.xact_time_us.add(xact_us);
            stats.latencies().xact.add(xact_us);
            info.set_xact_us(0);
        } else {
            self.cell.is_idle_in_transaction.set(true);
        }
    }
}
