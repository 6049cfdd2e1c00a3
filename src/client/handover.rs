//! A client goes to the process that takes over, or comes from the one before.
//!
//! It goes when it rests: nothing of a message is half read or half sent, and its server, if it has one, owes
//! nothing. That may be amidst a transaction, in which case the server goes with it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use pgweir_config::Settings;
use pgweir_proto::client_error::ClientError;

use super::login_stream::LoginStream;
use super::session::{Seat, Session};
use super::session_use::Told;
use super::{ClientSlot, Clients, sqlstates};
use crate::log::log_at;
use crate::net::stream::{Detached, Stream};
use crate::pool::ServerState;
use crate::pools::Pools;
use crate::pools::handover::AdoptedPool;
use crate::registry::{ClientInfo, ServerPhase};
use crate::relay::{Names, NamesParts, Statement, Unnamed};
use crate::server::Server;
use crate::server::parameters::Parameters;
use crate::takeover::record::{Bytes, ClientRecord, UnnamedRecord};
use crate::takeover::{Carried, Given, Giver};
use crate::worker::{Placed, Worker};

impl Session {
    /// It is to go to another process, and can.
    #[inline]
    pub(super) fn must_leave(&self) -> bool {
        self.worker.is_giving() && !self.stays && self.is_resting()
    }

    #[cold]
    fn is_resting(&self) -> bool {
        let is_between = self.requests.is_resting() && !self.is_held && self.names.is_settled();
        let is_fit = self.cell.is_welcomed.get() && self.stream.is_portable() && !self.is_cut && !self.was_told;
        if !(is_between && is_fit && self.server.as_ref().is_none_or(|server| server.is_resting())) {
            return false;
        }
        self.worker.outbox.flush();
        [&self.cell.to_client, &self.cell.to_server].iter().all(|lane| !lane.is_blocked() && lane.failure().is_none())
    }

    /// Goes to the other process; false if it cannot, or that is gone: then the session goes on.
    pub(super) async fn leave(&mut self) -> bool {
        let Some(giver) = self.worker.giver() else { return false };
        let place = giver.place().await;
        self.cell.info.set_leaving(true);
        // What has come for it meanwhile is for this process to carry out.
        if !self.cell.info.is_query_canceled() && !self.cell.is_killed() && self.is_resting() {
            let given = match (place, self.parcel()) {
                (None, _) => Given::Lost,
                (Some(_), None) => Given::Stays,
                (Some(place), Some((record, statements, fds))) => {
                    place.give(Carried::Client(Box::new(record)), statements, fds).await
                }
            };
            match given {
                Given::Taken => return true,
                Given::Stays => self.stays = true,
                Given::Lost => self.worker.set_giver(None),
            }
            if let Some(tls) = self.stream.tls() {
                tls.lock().take_back();
            }
        }
        self.cell.info.set_leaving(false);
        self.waits_since_us = self.cell.info.wait_us();
        self.cell.info.end_wait();
        false
    }

    /// `None`: there is no descriptor left. What is sent to the client after this, only the other process may send.
    fn parcel(&self) -> Option<(ClientRecord, Vec<Arc<Statement>>, Vec<OwnedFd>)> {
        let (info, tracked, pool) = (&self.cell.info, &self.pools.tracked, &self.member.pool);
        let NamesParts { known, unnamed, is_unnamed_here } = self.names.parts()?;
        let mut statements: Vec<_> = known.iter().map(|(_, statement)| Arc::clone(statement)).collect();
        let mut fds = vec![self.stream.duplicate().ok()?];
        let server = match &self.server {
            Some(server) => {
                let (record, its_statements) = server.record(pool.number, tracked)?;
                statements.extend(its_statements);
                fds.push(server.duplicate_socket().ok()?);
                Some(record)
            }
            None => None,
        };
        let unnamed = match unnamed {
            Unnamed::None => UnnamedRecord::None {},
            Unnamed::Raw(body) => UnnamedRecord::Raw { body: Bytes(body) },
            Unnamed::Long => UnnamedRecord::Long {},
            Unnamed::Shared(statement) => {
                let id = statement.id;
                statements.push(statement);
                UnnamedRecord::Shared { id }
            }
        };
        let tls = match self.stream.tls() {
            Some(tls) => Some(tls.lock().hand_out()?),
            None => None,
        };
        let record = ClientRecord {
            pool: pool.number,
            user: Arc::clone(&info.user),
            ends: info.ends.clone(),
            cancel_key: info.cancel_key.clone(),
            connect_us: info.connect_us,
            request_us: info.request_us(),
            xact_us: info.xact_us(),
            wait_us: info.wait_us(),
            parameters: self.parameters.named(tracked),
            asked: self.asked.named(tracked),
            was_reset: self.was_reset,
            names: known.into_iter().map(|(name, statement)| (Bytes(name.into()), statement.id)).collect(),
            unnamed,
            is_unnamed_here,
            told: self.told.bits(),
            has_reused_name: self.has_reused_name,
            was_notified: self.cell.was_notified.get(),
            is_idle_in_transaction: self.cell.is_idle_in_transaction.get(),
            partial: Bytes(self.partial.clone()),
            server,
            tls,
        };
        Some((record, statements, fds))
    }

    /// It is the other process' now; here it is only forgotten.
    pub(super) fn forget(&mut self) {
        if let Some(server) = self.server.take() {
            self.cell.to_server.close();
            self.member.pool.gave_away(server);
        }
    }
}

/// A connection that nothing has come on goes to the other process, which does with it as if it had just come; false
/// if it cannot.
pub(super) async fn give_arrival(giver: Giver, stream: &Stream, is_proxied: bool) -> bool {
    let Some(place) = giver.place().await else { return false };
    let Ok(fd) = stream.duplicate() else { return false };
    place.give(Carried::Arrival { is_proxied }, Vec::new(), vec![fd]).await == Given::Taken
}

/// A client of the process before, on its way to a worker.
pub(crate) struct Adoptee {
    info: Arc<ClientInfo>,
    /// `None` once its worker has it.
    socket: Option<Detached>,
    record: ClientRecord,
    names: Names,
    server: Option<Box<Server>>,
    seat: Seat,
}

/// What a client of another process needs to be one of this. Listed at once, so that cancel requests find it.
/// `None`: the record makes no sense. The descriptors are the client's and its server's.
pub(crate) fn adopt(
    clients: &Clients,
    mut record: ClientRecord,
    AdoptedPool { member, is_same }: AdoptedPool,
    mut fds: impl Iterator<Item = OwnedFd>,
    statement: &dyn Fn(u64) -> Option<Arc<Statement>>,
) -> Option<Adoptee> {
    let (pools, pool) = (&clients.pools, Arc::clone(&member.pool));
    let names = names(&mut record, statement)?;
    let fd = fds.next()?;
    let raw_fd = fd.as_raw_fd();
    let tls = record.tls.take();
    let description = tls.as_ref().map(|tls| Arc::clone(&tls.description));
    let socket = Detached::adopt(fd, tls)?;
    let user = pools.user(&record.user);
    let permits = [pool.database.clients.try_take(0)?, user.clients.try_take(0)?];
    let server = match record.server.take() {
        Some(its_record) => {
            let server = pool.adopt_server(its_record, fds.next()?, pool.permits_beyond_limits()?, statement)?;
            if !is_same {
                server.info.set_close_needed();
            }
            pool.count_active();
            Some(server)
        }
        None => None,
    };
    let mut slot = ClientSlot::new(&pools.registry, &record.ends, raw_fd);
    slot.logged_in();
    let id = slot.id();
    let seat = Seat { member, permits, slot };
    let (key, database) = (record.cancel_key.clone(), Arc::clone(&pool.database.name));
    let mut info = ClientInfo::new(id, key, record.ends.clone(), Arc::clone(&user.name), database, record.connect_us);
    (info.fd, info.tls) = (raw_fd, description);
    let info = Arc::new(info);
    info.set_request_us(record.request_us);
    info.set_xact_us(record.xact_us);
    // A cancel request for what it waits with may come before its session goes on.
    info.set_query_us(record.wait_us);
    pools.registry.adopt_client(&info);
    Some(Adoptee { info, socket: Some(socket), record, names, server, seat })
}

fn names(record: &mut ClientRecord, statement: &dyn Fn(u64) -> Option<Arc<Statement>>) -> Option<Names> {
    let known = std::mem::take(&mut record.names).into_iter();
    let known: Option<Vec<_>> = known.map(|(name, id)| Some((name.0.into(), statement(id)?))).collect();
    let unnamed = match std::mem::replace(&mut record.unnamed, UnnamedRecord::None {}) {
        UnnamedRecord::None {} => Unnamed::None,
        UnnamedRecord::Raw { body } => Unnamed::Raw(body.0),
        UnnamedRecord::Long {} => Unnamed::Long,
        UnnamedRecord::Shared { id } => Unnamed::Shared(statement(id)?),
    };
    Some(Names::from_parts(NamesParts { known: known?, unnamed, is_unnamed_here: record.is_unnamed_here }))
}

impl Adoptee {
    /// Nobody serves it.
    pub(crate) fn discard(self, pools: &Pools) {
        pools.registry.remove_client(&self.info);
        if let Some(server) = self.server {
            self.seat.member.pool.close(ServerState::Active, server, "client disconnect while server was not ready");
        }
    }

    fn attach(&mut self) -> io::Result<Stream> {
        if let Some(server) = &mut self.server {
            server.attach(false)?;
        }
        self.socket.take().ok_or(io::ErrorKind::NotConnected)?.attach()
    }
}

/// Serves it, on its worker, as the process before did.
pub(crate) fn serve_adoptee(clients: &Arc<Clients>, worker: &Rc<Worker>, mut adoptee: Adoptee, placed: Placed) {
    let pools = &clients.pools;
    let stream = match adoptee.attach() {
        Ok(stream) => stream,
        Err(e) => {
            log_at!(Warning, "client at {} cannot be served: {e}", adoptee.info.ends);
            return adoptee.discard(pools);
        }
    };
    let Adoptee { info, record, names, server, seat, .. } = adoptee;
    let asked = Parameters::of_reports(&record.asked, &pools.tracked);
    let parts = LoginStream::new(stream, worker).into_parts();
    let mut session = Session::new(worker, pools, seat, parts, info, asked);
    session.parameters = Parameters::of_reports(&record.parameters, &pools.tracked);
    session.was_reset = record.was_reset;
    session.names = names;
    session.has_reused_name = record.has_reused_name;
    session.partial = record.partial.0;
    session.told = Told::from_bits(record.told);
    session.waits_since_us = record.wait_us;
    let cell = &session.cell;
    cell.is_welcomed.set(true);
    cell.was_notified.set(record.was_notified);
    cell.is_idle_in_transaction.set(record.is_idle_in_transaction);
    cell.info.set_values(session.parameters.shared());
    if let Some(server) = server {
        server.info.set_phase(ServerPhase::Active);
        let id = server.info.id;
        session.link(server);
        session.cell.info.set_link(id);
    }
    // Its last request may be long ago.
    worker.note_busy(&session.cell);
    session.note_prepared();
    tokio::task::spawn_local(session.run(placed));
}

/// Tells a client of the process before that there is nothing for it here.
pub(crate) fn turn_away(settings: &Settings, record: ClientRecord, fd: OwnedFd) {
    let mut message = Vec::new();
    ClientError::DatabaseRemoved.encode(sqlstates(settings), &mut message);
    if let Some(socket) = Detached::adopt(fd, record.tls) {
        socket.try_end(&message);
    }
    log_at!(Warning, "client {}@{} of the process before has no database here any more", record.user, record.ends);
}
